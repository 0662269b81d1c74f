"""Ranking against a model that looks at one row at a time with plain floats."""

from __future__ import annotations

import math
import statistics
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall import ranking
from tests.fakes.sessions import links

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


class Row(NamedTuple):
    """A row in the order of its session, and whether it is visible, a candidate, and so on."""

    bm25: float
    near: float
    cosine: float
    lift: float
    session: int
    asking: bool
    visible: bool
    candidate: bool
    is_assistant: bool


def slow_relevance(
    rows: list[Row], session_bm25: list[float], information: float = 0.0
) -> list[float]:
    """As the head of the module says, in words."""
    visible = [row.visible for row in rows]
    if not any(row.candidate and (row.near > 0 or row.cosine > 0) for row in rows):
        return [0.0] * len(rows)
    near = [row.near for row in rows]
    deviation = statistics.pstdev(near)
    damping = min(1.0, deviation / (0.1 * information)) if information else 1.0
    words = [damping * z for z in slow_z(near, visible)]
    meaning = [0.6 * z for z in slow_z([row.cosine for row in rows], visible)]
    of_session = [session_bm25[row.session] if row.session >= 0 else math.nan for row in rows]
    session = [0.6 * z for z in slow_z(of_session, visible)]
    totals = []
    for at, row in enumerate(rows):
        line = [other for other, one in enumerate(rows) if one.session == row.session >= 0]
        around = sum(
            weight * meaning[line[line.index(at) + step]]
            for step, weight in ((-2, 0.25), (-1, 0.5), (1, 0.5), (2, 0.25))
            if at in line and 0 <= line.index(at) + step < len(line)
        )
        totals.append(words[at] + meaning[at] + around + session[at] + row.lift + row.asking)
    chosen = [total for total, row in zip(totals, rows, strict=True) if row.candidate]
    least, most = min(chosen), max(chosen)
    return [
        (0.6 if row.is_assistant else 1.0)
        * ((total - least) / (most - least) if most - least > 1e-5 else 1.0)
        if row.candidate
        else 0.0
        for total, row in zip(totals, rows, strict=True)
    ]


@given(
    rows=st.lists(
        st.builds(
            Row,
            *[FINITE, FINITE, MAYBE, FINITE, st.integers(-1, 2), st.booleans(), st.just(True)],
            *[st.booleans()] * 2,
        ),
        min_size=1,
        max_size=12,
    ),
    session_bm25=st.lists(FINITE, min_size=3, max_size=3),
    information=st.sampled_from([0.0, 2.0, 40.0]),
)
def test_relevance_is_that_of_the_slow_model(
    rows: list[Row], session_bm25: list[float], information: float
) -> None:
    columns: Any = Row(*map(np.array, zip(*rows, strict=True)))
    previous, following = links([row.session for row in rows])
    evidence = ranking.Evidence(
        bm25=columns.bm25,
        near=columns.near.astype(np.float32),
        information=information,
        cosine=columns.cosine.astype(np.float32),
        cosine_weight=0.6,
        session_bm25=np.array([*session_bm25, math.nan], np.float32)[columns.session],
        previous=previous,
        following=following,
        lift=columns.lift.astype(np.float32),
        asking=columns.asking,
        visible=columns.visible,
        candidates=columns.candidate,
        is_assistant=columns.is_assistant,
    )
    expected = slow_relevance(rows, session_bm25, information)
    assert ranking.relevance_of(evidence).relevance == pytest.approx(expected, abs=2e-3)


def evidence_of(candidates: list[bool], is_assistant: list[bool] | None = None) -> ranking.Evidence:
    """Of rows that nothing else is known of."""
    count = len(candidates)
    zeros, none = np.zeros(count, np.float32), np.full(count, -1, np.int32)
    return ranking.Evidence(
        bm25=np.ones(count, np.float32), near=zeros, information=0.0, cosine=zeros,
        session_bm25=None, previous=none, following=none, lift=zeros, asking=None,
        visible=np.ones(count, np.bool_),
        candidates=np.array(candidates, np.bool_), is_all=all(candidates),
        is_assistant=None if is_assistant is None else np.array(is_assistant, np.bool_),
    )  # fmt: skip


def relevant(values: list[float]) -> ranking.Relevance:
    """As if it had come out so."""
    none = np.zeros(len(values), np.float32)
    return ranking.Relevance(np.array(values, np.float32), none, none, none, span=4.0)


EIGHTH = st.integers(0, 8).map(lambda n: n / 8)


@given(values=st.lists(EIGHTH, min_size=1, max_size=16), most=st.integers(1, 4))
def test_seeds_are_the_best_that_are_not_far_below_the_first(
    values: list[float], most: int
) -> None:
    evidence, found = evidence_of([True] * len(values)), relevant(values)
    seeds = ranking.seeds_of(evidence, found, least=0.5, most=most).tolist()
    near = [row for row, value in enumerate(values) if value >= 0.5]
    ranked = sorted((values[row] for row in near), reverse=True)
    tenth = ranked[most - 1] if len(near) > most else 0.0
    reaching = [row for row in near if values[row] >= tenth]
    above = [row for row in near if values[row] > tenth]
    assert seeds == (reaching if len(reaching) <= max(2 * most, 1) else above)


def test_where_nothing_tells_candidates_apart_there_are_no_seeds() -> None:
    same = msgspec.structs.replace(relevant([1.0, 1.0]), span=0.0)
    assert not len(ranking.seeds_of(evidence_of([True, True]), same, least=0.5, most=4))


def test_what_holds_no_word_of_the_question_is_no_seed() -> None:
    evidence = msgspec.structs.replace(
        evidence_of([True] * 3), bm25=np.array([0.0, 2.0, 0.0], np.float32)
    )
    seeds = ranking.seeds_of(evidence, relevant([1.0, 0.9, 0.8]), least=0.5, most=4)
    assert seeds.tolist() == [1]


def test_what_an_assistant_said_may_be_a_seed_beside_its_like() -> None:
    evidence = evidence_of([True] * 3, [True] * 3)
    seeds = ranking.seeds_of(evidence, relevant([0.6, 0.4, 0.2]), least=0.5, most=4)
    assert seeds.tolist() == [0, 1]


@given(
    rows=st.lists(
        st.tuples(EIGHTH, st.booleans(), st.booleans(), st.integers(0, 16)), min_size=1, max_size=9
    )
)
def test_links_close_a_part_of_the_way_and_no_more(
    rows: list[tuple[float, bool, bool, int]],
) -> None:
    candidates = [is_candidate for _, is_candidate, _, _ in rows]
    assistant = [is_assistant for _, _, is_assistant, _ in rows]
    most = [ranking.ASSISTANT_SHARE if own else 1.0 for own in assistant]
    before = [
        value * high if is_candidate else 0.0
        for (value, is_candidate, _, _), high in zip(rows, most, strict=True)
    ]
    links = [own / 8 for _, _, _, own in rows]
    after = ranking.with_links(
        evidence_of(candidates, assistant), relevant(before), np.array(links, np.float64)
    )
    for row, was in enumerate(before):
        gained = min(links[row] * most[row], 0.7 * (most[row] - was)) if candidates[row] else 0.0
        assert after.relevance[row] == pytest.approx(was + gained, abs=1e-6)
        assert after.links[row] == pytest.approx(gained, abs=1e-6)


def test_what_bears_on_a_row_is_what_it_says_and_what_was_asked_before_it() -> None:
    content, asks = np.array([1.0, 0.5, 0.0], np.float32), np.array([0.5, 0, 0], np.float32)
    lift = ranking.bearing(content, asks, np.array([-1, 0, 1], np.int32))
    assert lift == pytest.approx([2 - 0.5, 1 + 0.5, 0.0])


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


@given(st.lists(st.integers(0, 8).map(lambda n: n / 8), max_size=9), st.integers(1, 4))
def test_a_margin_is_the_lead_on_the_mean_of_those_that_follow(
    relevance: list[float], runners_up: int
) -> None:
    found = ranking.margins(relevance, runners_up)
    following = [relevance[place + 1 :][:runners_up] for place in range(len(relevance))]
    expected = [
        own - (statistics.fmean(others) if others else 0)
        for own, others in zip(relevance, following, strict=True)
    ]
    assert found == pytest.approx(expected)


PARTS = {"semantic": np.array([1.0, 0.0]), "recency": np.array([0.0, 1.0])}


def combined(weights: dict[str, float]) -> ranking.Floats:
    return ranking.combine(PARTS, ranking.shared_out(weights, tuple(PARTS)))


@pytest.mark.parametrize(
    ("weights", "scores"),
    [
        ({"semantic": 2.0, "recency": 2.0}, [0.5, 0.5]),
        ({"semantic": 3.0, "recency": 1.0, "cluster": 9.0}, [0.75, 0.25]),
        ({"semantic": 0.0, "recency": 5.0}, [0.0, 1.0]),
        ({"semantic": 1.5e308, "recency": 0.5e308}, [0.75, 0.25]),  # their sum is no number
        ({"semantic": 5e-324, "recency": 5e-324}, [0.5, 0.5]),
    ],
)
def test_weights_are_rescaled_over_the_parts_that_have_data(
    weights: dict[str, float], scores: list[float]
) -> None:
    assert combined(weights) == pytest.approx(scores)


def test_weights_for_nothing_that_has_data_are_the_defaults() -> None:
    assert combined({"graph": 1.0}) == pytest.approx(combined(ranking.default_weights("none")))


@pytest.mark.parametrize("intent", ["strong", "some", "none"])
def test_default_weights_of_what_every_answer_has_sum_to_one(intent: str) -> None:
    weights = ranking.default_weights(intent)
    assert weights["semantic"] + weights["recency"] + weights["importance"] == pytest.approx(1.0)


@given(st.lists(st.tuples(FINITE, MAYBE, FINITE), min_size=1, max_size=12))
def test_rows_that_need_not_be_told_apart_have_the_same_relevance(
    rows: list[tuple[float, float, float]],
) -> None:
    near, cosine, lift = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    everything, alone = np.ones(len(rows), np.bool_), np.full(len(rows), -1, np.int32)
    told = ranking.Evidence(
        bm25=near,
        near=near,
        information=1.0,
        cosine=cosine,
        session_bm25=np.full(len(rows), np.nan, np.float32),
        previous=alone,
        following=alone,
        lift=lift,
        asking=None,
        visible=everything,
        candidates=everything,
    )
    untold = msgspec.structs.replace(told, session_bm25=None, is_all=True)
    expected, found = (ranking.relevance_of(one) for one in (told, untold))
    assert found.relevance.tolist() == expected.relevance.tolist()
    assert not found.neighbours.any()
    assert not found.session.any()


def test_what_is_borrowed_from_the_turns_around_is_lifted_less() -> None:
    content = np.array([1.0, 1.0, 1.0, 0.5], np.float32)
    bm25, near = np.array([2.0, 0, 0, 1.0], np.float32), np.array([2.0, 2.0, 0, 2.0], np.float32)
    lift = ranking.with_borrowed(np.full(4, 2.0, np.float32), content, bm25, near)
    assert lift == pytest.approx([2.0, 1.0, 2.0, 1.75])


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
