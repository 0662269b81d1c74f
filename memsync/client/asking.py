"""One call: attempts over several ways, one after the other and overlapping, until it is settled.

All attempts of a call carry one operation key, so a repeat and a hedge are the same thing and have
one effect. The next attempt starts beside a silent one after the call's patience, or after a pause
when one failed. What still runs when the call is settled is cancelled and waited for.

What is known at the end decides what is raised: a write is refused for certain only if every
attempt is known to have done nothing; else its outcome is unknown. A client that never had an
answer is told at once that nobody is there; later that is a failure like any other, and waited out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from memsync import errors, limits
from memsync.client import patience
from memsync.client.answers import Reply, problem_of
from memsync.wire import context

ATTEMPTS_MAX = 20
BESIDE_MAX = 8  # a frozen peer takes a third of them, each time anew
SEARCHES_MAX = 3  # answers to a recall that could not search, before one of them is taken
ANSWER_S = 0.25  # of the time left, at most a tenth: for the answer's way back
SEARCH = "search"
GATEWAY_PROBLEMS = (502, 503, 504)  # what a proxy says when who is behind it went away


class NotDeliveredError(Exception):
    """The request reached nobody, and will not. The message is a sentence for a person."""


class NoAnswerError(Exception):
    """The request may have been delivered; no answer came. The message says from whom, and why."""


class Request(msgspec.Struct, frozen=True):
    """What every attempt of a call carries; `body` is there as fields and as JSON."""

    operation: str
    headers: dict[str, str]
    fields: Mapping[str, Any]
    body: bytes
    is_read: bool


class Way(Protocol):
    """A way to the cluster: a connection, or a pool of them."""

    failed_at_s: float  # of the loop's clock; when an attempt over it failed last

    def is_open(self) -> bool:
        """Whether a request would be sent at once, as far as is known."""
        ...

    async def ask(self, request: Request, timeout_s: float, sent: Callable[[], None]) -> Reply:
        """An answer of whatever status; calls `sent` before anything can have been delivered.

        Raises `NotDeliveredError`, `NoAnswerError`, or a `MemsyncError` that no other way changes.
        """
        ...


class Terms(msgspec.Struct, frozen=True):
    """How a call is made. `until_s` is of the loop's clock. Without `retries` an answer that
    refuses is final; what is lost is asked for again all the same."""

    until_s: float
    patience_s: float
    on_hedge: Callable[[], None]
    retries: bool
    has_met: bool


class Result(msgspec.Struct, frozen=True):
    """How an attempt ended. `refused`: nothing happened; `unknown`: something may have."""

    kind: Literal["final", "refused", "unknown"]
    reply: Reply | None = None
    error: errors.MemsyncError | None = None
    reason: str = ""


class _Attempt(msgspec.Struct):
    way: Way
    started_s: float
    is_sent: bool = False

    def sent(self) -> None:
        self.is_sent = True


class Asking:
    """One call on its way."""

    def __init__(self, ways: Sequence[Way], request: Request, terms: Terms) -> None:
        self._ways = ways
        self._request = request
        self._terms = terms
        self._now_s = asyncio.get_running_loop().time
        self._running: dict[asyncio.Task[Result], _Attempt] = {}
        self._attempts = 0
        self._failures = 0
        self._final: Result | None = None
        self._refusal: errors.MemsyncError | None = None
        self._without_search: Reply | None = None
        self._may_have_happened = False
        self._is_nobody_there = False
        self._reason = "no answer in time"
        self.has_met = terms.has_met  # whether this cluster ever answered

    async def settle(self) -> Reply:
        """A successful answer; raises the error that is known at the end, see the module."""
        async with asyncio.TaskGroup() as group:
            try:
                await self._go(group)
            finally:
                for task, attempt in self._running.items():
                    self._overtaken(attempt)
                    task.cancel()
        try:
            return self._settled()
        except errors.OutcomeUnknown as error:
            self._name_key(error)
            raise

    async def _go(self, group: asyncio.TaskGroup) -> None:
        start_at_s = 0.0
        while (now_s := self._now_s()) < self._terms.until_s and not self._is_over():
            can_start = self._attempts < ATTEMPTS_MAX and len(self._running) < BESIDE_MAX
            if can_start and now_s >= start_at_s:
                self._start(group)
                start_at_s = now_s + self._patience_s()
                continue
            if not self._running and (not can_start or start_at_s >= self._terms.until_s):
                return  # nothing can come any more
            wake_at_s = min(self._terms.until_s, start_at_s) if can_start else self._terms.until_s
            for attempt, result in await self._wait(wake_at_s - now_s):
                start_at_s = self._now_s() + self._note(attempt, result)

    def _is_over(self) -> bool:
        searched = self._without_search is not None and self._failures >= SEARCHES_MAX
        is_alone = self._is_nobody_there and not self._running and not self._may_have_happened
        return self._final is not None or searched or is_alone

    def _patience_s(self) -> float:
        """The call's own for its first attempt; later ones are repeats, and no hedges."""
        own_s = self._terms.patience_s
        return own_s if self._attempts == 1 else max(own_s, limits.ATTEMPT_TIMEOUT_S)

    def _start(self, group: asyncio.TaskGroup) -> None:
        if self._running:
            self._terms.on_hedge()
        busy = [attempt.way for attempt in self._running.values()]
        way = min(self._ways, key=lambda w: (busy.count(w), not w.is_open(), w.failed_at_s))
        attempt = _Attempt(way, self._now_s())
        self._running[group.create_task(self._attempt(attempt))] = attempt
        self._attempts += 1

    async def _attempt(self, attempt: _Attempt) -> Result:
        left_s = max(0.001, self._terms.until_s - self._now_s())
        server_ms = max(1, int(1000 * (left_s - min(ANSWER_S, left_s / 10))))
        headers = {**self._request.headers, context.DEADLINE_MS: str(server_ms)}
        request = msgspec.structs.replace(self._request, headers=headers)
        try:
            reply = await attempt.way.ask(request, left_s, attempt.sent)
        except NotDeliveredError as error:
            return Result("refused", reason=str(error))
        except NoAnswerError as error:
            return Result("unknown", reason=str(error))
        except errors.MemsyncError as error:
            return Result("final", error=error)
        return judge(self._request, reply, retries=self._terms.retries)

    async def _wait(self, timeout_s: float) -> list[tuple[_Attempt, Result]]:
        """What ended within the time, if anything did."""
        if not self._running:
            await asyncio.sleep(timeout_s)
            return []
        done, _ = await asyncio.wait(
            self._running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        return [(self._running.pop(task), task.result()) for task in done]

    def _note(self, attempt: _Attempt, result: Result) -> float:
        """Learn from the end of an attempt; how many seconds to wait before the next one."""
        self.has_met |= result.reply is not None
        if result.kind == "final":
            self._final = self._final or result
            return 0.0
        self._failures += 1
        self._reason = result.reason or self._reason
        self._may_have_happened |= result.kind == "unknown"
        if result.reply is None:
            attempt.way.failed_at_s = self._now_s()
            self._is_nobody_there = result.kind == "refused" and not self.has_met
        elif result.error is None:
            self._without_search = result.reply
        self._refusal = result.error or self._refusal
        asked_s = result.error.retry_after_s if result.error is not None else None
        return patience.backoff_s(self._failures, asked_s)

    def _overtaken(self, attempt: _Attempt) -> None:
        """Learn from an attempt that was silent to the end."""
        self._may_have_happened |= attempt.is_sent
        if self._now_s() - attempt.started_s >= limits.ATTEMPT_TIMEOUT_S:
            attempt.way.failed_at_s = self._now_s()

    def _settled(self) -> Reply:
        if self._final is not None:
            return self._checked(self._final)
        if self._without_search is not None:
            return self._without_search
        if self._may_have_happened and not self._request.is_read:
            raise self._unknown(self._reason)
        if self._refusal is not None and self._refusal.definite:
            raise self._refusal
        raise errors.NoCluster(self._reason)

    def _checked(self, result: Result) -> Reply:
        """The answer if it is a success; raises the error in it, as far as that is the outcome."""
        error = result.error
        if result.reply is not None and error is None:
            key = self._request.headers.get(context.IDEMPOTENCY_KEY)
            return msgspec.structs.replace(
                result.reply, is_repeat=self._may_have_happened, idempotency_key=key
            )
        assert error is not None
        is_same_for_all = isinstance(error, errors.InvalidRequest | errors.ValidationFailed)
        if self._may_have_happened and not self._request.is_read and not is_same_for_all:
            raise self._unknown(
                f"{error.code}: {error}; but an earlier attempt was lost"
            ) from error
        raise error

    def _unknown(self, reason: str) -> errors.OutcomeUnknown:
        return errors.OutcomeUnknown(f"{reason}; it may have happened")

    def _name_key(self, error: errors.OutcomeUnknown) -> None:
        """Say with which key the call can be repeated, whoever raised it."""
        if key := self._request.headers.get(context.IDEMPOTENCY_KEY):
            known = error.details if isinstance(error.details, dict) else {}
            error.details = {**known, "idempotency_key": key}


def judge(request: Request, reply: Reply, *, retries: bool) -> Result:
    """Whether this answer is the outcome, or another attempt might end better."""
    if reply.status < 300:
        is_blind = SEARCH in reply.headers.get(context.DEGRADED.lower(), "").split(",")
        return Result("refused" if retries and is_blind else "final", reply)
    error, is_ours = problem_of(reply)
    if not is_ours and reply.status in GATEWAY_PROBLEMS:
        return Result("unknown", reply, error, str(error))
    if not is_ours and reply.status >= 500 and not request.is_read:
        return Result("final", error=errors.OutcomeUnknown(f"{error}; it may have happened"))
    is_helpless = type(error) is errors.Internal and not request.is_read
    if is_helpless or not retries or not (error.retryable or reply.status == 500) or not is_ours:
        return Result("final", reply, error)
    return Result("refused" if error.definite else "unknown", reply, error, str(error))
