"""Ranking against a model that looks at one row at a time with plain floats."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core import ranking

FINITE = st.integers(-40, 40).map(lambda n: n / 8)
MAYBE = st.one_of(st.just(math.nan), FINITE)


def slow_z(values: list[float], among: list[bool]) -> list[float]:
    known = [v for v, is_in in zip(values, among, strict=True) if is_in and not math.isnan(v)]
    deviation = statistics.pstdev(known) if known else 0.0
    if deviation < 1e-5:
        return [0.0] * len(values)
    mean = statistics.fmean(known)
    return [
        (v - mean) / deviation if is_in and not math.isnan(v) else 0.0
        for v, is_in in zip(values, among, strict=True)
    ]


def slow_relevance(
    rows: list[tuple[float, float, int, bool, bool, bool]], session_bm25: list[float]
) -> list[float]:
    """As the head of the module says, in words: rows are (bm25, cosine, session, asking, visible,
    candidate) in the order of their sessions."""
    bm25, cosine, session, asking, visible, candidate = map(list, zip(*rows, strict=True))
    fused = [
        b + 0.5 * c for b, c in zip(slow_z(bm25, visible), slow_z(cosine, visible), strict=True)
    ]
    context = []
    for row, own in enumerate(fused):
        line = [r for r in range(len(rows)) if session[r] == session[row] >= 0]
        total, at = own, line.index(row) if line else 0
        for distance, weight in ((1, 0.5), (2, 0.25)):
            for other in (at - distance, at + distance):
                if line and 0 <= other < len(line):
                    total += weight * fused[line[other]]
        context.append(total)
    per_row = [session_bm25[s] if s >= 0 else math.nan for s in session]
    total_of = [
        c + s + (1.0 if a else 0.0)
        for c, s, a in zip(slow_z(context, visible), slow_z(per_row, visible), asking, strict=True)
    ]
    chosen = [t for t, is_in in zip(total_of, candidate, strict=True) if is_in]
    least, most = min(chosen, default=0.0), max(chosen, default=0.0)
    answers = any(c and (b > 0 or v > 0) for b, v, c in zip(bm25, cosine, candidate, strict=True))
    return [
        0.0
        if not is_in
        else (t - least) / (most - least)
        if most - least > 1e-5
        else float(answers)
        for t, is_in in zip(total_of, candidate, strict=True)
    ]


def links(session: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The rows before and after each in its session."""
    before, after = np.full(len(session), -1, np.int32), np.full(len(session), -1, np.int32)
    last: dict[int, int] = {}
    for row, number in enumerate(session):
        if number >= 0 and number in last:
            before[row], after[last[number]] = last[number], row
        last[number] = row
    return before, after


@given(
    rows=st.lists(
        st.tuples(FINITE, MAYBE, st.integers(-1, 2), st.booleans(), st.just(True), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    session_bm25=st.lists(FINITE, min_size=3, max_size=3),
)
def test_relevance_is_that_of_the_slow_model(
    rows: list[tuple[float, float, int, bool, bool, bool]], session_bm25: list[float]
) -> None:
    bm25, cosine, session, asking, visible, candidate = map(list, zip(*rows, strict=True))
    before, after = links(session)
    evidence = ranking.Evidence(
        bm25=np.array(bm25, np.float32),
        cosine=np.array(cosine, np.float32),
        session_bm25=np.array([*session_bm25, math.nan], np.float32)[session],
        previous=before,
        following=after,
        asking=np.array(asking),
        visible=np.array(visible),
        candidates=np.array(candidate),
    )
    expected = slow_relevance(rows, session_bm25)
    assert ranking.relevance_of(evidence).relevance == pytest.approx(expected, abs=2e-3)


@given(st.lists(st.tuples(MAYBE, st.booleans()), max_size=12))
def test_z_scores_are_those_of_the_slow_model(rows: list[tuple[float, bool]]) -> None:
    values, among = [v for v, _ in rows], [is_in for _, is_in in rows]
    found = ranking.z_scores(np.array(values, np.float32), np.array(among, np.bool_))
    assert found == pytest.approx(slow_z(values, among), abs=1e-4)


def test_equal_values_have_no_z() -> None:
    same = np.full(5, 1e6 + 0.3, np.float32)
    assert not ranking.z_scores(same, np.ones(5, np.bool_)).any()


def test_recency_halves_and_the_future_is_now() -> None:
    now_ms, hour = 10**12, 3_600_000
    at_ms = np.array([now_ms, now_ms - 24 * hour, now_ms - 48 * hour, now_ms + hour])
    faded = ranking.recency(at_ms, now_ms=now_ms, half_life_hours=24.0)
    assert faded == pytest.approx([1.0, 0.5, 0.25, 1.0])


PARTS = {"semantic": np.array([1.0, 0.0]), "recency": np.array([0.0, 1.0])}


@pytest.mark.parametrize(
    ("weights", "scores"),
    [
        ({"semantic": 2.0, "recency": 2.0}, [0.5, 0.5]),
        ({"semantic": 3.0, "recency": 1.0, "cluster": 9.0}, [0.75, 0.25]),
        ({"semantic": 0.0, "recency": 5.0}, [0.0, 1.0]),
    ],
)
def test_weights_are_rescaled_over_the_parts_that_have_data(
    weights: dict[str, float], scores: list[float]
) -> None:
    assert ranking.combine(PARTS, weights) == pytest.approx(scores)


def test_weights_for_nothing_that_has_data_are_the_defaults() -> None:
    ours = ranking.combine(PARTS, {"graph": 1.0})
    assert ours == pytest.approx(ranking.combine(PARTS, ranking.default_weights("none")))


@pytest.mark.parametrize("intent", ["strong", "some", "none"])
def test_default_weights_sum_to_one(intent: str) -> None:
    assert sum(ranking.default_weights(intent).values()) == pytest.approx(1.0)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60),
    k=st.integers(1, 6),
    data=st.data(),
)
def test_the_best_are_those_of_a_full_sort(
    rows: list[tuple[int, int]], k: int, data: st.DataObject
) -> None:
    among = sorted(data.draw(st.sets(st.sampled_from(range(len(rows))))) if rows else set())
    score = np.array([s for s, _ in rows], np.float64)
    tie = np.array([t for _, t in rows], np.int64)
    found = ranking.best(score, np.array(among, np.intp), (tie,), k)
    expected = sorted(among, key=lambda row: (-rows[row][0], -rows[row][1], row))[:k]
    assert found.tolist() == expected
