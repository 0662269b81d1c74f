"""The measures of the evaluation: pure functions from questions and what they found to figures.

recall@k  the share of a question's evidence turns among the first k, averaged over questions
MRR       1 / the rank of the first evidence turn, 0 where none is found, averaged over questions
p50, p95  nearest rank: the least value that this share of all values does not exceed

An average is over questions, not over categories. Questions without an evidence turn are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

PARAPHRASE = 0  # our own questions that share no word with their answer
HOP = -1  # our own questions whose answer shares a name with what answers them by half, and no more
CATEGORIES = {
    1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial",
    PARAPHRASE: "paraphrase", HOP: "two hops",
}  # fmt: skip
OVERALL = "overall"
_LABEL = re.compile(r"D:?(\d+):(\d+)")


class Question(msgspec.Struct, frozen=True):
    """A question of a conversation, and the turns that hold its answer."""

    text: str
    category: int
    evidence: frozenset[str]


class QuestionsFound(msgspec.Struct, frozen=True):
    """What a conversation asks; how many questions and labels were left out, as they name no turn
    of it.
    """

    questions: list[Question]
    without_evidence: int
    unknown_labels: int


class Outcome(msgspec.Struct, frozen=True):
    """A question that was asked: the turns that came back, best first, and how long it took."""

    question: Question
    found: list[str]
    seconds: float


class Row(msgspec.Struct, frozen=True):
    """The figures of one category, or of all questions; `recall` by k."""

    name: str
    questions: int
    recall: dict[int, float]
    mrr: float


class _Asked(msgspec.Struct, frozen=True):
    question: str
    category: int
    evidence: list[str] = []


def read_questions(found: Mapping[str, Any], turns: Collection[str]) -> QuestionsFound:
    """The questions under "qa" that have evidence among the turns; raises `ValidationError`."""
    asked = msgspec.convert(found.get("qa", []), list[_Asked])
    questions, unknown_labels = [], 0
    for one in asked:
        labels = [turn for label in one.evidence for turn in _turns_of(label, turns)]
        known = frozenset(label for label in labels if label in turns)
        unknown_labels += sum(label not in turns for label in labels)
        if known:
            questions.append(Question(one.question, one.category, known))
    return QuestionsFound(questions, len(asked) - len(questions), unknown_labels)


def _turns_of(label: str, turns: Collection[str]) -> list[str]:
    """The turns that a label names: some name two at once ("D8:6; D9:17"), or write D2:01."""
    if label in turns:
        return [label]
    named = [f"D{int(session)}:{int(turn)}" for session, turn in _LABEL.findall(label)]
    return named or [label]


def recall_at(k: int, evidence: Collection[str], found: Sequence[str]) -> float:
    """The share of the evidence among the first k that were found."""
    return len(set(evidence) & set(found[:k])) / len(set(evidence))


def reciprocal_rank(evidence: Collection[str], found: Sequence[str]) -> float:
    """1 / the rank, from 1, of the first evidence; 0 where there is none."""
    ranks = (rank for rank, one in enumerate(found, start=1) if one in evidence)
    return 1 / next(ranks, math.inf)


def percentile(values: Iterable[float], share: float) -> float:
    """The least of the values that at least this share (0..1) of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def rows_of(outcomes: Sequence[Outcome], ks: Sequence[int]) -> list[Row]:
    """The figures of each category that has questions, by number, and last those of all."""
    numbers = sorted({outcome.question.category for outcome in outcomes})
    rows = [
        _row(
            CATEGORIES.get(number, f"category {number}"),
            [outcome for outcome in outcomes if outcome.question.category == number],
            ks,
        )
        for number in numbers
    ]
    return [*rows, _row(OVERALL, outcomes, ks)]


def _row(name: str, outcomes: Sequence[Outcome], ks: Sequence[int]) -> Row:
    pairs = [(outcome.question.evidence, outcome.found) for outcome in outcomes]
    return Row(
        name=name,
        questions=len(pairs),
        recall={k: _mean([recall_at(k, *pair) for pair in pairs]) for k in ks},
        mrr=_mean([reciprocal_rank(*pair) for pair in pairs]),
    )


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 6)
