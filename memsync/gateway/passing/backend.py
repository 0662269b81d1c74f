"""The gateway's backend: fixes what a write must keep over its attempts, and asks the peers.

A write is given its operation key and ids once; so it has one effect however many peers are asked.
A recall always gets an answer within its budget: when no peer has one, the last good answer, or an
empty list; both say what was missing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from memsync import errors, limits
from memsync.client.patience import RecallTimes
from memsync.gateway import metrics, table
from memsync.gateway.exchange import error_to_answer
from memsync.gateway.passing import question
from memsync.gateway.passing.attempts import (
    Outcome,
    Result,
    Way,
    degraded,
    error_of,
    judge,
    walk,
)
from memsync.gateway.passing.leased_ids import Ids
from memsync.gateway.passing.members import Members
from memsync.gateway.passing.question import Named
from memsync.gateway.passing.routing import Attempt, Suspects, plan, rendezvous
from memsync.gateway.passing.watch import PeerWatch
from memsync.gateway.passing.without_peers import LastAnswers, empty_recall
from memsync.ports import Answer
from memsync.tasks import pause
from memsync.telemetry import logger
from memsync.wire import context

RESERVE_SHARE = 0.06  # of a recall's budget: to answer from what is kept, and send it
TRAVEL_S = 0.01  # a peer's answer at its own deadline is to be here in time
ATTEMPTS_PLANNED = 5  # so many attempts at silent peers have room in a recall's budget
RETRY_AFTER_S = 1.0
AGAIN_S_MAX = 2.0  # so long is a write offered again that every peer refused for the moment
AGAIN_PAUSE_S = 0.1
TRAIL_MAX = 20  # attempts that are remembered of a request, the last ones


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
        members: Members,
        suspects: Suspects,
        last_answers: LastAnswers,
        *,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._buses = list(buses)
        self._http = http
        self._ways = {way.name: way for way in (*buses, http)}
        self._ids = ids
        self._watch = watch
        self._members = members
        self._suspects = suspects
        self._slow_ways = Suspects()
        self._last_answers = last_answers
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
        passed = dict(headers)
        passed.pop(context.OPERATION_KEY, None)  # ours to fix
        passed.pop(context.IDS, None)
        passed.pop(context.IDS_PROOF, None)
        asked = context.read_context(passed)
        if asked.api_key is None:
            raise errors.MissingApiKey("send an API key as X-API-Key or as a bearer token")
        named = question.read(body)
        if operation == table.RECALL:
            return await self._recall(_Request(operation, asked, named, passed, body))
        request = _Request(operation, asked, named, passed, body)
        if operation in table.READS:
            return await self._settle(request)
        await self._fix(operation, asked, passed)
        self._last_answers.written(operation, asked, named)
        try:
            return await self._settle(request)
        finally:  # what was asked meanwhile may be from before
            self._last_answers.written(operation, asked, named)

    async def _recall(self, request: _Request) -> Answer:
        """A recall's answer, inside its budget and its caller's deadline."""
        loop, last = asyncio.get_running_loop(), self._last_answers
        started_s = loop.time()
        deadline_s = min(request.asked.deadline_s, request.named.budget_s)
        kept = last.asked(request.asked, request.named, request.body)
        patience_s = self._times.patience_s()
        share = ATTEMPTS_PLANNED if self._times.may_hedge() else 2
        pass_on = self._passing_on(request, started_s, deadline_s * (1 - RESERVE_SHARE))
        pass_on.on_hedge = self._times.spend
        outcome = await self._walk(pass_on, min(patience_s, deadline_s / share))
        elapsed_s = loop.time() - started_s
        if outcome.answer is not None:
            self._times.note(elapsed_s)
            last.note(kept, outcome.answer, degraded(outcome.answer), outcome.member)
            return outcome.answer
        if outcome.refusal is not None and outcome.refusal.status == 200:
            return outcome.refusal
        elapsed_ms = elapsed_s * 1000
        found = last.last(kept, elapsed_ms=elapsed_ms)
        return found or empty_recall(request.asked.request_id, request.body, elapsed_ms)

    async def _settle(self, request: _Request) -> Answer:
        """The answer to anything else than a recall."""
        deadline_s = request.asked.deadline_s
        started_s = asyncio.get_running_loop().time()
        pass_on = self._passing_on(request, started_s, deadline_s)
        patience_s = min(limits.ATTEMPT_TIMEOUT_S, deadline_s / 3)
        outcome = await self._walk(pass_on, patience_s)
        while (
            _is_worth_another(request.operation, outcome)
            and pass_on.now_s() < started_s + AGAIN_S_MAX
        ):
            await pause(AGAIN_PAUSE_S)
            outcome = await self._walk(pass_on, patience_s)
        if outcome.answer is not None:
            return outcome.answer
        if request.operation not in table.READS and not outcome.is_definite:
            pass_on.report()
        return _unanswered(request.operation, request.asked.request_id, outcome)

    async def _fix(self, operation: str, asked: context.Context, passed: dict[str, str]) -> None:
        """Put what every attempt of a write must share into its headers."""
        if not asked.key_is_callers:
            passed[context.OPERATION_KEY] = asked.operation_key
        count = table.IDS_TAKEN.get(operation)
        if count is not None and (taken := await self._ids.take(count)) is not None:
            passed[context.IDS] = f"{taken[0]}-{taken[1]}"

    def _passing_on(self, request: _Request, started_s: float, within_s: float) -> _PassingOn:
        return _PassingOn(
            request, self._ways, self._suspects, self._slow_ways, until_s=started_s + within_s
        )

    async def _walk(self, pass_on: _PassingOn, patience_s: float) -> Outcome:
        asked, named, now_s = pass_on.request.asked, pass_on.request.named, pass_on.now_s
        end_user = named.end_user if named.end_user is not None else asked.end_user
        parts = asked.api_key or "", asked.project or "", end_user or ""

        def attempts() -> Iterator[Attempt]:
            buses = [way.name for way in self._buses if way.is_open()]
            return plan(
                self._suspects.order(rendezvous(self._members.names(), *parts), now_s()),
                self._slow_ways.order(buses, now_s()),
                self._http.name,
            )

        return await walk(
            attempts, pass_on.ask, pass_on, patience_s=patience_s, until_s=pass_on.until_s
        )


class _Request(msgspec.Struct, frozen=True):
    """A request as it goes to every peer. `headers` are complete when the first one is asked."""

    operation: str
    asked: context.Context
    named: Named
    headers: dict[str, str]
    body: bytes


class _PassingOn:
    """One request on its way: asks, and tells the routing what happened."""

    def __init__(
        self,
        request: _Request,
        ways: Mapping[str, Way],
        suspects: Suspects,
        slow_ways: Suspects,
        *,
        until_s: float,
    ) -> None:
        self.request = request
        self.now_s = asyncio.get_running_loop().time
        self.until_s = until_s
        self.on_hedge: Callable[[], None] | None = None
        self._ways = ways
        self._suspects = suspects
        self._slow_ways = slow_ways
        self._began_s = self.now_s()
        self._trail: deque[str] = deque(maxlen=TRAIL_MAX)

    async def ask(self, attempt: Attempt) -> Result:
        """One attempt, with what is left of the caller's time."""
        request = self.request
        left_s = max(0.001, self.until_s - self.now_s())
        way = self._ways[attempt.way]
        answers_s = left_s
        if request.operation == table.RECALL:
            answers_s -= min(TRAVEL_S, left_s * RESERVE_SHARE)  # its answer is to come in time
        headers = {**request.headers, context.DEADLINE_MS: str(max(1, int(answers_s * 1000)))}
        answer = await way.ask(attempt.member, request.operation, headers, request.body, left_s)
        return judge(request.operation, answer)

    def started(self, attempt: Attempt, beside: int) -> None:
        """An attempt beside a silent one is a hedge."""
        if beside and self.on_hedge is not None:
            metrics.HEDGES.inc()
            self.on_hedge()

    def ended(self, attempt: Attempt, result: Result) -> None:
        """Learn from an attempt: any answer shows that the peer lives, and the way to it."""
        metrics.attempts(attempt.way, result.kind).inc()
        self._note(attempt, result.code or result.kind)
        if result.answer is None:
            self._suspects.failed(attempt.member, self.now_s())
            return
        self._suspects.answered(attempt.member)
        self._slow_ways.answered(attempt.way)
        if result.kind == "final":
            self._suspects.sure(attempt.member)
        elif result.kind == "lesser" and not self.request.asked.min_positions:
            self._suspects.tagged(attempt.member, self.now_s())

    def overtaken(self, attempt: Attempt, age_s: float) -> None:
        """Learn from an attempt that kept silent."""
        metrics.attempts(attempt.way, "overtaken").inc()
        self._note(attempt, f"silent for {age_s:.1f} s")
        for found, name in ((self._suspects, attempt.member), (self._slow_ways, attempt.way)):
            if age_s >= limits.ATTEMPT_TIMEOUT_S:
                found.failed(name, self.now_s())
            else:
                found.overtaken(name, self.now_s())

    def is_promising(self, attempt: Attempt) -> bool:
        """Whether the peer neither failed lately nor was unsure itself."""
        return self._suspects.is_promising(attempt.member, self.now_s())

    def again(self) -> None:
        """Some attempt is not settled, and those that spoke are asked once more."""
        metrics.ROUNDS.inc()

    def _note(self, attempt: Attempt, what: str) -> None:
        at_s = self.now_s() - self._began_s
        self._trail.append(f"{at_s:.1f} s: {attempt.way} {attempt.member} {what}")

    def report(self) -> None:
        """The write is answered as unknown: say what each attempt came to."""
        logger().warning(
            "write.left_unknown",
            operation=self.request.operation,
            request_id=self.request.asked.request_id,
            attempts=list(self._trail),
        )


def _is_worth_another(operation: str, outcome: Outcome) -> bool:
    """Whether a write that all peers refused for certain may be taken in a moment: while leases are
    renewed after a server died, nobody may know for some hundred milliseconds that it is fresh. A
    missing quorum does not come back so fast, and is said at once."""
    if operation in table.READS or outcome.refusal is None or not outcome.is_definite:
        return False
    found = error_of(outcome.refusal)
    return found is not None and found.code == errors.Unavailable.code


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
