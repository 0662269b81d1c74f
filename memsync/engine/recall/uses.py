"""How often and when memories were recalled, as every peer comes to know it.

Each peer counts what its own recalls answer with, in memory, and now and then publishes the counts
as operations: a counter of its store, which joins by maximum, so a count that is published twice
counts once. No recall writes to the log. What a crash loses is what was not published yet. A count
is no change that a caller sees: `version` and `updated_at` stay as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from memsync import limits
from memsync.clock import Clock
from memsync.core.records import Record
from memsync.core.usage import LAST_ACCESS, USES
from memsync.engine.recall import metrics
from memsync.engine.writing.appender import Appender
from memsync.engine.writing.counting import Counted, counts_write
from memsync.errors import MemsyncError
from memsync.ids import RecordKey
from memsync.ports import Store
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger


class _Use(Counted):
    is_published: bool = False


class Uses:
    """Counts recalls of memories, and publishes the counts that changed."""

    def __init__(self, store: Store, appender: Appender, clock: Clock) -> None:
        self._store = store
        self._appender = appender
        self._clock = clock
        self._uses: dict[RecordKey, _Use] = {}
        self._publishing = asyncio.Lock()

    def note(self, records: Iterable[Record], now_ms: int) -> None:
        """These were in an answer. While very many others wait to be published, it is not
        counted."""
        for record in records:
            use = self._uses.get(record.key)
            if use is None:
                if len(self._uses) >= limits.USES_KEPT_MAX:
                    metrics.USES_DROPPED.inc()
                    continue
                # Go on from what this store has counted before.
                before = record.counters.get(USES, {}).get(str(self._store.incarnation), 0)
                use = self._uses[record.key] = _Use(record.scope, before, now_ms)
            use.count += 1
            use.last_ms = max(use.last_ms, now_ms)
            use.is_published = False

    def note_again(self, keys: Iterable[RecordKey], now_ms: int) -> None:
        """These were in an answer that is given a second time, soon after it was made: `note` knows
        them, but for what it left out."""
        for key in keys:
            if (use := self._uses.get(key)) is not None:
                use.count += 1
                use.last_ms = max(use.last_ms, now_ms)
                use.is_published = False

    async def run(self) -> None:
        """Publish every `USES_EVERY_S` seconds, until it is cancelled."""
        while is_going_on():
            await pause(limits.USES_EVERY_S)
            await self.publish()

    async def publish(self) -> None:
        """Publish what changed, the longest waiting first, at most `USES_PUBLISHED_MAX`; what
        cannot be published waits for the next time.

        A count is forgotten one time later, if nothing came to it: by then every recall reads it
        from the store, and goes on from there.
        """
        async with self._publishing:
            for key in [key for key, use in self._uses.items() if use.is_published]:
                del self._uses[key]
            due = list(self._uses)[: limits.USES_PUBLISHED_MAX]
            try:
                for first in range(0, len(due), limits.FRAME_OPERATIONS_MAX):
                    await self._write(due[first : first + limits.FRAME_OPERATIONS_MAX])
            except MemsyncError as error:
                metrics.USES_UNPUBLISHED.inc()
                logger().warning("uses.not_published", **describe(error))
            metrics.USES_WAITING.set(len(self._uses))

    async def _write(self, keys: list[RecordKey]) -> None:
        sent = {key: self._uses[key].count for key in keys}
        await self._appender.write(
            counts_write(
                [(key, self._uses[key]) for key in keys],
                kind="memory",
                names=(USES, LAST_ACCESS),
                incarnation=self._store.incarnation,
                stamp=self._appender.stamp(),
                reason="uses of memories",
            ),
            ack="quorum",
            deadline_s=self._clock.steady_s() + limits.DEADLINE_S_DEFAULT,
        )
        for key, count in sent.items():
            use = self._uses[key] = self._uses.pop(key)  # behind those that still wait
            use.is_published = use.count == count
