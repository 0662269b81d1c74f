"""Attempts at peers, one after the other and overlapping: the first final answer wins.

An attempt that is not answered in time is not given up: the next one starts beside it. That is safe
for writes, since all attempts carry one operation key and the same ids, and it makes a hedge and a
retry one thing. What still runs when an answer is there is cancelled and waited for.

What one peer says of a write that it did not do is the outcome only if no other attempt may have
done it: a later attempt may be refused (for its rate, for a key that this peer has not heard of)
although an earlier one is stored. So a write that is denied waits for the attempts beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

import msgspec

from memsync import errors
from memsync.gateway import table
from memsync.gateway.passing.routing import Attempt
from memsync.ports import Answer
from memsync.wire import codec, context

SEARCH = "search"  # the one component without which a recall has nothing to say
MOVES_ON = frozenset({errors.Unavailable.code, errors.NoQuorum.code})


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
    """How an attempt ended. `refused`: nothing happened; `unknown`: something may have; `denied`: a
    write did not happen by this attempt, and another peer would not do it either."""

    kind: Literal["final", "refused", "denied", "unknown"]
    answer: Answer | None = None


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


def judge(operation: str, answer: Answer) -> Result:
    """Whether another peer might do better than this answer. A recall that could not search (its
    scope is still being loaded) is kept for the case that no other peer can either."""
    if operation in table.READS:
        return _judge_read(operation, answer)
    if answer.status < 400:
        return Result("final", answer)
    if answer.status < 500 or answer.status == errors.NotBuilt.http_status:
        return Result("denied", answer)
    try:
        found = codec.from_json(answer.body, errors.ErrorAnswer).error
    except errors.MemsyncError:
        return Result("unknown", answer)  # not one of our peers' answers
    if not found.definite:
        return Result("unknown", answer)
    return Result("refused" if found.code in MOVES_ON else "denied", answer)


def _judge_read(operation: str, answer: Answer) -> Result:
    if operation == table.RECALL and SEARCH in _degraded(answer):
        return Result("refused", answer)
    is_final = answer.status < 500 or answer.status == errors.NotBuilt.http_status
    return Result("final" if is_final else "refused", answer)


def _degraded(answer: Answer) -> list[str]:
    name = context.DEGRADED.lower()
    said = [value for header, value in answer.headers.items() if header.lower() == name]
    return said[0].split(",") if said else []


async def walk(
    attempts: Sequence[Attempt],
    ask: Callable[[Attempt], Awaitable[Result]],
    observer: Observer,
    *,
    patience_s: float,
    until_s: float,
) -> Outcome:
    """Go through the attempts until one has a final answer, or until `until_s` (the loop's time).

    The next one starts when the last one failed, or has been silent for `patience_s`. A peer that
    refused or denied is not asked again another way. A denial is the answer once nothing else runs
    and every attempt is known to have done nothing.
    """
    async with asyncio.TaskGroup() as group:
        running = _Running(group, ask, observer)
        try:
            return await _walk(deque(attempts), running, patience_s=patience_s, until_s=until_s)
        finally:
            running.cancel()


async def _walk(
    waiting: deque[Attempt], running: _Running, *, patience_s: float, until_s: float
) -> Outcome:
    outcome, denial = Outcome(), Outcome()
    answered: set[str] = set()
    now_s = asyncio.get_running_loop().time
    start_at_s = 0.0
    while now_s() < until_s:
        if denial.answer is not None and outcome.is_definite and not running.tasks:
            return denial
        if waiting and (not running.tasks or now_s() >= start_at_s):
            attempt = waiting.popleft()
            if attempt.member not in answered:
                running.start(attempt)
                start_at_s = now_s() + patience_s
            continue
        if not running.tasks:
            return outcome
        wake_at_s = min(until_s, start_at_s) if waiting else until_s
        for attempt, result in await running.wait(wake_at_s - now_s()):
            if result.kind == "final":
                return Outcome(result.answer, attempt.member)
            if result.answer is not None:
                outcome.refusal = result.answer
                answered.add(attempt.member)
            if result.kind == "denied":
                denial = Outcome(result.answer, attempt.member)
                continue
            start_at_s = 0.0
            outcome.is_definite &= result.kind == "refused"
    outcome.is_definite &= not running.tasks
    return outcome


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

    def start(self, attempt: Attempt) -> None:
        self._observer.started(attempt, len(self.tasks))
        task = self._group.create_task(self._attempt(attempt))
        self.tasks[task] = attempt, self._now_s()

    async def _attempt(self, attempt: Attempt) -> Result:
        try:
            return await self._ask(attempt)
        except NotDeliveredError:
            return Result("refused")
        except NoAnswerError:
            return Result("unknown")

    async def wait(self, timeout_s: float) -> list[tuple[Attempt, Result]]:
        """What ended within the time, if anything did."""
        done, _ = await asyncio.wait(
            self.tasks, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED
        )
        ended = [(self.tasks.pop(task)[0], task.result()) for task in done]
        for attempt, result in ended:
            self._observer.ended(attempt, result)
        return ended

    def cancel(self) -> None:
        """Cancel what still runs; the task group waits for it."""
        for task, (attempt, started_s) in self.tasks.items():
            task.cancel()
            self._observer.overtaken(attempt, self._now_s() - started_s)
