"""What relations make of a search: relevance that spreads from the best hits, and what lies around
a memory. Pure; memories are whatever keys the caller has for them.

    part = max over the seeds s, other than the memory itself, of
           relevance(s) x strength of each relation on the way x DECAY for each step but the first

A relation is followed both ways. A seed gains nothing from itself, however a cycle comes back to
it. The work is bounded: of a memory with very many relations only some are followed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

SEEDS = 5  # the best hits, from which relevance spreads
DECAY = 0.5
FOLLOWED_MAX = 2_000  # relations, for one question


def spread(
    seeds: Mapping[Key, float], beside: Callable[[Key], Mapping[Key, float]], *, depth: int
) -> dict[Key, float]:
    """What each memory that is related to a seed, within `depth` steps, has of it: 0..1. `seeds`
    are their relevance 0..1, `beside` gives a memory's relations with their strength 0..1."""
    found: dict[Key, float] = {}
    left = FOLLOWED_MAX // max(len(seeds), 1)
    for seed, relevance in seeds.items():
        for key, value in _from_one(seed, relevance, beside, depth, left).items():
            if key != seed and value > found.get(key, 0.0):
                found[key] = value
    return found


def _from_one(
    seed: Key,
    relevance: float,
    beside: Callable[[Key], Mapping[Key, float]],
    depth: int,
    left: int,
) -> dict[Key, float]:
    reached, edge = {seed: relevance}, {seed: relevance}
    for step in range(depth):
        fresh: dict[Key, float] = {}
        for key, value in edge.items():
            for other, strength in beside(key).items():
                gained = value * strength * (DECAY if step else 1.0)
                if gained > reached.get(other, 0.0):
                    reached[other] = fresh[other] = gained
                left -= 1
                if left <= 0:
                    return reached
        edge = fresh
    return reached


def around(
    start: Key, beside: Callable[[Key], Mapping[Key, float]], *, depth: int, limit: int
) -> dict[Key, int]:
    """The memories within `depth` steps of one, with how many steps away they are, the nearest and
    among them the strongest first; at most `limit`, `start` (0) among them."""
    found, edge = {start: 0}, [start]
    for step in range(1, depth + 1):
        fresh: dict[Key, float] = {}
        for key in edge:
            for other, strength in beside(key).items():
                if other not in found:
                    fresh[other] = max(strength, fresh.get(other, 0.0))
        edge = sorted(fresh, key=lambda key: -fresh[key])[: limit - len(found)]
        found |= dict.fromkeys(edge, step)
    return found
