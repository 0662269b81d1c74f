"""How far approximate search agrees with exact search, on one large scope of a store: in this
process, with the product's index, before and after it has built what it needs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from memsync import ids
from memsync.adapters.hot_index import FaissHotIndex, frame
from memsync.adapters.models import static
from memsync.adapters.sqlite.store import open_store
from memsync.ids import Scope, ScopeKey
from memsync.ports import Hit, Question
from tests.bench.corpus import Corpus

QUESTIONS = 200
STEP = 7_919  # questions are about memories that lie far apart


class Agreement(msgspec.Struct, frozen=True):
    """Recall@k of the final ranking, and of the vectors alone; processor time in milliseconds, the
    medians of a question; and how long the building took, in seconds of processor time."""

    ranked: float
    by_cosine: float
    exact_ms: float
    approximate_ms: float
    build_s: float


async def measured(folder: Path, cell: str, scope: Scope, first: int, *, k: int) -> Agreement:
    """Ask the same questions exactly and approximately. `first` is the corpus' number of the
    scope's first memory."""
    key, index = ids.scope_key(scope), FaissHotIndex(1 << 50)
    index.begin_load(key)
    rows = 0
    async with open_store(folder, cell=cell) as store:
        async for memories in store.memories(key):
            index.extend_load(key, memories)
            rows += len(memories)
    index.finish_load(key)
    questions = await _questions(first, rows, k)
    exact, exact_ms = _asked(index, key, questions)
    best = [_by_cosine(index, key, question, k) for question in questions]
    began_s = time.process_time()
    index.build(key)
    build_s = time.process_time() - began_s
    approximate, approximate_ms = _asked(index, key, questions)
    told = [_told(index, key, question, k) for question in questions]
    return Agreement(
        ranked=_share([{h.key for h in hits} for hits in exact],
                      [{h.key for h in hits} for hits in approximate]),
        by_cosine=_share(best, told),
        exact_ms=exact_ms,
        approximate_ms=approximate_ms,
        build_s=build_s,
    )  # fmt: skip


async def _questions(first: int, rows: int, k: int) -> list[Question]:
    model, corpus = static.load(), Corpus()
    texts = [corpus.question(first + number * STEP % rows) for number in range(QUESTIONS)]
    vectors = await model.embed(texts)
    now_ms = int(time.time() * 1e3)
    asked = Question(
        text="", vectors={}, k=k, session_id=None, filters=None, weights=None, now_ms=now_ms
    )
    return [
        msgspec.structs.replace(asked, text=text, vectors={model.name: vector})
        for text, vector in zip(texts, vectors, strict=True)
    ]


def _asked(
    index: FaissHotIndex, key: ScopeKey, questions: list[Question]
) -> tuple[list[list[Hit]], float]:
    found, times_ms = [], []
    for question in questions:
        began_s = time.thread_time()
        found.append(index.search(key, question))
        times_ms.append((time.thread_time() - began_s) * 1e3)
    return found, statistics.median(times_ms)


def _by_cosine(index: FaissHotIndex, key: ScopeKey, question: Question, k: int) -> set[int]:
    """The rows with the greatest cosines, by all vectors."""
    scope = index._loaded[key]
    cosines = scope.vectors.cosines(question.vectors, scope.columns.rows)
    return set(np.argsort(-cosines)[:k].tolist())


def _told(index: FaissHotIndex, key: ScopeKey, question: Question, k: int) -> set[int]:
    """The same among the rows that the coarse vectors tell."""
    scope = index._loaded[key]
    coarse = scope.vectors.only(question.vectors)
    assert coarse is not None
    vector = question.vectors[coarse.model]
    rows, _ = coarse.nearest(vector, frame.ASKED)
    cosines = coarse.take(scope.columns["slot"][rows].astype(np.intp)) @ vector
    return set(rows[np.argsort(-cosines)[:k]].tolist())


def _share(wanted: Sequence[Set[Any]], found: Sequence[Set[Any]]) -> float:
    """How much of the first is in the second, on average."""
    shares = [len(one & other) / len(one) for one, other in zip(wanted, found, strict=True)]
    return statistics.fmean(shares)
