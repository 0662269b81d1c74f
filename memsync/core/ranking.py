"""How evidence becomes an order: pure functions over dense arrays, one entry a row of the scope.

    fused      z(BM25) + 0.5 z(cosine)
    context    fused + w x (turns beside it) + w/2 x (turns two away), in the same session; w = 0.5
    evidence   z(context) + 1 x z(BM25 of the whole session) + 1 where the session is the asking one
    relevance  evidence mapped to 0..1 over the candidates
    score      the weighted mean of relevance, recency, importance and whatever else has data

z is standardised over the visible rows of the scope: a filter decides what may be answered, not
what a word is worth. Measured on the development part of LoCoMo (recall.md): recall@10 0.62 by
words alone, 0.74 with all of this. Standardising after the neighbours as well, which the first
recipe did not, keeps the session's share the same however long sessions are: +0.5 points there.

A row that has no vector, no session or no data for a part gets that part's mean: it is neither
lifted nor sunk by what is not known of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

COSINE_WEIGHT = 0.5
NEIGHBOUR_WEIGHT = 0.5
SESSION_WEIGHT = 1.0
ASKING_SESSION_LIFT = 1.0  # in standard deviations of the evidence

# How much recency counts by default, by the recency intent of the question; importance decides as
# little. On LoCoMo, asked right after its last session, 0.05 for all questions costs 0.2 points of
# recall@10 against relevance alone, 0.10 costs 0.4, 0.16 costs 0.8 (its questions are about the
# past).
RECENCY_WEIGHT: Mapping[str, float] = {"strong": 0.15, "some": 0.08, "none": 0.05}
IMPORTANCE_WEIGHT = 0.05
# A question that says nothing (or nothing but stop words) is answered with what is most recent.
BROWSING_WEIGHTS: Mapping[str, float] = {"recency": 1.0}

HALF_LIFE_HOURS: Mapping[str, float] = {"strong": 24.0, "some": 72.0, "none": 168.0}
MS_PER_HOUR = 3_600_000


def default_weights(recency_intent: str) -> dict[str, float]:
    """What counts how much where the caller gives no weights; the sum is 1. Clusters, use and
    relations have no data yet, and so no weight."""
    recency_weight = RECENCY_WEIGHT[recency_intent]
    return {
        "semantic": 1 - recency_weight - IMPORTANCE_WEIGHT,
        "recency": recency_weight,
        "importance": IMPORTANCE_WEIGHT,
    }


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the n rows of a scope, before anything is weighed.

    `bm25` (n,) float32; `cosine` (n,) float32, NaN where there is none; `session_bm25` (n,)
    float32, that of the row's session, NaN without one; `previous`, `following` (n,) int32, the
    rows beside it in its session, -1 at the ends; `asking` (n,) bool, rows of the session that
    asks; `visible` and `candidates` (n,) bool, candidates being those visible rows that pass the
    filters.
    """

    bm25: Floats
    cosine: Floats
    session_bm25: Floats
    previous: NDArray[np.int32]
    following: NDArray[np.int32]
    asking: NDArray[np.bool_]
    visible: NDArray[np.bool_]
    candidates: NDArray[np.bool_]


class Relevance(msgspec.Struct, frozen=True):
    """(n,) each: relevance 0..1 (0 for those that are no candidates) and what came from around the
    row.
    """

    relevance: Floats
    neighbours: Floats
    session: Floats


def relevance_of(evidence: Evidence) -> Relevance:
    """Fuse the evidence. Candidates that nothing tells apart are all 1, or all 0 if none
    answers.
    """
    visible = evidence.visible
    fused = z_scores(evidence.bm25, visible) + COSINE_WEIGHT * z_scores(evidence.cosine, visible)
    neighbours = NEIGHBOUR_WEIGHT * beside(fused, evidence.previous, evidence.following)
    session = SESSION_WEIGHT * z_scores(evidence.session_bm25, visible)
    total = z_scores(fused + neighbours, visible) + session
    total = total + ASKING_SESSION_LIFT * evidence.asking
    relevance = to_unit(total, evidence.candidates, equal=float(_has_any(evidence)))
    return Relevance(relevance, neighbours, session)


def _has_any(evidence: Evidence) -> bool:
    """Whether any candidate answers the question at all."""
    among = evidence.candidates
    return bool((evidence.bm25[among] > 0).any() or (evidence.cosine[among] > 0).any())


def z_scores(values: Floats, among: NDArray[np.bool_]) -> Floats:
    """Standardised over the finite values of the rows in `among`; 0 elsewhere and without
    variance.
    """
    known = among & np.isfinite(values)
    found = values[known].astype(np.float64)
    result = np.zeros(len(values), np.float32)
    if len(found) == 0:
        return result
    deviation = found.std()
    if deviation > 1e-6 * max(1.0, float(np.abs(found).max())):
        result[known] = (found - found.mean()) / deviation
    return result


def beside(scores: Floats, previous: NDArray[np.int32], following: NDArray[np.int32]) -> Floats:
    """The scores of the rows on both sides, and half of those two away; a missing one adds
    nothing.
    """
    ended = np.append(scores, np.float32(0))  # row -1, the end of every session
    back, forth = np.append(previous, np.int32(-1)), np.append(following, np.int32(-1))
    one_away = ended[previous] + ended[following]
    two_away = ended[back[previous]] + ended[forth[following]]
    result: Floats = one_away + np.float32(0.5) * two_away
    return result


def to_unit(values: Floats, among: NDArray[np.bool_], *, equal: float) -> Floats:
    """Mapped so that the least of the rows in `among` is 0 and the greatest 1, or all are
    `equal`.
    """
    result = np.zeros(len(values), np.float32)
    chosen = values[among]
    if len(chosen) == 0:
        return result
    least, greatest = float(chosen.min()), float(chosen.max())
    if greatest - least > 1e-6:
        result[among] = (chosen - least) / (greatest - least)
    else:
        result[among] = equal
    return result


def recency(at_ms: NDArray[np.int64], *, now_ms: int, half_life_hours: float) -> Floats:
    """0..1, halved with every half-life that has passed; the future counts as now."""
    hours = np.maximum(now_ms - at_ms, 0) / MS_PER_HOUR
    faded: Floats = np.exp2(-hours / half_life_hours)
    return faded


def combine(parts: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The weighted mean of the parts, 0..1. A part without data is not among `parts`, and its
    weight counts for nothing, so that what is not known of any row lowers no score.
    """
    used = {name: weights.get(name, 0.0) for name in parts}
    total = sum(used.values())
    if total <= 0:
        used = default_weights("none")
        used = {name: used.get(name, 0.0) for name in parts}
        total = sum(used.values()) or 1.0
    size = len(next(iter(parts.values())))
    score: Floats = np.zeros(size, np.float64)
    for name, values in parts.items():
        if used[name]:
            score = score + (used[name] / total) * values
    return score


def best(score: Floats, among: Rows, ties: tuple[Floats | NDArray[np.int64], ...], k: int) -> Rows:
    """The k rows of `among` with the highest scores, best first; equal ones by `ties`, highest
    first, and then by row.
    """
    chosen = score[among]
    if len(among) > 4 * k:
        least = np.partition(chosen, len(chosen) - k)[len(chosen) - k]
        among = among[chosen >= least]
        chosen = score[among]
    keys = [-tie[among] for tie in reversed(ties)]
    order = np.lexsort([among, *keys, -chosen])[:k]
    return among[order]
