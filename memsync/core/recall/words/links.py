"""How memories lead to each other by what their texts have in common. Pure; numpy only.

Some questions are answered by several memories, of which only the first is like the question: the
others are about the same people and things. So what the best answers have in common with the rest
speaks for these, too. A word leads from the best answers (`SEEDS`) to all memories that hold it

- if two of these answers hold it: that is what they are about; a word of one answer only may be
  about anything,
- or if one of them writes it as a name: "Ada works at Globex" leads to what is said of Globex,

unless the question has it (it has counted already) or many memories hold it (`HELD_SHARE`).

    worth of a word   idf x how many of the best answers hold it, and one more if it is a name
    link to a memory  8 deviations x worth of the words that it holds / (worth of all of them + 20);
                      half of that for the best answers themselves: about half of it is their own

Only answers that hold a word of the question themselves lead on: one that was found by its meaning
alone, or by what stands beside it, is too often about something else.

This is relevance feedback (Rocchio; Lavrenko and Croft's relevance models) of entities only, and
only where answers agree. How it was chosen, and what each rule gains: decisions/0030.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.core.recall.bm25 import Population
from memsync.core.recall.words.segments import COUNT_BITS, Holders

SEEDS = 10
# In scopes that are searched approximately one of the first ten is another one for 14 % of
# questions, and then they have something else in common: there only names of the first few lead on.
SEEDS_APPROXIMATE = 5
ROWS_PER_SEED = 40  # in a small scope the first ten are most of it, and what they share is chance
SEED_RELEVANCE_MIN = 0.6  # beside the best: what is less relevant leads nowhere
SEEDS_AGREEING_MIN = 5  # of fewer the first ones stand alone, and what two share tells nothing
SEED_SHARE = 0.5
LIFT = 8.0  # deviations, for a memory that holds all words that lead on, where they tell much
LITTLE = 20.0  # a rare word that four answers hold is worth so much: as much counts by half
HELD_SHARE = 0.04  # of all memories
HELD_MIN, HELD_MAX = 3, 2_000  # memories; the latter bounds the work in very large scopes

Floats = NDArray[np.float64]


def leading(said: NDArray[np.integer[Any]], named: NDArray[np.integer[Any]]) -> dict[int, int]:
    """The words that lead on from the best answers, with how many of these hold each, and one more
    for a name: what they say and what they name, each word as often as there are answers that
    do."""
    held_by: dict[int, int] = dict.fromkeys(named.tolist(), 2)
    said.sort()
    for word in said[1:][said[1:] == said[:-1]].tolist():
        held_by[word] = held_by.get(word, 1) + 1
    return held_by


def seeds_max(rows: int) -> int:
    """From how many of so many memories words lead on."""
    most = SEEDS if rows <= limits.EXACT_ROWS_MAX else SEEDS_APPROXIMATE
    return min(most, max(1, rows // ROWS_PER_SEED))


def can_agree(seeds: int, rows: int) -> bool:
    """Whether it tells something that two of the seeds, of so many memories, hold a word."""
    return seeds >= SEEDS_AGREEING_MIN and rows <= limits.EXACT_ROWS_MAX


def held_max(rows: int) -> int:
    """The most of so many memories that may hold a word that leads on."""
    return min(max(int(HELD_SHARE * rows), HELD_MIN), HELD_MAX)


def links_of(
    holders: Sequence[Holders], seeds: Sequence[int], among: Population, *, lift: float = LIFT
) -> Floats | None:
    """(n,) 0..`lift`: what leads from the `seeds`, the best answers, to each row by some words:
    what `leading` says of each, and its postings. None without words."""
    if not holders:
        return None
    visible = among.rows_total
    held = [sum(map(len, pieces)) for _, pieces in holders]
    worth = [
        held_by * math.log1p((visible - own + 0.5) / (own + 0.5))
        for (held_by, _), own in zip(holders, held, strict=True)
    ]
    share = lift / (sum(worth) + LITTLE)
    rows = np.concatenate([piece for _, pieces in holders for piece in pieces]) >> COUNT_BITS
    weights = np.array([share * own for own in worth]).repeat(held)
    links = cast(Floats, np.bincount(rows, weights=weights, minlength=len(among.visible)))
    for seed in seeds:
        links[seed] *= SEED_SHARE
    return links
