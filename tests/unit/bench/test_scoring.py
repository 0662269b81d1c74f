"""The measures of the evaluation, against values worked out by hand."""

from __future__ import annotations

import msgspec
import pytest

from tests.bench import scoring
from tests.bench.scoring import Outcome, Question

TURNS = frozenset({"D1:1", "D1:2", "D8:6", "D9:17"})


@pytest.mark.parametrize(
    ("k", "evidence", "found", "recall"),
    [
        (1, {"a"}, ["a", "b"], 1.0),
        (1, {"b"}, ["a", "b"], 0.0),
        (2, {"b", "x"}, ["a", "b"], 0.5),
        (2, {"a", "b", "c"}, ["c", "a", "b"], 2 / 3),
        (5, {"a"}, [], 0.0),
        (3, {"a", "b"}, ["a", "a", "a", "b"], 0.5),  # what comes twice takes two places
    ],
)
def test_recall(k: int, evidence: set[str], found: list[str], recall: float) -> None:
    assert scoring.recall_at(k, evidence, found) == recall


def test_reciprocal_rank_is_that_of_the_first_evidence() -> None:
    found = ["a", "b", "c", "d"]
    assert scoring.reciprocal_rank({"a"}, found) == 1
    assert scoring.reciprocal_rank({"d", "c"}, found) == 1 / 3
    assert scoring.reciprocal_rank({"x"}, found) == 0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.95, 95.0),
        ([float(n) for n in range(1, 20)], 0.95, 19.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert scoring.percentile(values, share) == expected


def outcome(category: int, evidence: set[str], *found: str) -> Outcome:
    """A question of this category that found these."""
    return Outcome(Question("?", category, frozenset(evidence)), [*found], 0.0)


def test_figures_are_averages_over_questions_by_category_and_overall() -> None:
    outcomes = [
        outcome(4, {"a"}, "a", "b"),
        outcome(4, {"a", "b"}, "x", "a", "b"),
        outcome(1, {"c"}, "x", "y"),
        outcome(9, {"d"}, "d"),
    ]
    rows = scoring.rows_of(outcomes, [1, 2])
    assert [msgspec.structs.astuple(row) for row in rows] == [
        ("multi-hop", 1, {1: 0.0, 2: 0.0}, 0.0),
        ("single-hop", 2, {1: 0.5, 2: 0.75}, 0.75),
        ("category 9", 1, {1: 1.0, 2: 1.0}, 1.0),
        ("overall", 4, {1: 0.5, 2: 0.625}, 0.625),
    ]


def asked(*evidence: str) -> dict[str, object]:
    """A question as it stands in a file."""
    return {"question": "?", "category": 2, "evidence": [*evidence], "answer": 7}


@pytest.mark.parametrize(
    ("labels", "evidence", "unknown"),
    [
        (["D1:1"], {"D1:1"}, 0),
        (["D1:1", "D1:1"], {"D1:1"}, 0),
        (["D8:6; D9:17"], {"D8:6", "D9:17"}, 0),
        (["D1:02", "D:8:6"], {"D1:2", "D8:6"}, 0),
        (["D1:1", "D", "D7:7"], {"D1:1"}, 2),
    ],
)
def test_labels_are_read_as_they_are_meant(
    labels: list[str], evidence: set[str], unknown: int
) -> None:
    read = scoring.read_questions({"qa": [asked(*labels)]}, TURNS)
    assert [question.evidence for question in read.questions] == [evidence]
    assert (read.without_evidence, read.unknown_labels) == (0, unknown)


def test_questions_without_evidence_are_left_out_and_counted() -> None:
    read = scoring.read_questions({"qa": [asked(), asked("D7:7"), asked("D1:1")]}, TURNS)
    assert len(read.questions) == 1
    assert (read.without_evidence, read.unknown_labels) == (2, 1)
    assert not scoring.read_questions({}, TURNS).questions
