"""How often and when API keys were used, as every peer's lists show it.

Each peer counts its own requests and publishes the counts now and then as operations: a counter of
its store, which joins by maximum, so a count that is published twice counts once. What a crash
loses is what was not published yet, at most `PUBLISH_EVERY_S` of use.
"""

from __future__ import annotations

import asyncio

from memsync import limits
from memsync.clock import Clock
from memsync.core.records import Record
from memsync.engine.writing.appender import Appender
from memsync.engine.writing.counting import Counted, counts_write
from memsync.errors import MemsyncError
from memsync.ids import RecordKey
from memsync.ports import Store
from memsync.service import metrics
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger

USES, LAST_USED = "uses", "last_used_ms"
PUBLISH_EVERY_S = 10.0


class KeyUses:
    """Counts the uses of keys, and publishes those that changed."""

    def __init__(self, store: Store, appender: Appender, clock: Clock) -> None:
        self._store = store
        self._appender = appender
        self._clock = clock
        self._uses: dict[RecordKey, Counted] = {}
        self._changed: dict[RecordKey, None] = {}
        self._publishing = asyncio.Lock()

    def note(self, record: Record, now_ms: int) -> None:
        """One request with this key."""
        use = self._uses.get(record.key)
        if use is None:  # go on from what this store has counted before
            before = record.counters.get(USES, {}).get(str(self._store.incarnation), 0)
            use = self._uses[record.key] = Counted(record.scope, before, now_ms)
        use.count += 1
        use.last_ms = max(use.last_ms, now_ms)
        self._changed[record.key] = None

    async def run(self) -> None:
        """Publish every `PUBLISH_EVERY_S` seconds, until it is cancelled."""
        while is_going_on():
            await pause(PUBLISH_EVERY_S)
            await self.publish()

    async def publish(self) -> None:
        """Publish what changed since the last time; what cannot be published waits for the next.

        One at a time: at a shutdown the one that is under way is waited for. What is used while it
        goes on is the next one's, so it ends however many requests there are.
        """
        async with self._publishing:
            due, self._changed = list(self._changed), {}
            try:
                while due:
                    await self._write(due[: limits.FRAME_OPERATIONS_MAX])
                    del due[: limits.FRAME_OPERATIONS_MAX]
            except MemsyncError as error:
                metrics.KEY_USES_UNPUBLISHED.inc()
                logger().warning("key_uses.not_published", **describe(error))
            finally:
                self._changed |= dict.fromkeys(due)

    async def _write(self, keys: list[RecordKey]) -> None:
        await self._appender.write(
            counts_write(
                [(key, self._uses[key]) for key in keys],
                kind="api_key",
                names=(USES, LAST_USED),
                incarnation=self._store.incarnation,
                stamp=self._appender.stamp(),
                reason="uses of API keys",
            ),
            ack="log",
            deadline_s=self._clock.steady_s() + limits.DEADLINE_S_DEFAULT,
        )
