"""How sure an answer is: the probability that one of its first five memories holds what was asked.

A logistic function of three facts about the best memories, which mean the same for any model and
any size of a scope:

    margin    how far the first is ahead of the four after it, in relevance (0..1)
    missing   how much of the question's information (idf) less than a half the best of them holds
    other     whether the question names somebody who speaks here, and the first is somebody else's

Fitted on the questions of three LoCoMo conversations, those that nobody there can answer among
them, and on each of them put to the other conversations. `python -m tests.bench.calibrating FILE`
prints these weights, and how well they do on what was left out: decisions/0024. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

FIRST = 5  # so many memories are what an answer is judged by
RUNNERS_UP = FIRST - 1
COVERAGE_ENOUGH = 0.5  # the words of a question that are not there say little once half are

BASE = 0.58
MARGIN_WEIGHT = 2.37
MISSING_WEIGHT = -11.7
OTHER_WEIGHT = -1.74


class Facts(msgspec.Struct, frozen=True):
    """What the confidence is reckoned from, as above."""

    margin: float
    missing: float
    other: bool


def facts_of(
    scorings: Sequence[Mapping[str, float]], *, margin: float, by_named: bool | None
) -> Facts:
    """`scorings` of the memories, best first; `margin` of the first, and whether it is by somebody
    whom the question names, None where it names nobody."""
    covered = max((scoring.get("coverage", 0.0) for scoring in scorings[:FIRST]), default=0.0)
    return Facts(margin, max(0.0, COVERAGE_ENOUGH - covered), by_named is False)


def confidence_of(facts: Facts) -> float:
    """0..1. Raises `ValueError` for facts that are no numbers."""
    evidence = (
        BASE
        + MARGIN_WEIGHT * facts.margin
        + MISSING_WEIGHT * facts.missing
        + OTHER_WEIGHT * facts.other
    )
    if not math.isfinite(evidence):
        raise ValueError(f"confidence of {facts}")
    return 1 / (1 + math.exp(-evidence))
