"""A recall without models: memories of the scope that share a word with the question."""

from __future__ import annotations

from collections.abc import Sequence

from memsync.clock import Clock
from memsync.core.memories import content_of, is_visible, view_fields
from memsync.core.recall.graph import around
from memsync.core.recall.lexical import terms_of
from memsync.core.relations import strengths_of
from memsync.ids import RecordKey, Scope, scope_key
from memsync.ports import Store
from memsync.wire.operations import Vector
from memsync.wire.replies import Freshness, QueryAnswer, RecalledMemory
from memsync.wire.requests import QueryRequest
from tests.fakes.memories import held


class WordRecall:
    """`requests` has the questions as they arrived, with their deadlines and what was degraded."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.is_loading = False
        self.explanations: dict[tuple[Scope, str], bytes] = {}
        self.requests: list[tuple[QueryRequest, float, tuple[str, ...]]] = []

    async def answer(
        self,
        scope: Scope,
        request: QueryRequest,
        *,
        deadline_s: float,
        degraded: Sequence[str] = (),
    ) -> QueryAnswer:
        """Answer from the store."""
        self.requests.append((request, deadline_s, tuple(degraded)))
        asked = terms_of(request.query).keys()
        found = [
            RecalledMemory(**view_fields(record), score=1.0, scoring={})
            for record in reversed(await held(self._store, scope_key(scope)))
            if is_visible(record, self._clock.wall_ms())
            and asked & terms_of(content_of(record).text).keys()
        ]
        return QueryAnswer(
            memories=found[: request.k],
            context="",
            confidence=0.0,
            latency_ms=0.0,
            session_id=request.session_id,
            query_intent="general",
            query_id="q",
            degraded=bool(degraded),
            degraded_components=list(degraded),
            freshness=Freshness(),
            sla_target_ms=500,
            sla_met=True,
        )

    async def around(
        self, scope: Scope, start: RecordKey | None, *, depth: int, limit: int, deadline_s: float
    ) -> list[tuple[RecordKey, int | None]] | None:
        """Every visible memory, oldest first; from `start` those that relations lead to."""
        if self.is_loading:
            return None
        records = {
            record.key: record
            for record in await held(self._store, scope_key(scope))
            if is_visible(record, self._clock.wall_ms())
        }
        ways: dict[RecordKey, dict[RecordKey, float]] = {key: {} for key in records}
        for key, record in records.items():
            for end in strengths_of(record).keys() & records.keys():
                ways[key][end] = ways[end][key] = 1.0
        if start is None:
            return [(key, None) for key in records][:limit]
        return list(around(start, ways.__getitem__, depth=depth, limit=limit).items())

    async def explanation(self, scope: Scope, query_id: str) -> bytes | None:
        """What a test put there."""
        return self.explanations.get((scope, query_id))

    async def embed_for_write(
        self, texts: Sequence[str], *, organisation: int
    ) -> list[Vector | None]:
        """No model, no vectors."""
        return [None] * len(texts)
