"""How evidence becomes an order: pure functions over dense arrays, one entry a row of the scope.

    words      z(BM25, each word from the nearest turn that holds it: `near` of postings); the
               deviation is at least a tenth of the question's information
    meaning    w x (z(cosine) + 0.5 x that of the turns beside it + 0.25 x of those two away)
    session    0.6 x z(BM25 of the whole session) + 1 where the session is the asking one
    lift       2 x how much it says (half of that as far as its words are those of the turns around)
               + 1 x (asked right before it - asks itself)
               + 1 where the question names who speaks + 1 where it asks when, and the text says
               + 2 x how near the row is to a time that the question names
    relevance  the sum, mapped to 0..1 over the candidates; x 0.6 for what an assistant said; then
               moved towards 1 by what leads there from the best ones (`links`)
    score      the weighted mean of relevance, recency, importance and whatever else has data

z is standardised over the visible rows of the scope: a filter decides what may be answered, not
what a word is worth. w depends on the model (`cosine_weight`). How each was chosen and what each
gains on conversations that it was not chosen on: decisions/0024 and 0030.

A row that has no vector, no session or no data for a part gets that part's mean: it is neither
lifted nor sunk by what is not known of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

# What a deviation of the cosine is worth beside one of the words, by model: an average of word
# vectors tells less than a transformer. Models that nobody measured are taken for transformers.
COSINE_WEIGHTS: Mapping[str, float] = {"wordllama-l2-supercat-256": 0.6}
COSINE_WEIGHT = 1.0
NEIGHBOUR_WEIGHT = 0.5
# Where few rows hold any word of a question, and one word at that, they would be dozens of
# deviations above all others: the words' deviation is at least this share of what they could tell.
WORDS_DEVIATION_SHARE = 0.1
SESSION_WEIGHT = 0.6
ASKING_SESSION_LIFT = 1.0  # this and the next five in standard deviations of the words
CONTENT_LIFT = 2.0
# How much a long text says speaks for it by half where it holds no word of the question itself:
# else chatter beside a short fact, which holds them, is put before the fact.
BORROWED_SHARE = 0.5
ASKED_LIFT = 1.0
NAMED_LIFT = 1.0
DATED_LIFT = 1.0
MEANT_LIFT = 2.0  # for a row of the very time that the question names, `dates.closeness`
# Links close at most this share of what a row lacks to the best one. Without that, answers that
# have much in common come before one that fits better: of our 72 paraphrases (MiniLM) 5 fewer
# come first.
LINKED_SHARE = 0.7
# A long answer of a model holds many words of any question (recall.md: +6 to +8 points on BEAM).
ASSISTANT_SHARE = 0.6

# How much recency counts by default, by the recency intent of the question; importance decides as
# little. On LoCoMo, asked right after its last session, 0.05 for all questions costs 0.2 points of
# recall@10 against relevance alone, 0.10 costs 0.4, 0.16 costs 0.8 (its questions are about the
# past).
RECENCY_WEIGHT: Mapping[str, float] = {"strong": 0.15, "some": 0.08, "none": 0.05}
IMPORTANCE_WEIGHT = 0.05
# What relations lead to from one of the best hits weighs as much as a third of relevance: a memory
# that does not match, fully related to the best hit, comes beside one of relevance 0.4. Chosen, not
# measured: LoCoMo has no relations, and where none leads from a hit the part is not there at all.
GRAPH_WEIGHT = 0.3
# How often a memory was recalled tells little of whether it answers this question, and each recall
# makes the next more likely: it decides between equals. Not there until something was recalled. On
# the development part of LoCoMo, the questions asked one after the other and what they find counted
# every ten: recall@10 0.7549 without, 0.7545 at 0.02, 0.7572 at 0.05, 0.7559 at 0.1.
USAGE_WEIGHT = 0.02
# A question that says nothing (or nothing but stop words) is answered with what is most recent.
BROWSING_WEIGHTS: Mapping[str, float] = {"recency": 1.0}

HALF_LIFE_HOURS: Mapping[str, float] = {"strong": 24.0, "some": 72.0, "none": 168.0}
MS_PER_HOUR = 3_600_000

LEAST_WORTH = np.float32(1e-9)  # of a word; less is nothing
LEAST_DEVIATION = 1e-6  # what is told apart by less is the same
ROUNDING = 1e-5  # more than float32 loses in a score


def default_weights(recency_intent: str) -> dict[str, float]:
    """What counts how much where the caller gives no weights: 1 in all, and what only some answers
    have beside that."""
    recency_weight = RECENCY_WEIGHT[recency_intent]
    return {
        "semantic": 1 - recency_weight - IMPORTANCE_WEIGHT,
        "recency": recency_weight,
        "importance": IMPORTANCE_WEIGHT,
        "graph": GRAPH_WEIGHT,
        "usage": USAGE_WEIGHT,
    }


@lru_cache(maxsize=64)
def default_shares(recency_intent: str, names: tuple[str, ...]) -> Mapping[str, float]:
    """`shared_out` of the default weights."""
    return MappingProxyType(shared_out(default_weights(recency_intent), names))


class Moments(msgspec.Struct, frozen=True):
    """The mean and the deviation of something over all rows of a scope."""

    mean: float
    deviation: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the n rows of a scope, before anything is weighed.

    `bm25` (n,) float32, and `near`, with the words of the turns around; `information`, the sum of
    the words' idf; `cosine` (n,) float32, NaN where there is none; `models` (n,) the number of the
    model that a row's cosine comes from, None where it is one for all; `cosine_weight`, one or
    (n,), as the function of that name; `session_bm25` (n,) float32, that of the row's session, NaN
    without one, None where no visible row is in any; `previous`, `following` (n,) int32, the rows
    beside it in its session, -1 at the ends; `lift` (n,) float32, what else speaks for a row, in
    deviations; `is_assistant` (n,) bool, None where there are none or the question is after what
    the assistant said; `asking` (n,) bool, rows of the session that asks, None where none does;
    `visible` and `candidates` (n,) bool, candidates being those visible rows that pass the filters,
    `is_all` where that is every row; `shares` (n,) float32, how many rows of the scope each stands
    for where the others are not here, None where all are; `cosine_moments` where these are known
    better than by the rows here.
    """

    bm25: Floats
    near: Floats
    information: float
    cosine: Floats
    session_bm25: Floats | None
    previous: NDArray[np.int32]
    following: NDArray[np.int32]
    lift: Floats
    asking: NDArray[np.bool_] | None
    visible: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    is_all: bool = False
    cosine_weight: Floats | float = COSINE_WEIGHT
    is_assistant: NDArray[np.bool_] | None = None
    models: NDArray[np.int16] | None = None
    shares: Floats | None = None
    cosine_moments: Moments | None = None


class Relevance(msgspec.Struct, frozen=True):
    """(n,) each: relevance 0..1 (0 for those that are no candidates), and what of it came over
    links; in deviations, what came from around the row. `span`, the deviations from the least
    relevant candidate to the most."""

    relevance: Floats
    neighbours: Floats
    session: Floats
    links: Floats
    span: float


def relevance_of(evidence: Evidence) -> Relevance:
    """Fuse the evidence. Candidates that nothing tells apart are all 1, or all 0 if none
    answers.
    """
    visible = None if evidence.is_all else evidence.visible
    nothing = np.zeros(len(evidence.near), np.float32)
    if not _has_any(evidence):
        return Relevance(nothing, nothing, nothing, nothing, 0.0)
    meaning = _z_cosine(evidence, visible)
    meaning *= np.asarray(evidence.cosine_weight, np.float32)
    least = WORDS_DEVIATION_SHARE * evidence.information
    total = z_scores(evidence.near, visible, evidence.shares, least=least)
    total += meaning
    neighbours = session = nothing
    if evidence.session_bm25 is not None:
        neighbours = beside(meaning, evidence.previous, evidence.following)
        neighbours *= np.float32(NEIGHBOUR_WEIGHT)
        session = z_scores(evidence.session_bm25, visible, evidence.shares)
        session *= np.float32(SESSION_WEIGHT)
        total += neighbours
        total += session
    total += evidence.lift
    if evidence.asking is not None:
        total += np.float32(ASKING_SESSION_LIFT) * evidence.asking
    among = None if evidence.is_all else evidence.candidates
    least, most = _ends(total, among)
    relevance = _mapped(total, among, least, most, equal=1.0)
    if evidence.is_assistant is not None:
        relevance[evidence.is_assistant] *= np.float32(ASSISTANT_SHARE)
    return Relevance(relevance, neighbours, session, nothing, most - least)


def seeds_of(evidence: Evidence, found: Relevance, *, least: float, most: int) -> Rows:
    """The best candidates, about `most` of them, that hold a word of the question: not those with
    less than so large a share of the relevance of the best, and of very many equal ones none."""
    if found.span <= LEAST_DEVIATION:
        return np.zeros(0, np.intp)
    worth = found.relevance
    best_worth = 1.0 if evidence.is_assistant is None else float(worth.max(initial=0.0))
    rows: Rows = (worth >= max(least * best_worth, LEAST_DEVIATION)).nonzero()[0]
    if len(rows) > most:
        own = worth.take(rows)
        bound = np.partition(own, -most)[-most]
        reaching = own >= bound
        rows = rows[reaching if np.count_nonzero(reaching) <= 2 * most else own > bound]
    return rows[evidence.bm25.take(rows) > 0]


def with_links(evidence: Evidence, found: Relevance, links: Floats) -> Relevance:
    """The relevance with what `links` (n,) lead to, in parts of it (written to): that moves a
    candidate towards the best one, by a part of the way at most, so that the best stays the
    best."""
    most: Floats | float = 1.0
    if evidence.is_assistant is not None:
        most = np.where(evidence.is_assistant, ASSISTANT_SHARE, 1.0)
        links *= most
    if not evidence.is_all:
        links *= evidence.candidates
    way = most - found.relevance
    way *= LINKED_SHARE
    np.minimum(links, way, out=links)
    return Relevance(found.relevance + links, found.neighbours, found.session, links, found.span)


def cosine_weight(model: str) -> float:
    """What a standard deviation of this model's cosine is worth beside one of the words."""
    return COSINE_WEIGHTS.get(model, COSINE_WEIGHT)


def bearing(content: Floats, asks: Floats, previous: NDArray[np.int32]) -> Floats:
    """(n,) float32, in deviations: what speaks for a row whatever is asked. All (n,), as
    `core.recall.traits` and Evidence say."""
    asked = np.append(asks, np.float32(0)).take(previous)
    lift: Floats = np.float32(CONTENT_LIFT) * content + np.float32(ASKED_LIFT) * (asked - asks)
    return lift


def with_borrowed(lift: Floats, content: Floats, bm25: Floats, near: Floats) -> Floats:
    """(n,) float32, in deviations: the lift, less what is too much in it for rows whose words are
    those of the turns around them. All (n,), as Evidence says. A new array."""
    borrowed: Floats = near - bm25
    borrowed /= np.maximum(near, LEAST_WORTH)
    borrowed *= content
    borrowed *= np.float32(CONTENT_LIFT * (1 - BORROWED_SHARE))
    return np.subtract(lift, borrowed, out=borrowed)


def _z_cosine(evidence: Evidence, visible: NDArray[np.bool_] | None) -> Floats:
    """Standardised within each model: 0.4 is much for one and little for another."""
    cosine, shares = evidence.cosine, evidence.shares
    if (known := evidence.cosine_moments) is not None:
        is_known = evidence.visible & np.isfinite(cosine)
        deviation = np.float32(max(known.deviation, LEAST_DEVIATION))
        return np.where(is_known, (cosine - np.float32(known.mean)) / deviation, np.float32(0))
    if evidence.models is None:
        return z_scores(cosine, visible, shares)
    result = np.zeros(len(cosine), np.float32)
    for number in np.unique(evidence.models[evidence.visible & np.isfinite(cosine)]):
        result += z_scores(cosine, evidence.visible & (evidence.models == number), shares)
    return result


def _has_any(evidence: Evidence) -> bool:
    """Whether any candidate answers the question at all."""
    near, cosine, among = evidence.near, evidence.cosine, evidence.candidates
    if not evidence.is_all:
        near, cosine = near[among], cosine[among]
    return bool((near > 0).any() or (cosine > 0).any())


def z_scores(
    values: Floats,
    among: NDArray[np.bool_] | None,
    shares: Floats | None = None,
    *,
    least: float = 0.0,
) -> Floats:
    """Standardised over the finite values of the rows in `among` (None: all), each counted `shares`
    times, as if their deviation were at least so much; 0 elsewhere and without variance. A new
    array.
    """
    if among is not None and shares is None and among.all():
        among = None
    total = float(values.sum(dtype=np.float64)) if among is None and shares is None else math.nan
    if math.isfinite(total):
        if not len(values):
            return np.zeros(0, np.float32)
        mean = total / len(values)
        centred: Floats = np.subtract(values, np.float32(mean), dtype=np.float32)
        deviation = math.sqrt(float(centred @ centred) / len(values))
    else:
        known = np.isfinite(values)
        if among is not None:
            known &= among
        counted = known.astype(np.float32) if shares is None else np.where(known, shares, 0)
        rows = float(counted.sum(dtype=np.float64))
        values = np.where(known, values, np.float32(0))
        mean = float(counted @ values) / rows if rows else 0.0
        centred = np.where(known, values - np.float32(mean), np.float32(0))
        deviation = math.sqrt(float((centred * counted) @ centred) / rows) if rows else 0.0
    if deviation <= LEAST_DEVIATION * max(1.0, abs(mean)):
        return np.zeros(len(values), np.float32)
    centred *= np.float32(1 / max(deviation, least))
    return centred


def beside(scores: Floats, previous: NDArray[np.int32], following: NDArray[np.int32]) -> Floats:
    """The scores of the rows on both sides, and half of those two away; a missing one adds
    nothing. A new array.
    """
    size = len(scores)
    ended = np.zeros(size + 1, np.float32)  # row -1, the end of every session, has 0
    ended[:size] = scores
    before, after = ended.take(previous), ended.take(following)
    result: Floats = before + after
    ended[:size] = before
    further = ended.take(previous)
    ended[:size] = after
    further += ended.take(following)
    further *= np.float32(0.5)
    result += further
    return result


def to_unit(values: Floats, among: NDArray[np.bool_] | None, *, equal: float) -> Floats:
    """Mapped so that the least of the rows in `among` (None: all) is 0 and the greatest 1, or all
    are `equal`; 0 elsewhere. A new array.
    """
    return _mapped(values, among, *_ends(values, among), equal=equal)


def _ends(values: Floats, among: NDArray[np.bool_] | None) -> tuple[float, float]:
    """The least and the greatest of the values in `among` (None: all), 0 without any."""
    chosen = values if among is None else values[among]
    return (float(chosen.min()), float(chosen.max())) if len(chosen) else (0.0, 0.0)


def _mapped(
    values: Floats,
    among: NDArray[np.bool_] | None,
    least: float,
    greatest: float,
    *,
    equal: float,
) -> Floats:
    if greatest - least > LEAST_DEVIATION:
        result: Floats = np.subtract(values, np.float32(least), dtype=np.float32)
        result *= np.float32(1 / (greatest - least))
    else:
        result = np.full(len(values), equal, np.float32)
    if among is not None:
        result *= among
    return result


def recency(at_ms: NDArray[np.int64], *, now_ms: int, half_life_hours: float) -> Floats:
    """0..1, halved with every half-life that has passed; the future counts as now."""
    hours = np.maximum(now_ms - at_ms, 0) / MS_PER_HOUR
    faded: Floats = np.exp2(-hours / half_life_hours)
    return faded


def combine(parts: Mapping[str, Floats], weights: Mapping[str, float]) -> Floats:
    """The weighted sum of the parts, 0..1: weights as `shared_out` gives them, of these parts or
    more."""
    score: Floats = np.zeros(len(next(iter(parts.values()))), np.float64)
    for name, values in parts.items():
        if weights[name]:
            score += weights[name] * values
    return score


def contenders(
    known: Mapping[str, Floats],
    open_parts: Sequence[str],
    weights: Mapping[str, float],
    among: NDArray[np.bool_] | None,
    k: int,
) -> Rows:
    """The rows of `among` (None: all) that can be among the best k of `combine`, whatever the
    `open_parts`, which are dear to reckon, turn out to be (0..1). Weights as for `combine`.
    """
    rows = None if among is None else among.nonzero()[0]
    size = len(next(iter(known.values())))
    total = size if rows is None else len(rows)
    if total <= 4 * k:
        return np.arange(total) if rows is None else rows
    weighed = [np.float32(weights[name]) * own for name, own in known.items() if weights[name]]
    score: Floats = sum(weighed[1:], start=weighed[0]) if weighed else np.zeros(size, np.float32)
    chosen = score if rows is None else score[rows]
    best_k = np.partition(chosen, total - k)[total - k]
    least = best_k - sum(weights[name] for name in open_parts) - ROUNDING
    reaching: Rows = (chosen >= least).nonzero()[0]
    return reaching if rows is None else rows[reaching]


def shared_out(weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The weights of these parts, rescaled to sum 1; the default ones where that is nothing. A part
    without data is not among them, and its weight counts for nothing, so that what is not known of
    any row lowers no score.
    """
    used = {name: weights.get(name, 0.0) for name in names}
    if max(used.values(), default=0.0) <= 0:
        used = {name: default_weights("none").get(name, 0.0) for name in names}
    most = max(used.values(), default=0.0) or 1.0  # first, since the sum may be too large a number
    used = {name: weight / most for name, weight in used.items()}
    total = sum(used.values()) or 1.0
    return {name: weight / total for name, weight in used.items()}


def best(score: Floats, among: Rows, ties: tuple[Floats | NDArray[np.int64], ...], k: int) -> Rows:
    """The k rows of `among` with the highest scores, best first; equal ones by `ties`, highest
    first, and then by row.
    """
    chosen = score[among]
    if len(among) > 4 * k:
        least = np.partition(chosen, len(chosen) - k)[len(chosen) - k]
        among = among[chosen >= least]
        chosen = score[among]
    order = (-chosen).argsort(kind="stable")
    first = chosen[order[: k + 1]]
    if not (first[1:] < first[:-1]).all():
        keys = [-tie[among] for tie in reversed(ties)]
        order = np.lexsort([among, *keys, -chosen])
    return among[order[:k]]


def margins(relevance: Sequence[float], runners_up: int) -> list[float]:
    """How far each is ahead of the mean of the next few; of itself where there are none."""
    sums = [0.0, *accumulate(relevance)]
    found = []
    for place, own in enumerate(relevance, start=1):
        last = min(place + runners_up, len(relevance))
        found.append(own - (sums[last] - sums[place]) / max(last - place, 1))
    return found
