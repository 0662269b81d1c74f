"""A search in one loaded scope: filters, evidence, order, and the parts of each score by name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.adapters.hot_index.facets import facet
from memsync.adapters.hot_index.frame import Frame, frame_of
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.core.recall import graph, ranking
from memsync.core.recall.calibration import RUNNERS_UP
from memsync.core.recall.dates import closeness, spans_of
from memsync.core.recall.intent import asks_assistant, asks_when, recency_intent
from memsync.core.recall.lexical import is_telling, terms_of
from memsync.core.recall.words import links
from memsync.ports import Hit, Question
from memsync.telemetry import logger
from memsync.times import Timed
from memsync.wire.requests import TIERS, QueryFilters, parse_moment

Mask = NDArray[np.bool_]
LEANING = {"recency": "moment_ms", "importance": "importance", "usage": "usage"}
LEANING_SHARE = 0.2  # less than that does not bring up what nothing else speaks for


class _Found(msgspec.Struct, frozen=True):
    """The rows that are looked at, and the evidence for each, as it is at `now_ms`; of every row of
    the scope, whether somebody says it whom the question names (None: it names nobody)."""

    links: _Links
    frame: Frame
    evidence: ranking.Evidence
    now_ms: int
    by_named: Mask | None


def search(
    scope: LoadedScope,
    question: Question,
    lacking: set[str],
    times: dict[str, float] | None = None,
) -> list[Hit]:
    """The best k candidates, best first; `lacking` takes the names of parts that were left out,
    `times` the seconds that `expand` and `rank` took."""
    times = {} if times is None else times
    candidates = scope.population(question.now_ms).visible
    if question.filters is not None:
        candidates = candidates & passing(scope, question.filters)
    if not candidates.any():
        return []
    found = _found(scope, question, candidates, lacking)
    with Timed(times, "rank"):
        relevance = ranking.relevance_of(found.evidence)
    relevance = _linked(scope, found, relevance, times)
    graph_part: dict[str, ranking.Floats] = {}
    if scope.relations.total:
        with Timed(times, "expand"):
            found, relevance, graph_part = _expanded(
                scope, question, candidates, found, relevance, lacking
            )
    frame, columns = found.frame, scope.columns
    known = {"semantic": relevance.relevance, "importance": frame.of(columns["importance"])}
    known |= _clustered(scope, question, frame)
    if columns["usage"].any():
        known["usage"] = frame.of(columns["usage"])
    known |= graph_part
    with Timed(times, "rank"):
        return _ranked(scope, question, found, relevance, known)


def _ranked(
    scope: LoadedScope,
    question: Question,
    found: _Found,
    relevance: ranking.Relevance,
    known: Mapping[str, ranking.Floats],
) -> list[Hit]:
    """The best k by what is `known` of the rows of the frame, and by how recent they are."""
    frame, columns = found.frame, scope.columns
    intent = recency_intent(question.text)
    names = (*known, "recency")
    given = _weights(question, found.evidence)
    weights = (
        ranking.default_shares(intent, names) if given is None else ranking.shared_out(given, names)
    )
    count = question.k + RUNNERS_UP
    among = None if frame.is_all else frame.candidates
    places = ranking.contenders(known, ("recency",), weights, among, count)
    parts = {name: values.take(places) for name, values in known.items()}
    rows = frame.at(places)
    moment_ms = columns["moment_ms"][rows]
    half_life_hours = ranking.HALF_LIFE_HOURS[intent]
    parts["recency"] = ranking.recency(
        moment_ms, now_ms=_asked_ms(question), half_life_hours=half_life_hours
    )
    score = ranking.combine(parts, weights)
    ties = (parts["semantic"], moment_ms, columns["stamp_time"][rows])
    best = ranking.best(score, np.arange(len(places)), ties, count)
    margins = ranking.margins(parts["semantic"].take(best).tolist(), RUNNERS_UP)
    best = best[: question.k]
    rows, places = rows[best], places[best]
    named = {name: values.take(best) for name, values in parts.items()}
    named |= {name: values.take(places) for name, values in _details(found, relevance).items()}
    by_named = None if found.by_named is None else found.by_named[rows].tolist()
    keys = scope.keys
    return [
        Hit(
            key=keys[row],
            score=round(own, 6),
            scoring=scoring,
            weights=weights,
            margin=margin,
            by_named=None if by_named is None else by_named[place],
        )
        for place, (row, own, scoring, margin) in enumerate(
            zip(rows.tolist(), score[best].tolist(), _scorings(named), margins, strict=False)
        )
    ]


def _scorings(named: Mapping[str, ranking.Floats]) -> list[dict[str, float]]:
    """What each hit has of these parts, rounded; not what is not known of it (NaN)."""
    values = np.concatenate(list(named.values()), dtype=np.float64).reshape(len(named), -1)
    rounded = values.round(6).T.tolist()
    scorings = [dict(zip(named, parts, strict=True)) for parts in rounded]
    if math.isnan(values.sum()):
        scorings = [{n: v for n, v in scoring.items() if v == v} for scoring in scorings]
    return scorings


def _clustered(scope: LoadedScope, question: Question, frame: Frame) -> dict[str, ranking.Floats]:
    """The part `cluster` of the rows of the frame, where the caller weighs it and most rows have
    vectors of a model that asks."""
    if not (question.weights or {}).get("cluster"):
        return {}
    models = sorted(question.vectors, key=scope.vectors.used_of)
    if not models:
        return {}
    vector = question.vectors[models[-1]]
    part = scope.clusters.part(models[-1], vector, scope.vectors, scope.columns, frame.rows)
    return {} if part is None else {"cluster": part}


class _Links(msgspec.Struct, frozen=True):
    """What the rows of a scope lead to when a question is asked; `lacking` takes "expansion" where
    that is left out."""

    scope: LoadedScope
    question: Question
    terms: Collection[str]
    lacking: set[str]

    def lead(self, seeds: ranking.Rows, *, lift: float = links.LIFT) -> ranking.Floats | None:
        """(rows of the scope,) 0..`lift`: what leads from the seeds to each; None where nothing
        does."""
        if not len(seeds):
            return None
        if self.question.traversal_depth > 0:
            now_ms = self.question.now_ms
            try:
                return self.scope.led(seeds.tolist(), self.terms, now_ms, lift=lift)
            except Exception as error:  # noqa: BLE001 - a recall stage: goes on without it, tagged
                logger().warning("recall.links_failed", error=type(error).__name__)
        self.lacking.add("expansion")
        return None


def _linked(
    scope: LoadedScope, found: _Found, relevance: ranking.Relevance, times: dict[str, float]
) -> ranking.Relevance:
    """The relevance with what the best answers lead to."""
    most = links.seeds_max(scope.population(found.now_ms).rows_total)
    places = ranking.seeds_of(found.evidence, relevance, least=links.SEED_RELEVANCE_MIN, most=most)
    if not len(places):
        return relevance
    with Timed(times, "expand"):
        led = found.links.lead(found.frame.at(places), lift=links.LIFT / relevance.span)
        if led is None:
            return relevance
        return ranking.with_links(found.evidence, relevance, found.frame.of(led))


def _expanded(
    scope: LoadedScope,
    question: Question,
    candidates: Mask,
    found: _Found,
    relevance: ranking.Relevance,
    lacking: set[str],
) -> tuple[_Found, ranking.Relevance, dict[str, ranking.Floats]]:
    """The part `graph`, where a relation leads from one of the best hits to a candidate; with the
    evidence, that of the candidates that it leads to included."""
    if question.traversal_depth > 0:
        try:
            reached = _reached(scope, question.traversal_depth, found, relevance.relevance)
            rows = np.array(list(reached), np.intp)
            missing = rows[found.frame.places(rows) < 0]
            if len(missing):
                found = _found(scope, question, candidates, lacking, also=missing.tolist())
                relevance = _linked(scope, found, ranking.relevance_of(found.evidence), {})
            return found, relevance, _graph_part(found.frame, reached)
        except Exception as error:  # noqa: BLE001 - a recall stage: goes on without it, tagged
            logger().warning("recall.expansion_failed", error=type(error).__name__)
    lacking.add("expansion")
    return found, relevance, {}


def _reached(
    scope: LoadedScope, depth: int, found: _Found, relevance: ranking.Floats
) -> dict[int, float]:
    """The rows that relations lead to from the best hits, with how strongly."""
    places = np.flatnonzero(found.frame.candidates & (relevance > 0))
    seeds = ranking.best(relevance, places, (), graph.SEEDS)
    visible = scope.population(found.now_ms).visible
    return graph.spread(
        dict(zip(found.frame.at(seeds).tolist(), relevance[seeds].tolist(), strict=True)),
        lambda row: scope.beside(row, visible),
        depth=depth,
    )


def _graph_part(frame: Frame, reached: Mapping[int, float]) -> dict[str, ranking.Floats]:
    part = np.zeros(len(frame.candidates), np.float32)
    part[frame.places(np.array(list(reached), np.intp))] = list(reached.values())
    part[~frame.candidates] = 0.0
    return {"graph": part} if part.any() else {}


def passing(scope: LoadedScope, filters: QueryFilters) -> Mask:
    """(rows,): which rows the filters let through; a filter that is null lets all through."""
    columns, mask = scope.columns, np.ones(scope.columns.rows, np.bool_)
    if filters.memory_type is not None:
        mask &= _of_type(columns["is_summary"], filters.memory_type)
    if filters.include_summaries is False:
        mask &= ~columns["is_summary"]
    if filters.tier is not None:
        mask &= columns["tier"] == TIERS.index(filters.tier)
    if filters.session_id is not None:
        mask &= scope.session_rows(filters.session_id)
    if filters.since is not None:
        mask &= columns["created_at_ms"] >= parse_moment(filters.since)
    if filters.until is not None:
        mask &= columns["created_at_ms"] <= parse_moment(filters.until)
    for any_of in _facet_filters(filters):
        mask &= scope.facets.mask(any_of, columns.rows)
    return mask


def _of_type(is_summary: Mask, memory_type: str) -> Mask:
    match memory_type:
        case "summary":
            return is_summary
        case "memory":
            return ~is_summary
        case _:
            return np.zeros(len(is_summary), np.bool_)


def _facet_filters(filters: QueryFilters) -> list[list[int]]:
    """Each of these lists must have a facet in common with a row that passes."""
    wanted = [[facet("metadata", *pair)] for pair in (filters.metadata or {}).items()]
    if filters.source is not None:
        wanted.append([facet("source", filters.source)])
    if filters.sources:
        wanted.append([facet("source", source) for source in filters.sources])
    if filters.tags:
        wanted.append([facet("tag", tag) for tag in filters.tags])
    return wanted


def _found(
    scope: LoadedScope,
    question: Question,
    candidates: Mask,
    lacking: set[str],
    *,
    also: Sequence[int] = (),
) -> _Found:
    """The evidence; rows `also` are looked at in any case."""
    columns, terms = scope.columns, terms_of(question.text)
    population = scope.population(question.now_ms)
    by_named = _by_named(scope, terms, population.visible)
    lift = _lift(scope, question, by_named)
    leaning = _leaning(question) if scope.vectors.only(question.vectors) else ()
    asked = scope.postings.rarest(terms, limits.QUERY_TERMS_MAX)
    linked = _Links(scope, question, terms, lacking)
    frame = frame_of(
        scope, question, asked, lift, candidates, lead=linked.lead, leaning=leaning, also=also
    )
    words = frame.words
    lift, session_bm25 = frame.of(lift), None
    if population.has_sessions:
        content = frame.of(columns["content"])
        lift = ranking.with_borrowed(lift, content, words.rows, words.near)
        per_session = np.append(words.sessions, np.float32(np.nan))  # session -1: none
        session_bm25 = per_session.take(frame.of(columns["session"]))
    is_assistant = asking = None
    if scope.has_assistant and not asks_assistant(question.text):
        is_assistant = frame.of(columns["is_assistant"])
    if question.session_id is not None:
        asking = frame.of(scope.session_rows(question.session_id))
    evidence = ranking.Evidence(
        bm25=words.rows,
        near=words.near,
        information=words.information,
        cosine=frame.cosine,
        cosine_weight=_cosine_weight(scope, question, frame),
        models=frame.of(columns["model"]) if len(question.vectors) > 1 else None,
        session_bm25=session_bm25,
        previous=frame.previous,
        following=frame.following,
        lift=lift,
        is_assistant=is_assistant,
        asking=asking,
        visible=frame.visible,
        candidates=frame.candidates,
        is_all=frame.is_all,
        shares=frame.shares,
        cosine_moments=frame.cosine_moments,
    )
    return _Found(linked, frame, evidence, question.now_ms, by_named)


def _cosine_weight(scope: LoadedScope, question: Question, frame: Frame) -> ranking.Floats | float:
    weight_of = {model: ranking.cosine_weight(model) for model in question.vectors}
    if len(weight_of) < 2:
        return next(iter(weight_of.values()), 0.0)
    # The last is that of model -1, none.
    weights = [weight_of.get(model, 0.0) for model in scope.vectors.names] + [0.0]
    return np.array(weights, np.float32).take(frame.of(scope.columns["model"]))


def _by_named(scope: LoadedScope, terms: Collection[str], visible: Mask) -> Mask | None:
    """(rows,): what is said by somebody whose name is among the terms; None: nobody's is, of those
    who still say anything."""
    found = scope.speakers.intersection(map(hash, terms))
    if not found:
        return None
    speaker = scope.columns["speaker"]
    by_named: Mask = np.logical_or.reduce([speaker == one for one in found])
    return by_named if (by_named & visible).any() else None


def _lift(scope: LoadedScope, question: Question, by_named: Mask | None) -> ranking.Floats:
    """(rows,): what speaks for a row beside words and meaning, in deviations."""
    lift = scope.bearing()
    if by_named is not None:
        lift = lift + np.float32(ranking.NAMED_LIFT) * by_named
    if asks_when(question.text):
        lift = lift + np.float32(ranking.DATED_LIFT) * scope.columns["is_dated"]
    if spans := spans_of(question.text, _asked_ms(question)):
        meant = closeness(scope.columns["moment_ms"], spans)
        lift = lift + np.float32(ranking.MEANT_LIFT) * meant
    return lift


def _asked_ms(question: Question) -> int:
    return question.now_ms if question.asked_ms is None else question.asked_ms


def _leaning(question: Question) -> list[str] | None:
    """The columns that weigh much in the score, beside relevance; None where clusters do, which
    no few rows tell."""
    weights = question.weights or {}
    if question.weights is None and not is_telling(question.text):
        weights = ranking.BROWSING_WEIGHTS
    used = ranking.shared_out(weights, ("semantic", "cluster", *LEANING))
    if used["cluster"] > LEANING_SHARE:
        return None
    return [column for name, column in LEANING.items() if used[name] > LEANING_SHARE]


def _weights(question: Question, evidence: ranking.Evidence) -> Mapping[str, float] | None:
    """What the parts weigh, None where that is the default."""
    if question.weights is not None:
        return question.weights
    bm25 = evidence.bm25 if evidence.is_all else evidence.bm25[evidence.candidates]
    if not bm25.any() and not is_telling(question.text):
        return ranking.BROWSING_WEIGHTS
    return None


def _details(found: _Found, relevance: ranking.Relevance) -> dict[str, ranking.Floats]:
    """What relevance was made of: raw BM25 (alone, and with the words around) and cosine, then
    what came from around and the rest, in deviations, and what of relevance came over links.
    """
    return {
        "bm25": found.evidence.bm25,
        "near": found.evidence.near,
        "coverage": found.frame.words.coverage,
        "cosine": found.evidence.cosine,
        "neighbours": relevance.neighbours,
        "session": relevance.session,
        "links": relevance.links,
        "lift": found.evidence.lift,
    }
