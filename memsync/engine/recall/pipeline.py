"""From a question to its answer: embed, search, rank, answer.

    embed    the question's vector; without it the search is lexical          tagged `embedding`
    search   the scope's hot index, loaded at first use; then the records     tagged `search`
    rank     done inside the search, over all of the scope (core/ranking.py)
    answer   the records that are still visible, as the caller reads them

Only `search` is essential, and it needs nothing but this process. A recall always answers within
its budget (limits.RECALL_BUDGET_MS by computation tier, or the caller's deadline if that is sooner)
and in the same shape; what was missing is named in `degraded_components`. It raises nothing but
cancellation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync import ids, limits
from memsync.clock import Clock
from memsync.core.intent import query_intent
from memsync.core.records import Record
from memsync.engine.recall import answer as answers
from memsync.engine.recall import metrics
from memsync.engine.recall.embedding import Embedding
from memsync.engine.recall.loading import Loader
from memsync.ids import RecordKey, Scope, ScopeKey
from memsync.ports import Embedder, Hit, HotIndex, Question, ScopeNotLoadedError, Store
from memsync.telemetry import logger
from memsync.wire.operations import Vector
from memsync.wire.replies import Freshness, QueryAnswer
from memsync.wire.requests import QueryRequest, clamp

EMBED_SHARE = 0.4  # of the time that is left when a recall begins
LOAD_SHARE = 0.8  # of the time that is left after that; the rest reads and writes the answer
SEARCHES_MAX = 3  # a scope that is evicted so often before it is searched does not fit with others
READ_S_MIN = 0.02  # hits in hand are worth being a little late for
# The order in which an answer names what it lacked.
COMPONENTS = ("embedding", "search", "expansion", "reasoning", "ranking", "calibration",
              "explainability", "cache", "replication")  # fmt: skip


class MeasuredIndex(HotIndex, Protocol):
    """A hot index that also tells how large it is."""

    @property
    def bytes_used(self) -> int:
        """About how much memory the loaded scopes take."""
        ...

    @property
    def scopes_loaded(self) -> int:
        """How many scopes are loaded."""
        ...


class _Found(msgspec.Struct, frozen=True):
    """What the search stage came back with."""

    hits: list[Hit]
    records: Mapping[RecordKey, Record]


class Recall:
    """Answers questions over the local state, whatever else works or does not."""

    def __init__(
        self, store: Store, index: MeasuredIndex, embedder: Embedder | None, clock: Clock
    ) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._embedding = Embedding(embedder)
        self._loader = Loader(store, index, clock)

    async def run(self) -> None:
        """Hold the loads of scopes; until this runs, recalls answer empty, tagged `search`."""
        await self._loader.run()

    async def embed_for_write(self, texts: Sequence[str]) -> list[Vector | None]:
        """The vectors to store memories with; None where no provider answered."""
        return await self._embedding.for_write(texts)

    async def answer(
        self,
        scope: Scope,
        request: QueryRequest,
        *,
        deadline_s: float,
        degraded: Sequence[str] = (),
    ) -> QueryAnswer:
        """Answer by `deadline_s` (steady clock); `degraded` names what the caller knows to lack."""
        started_s = self._clock.steady_s()
        target_ms = limits.RECALL_BUDGET_MS[request.computation_tier]
        deadline_s = min(deadline_s, started_s + target_ms / 1000)
        lacking = set(degraded)
        with self._stage("all"):
            vector = await self._embed(request, deadline_s, lacking)
            question = self._question(request, vector)
            found = await self._search(scope, question, deadline_s, lacking)
            with self._stage("answer"):
                reply = self._reply(scope, request, found, lacking)
        latency_ms = (self._clock.steady_s() - started_s) * 1000
        self._count(lacking)
        return msgspec.structs.replace(
            reply, latency_ms=round(latency_ms, 3), sla_met=latency_ms <= target_ms
        )

    async def _embed(
        self, request: QueryRequest, deadline_s: float, lacking: set[str]
    ) -> NDArray[np.float32] | None:
        left_s = deadline_s - self._clock.steady_s()
        with self._stage("embed"):
            vector, is_done = await self._embedding.of_question(
                request.query[: limits.QUERY_CHARS_MAX], timeout_s=left_s * EMBED_SHARE
            )
        if not is_done:
            lacking.add("embedding")
        return vector

    def _question(self, request: QueryRequest, vector: NDArray[np.float32] | None) -> Question:
        return Question(
            text=request.query[: limits.QUERY_CHARS_MAX],
            vector=vector,
            model=self._embedding.model,
            k=int(clamp(request.k, 1, limits.RECALL_K_MAX)),
            session_id=request.session_id,
            filters=request.filters,
            weights=request.weights,
            now_ms=self._clock.wall_ms(),
        )

    async def _search(
        self, scope: Scope, question: Question, deadline_s: float, lacking: set[str]
    ) -> _Found:
        """The hits and their records; nothing, tagged, where the local state does not answer."""
        key = ids.scope_key(scope)
        now_s = self._clock.steady_s()
        try:
            load_until_s = now_s + (deadline_s - now_s) * LOAD_SHARE
            hits = await self._hits(key, question, load_until_s)
            if hits is not None:
                left_s = max(deadline_s - self._clock.steady_s(), READ_S_MIN)
                async with asyncio.timeout(left_s):
                    return _Found(hits, await self._store.records([hit.key for hit in hits]))
        except Exception as error:  # noqa: BLE001 - a recall fails open: no hits, tagged
            logger().warning("recall.search_failed", error=type(error).__name__)
        lacking.add("search")
        return _Found([], {})

    async def _hits(
        self, key: ScopeKey, question: Question, load_until_s: float
    ) -> list[Hit] | None:
        """The hits in the scope; None where it cannot be loaded in time, or does not stay."""
        for _ in range(SEARCHES_MAX):
            with self._stage("load"):
                is_loaded = await self._loader.ensure(key, deadline_s=load_until_s)
            if not is_loaded:
                return None
            try:
                with self._stage("search"):
                    return self._index.search(key, question)
            except ScopeNotLoadedError:
                continue  # another scope's load, in its thread, has just taken its place
        return None

    def _reply(
        self, scope: Scope, request: QueryRequest, found: _Found, lacking: set[str]
    ) -> QueryAnswer:
        memories = answers.recalled(
            found.hits, found.records, scope=scope, now_ms=self._clock.wall_ms()
        )
        memories, is_truncated = answers.within_bytes(memories)
        return QueryAnswer(
            memories=memories,
            context=answers.context_of(memories),
            confidence=answers.confidence_of(found.hits),
            latency_ms=0.0,
            session_id=request.session_id,
            query_intent=query_intent(request.query[: limits.QUERY_CHARS_MAX]),
            query_id="q_" + secrets.token_hex(12),
            degraded=bool(lacking),
            degraded_components=[name for name in COMPONENTS if name in lacking],
            freshness=Freshness(),
            sla_target_ms=limits.RECALL_BUDGET_MS[request.computation_tier],
            sla_met=True,
            truncated=is_truncated,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        began_s = self._clock.steady_s()
        try:
            yield
        finally:
            took_s = self._clock.steady_s() - began_s
            metrics.RECALL_SECONDS.labels(name).observe(took_s)

    def _count(self, lacking: set[str]) -> None:
        for component in lacking:
            metrics.RECALL_DEGRADED_TOTAL.labels(component).inc()
        metrics.HOT_INDEX_BYTES.set(self._index.bytes_used)
        metrics.HOT_INDEX_SCOPES.set(self._index.scopes_loaded)
