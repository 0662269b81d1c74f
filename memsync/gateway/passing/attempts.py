"""Attempts at peers, one after the other and overlapping: the first final answer wins.

An attempt that is not answered in time is not given up: the next one starts beside it. That is safe
for writes, since all attempts carry one operation key and the same ids, and it makes a hedge and a
retry one thing. What still runs when an answer is there is cancelled and waited for.

What one peer says of a write that it did not do is the outcome only if no other attempt may have
done it: a later attempt may be refused (for its rate, for a key that this peer has not heard of)
although an earlier one is stored. So a write that is denied waits for the attempts beside it.

An attempt may be lost for good, with the server or the cable that it went over; nobody will ever
say so. So while something is not settled and time is left, those who have spoken are asked again,
round after round: with one key, a later attempt settles what became of the earlier ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, Protocol

import msgspec

from memsync import errors
from memsync.gateway import table
from memsync.gateway.passing.routing import Attempt
from memsync.ports import Answer
from memsync.tasks import pause
from memsync.wire import codec, context

SEARCH = "search"  # the one component without which a recall has nothing to say
REPLICATION = "replication"  # an answer that may be old
MOVES_ON = frozenset({errors.Unavailable.code, errors.NoQuorum.code})
PASSING = frozenset({errors.Unavailable.code, errors.NoStripeLeader.code})  # soon otherwise
_DEGRADED_OVER_HTTP = context.DEGRADED.lower()
AGAIN_S, AGAIN_S_MAX = 0.1, 1.0  # from the end of a round to the next, doubling


class NotDeliveredError(Exception):
    """The request reached nobody, and will not."""


class NoAnswerError(Exception):
    """The request may have been delivered; no answer came."""


class Way(Protocol):
    """A way to the peers of the cell."""

    name: str

    def is_open(self) -> bool:
        """Whether a request would be sent at all, as far as is known."""
        ...

    async def ask(
        self, member: str, operation: str, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        """A peer's answer; raises `NotDeliveredError` or `NoAnswerError`.

        A cancelled call may have been delivered."""
        ...


class Result(msgspec.Struct, frozen=True):
    """How an attempt ended. `lesser`: a read was answered, but another peer may know better;
    `refused`: nothing happened; `unknown`: something may have; `denied`: a write did not happen by
    this attempt, and another peer would not do it either. `code` is that of the error that was
    answered, if one was."""

    kind: Literal["final", "lesser", "refused", "denied", "unknown"]
    answer: Answer | None = None
    code: str = ""


class Outcome(msgspec.Struct):
    """How a request ended: a final answer, or what is known without one."""

    answer: Answer | None = None
    member: str = ""
    refusal: Answer | None = None  # what a peer said that refused
    is_definite: bool = True  # every attempt is known to have done nothing


class Observer(Protocol):
    """Hears what happens to attempts, to learn from it."""

    def started(self, attempt: Attempt, beside: int) -> None:
        """An attempt begins, beside so many that are still silent."""
        ...

    def ended(self, attempt: Attempt, result: Result) -> None:
        """An attempt ended by itself."""
        ...

    def overtaken(self, attempt: Attempt, age_s: float) -> None:
        """An attempt was still silent after `age_s`, when another one answered or time was up."""
        ...

    def is_promising(self, attempt: Attempt) -> bool:
        """Whether it is worth a try although there is an answer that may be old."""
        ...

    def again(self) -> None:
        """Another round begins."""
        ...


def judge(operation: str, answer: Answer) -> Result:
    """Whether another peer might do better than this answer. A recall that could not search (its
    scope is still being loaded) is kept for the case that no other peer can either."""
    if operation in table.READS:
        return _judge_read(operation, answer)
    if answer.status < 400:
        return Result("final", answer)
    found = error_of(answer)
    code = "" if found is None else found.code
    if answer.status < 500 or answer.status == errors.NotBuilt.http_status:
        return Result("denied", answer, code)
    if found is None or not found.definite:
        return Result("unknown", answer, code)
    return Result("refused" if code in MOVES_ON else "denied", answer, code)


def error_of(answer: Answer) -> errors.ErrorBody | None:
    """What an error answer says; None for one that is not our peers'."""
    try:
        return codec.from_json(answer.body, errors.ErrorAnswer).error
    except errors.MemsyncError:
        return None


def _judge_read(operation: str, answer: Answer) -> Result:
    lacking = degraded(answer)
    if operation == table.RECALL and SEARCH in lacking:
        return Result("refused", answer)
    if REPLICATION in lacking and answer.status < 500:
        return Result("lesser", answer)
    is_final = answer.status < 500 or answer.status == errors.NotBuilt.http_status
    return Result("final" if is_final else "refused", answer)


def degraded(answer: Answer) -> list[str]:
    """The components that an answer says it lacks."""
    said = answer.headers.get(context.DEGRADED) or answer.headers.get(_DEGRADED_OVER_HTTP)
    return said.split(",") if said else []


async def walk(
    plan: Callable[[], Iterable[Attempt]],
    ask: Callable[[Attempt], Awaitable[Result]],
    observer: Observer,
    *,
    patience_s: float,
    until_s: float,
) -> Outcome:
    """Go through the attempts until one has a final answer, or until `until_s` (the loop's time).

    The next one starts when the last one failed, or has been silent for `patience_s`. A peer that
    refused or denied is not asked again another way in the same round. A denial is the answer once
    nothing else runs and every attempt is known to have done nothing. An answer that may be old is
    given once each other promising peer had `patience_s` to give a better one. `plan` says at the
    beginning of each round whom to ask; what is still silent is not asked a second time.
    """
    async with asyncio.TaskGroup() as group:
        running = _Running(group, ask, observer)
        try:
            return await _Walk(running, patience_s, until_s).go(plan, observer)
        finally:
            running.cancel()


class _Walk:
    """What is known of one request so far."""

    def __init__(self, running: _Running, patience_s: float, until_s: float) -> None:
        self._running = running
        self._patience_s = patience_s
        self._until_s = until_s
        self._now_s = asyncio.get_running_loop().time
        self._outcome, self._denial, self._lesser = Outcome(), Outcome(), Outcome()
        self._better_until_s = 0.0  # so long a better answer than the lesser one is waited for
        self._answered: set[str] = set()  # in this round
        self._is_passing = False  # a peer said in this round that it may be otherwise soon

    async def go(self, plan: Callable[[], Iterable[Attempt]], observer: Observer) -> Outcome:
        """Round after round, until it is settled or time is up."""
        pause_s = AGAIN_S
        while True:
            found = await self._round(plan()) or await self._rest(self._now_s() + pause_s)
            if found is not None:
                return found
            if self._now_s() >= self._until_s:
                self._outcome.is_definite &= not self._running.tasks
                return self._outcome
            pause_s = min(AGAIN_S_MAX, 2 * pause_s)
            observer.again()

    async def _round(self, attempts: Iterable[Attempt]) -> Outcome | None:
        """Start one after the other; the outcome if there is one by the time that the last has had
        its time."""
        self._answered, self._is_passing = set(), False
        for attempt in attempts:
            if self._now_s() >= self._until_s:
                return self._end()
            if attempt.member in self._answered or self._running.has(attempt):
                continue
            if self._lesser.answer is not None and not self._running.may_better(attempt):
                continue
            self._running.start(attempt)
            if (found := await self._listen(self._now_s() + self._patience_s)) is not None:
                return found
        while self._lesser.answer is not None and self._running.is_promising():
            if self._now_s() >= self._better_until_s:
                break
            if (found := await self._listen(self._better_until_s)) is not None:
                return found
        return self._end()

    async def _rest(self, until_s: float) -> Outcome | None:
        """Ask nobody until then; the outcome if there is one meanwhile."""
        until_s = min(until_s, self._until_s)
        while (left_s := until_s - self._now_s()) > 0:
            if not self._running.tasks:
                await pause(left_s)
            elif (found := await self._listen(until_s) or self._end()) is not None:
                return found
        return None

    async def _listen(self, until_s: float) -> Outcome | None:
        """Hear the attempts until then, or until one failed; the outcome if there is one."""
        until_s, has_failed = min(until_s, self._until_s), False
        while self._running.tasks and not has_failed and self._now_s() < until_s:
            for attempt, result in await self._running.wait(until_s - self._now_s()):
                if result.kind == "final":
                    return Outcome(result.answer, attempt.member)
                has_failed |= self._note(attempt, result)
                if result.kind == "lesser":
                    until_s = min(self._until_s, self._better_until_s)
        is_denied = self._denial.answer is not None and self._outcome.is_definite
        return self._denial if is_denied and not self._running.tasks else None

    def _note(self, attempt: Attempt, result: Result) -> bool:
        """Remember what an attempt came to; whether the next one need not wait."""
        if result.answer is not None:
            self._answered.add(attempt.member)
        if result.kind == "lesser":
            if self._lesser.answer is None:
                self._lesser = Outcome(result.answer, attempt.member)
            patience_s = self._patience_s if self._running.is_promising() else 0.0
            self._better_until_s = self._now_s() + patience_s
            return False
        self._outcome.refusal = result.answer or self._outcome.refusal
        self._is_passing |= result.code in PASSING
        if result.kind == "denied":
            self._denial = Outcome(result.answer, attempt.member)
            return False
        self._outcome.is_definite &= result.kind == "refused"
        return True

    def _end(self) -> Outcome | None:
        """The outcome if nothing runs and another round would not help, or if nothing better came
        than an answer that may be old."""
        if self._lesser.answer is not None:
            return self._lesser
        if self._running.tasks or (self._is_passing and not self._outcome.is_definite):
            return None
        return self._outcome


class _Running:
    """The attempts of one request that have not ended."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        ask: Callable[[Attempt], Awaitable[Result]],
        observer: Observer,
    ) -> None:
        self._group = group
        self._ask = ask
        self._observer = observer
        self._now_s = asyncio.get_running_loop().time
        self.tasks: dict[asyncio.Task[Result], tuple[Attempt, float]] = {}
        self._waiter: asyncio.Future[None] | None = None

    def start(self, attempt: Attempt) -> None:
        """Begin an attempt."""
        self._observer.started(attempt, len(self.tasks))
        task = self._group.create_task(self._attempt(attempt))
        task.add_done_callback(self._wake)
        self.tasks[task] = attempt, self._now_s()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _attempt(self, attempt: Attempt) -> Result:
        try:
            return await self._ask(attempt)
        except NotDeliveredError:
            return Result("refused")
        except NoAnswerError:
            return Result("unknown")

    def has(self, attempt: Attempt) -> bool:
        """Whether this very attempt is still silent."""
        return any(attempt == one for one, _ in self.tasks.values())

    def may_better(self, attempt: Attempt) -> bool:
        """Whether it is worth a try beside an answer that may be old: its peer is not being asked,
        and promises something."""
        known = {one.member for one, _ in self.tasks.values()}
        return attempt.member not in known and self._observer.is_promising(attempt)

    def is_promising(self) -> bool:
        """Whether one that runs may still bring a better answer."""
        return any(self._observer.is_promising(attempt) for attempt, _ in self.tasks.values())

    async def wait(self, timeout_s: float) -> list[tuple[Attempt, Result]]:
        """What ended within the time, if anything did."""
        if not any(task.done() for task in self.tasks):
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            alarm = loop.call_later(max(0.0, timeout_s), self._wake)
            try:
                await self._waiter
            finally:
                alarm.cancel()
                self._waiter = None
        done = [task for task in self.tasks if task.done()]
        ended = [(self.tasks.pop(task)[0], task.result()) for task in done]
        for attempt, result in ended:
            self._observer.ended(attempt, result)
        return ended

    def cancel(self) -> None:
        """Cancel what still runs; the task group waits for it."""
        for task, (attempt, started_s) in self.tasks.items():
            task.cancel()
            self._observer.overtaken(attempt, self._now_s() - started_s)
