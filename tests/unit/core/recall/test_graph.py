"""Relevance that spreads over relations, and what lies around a memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall import graph

Edges = list[tuple[int, int, float]]


def beside(edges: Edges) -> Callable[[int], Mapping[int, float]]:
    ways: dict[int, dict[int, float]] = {}
    for one, other, strength in edges:
        for start, end in ((one, other), (other, one)):
            ways.setdefault(start, {})
            ways[start][end] = max(strength, ways[start].get(end, 0.0))
    return lambda key: ways.get(key, {})


CHAIN: Edges = [(0, 1, 1.0), (1, 2, 0.8), (2, 3, 1.0)]


@pytest.mark.parametrize(
    ("depth", "found"), [(1, {1: 0.9}), (2, {1: 0.9, 2: 0.36}), (3, {1: 0.9, 2: 0.36, 3: 0.18})]
)
def test_relevance_fades_with_each_step(depth: int, found: dict[int, float]) -> None:
    assert graph.spread({0: 0.9}, beside(CHAIN), depth=depth) == pytest.approx(found)


def test_nothing_gains_from_itself() -> None:
    ring: Edges = [(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)]
    assert graph.spread({0: 1.0}, beside(ring), depth=3) == pytest.approx({1: 1.0, 2: 1.0})
    both = graph.spread({0: 1.0, 1: 0.4}, beside([(0, 1, 1.0)]), depth=3)
    assert both == pytest.approx({0: 0.4, 1: 1.0})


def test_the_best_way_counts() -> None:
    edges: Edges = [(0, 1, 0.1), (0, 2, 1.0), (2, 1, 1.0)]
    assert graph.spread({0: 1.0}, beside(edges), depth=2)[1] == pytest.approx(0.5)
    assert graph.spread({0: 1.0, 3: 0.9}, beside([*edges, (3, 1, 0.7)]), depth=2)[1] == (
        pytest.approx(0.63)
    )


def test_a_hub_is_followed_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "FOLLOWED_MAX", 30)
    asked = 0

    def hub(key: int) -> Mapping[int, float]:
        nonlocal asked
        asked += 1
        return {1_000 * key + other: 1.0 for other in range(1, 11)}

    assert len(graph.spread({1: 1.0}, hub, depth=3)) == 30
    assert asked == 3


edges_of = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.25, 0.5, 1.0])), max_size=12
)


seeds_of = st.dictionaries(st.integers(0, 6), st.sampled_from([0.5, 1.0]))


@given(edges_of, seeds_of, st.integers(1, 3))
def test_spread_is_that_of_all_ways_tried(
    edges: Edges, seeds: dict[int, float], depth: int
) -> None:
    found: dict[int, float] = {}

    def walk(seed: int, key: int, value: float, step: int) -> None:
        for other, strength in beside(edges)(key).items():
            gained = value * strength * (graph.DECAY if step else 1.0)
            if other != seed:
                found[other] = max(gained, found.get(other, 0.0))
            if step + 1 < depth:
                walk(seed, other, gained, step + 1)

    for seed, relevance in seeds.items():
        walk(seed, seed, relevance, 0)
    assert graph.spread(seeds, beside(edges), depth=depth) == pytest.approx(found)


@given(edges_of, st.integers(0, 3), st.integers(1, 9))
def test_what_lies_around_is_the_nearest(edges: Edges, depth: int, limit: int) -> None:
    edge, distances = {0}, {0: 0}
    for step in range(1, depth + 1):
        edge = {other for key in edge for other in beside(edges)(key)} - distances.keys()
        distances |= dict.fromkeys(edge, step)
    found = graph.around(0, beside(edges), depth=depth, limit=limit)
    assert list(found.values()) == sorted(distances.values())[:limit]
    assert all(distances[key] == distance for key, distance in found.items())
