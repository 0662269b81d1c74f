"""The search that stands in when ranking fails: what passes the filters, by its words alone."""

from __future__ import annotations

import numpy as np

from memsync import limits
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.adapters.hot_index.search import passing
from memsync.core.recall.lexical import terms_of
from memsync.ports import Hit, Question


def search(scope: LoadedScope, question: Question) -> list[Hit]:
    """The best k candidates by BM25 (scaled to 0..1), newest first among equals: no vectors, no
    sessions, no relations, no dates and no weights."""
    population = scope.population(question.now_ms)
    candidates = population.visible
    if question.filters is not None:
        candidates = candidates & passing(scope, question.filters)
    rows = np.flatnonzero(candidates)
    terms = scope.postings.rarest(terms_of(question.text), limits.QUERY_TERMS_MAX)
    words = scope.postings.score(terms, population)
    bm25, coverage = words.rows[rows], words.coverage[rows]
    order = np.lexsort((-scope.columns["moment_ms"][rows], -bm25))[: question.k]
    most = float(bm25.max()) if len(bm25) else 0.0
    return [
        Hit(
            key=scope.keys[rows[place]],
            score=round(float(bm25[place]) / most, 6) if most > 0 else 0.0,
            scoring={
                "bm25": round(float(bm25[place]), 6),
                "coverage": round(float(coverage[place]), 6),
            },
        )
        for place in order.tolist()
    ]
