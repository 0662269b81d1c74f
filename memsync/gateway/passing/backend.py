"""The gateway's backend: fixes what a write must keep over its attempts, and asks the peers.

A write is given its operation key and ids once; so it has one effect however many peers are asked.
A recall always gets an answer: when no peer has one, an empty list that says what was missing.
Nothing is kept here between requests but what was learnt about peers.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence

from memsync import errors, limits
from memsync.client.patience import RecallTimes
from memsync.gateway import metrics, table
from memsync.gateway.exchange import error_to_answer
from memsync.gateway.passing.attempts import Outcome, Result, Way, judge, walk
from memsync.gateway.passing.leased_ids import Ids
from memsync.gateway.passing.routing import Attempt, Suspects, plan, rendezvous
from memsync.gateway.passing.watch import PeerWatch
from memsync.ports import Answer
from memsync.wire import codec, context, replies, requests

RECALL_S_MAX = 2.0  # no recall waits longer for peers: the budget of the highest tier
RETRY_AFTER_S = 1.0


class PeerBackend:
    """A `Backend` that passes every operation on to a peer, by whichever way works.

    `buses` are the ways over the bus, the first one preferred; `http` goes to the peers' own ports.
    """

    def __init__(
        self,
        buses: Sequence[Way],
        http: Way,
        ids: Ids,
        watch: PeerWatch,
        suspects: Suspects,
        *,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._buses = list(buses)
        self._http = http
        self._ways = {way.name: way for way in (*buses, http)}
        self._ids = ids
        self._watch = watch
        self._members = sorted(watch.states)
        self._suspects = suspects
        self._is_stopping = is_stopping
        self._times = RecallTimes()
        self._in_flight = 0

    def checks(self) -> dict[str, str]:
        """The bus, the peers, and whether this process is about to end."""
        is_up = any(way.is_open() for way in self._buses)
        return {
            "bus": "ok" if is_up else "failed: not connected; requests go over HTTP",
            "peers": self._watch.check(),
            "process": "failed: shutting down" if self._is_stopping() else "ok",
        }

    def is_recalling(self) -> bool:
        """Whether some peer answers."""
        return self._watch.is_any_alive()

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer an operation by a peer's answer, inside the caller's deadline."""
        request_id = headers.get(context.REQUEST_ID, "")
        if self._in_flight >= limits.REQUESTS_IN_FLIGHT_MAX:
            error = errors.Unavailable(
                f"{self._in_flight} requests in flight, limit {limits.REQUESTS_IN_FLIGHT_MAX}",
                retry_after_s=RETRY_AFTER_S,
            )
            return error_to_answer(error, request_id)
        self._in_flight += 1
        metrics.IN_FLIGHT.inc()
        try:
            return await self._pass_on(operation, headers, body)
        except errors.MemsyncError as error:
            return error_to_answer(error, request_id)
        finally:
            self._in_flight -= 1
            metrics.IN_FLIGHT.dec()

    async def _pass_on(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        started_s = asyncio.get_running_loop().time()
        passed = dict(headers)
        passed.pop(context.OPERATION_KEY, None)  # ours to fix
        passed.pop(context.IDS, None)
        asked = context.read_context(passed)
        if asked.api_key is None:
            raise errors.MissingApiKey("send an API key as X-API-Key or as a bearer token")
        if operation not in table.READS:
            await self._fix(operation, asked, passed)
        pass_on = _PassingOn(operation, passed, body, self._ways, self._suspects)
        outcome = await self._walk(pass_on, asked, started_s)
        if outcome.answer is not None:
            if operation == table.RECALL:
                self._times.note(asyncio.get_running_loop().time() - started_s)
            return outcome.answer
        if operation == table.RECALL:
            if outcome.refusal is not None and outcome.refusal.status == 200:
                return outcome.refusal
            return empty_recall(asked.request_id, body, (pass_on.now_s() - started_s) * 1000)
        return _unanswered(operation, asked.request_id, outcome)

    async def _fix(self, operation: str, asked: context.Context, passed: dict[str, str]) -> None:
        """Put what every attempt of a write must share into its headers."""
        if not asked.key_is_callers:
            passed[context.OPERATION_KEY] = asked.operation_key
        count = table.IDS_TAKEN.get(operation)
        if count is not None and (taken := await self._ids.take(count)) is not None:
            passed[context.IDS] = f"{taken[0]}-{taken[1]}"

    async def _walk(self, pass_on: _PassingOn, asked: context.Context, started_s: float) -> Outcome:
        order = rendezvous(
            self._members, asked.api_key or "", asked.project or "", asked.end_user or ""
        )
        order = self._suspects.order(order, started_s)
        attempts = plan(order, [way.name for way in self._buses if way.is_open()], self._http.name)
        deadline_s = asked.deadline_s
        patience_s = limits.ATTEMPT_TIMEOUT_S
        if pass_on.operation == table.RECALL:
            deadline_s = min(deadline_s, RECALL_S_MAX)
            patience_s = self._times.patience_s()
            pass_on.on_hedge = self._times.spend
        pass_on.until_s = started_s + deadline_s
        return await walk(
            attempts,
            pass_on.ask,
            pass_on,
            patience_s=min(patience_s, deadline_s / 3),
            until_s=pass_on.until_s,
        )


class _PassingOn:
    """One request on its way: asks, and tells the routing what happened."""

    def __init__(
        self,
        operation: str,
        headers: dict[str, str],
        body: bytes,
        ways: Mapping[str, Way],
        suspects: Suspects,
    ) -> None:
        self.operation = operation
        self.now_s = asyncio.get_running_loop().time
        self.until_s = 0.0
        self.on_hedge: Callable[[], None] | None = None
        self._headers = headers
        self._body = body
        self._ways = ways
        self._suspects = suspects

    async def ask(self, attempt: Attempt) -> Result:
        """One attempt, with what is left of the caller's time."""
        left_s = max(0.001, self.until_s - self.now_s())
        headers = {**self._headers, context.DEADLINE_MS: str(max(1, int(left_s * 1000)))}
        way = self._ways[attempt.way]
        answer = await way.ask(attempt.member, self.operation, headers, self._body, left_s)
        return judge(self.operation, answer)

    def started(self, attempt: Attempt, beside: int) -> None:
        """An attempt beside a silent one is a hedge."""
        if beside and self.on_hedge is not None:
            metrics.HEDGES.inc()
            self.on_hedge()

    def ended(self, attempt: Attempt, result: Result) -> None:
        """Learn from an attempt: any answer shows that the peer lives."""
        metrics.ATTEMPTS.labels(attempt.way, result.kind).inc()
        if result.answer is not None:
            self._suspects.answered(attempt.member)
        else:
            self._suspects.failed(attempt.member, self.now_s())

    def overtaken(self, attempt: Attempt, age_s: float) -> None:
        """Learn from an attempt that kept silent."""
        metrics.ATTEMPTS.labels(attempt.way, "overtaken").inc()
        if age_s >= limits.ATTEMPT_TIMEOUT_S:
            self._suspects.failed(attempt.member, self.now_s())
        else:
            self._suspects.overtaken(attempt.member, self.now_s())


def _unanswered(operation: str, request_id: str, outcome: Outcome) -> Answer:
    """The 503 of a request that no peer settled; definite only if every attempt's end was."""
    if operation not in table.READS and not outcome.is_definite:
        error: errors.MemsyncError = errors.OutcomeUnknown(
            "no peer said what became of the write; repeat it with the same Idempotency-Key or "
            "client_ref to find out",
            retry_after_s=RETRY_AFTER_S,
        )
    elif outcome.refusal is not None:
        return outcome.refusal
    else:
        error = errors.Unavailable(
            "no peer could be reached; nothing was changed", retry_after_s=RETRY_AFTER_S
        )
    return error_to_answer(error, request_id)


def empty_recall(request_id: str, body: bytes, elapsed_ms: float) -> Answer:
    """The answer to a question that no peer answered: the usual shape, empty, and tagged."""
    try:
        asked = codec.from_json(body, requests.QueryRequest)
        requests.check(requests.query_problems(asked))
    except errors.MemsyncError as error:
        return error_to_answer(error, request_id)
    metrics.DEGRADED.inc()
    target_ms = limits.RECALL_BUDGET_MS[asked.computation_tier]
    answer = replies.QueryAnswer(
        memories=[],
        context="",
        confidence=0.0,
        latency_ms=round(elapsed_ms, 2),
        session_id=asked.session_id,
        query_intent="factual",
        query_id="q_" + secrets.token_hex(8),
        degraded=True,
        degraded_components=["search", "replication"],
        freshness=replies.Freshness(source="cache", age_ms=0.0),
        sla_target_ms=target_ms,
        sla_met=elapsed_ms <= target_ms,
    )
    return Answer(200, {}, codec.to_json(answer))
