"""Why a recall answered what it did: recorded after the answer, read by its `query_id`.

An explanation lies on the peer that made the answer, whose name is in the `query_id`; it is no part
of the replicated state. Recording costs the recall a place in a queue; the queue is written to the
disk some at a time. While the disk does not take them the queue fills, and then the answers say
that they cannot be explained (`explainability`). It holds ids, scores and settings, and nothing
that a caller wrote: a forget does not reach it. It is bounded so, however large a question was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import msgspec

from memsync import ids, limits
from memsync.clock import Clock
from memsync.engine.recall import metrics
from memsync.engine.recall.course import Course
from memsync.errors import Unavailable
from memsync.ids import Scope
from memsync.ports.recall import Explained, ExplanationStore
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.replies import (
    ExplainedCandidate,
    ExplainedStage,
    Explanation,
    QueryAnswer,
)
from memsync.wire.requests import QueryFilters, QueryRequest, format_moment

WRITE_EVERY_S = 0.2
RETRY_S = 1.0
WRITTEN_AT_ONCE = 500


class _Waiting(msgspec.Struct, frozen=True):
    scope: Scope
    at_ms: int
    explanation: Explanation


class Explanations:
    """The explanations of one peer."""

    def __init__(self, member: str, store: ExplanationStore, clock: Clock) -> None:
        self._member = member
        self._store = store
        self._clock = clock
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._writing = asyncio.Lock()

    def new_id(self) -> str:
        """A `query_id` that leads to this peer. It begins with the time, so that the store's index
        of ids grows at its end: in any other order each id writes a page of its own."""
        return f"q_{self._clock.wall_ms():012x}{ids.random_hex()[:12]}.{self._member}"

    def has_room(self) -> bool:
        """Whether another one can be recorded; it is counted where not."""
        if len(self._queue) < limits.EXPLANATIONS_QUEUED_MAX:
            return True
        metrics.EXPLANATIONS_DROPPED.inc()
        return False

    def explained(
        self, scope: Scope, request: QueryRequest, answer: QueryAnswer, course: Course
    ) -> QueryAnswer:
        """The answer, with its explanation where that was asked for; it is written soon, unless the
        answer says that there is no room."""
        now_ms = self._clock.wall_ms()
        explanation = explain(request, answer, course, member=self._member, at_ms=now_ms)
        if "explainability" not in answer.degraded_components:
            self._queue.append(_Waiting(scope, now_ms, explanation))
            self._filled.set()
        if not request.explain:
            return answer
        return msgspec.structs.replace(answer, explanation=explanation)

    async def find(self, scope: Scope, query_id: str) -> bytes | None:
        """The explanation as JSON, if it is this scope's and still kept. Raises `Unavailable`."""
        for waiting in self._queue:
            if waiting.explanation.query_id == query_id and waiting.scope == scope:
                return _body(waiting.explanation)
        return await self._store.get(ids.scope_key(scope), query_id, now_ms=self._clock.wall_ms())

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        while is_going_on():
            await self._filled.wait()
            await pause(WRITE_EVERY_S)
            if not await self.finish():
                await pause(RETRY_S)

    async def finish(self) -> bool:
        """Write what is recorded now; whether it was."""
        try:
            await self._write()
        except Unavailable as error:
            metrics.EXPLANATIONS_UNWRITTEN.inc()
            logger().warning("explanations.not_written", **describe(error))
            return False
        return True

    async def _write(self) -> None:
        """Write all that is recorded by now; what is not written stays. Raises `Unavailable`."""
        async with self._writing:
            left = len(self._queue)
            while left > 0:
                batch = [self._queue[n] for n in range(min(left, WRITTEN_AT_ONCE))]
                packed = await asyncio.to_thread(_packed, batch)
                now_ms = self._clock.wall_ms()
                oldest_ms = await self._store.put(packed, now_ms=now_ms)
                age_ms = 0 if oldest_ms is None else max(0, now_ms - oldest_ms)
                metrics.EXPLANATIONS_AGE.set(age_ms / 1000)
                for _ in batch:
                    self._queue.popleft()
                left -= len(batch)
            if not self._queue:
                self._filled.clear()


def explain(
    request: QueryRequest, answer: QueryAnswer, course: Course, *, member: str, at_ms: int
) -> Explanation:
    """What an answer came from."""
    return Explanation(
        query_id=answer.query_id,
        member=member,
        created_at=format_moment(at_ms),
        query_intent=answer.query_intent,
        k=request.k,
        traversal_depth=request.traversal_depth,
        computation_tier=request.computation_tier,
        filters=_names_of(request.filters),
        weights={name: round(weight, 6) for name, weight in course.weights.items()},
        models=list(course.models),
        stages=[
            ExplainedStage(stage=one.stage, took_ms=one.took_ms, lacking=list(one.lacking))
            for one in course.reports
        ],
        candidates=[
            ExplainedCandidate(memory_id=one.id, rank=rank, score=one.score, parts=one.scoring)
            for rank, one in enumerate(answer.memories, 1)
        ],
        confidence=answer.confidence,
        degraded_components=answer.degraded_components,
        freshness=answer.freshness,
        latency_ms=answer.latency_ms,
        sla_met=answer.sla_met,
    )


def _names_of(filters: QueryFilters | None) -> list[str]:
    """Which filters were set; their values may be what a memory says."""
    if filters is None:
        return []
    return [name for name in filters.__struct_fields__ if getattr(filters, name) is not None]


def _packed(batch: Sequence[_Waiting]) -> list[Explained]:
    return [
        Explained(
            one.explanation.query_id, ids.scope_key(one.scope), one.at_ms, _body(one.explanation)
        )
        for one in batch
    ]


def _body(explanation: Explanation) -> bytes:
    """As JSON; the last candidates are left out where it would be too large."""
    body = codec.to_json(explanation)
    while len(body) > limits.EXPLANATION_BYTES_MAX and explanation.candidates:
        half = explanation.candidates[: len(explanation.candidates) // 2]
        explanation = msgspec.structs.replace(explanation, candidates=half, truncated=True)
        body = codec.to_json(explanation)
    return body
