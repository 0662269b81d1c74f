"""From a question to its answer: embed, search, expand, reason, rank, explain.

    cache    an answer to the same question, if nothing of the scope has changed since: it is given
             without any other stage; only answers that lack nothing are kept     tagged `cache`
    load     the scope's hot index, at its first use                     tagged `search`
    embed    the question's vectors, by cache or providers               tagged `embedding`, `cache`
    search   the hot index: the evidence of all of the scope                 tagged `search`
    expand   in the same step: what relations lead to                     tagged `expansion`
    rank     in the same step: the order by all of it, or by words alone    tagged `ranking`
    reason   at tier high, beside the others: a chat model splits the question, and what its parts
             find is ranked in; without it the question stands as it is  tagged `reasoning`
    read     the records of the hits                                     tagged `search`
    answer   what is still visible, as the caller reads it
    explain  afterwards: why it is so                                tagged `explainability`

Only `search` is essential, and it needs nothing but this process: it has no breaker, since nothing
could take its place. What fails again and again of the others is left out for a while. Each stage
may use a share of what is left until one absolute deadline (limits.RECALL_BUDGET_MS by computation
tier, or the caller's if that is sooner); what was gathered by then is ranked and returned, in the
same shape.
What was missing is named in `degraded_components`. A recall raises nothing but cancellation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from memsync import ids, limits
from memsync.clock import Clock
from memsync.core.recall.intent import query_intent
from memsync.engine.recall import answer as answers
from memsync.engine.recall import metrics
from memsync.engine.recall.breakers import EXPAND, EXPLAIN, RANK, Breakers, Ticket
from memsync.engine.recall.course import Course, Stage
from memsync.engine.recall.embedding import Embedding
from memsync.engine.recall.explaining import Explanations
from memsync.engine.recall.kept.results import Result, Results
from memsync.engine.recall.kept.shown import Showing, Shown
from memsync.engine.recall.loading import Loader
from memsync.engine.recall.reasoning import REASON_SHARE, Reasoning, with_parts
from memsync.engine.recall.uses import Uses
from memsync.ids import RecordKey, Scope, ScopeKey
from memsync.ports import Hit, HotIndex, Question, ScopeNotLoadedError, Store
from memsync.telemetry import logger
from memsync.wire.operations import Vector
from memsync.wire.replies import Freshness, QueryAnswer
from memsync.wire.requests import QueryRequest, clamp, parse_moment

LOAD_SHARE = 0.8  # of the time that is left when a recall begins
EMBED_SHARE = 0.4  # of the time that is left then
SEARCHES_MAX = 3  # a scope that is evicted so often before it is searched does not fit with others
EXPAND_S = 0.005  # what following relations may take; with less time left they are left out
READ_S_MIN = 0.02  # hits in hand are worth being a little late for
# The parts of a search that may be left out, and what an answer lacks then.
PARTS: tuple[tuple[Stage, str], ...] = ((EXPAND, "expansion"), (RANK, "ranking"))
# The order in which an answer names what it lacked.
COMPONENTS = ("embedding", "search", "expansion", "reasoning", "ranking", "calibration",
              "explainability", "cache", "replication")  # fmt: skip


class MeasuredIndex(HotIndex, Protocol):
    """A hot index that also tells how large it is, and how long what it says stays true."""

    def next_expiry_ms(self, scope: ScopeKey, now_ms: int) -> int | None:
        """When (wall clock) the next visible memory of a loaded scope expires; None where none will
        or it is not loaded."""
        ...

    @property
    def bytes_used(self) -> int:
        """About how much memory the loaded scopes take."""
        ...

    @property
    def scopes_loaded(self) -> int:
        """How many scopes are loaded."""
        ...


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps and records answers, where there is such a thing."""

    results: Results | None = None
    shown: Shown | None = None
    uses: Uses | None = None
    explanations: Explanations | None = None


class _Found(msgspec.Struct, frozen=True):
    """What the stages up to reading came back with; `own` is what the question found by itself,
    without its parts."""

    hits: list[Hit]
    own: list[Hit]
    shown: Mapping[RecordKey, Showing]


class Recall:
    """Answers questions over the local state, whatever else works or does not."""

    def __init__(
        self,
        store: Store,
        index: MeasuredIndex,
        embedding: Embedding,
        reasoning: Reasoning,
        clock: Clock,
        *,
        breakers: Breakers,
        following: Following | None = None,
    ) -> None:
        following = following or Following()
        self._breakers = breakers
        for stage in (EXPAND, RANK, EXPLAIN):
            breakers.show_state(stage)
        self._store = store
        self._index = index
        self._clock = clock
        self._embedding = embedding
        self._reasoning = reasoning
        self._results = following.results
        self._shown = following.shown or Shown(bytes_max=0)
        self._uses = following.uses
        self._explanations = following.explanations
        self._loader = Loader(store, index, clock)
        metrics.HOT_INDEX_BYTES.set_function(lambda: index.bytes_used)
        metrics.HOT_INDEX_SCOPES.set_function(lambda: index.scopes_loaded)

    async def run(self) -> None:
        """Hold the loads of scopes, and what follows answers; until this runs, recalls answer
        empty, tagged `search`."""
        async with asyncio.TaskGroup() as tasks:
            if self._uses is not None:
                tasks.create_task(self._uses.run())
            if self._explanations is not None:
                tasks.create_task(self._explanations.run())
            await self._loader.run()

    async def finish(self) -> None:
        """Write down what follows the answers so far: before a shutdown, so that none is lost."""
        if self._uses is not None:
            await self._uses.publish()
        if self._explanations is not None:
            await self._explanations.finish()

    async def embed_for_write(
        self, texts: Sequence[str], *, organisation: int
    ) -> list[Vector | None]:
        """The vectors to store memories with; None where no provider answered."""
        return await self._embedding.for_write(texts, organisation=organisation)

    async def answer(
        self,
        scope: Scope,
        request: QueryRequest,
        *,
        deadline_s: float,
        degraded: Sequence[str] = (),
    ) -> QueryAnswer:
        """Answer by `deadline_s` (steady clock); `degraded` names what the caller knows to lack."""
        target_ms = limits.RECALL_BUDGET_MS[request.computation_tier]
        budget_end_s = self._clock.steady_s() + target_ms / 1000
        course = Course(self._clock, min(deadline_s, budget_end_s), degraded)
        with course.stage("all"):
            reply = await self._kept_or_made(scope, request, course)
        latency_ms = (self._clock.steady_s() - course.started_s) * 1000
        explanations = self._explanations
        if explanations is not None and not explanations.has_room():
            course.lacking.add("explainability")
        reply = msgspec.structs.replace(
            reply,
            query_id=_new_id() if explanations is None else explanations.new_id(),
            latency_ms=round(latency_ms, 3),
            sla_met=latency_ms <= target_ms,
        )
        reply = self._explained(scope, request, _tagged(reply, course), course)
        self._count(course.lacking)
        return reply

    async def explanation(self, scope: Scope, query_id: str) -> bytes | None:
        """Why a question of this scope was answered here as it was, as JSON."""
        if self._explanations is None:
            return None
        return await self._explanations.find(scope, query_id)

    def _explained(
        self, scope: Scope, request: QueryRequest, reply: QueryAnswer, course: Course
    ) -> QueryAnswer:
        """The explain stage: an answer that is explained now or later, or says that it is not."""
        if self._explanations is None:
            return reply
        ticket = self._breakers.ask(scope.organisation, EXPLAIN)
        if ticket is not None:
            try:
                with course.stage("explain"):
                    reply = self._explanations.explained(scope, request, reply, course)
            except Exception as error:  # noqa: BLE001 - a recall stage: not explained, tagged
                self._stage_failed(ticket)
                logger().error("recall.explaining_failed", error=type(error).__name__)
            else:
                self._breakers.succeeded(ticket)
                return reply
        course.lacking.add("explainability")
        return _tagged(reply, course)

    async def _kept_or_made(
        self, scope: Scope, request: QueryRequest, course: Course
    ) -> QueryAnswer:
        """The answer to this very question, if nothing of the scope has changed since; else a new
        one, which is kept if it lacks no more than the caller knows."""
        known, began_ms = set(course.lacking), self._clock.wall_ms()
        looked = None
        if self._results is not None and not request.explain:
            with course.stage("cache"):
                looked = self._results.look(scope, request, course.lacking)
            if looked is not None and looked.answer is not None:
                if self._uses is not None:
                    self._uses.note_again(looked.records, began_ms)
                return looked.answer
        found = await self._find(scope, request, course)
        with course.stage("answer"):
            reply = self._reply(scope, request, found, course)
        if self._results is not None and looked is not None and course.lacking == known:
            if not self._index.is_loaded(looked.scope):
                return reply  # evicted since: nobody knows when its next memory expires
            until_ms = self._index.next_expiry_ms(looked.scope, began_ms)
            records = tuple(one.key for one in answers.shown(found.shown, reply.memories))
            self._results.keep(looked, Result(reply, records, until_ms), course.lacking)
        return reply

    async def _find(self, scope: Scope, request: QueryRequest, course: Course) -> _Found:
        """The hits and their records; nothing, tagged, where the local state does not answer."""
        key = ids.scope_key(scope)
        try:
            own, parts = await self._reasoned_hits(key, scope, request, course)
            if own is not None:
                hits = with_parts(own, parts, question_k(request)) if parts else own
                with course.stage("read"):
                    until_s = max(course.deadline_s, self._clock.steady_s() + READ_S_MIN)
                    return _Found(hits, own, await self._read(hits, until_s))
        except Exception as error:  # noqa: BLE001 - a recall fails open: no hits, tagged
            logger().warning("recall.search_failed", error=type(error).__name__)
        course.lacking.add("search")
        return _Found([], [], {})

    async def _reasoned_hits(
        self, key: ScopeKey, scope: Scope, request: QueryRequest, course: Course
    ) -> tuple[list[Hit] | None, list[list[Hit]]]:
        """The hits of the question, and of each part that a chat model has split it into while it
        was searched for."""
        if not self._reasoning.is_wanted(request.query, request.computation_tier):
            return await self._hits(key, scope, request, course), []
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(
                self._reasoning.parts_of(
                    request.query,
                    organisation=scope.organisation,
                    until_s=course.after(REASON_SHARE),
                ),
                name="reason",
            )
            hits = await self._hits(key, scope, request, course)
            if hits is None:
                asked.cancel()
                return None, []
            with course.stage("reason"):
                parts = await asked
                if parts is None:
                    course.lacking.add("reasoning")
                    return hits, []
                found = [await self._part(key, scope, request, part, course) for part in parts]
        return hits, found

    async def _part(
        self, key: ScopeKey, scope: Scope, request: QueryRequest, part: str, course: Course
    ) -> list[Hit]:
        """What one part of a question finds; nothing where the scope went meanwhile."""
        again = msgspec.structs.replace(request, query=part)
        question = await self._question(key, scope, again, course)
        try:
            return self._search(key, question, scope.organisation, course)
        except ScopeNotLoadedError:
            course.lacking.add("reasoning")
            return []

    async def _hits(
        self, key: ScopeKey, scope: Scope, request: QueryRequest, course: Course
    ) -> list[Hit] | None:
        """The hits in the scope; None where it cannot be loaded in time, or does not stay."""
        load_until_s = course.after(LOAD_SHARE)
        for _ in range(SEARCHES_MAX):
            with course.stage("load"):
                is_loaded = await self._loader.ensure(key, deadline_s=load_until_s)
            if not is_loaded:
                return None
            question = await self._question(key, scope, request, course)
            try:
                hits = self._search(key, question, scope.organisation, course)
                course.note_search(question, hits)
                return hits
            except ScopeNotLoadedError:
                continue  # another scope's load, in its thread, has just taken its place
        return None

    def _search(
        self, key: ScopeKey, question: Question, organisation: int, course: Course
    ) -> list[Hit]:
        """The hits of one search, without the parts that failed too often lately. Raises
        `ScopeNotLoadedError`."""
        tickets: dict[str, Ticket | None]
        tickets = {part: self._breakers.ask(organisation, part) for part, _ in PARTS}
        if tickets[EXPAND] is None or tickets[RANK] is None:
            question = msgspec.structs.replace(
                question,
                traversal_depth=0 if tickets[EXPAND] is None else question.traversal_depth,
                is_ranked=tickets[RANK] is not None,
            )
        lacking: set[str] = set()
        times: dict[str, float] = {}
        try:
            with course.stage("search"):
                return self._index.search(key, question, lacking, times)
        finally:
            if not question.traversal_depth:
                times.pop(EXPAND, None)  # it only said that it was left out
            for part, component in PARTS:
                lacks = {component} & lacking
                if part in times or lacks:
                    course.note_part(part, times.get(part), lacks)
                was_tried = part in times or (part == RANK and bool(lacks))
                self._judge(tickets[part], was_tried=was_tried, has_failed=bool(lacks))

    def _judge(self, ticket: Ticket | None, *, was_tried: bool, has_failed: bool) -> None:
        """Tell the breaker of a part what came of it."""
        if ticket is None:
            return
        if not was_tried:
            self._breakers.given_up(ticket)
        elif has_failed:
            self._stage_failed(ticket)
        else:
            self._breakers.succeeded(ticket)

    def _stage_failed(self, ticket: Ticket) -> None:
        self._breakers.failed(ticket)
        metrics.PROVIDER_FAILURES.labels(ticket.provider).inc()

    async def _question(
        self, key: ScopeKey, scope: Scope, request: QueryRequest, course: Course
    ) -> Question:
        """The question as the index needs it, with its vectors."""
        text = request.query[: limits.QUERY_CHARS_MAX]
        with course.stage("embed"):
            vectors = await self._embedding.of_question(
                text,
                organisation=scope.organisation,
                models=self._index.models(key),
                until_s=course.left(EMBED_SHARE),
                lacking=course.lacking,
            )
        is_time_left = self._clock.steady_s() + EXPAND_S < course.deadline_s
        return Question(
            text=text,
            vectors=vectors,
            k=question_k(request),
            session_id=request.session_id,
            filters=request.filters,
            weights=request.weights,
            now_ms=self._clock.wall_ms(),
            asked_ms=None if request.now is None else parse_moment(request.now),
            traversal_depth=request.traversal_depth if is_time_left else 0,
        )

    async def around(
        self,
        scope: Scope,
        start: RecordKey | None,
        *,
        depth: int,
        limit: int,
        deadline_s: float,
    ) -> list[tuple[RecordKey, int | None]] | None:
        """The memories around one, or of all of the scope: see `HotIndex.around`. None where the
        scope is not loaded by `deadline_s` (steady clock)."""
        key, now_ms = ids.scope_key(scope), self._clock.wall_ms()
        for _ in range(SEARCHES_MAX):
            if not await self._loader.ensure(key, deadline_s=deadline_s):
                return None
            try:
                return self._index.around(key, start, depth=depth, limit=limit, now_ms=now_ms)
            except ScopeNotLoadedError:
                continue
        return None

    async def _read(self, hits: Sequence[Hit], until_s: float) -> Mapping[RecordKey, Showing]:
        """What the hits show: as they were shown last, or from the store."""
        found = self._shown.of(hit.key for hit in hits)
        missing = [hit.key for hit in hits if hit.key not in found]
        if missing:
            mark = self._shown.mark
            async with asyncio.timeout(until_s - self._clock.steady_s()):
                records = await self._store.records(missing)
            found |= self._shown.keep(records, mark=mark)
        return found

    def _reply(
        self, scope: Scope, request: QueryRequest, found: _Found, course: Course
    ) -> QueryAnswer:
        """What was found as the caller reads it. What it lacks is said at the end, and which
        question it answers, since it may be kept and given again."""
        memories = answers.recalled(
            found.hits, found.shown, scope=scope, now_ms=self._clock.wall_ms()
        )
        memories, is_truncated = answers.within_bytes(memories)
        if self._uses is not None:
            self._uses.note(answers.shown(found.shown, memories), self._clock.wall_ms())
        return QueryAnswer(
            memories=memories,
            context=answers.context_of(memories),
            confidence=self._confidence(found.own, course),
            latency_ms=0.0,
            session_id=request.session_id,
            query_intent=query_intent(request.query[: limits.QUERY_CHARS_MAX]),
            query_id="",
            degraded=False,
            degraded_components=[],
            freshness=Freshness(),
            sla_target_ms=limits.RECALL_BUDGET_MS[request.computation_tier],
            sla_met=True,
            truncated=is_truncated,
        )

    def _confidence(self, hits: Sequence[Hit], course: Course) -> float:
        """Calibrated, or else what the best memories hold of the question: also where they were
        not ranked, since the fit is of ranked ones."""
        try:
            if "ranking" not in course.lacking:
                return answers.confidence_of(hits)
        except Exception as error:  # noqa: BLE001 - a recall stage: raw scores, tagged
            logger().warning("recall.calibration_failed", error=type(error).__name__)
        course.lacking.add("calibration")
        return answers.support_of(hits)

    def _count(self, lacking: set[str]) -> None:
        for component in lacking:
            metrics.RECALL_DEGRADED_TOTAL.labels(component).inc()


def _tagged(reply: QueryAnswer, course: Course) -> QueryAnswer:
    """The answer, which says what it lacks."""
    return msgspec.structs.replace(
        reply,
        degraded=bool(course.lacking),
        degraded_components=[name for name in COMPONENTS if name in course.lacking],
    )


def question_k(request: QueryRequest) -> int:
    """How many memories are asked for, within what may be."""
    return int(clamp(request.k, 1, limits.RECALL_K_MAX))


def _new_id() -> str:
    """A `query_id` that leads nowhere."""
    return "q_" + ids.random_hex()[:24]
