"""A search in one loaded scope: filters, evidence, order, and the parts of each score by name."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index.columns import NO_ROW
from memsync.adapters.hot_index.facets import facet
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.core import ranking
from memsync.core.intent import recency_intent
from memsync.core.lexical import is_telling, terms_of
from memsync.ports import Hit, Question
from memsync.wire.requests import TIERS, QueryFilters, parse_moment

Mask = NDArray[np.bool_]


class _Found(msgspec.Struct, frozen=True):
    """The evidence for every row, and the share of the question's words that it holds."""

    evidence: ranking.Evidence
    coverage: ranking.Floats


def search(scope: LoadedScope, question: Question) -> list[Hit]:
    """The best k candidates, best first."""
    visible: Mask = scope.columns["expires_at_ms"] > question.now_ms
    candidates = visible
    if question.filters is not None:
        candidates = visible & passing(scope, question.filters)
    rows = np.flatnonzero(candidates)
    if len(rows) == 0:
        return []
    found = _evidence(scope, question, visible=visible, candidates=candidates)
    relevance = ranking.relevance_of(found.evidence)
    parts = _parts(scope, question, relevance)
    score = ranking.combine(parts, _weights(question, found.evidence))
    ties = (relevance.relevance, scope.columns["moment_ms"], scope.columns["stamp_time"])
    best = ranking.best(score, rows, ties, question.k)
    named = {**parts, **_details(found, relevance)}
    return [
        Hit(
            key=scope.keys[row],
            score=round(float(score[row]), 6),
            scoring={
                name: round(float(values[row]), 6)
                for name, values in named.items()
                if np.isfinite(values[row])
            },
        )
        for row in best.tolist()
    ]


def passing(scope: LoadedScope, filters: QueryFilters) -> Mask:
    """(rows,): which rows the filters let through; a filter that is null lets all through."""
    columns, mask = scope.columns, np.ones(scope.columns.rows, np.bool_)
    if filters.memory_type is not None:
        mask &= _of_type(columns["is_summary"], filters.memory_type)
    if filters.include_summaries is False:
        mask &= ~columns["is_summary"]
    if filters.tier is not None:
        mask &= columns["tier"] == (TIERS.index(filters.tier) if filters.tier in TIERS else -1)
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


def _evidence(scope: LoadedScope, question: Question, *, visible: Mask, candidates: Mask) -> _Found:
    columns, rows = scope.columns, scope.columns.rows
    session = columns["session"]
    words = scope.postings.score(terms_of(question.text), visible, session, len(scope.sessions))
    cosine = np.full(rows, np.nan, np.float32)
    if question.vector is not None:
        cosine = scope.vectors.cosines(question.model, question.vector, rows)
    per_session = np.append(words.sessions, np.float32(np.nan))  # session -1: none
    evidence = ranking.Evidence(
        bm25=words.rows,
        cosine=cosine,
        session_bm25=per_session[np.where(session == NO_ROW, len(per_session) - 1, session)],
        previous=columns["previous"],
        following=columns["following"],
        asking=scope.session_rows(question.session_id),
        visible=visible,
        candidates=candidates,
    )
    return _Found(evidence, words.coverage)


def _parts(
    scope: LoadedScope, question: Question, relevance: ranking.Relevance
) -> dict[str, ranking.Floats]:
    """The parts that have data, each 0..1. Clusters, use and relations have none yet."""
    half_life_hours = ranking.HALF_LIFE_HOURS[recency_intent(question.text)]
    recency = ranking.recency(
        scope.columns["moment_ms"], now_ms=question.now_ms, half_life_hours=half_life_hours
    )
    return {
        "semantic": relevance.relevance,
        "recency": recency,
        "importance": scope.columns["importance"],
    }


def _weights(question: Question, evidence: ranking.Evidence) -> Mapping[str, float]:
    if question.weights is not None:
        return question.weights
    matched = bool((evidence.bm25[evidence.candidates] > 0).any())
    if not matched and not is_telling(question.text):
        return ranking.BROWSING_WEIGHTS
    return ranking.default_weights(recency_intent(question.text))


def _details(found: _Found, relevance: ranking.Relevance) -> dict[str, ranking.Floats]:
    """What relevance was made of: raw BM25 and cosine, then what came from around, in
    deviations.
    """
    return {
        "bm25": found.evidence.bm25,
        "coverage": found.coverage,
        "cosine": found.evidence.cosine,
        "neighbours": relevance.neighbours,
        "session": relevance.session,
    }
