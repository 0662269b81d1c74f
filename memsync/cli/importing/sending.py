"""Sends bulks: a few at once, each repeated while that can help, until the end or the first stop.

A bulk's `Idempotency-Key` is made of its items, so repeating it is safe whatever became of the
first try. A bulk that was answered before (`Idempotency-Replayed`) although this run has
not sent it counts as skipped: an earlier run has created it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b

import msgspec

from memsync import errors
from memsync.cli.exits import FAILURES, Failure
from memsync.cli.importing.lines import (
    BadLine,
    Bulk,
    Collector,
    Line,
    References,
    Splitter,
    read_item,
)
from memsync.cli.session import Session
from memsync.client import Client
from memsync.client.answers import Reply
from memsync.wire import context, replies

IN_FLIGHT_MAX = 4
PROBLEMS_KEPT = 100
RETRY_FOR_S = 60.0
BACKOFF_S = 0.25
BACKOFF_MAX_S = 5.0


class Problem(msgspec.Struct, frozen=True):
    """A line that was not stored, and why."""

    line: int
    reason: str


class Tally(msgspec.Struct):
    """What became of the lines so far."""

    created: int = 0
    skipped: int = 0
    rejected: int = 0
    bad: int = 0
    retries: int = 0
    done_bytes: int = 0
    problems: list[Problem] = msgspec.field(default_factory=list)

    @property
    def lines(self) -> int:
        """Lines whose fate is known, blank ones not counted."""
        return self.created + self.skipped + self.rejected + self.bad

    def note(self, line: int, reason: str) -> None:
        """Keep what was wrong with a line, within a limit."""
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(Problem(line, reason))


class Importer:
    """One import. `run` returns when all is sent, or what is in flight after a stop has ended."""

    def __init__(
        self,
        session: Session,
        memory: Client,
        *,
        stops_at_bad_line: bool,
        changed: Callable[[Tally], None],
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self.tally = Tally()
        self.failure: Failure | None = None
        self.bad_line: BadLine | None = None
        self.is_interrupted = False
        self._session = session
        self._memory = memory
        self._stops_at_bad_line = stops_at_bad_line
        self._changed = changed
        self._retry_for_s = retry_for_s
        self._stopping = asyncio.Event()
        self._has_answered = False

    def interrupt(self) -> None:
        """Begin nothing more; what is in flight may end, but is not tried again."""
        self.is_interrupted = True
        self._stopping.set()

    async def run(self, chunks: AsyncIterator[bytes]) -> None:
        """Import all lines; afterwards the fields of this object say how it went."""
        slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(chunks, slots, group))
            stopping = group.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()
            stopping.cancel()

    async def _read(
        self, chunks: AsyncIterator[bytes], slots: asyncio.Semaphore, group: asyncio.TaskGroup
    ) -> None:
        async for bulk in self._bulks(chunks):
            await slots.acquire()
            group.create_task(self._send(bulk, slots))

    async def _bulks(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Bulk]:
        """The bulks of the file, up to its end or to a line that stops the import."""
        splitter, references, collector = Splitter(), References(), Collector()
        async for chunk in chunks:
            for line in splitter.feed(chunk):
                if (bulk := self._take(line, references, collector)) is not None:
                    yield bulk
                if self.bad_line is not None:
                    break
            if self.bad_line is not None:
                break
        else:
            for line in splitter.finish():
                if (bulk := self._take(line, references, collector)) is not None:
                    yield bulk
        if (bulk := collector.take()) is not None:
            yield bulk

    def _take(self, line: Line, references: References, collector: Collector) -> Bulk | None:
        """Put a line into the bulk that is being filled; returns the one that is full."""
        found = read_item(line, references)
        if isinstance(found, BadLine):
            self.tally.bad += 1
            self.tally.note(found.number, found.reason)
            if self._stops_at_bad_line:
                self.bad_line = found
        if found is None or isinstance(found, BadLine):
            collector.pass_over(line.size_bytes)
            return None
        return collector.add(found)

    async def _send(self, bulk: Bulk, slots: asyncio.Semaphore) -> None:
        try:
            await self._send_until_settled(bulk)
        except FAILURES as failure:
            self.failure = self.failure or failure
            self._stopping.set()
        finally:
            slots.release()

    async def _send_until_settled(self, bulk: Bulk) -> None:
        """Send a bulk and again while that can help; raises the last failure where it cannot."""
        body = self._session.body(
            "memory.bulk_add",
            {"items": [msgspec.Raw(item) for item in bulk.bodies], "deduplicate": False},
        )
        give_up_s = time.monotonic() + self._retry_for_s
        attempt = 0
        while True:
            try:
                reply = await self._memory.call(
                    "memory.bulk_add", body, idempotency_key=bulk_key(bulk)
                )
                break
            except FAILURES as failure:
                wait_s = _backoff_s(failure, attempt)
                if not self._may_help(failure) or time.monotonic() + wait_s > give_up_s:
                    raise
            attempt += 1
            self.tally.retries += 1
            await self._pause(wait_s)
        self._has_answered = True
        self._count(bulk, reply, is_repeat=attempt > 0 or reply.is_repeat)

    def _may_help(self, failure: Failure) -> bool:
        """Whether to try again: not for a refusal, nor where no cluster was there to begin with."""
        if self._stopping.is_set():
            return False
        if isinstance(failure, errors.NoCluster):
            return self._has_answered
        return isinstance(failure, errors.MemsyncError) and failure.retryable

    async def _pause(self, wait_s: float) -> None:
        """Wait, but not longer than until the import is stopped."""
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            pass  # the time to wait is over

    def _count(self, bulk: Bulk, reply: Reply, *, is_repeat: bool) -> None:
        answer = reply.read(dict[str, msgspec.Raw])
        if "results" not in answer:
            raise errors.RateLimited("nothing was stored: the plan's quota is used up")
        added = reply.read(replies.BulkAdded)
        replayed = _is_replayed(reply.headers) and not is_repeat
        self.tally.created += 0 if replayed else added.created
        self.tally.skipped += added.skipped + (added.created if replayed else 0)
        self.tally.rejected += added.rejected
        self.tally.done_bytes += bulk.size_bytes
        for result in added.results:
            if result.status == "rejected":
                self.tally.note(bulk.numbers[result.index], result.reason or "rejected")
        self._changed(self.tally)


def bulk_key(bulk: Bulk) -> str:
    """The idempotency key of a bulk: the same items, the same key."""
    return "import-" + blake2b(b"\n".join(bulk.bodies), digest_size=16).hexdigest()


def _backoff_s(failure: Failure, attempt: int) -> float:
    """How long to wait: what the server asked for, else longer each time, with chance in it."""
    asked: float | None = getattr(failure, "retry_after_s", None)
    doubled = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(attempt, 8))
    wait_s: float = doubled * random.uniform(0.5, 1.0)
    return max(asked or 0.0, wait_s)


def _is_replayed(headers: Mapping[str, str]) -> bool:
    return headers.get(context.IDEMPOTENCY_REPLAYED.lower()) == "true"
