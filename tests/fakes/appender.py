"""`engine.appender.Appender` without a log: writes are joined into the store at once, or refused.

Stamps, positions, conditions and errors are as the real one's. `writes` has what was given, in
order, and `arrival` waits for the next; `fault` is raised instead of writing; `gate`, when it is
cleared, holds writes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from memsync.clock import Clock
from memsync.core.records import version_of
from memsync.core.stamps import next_stamp
from memsync.engine.directory import Directory
from memsync.engine.progress import Progress
from memsync.engine.writing.appender import Condition, Written
from memsync.errors import VersionConflict
from memsync.ids import Position
from memsync.ports import LoggedFrame, Store
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, Stamp, Write
from memsync.wire.requests import Ack


class JoiningAppender:
    """Coordinates writes for one store."""

    def __init__(
        self,
        store: Store,
        directory: Directory,
        progress: Progress,
        clock: Clock,
        *,
        incarnation: int = 9,
    ) -> None:
        self._incarnation = incarnation
        self._store = store
        self._directory = directory
        self._progress = progress
        self._clock = clock
        self._last = Stamp(0, 0)
        self._sequence = 0
        self.writes: list[Write] = []
        self.acks: list[Ack] = []
        self.settled: list[Ack] = []
        self.fault: Exception | None = None
        self.is_unfit_by: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self._arrivals: asyncio.Queue[Write] = asyncio.Queue()

    async def arrival(self) -> Write:
        """The next write that was handed over and not waited for yet."""
        return await self._arrivals.get()

    def unfit(self) -> str | None:
        """What `is_unfit_by` says."""
        return self.is_unfit_by

    def why_not(self) -> str | None:
        """Nothing is known before a write is tried."""
        return None

    def stamp(self, above: Iterable[Stamp] = ()) -> Stamp:
        """A stamp above the clock, above all given before, and above `above`."""
        wall_ms = self._clock.wall_ms()
        self._last = next_stamp(
            self._last, wall_ms=wall_ms, incarnation=self._incarnation, above=above
        )
        return self._last

    async def wait_settled(self, *, ack: Ack, deadline_s: float) -> None:
        """One store has what it has; a fault is raised here as by `write`."""
        self.settled.append(ack)
        if self.fault is not None:
            raise self.fault

    async def write(
        self, write: Write, *, ack: Ack, deadline_s: float, condition: Condition | None = None
    ) -> Written:
        """Join a write; it goes through the bytes of the log first."""
        self.writes.append(write)
        self.acks.append(ack)
        self._arrivals.put_nowait(write)
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if condition is not None:
            await self._check(condition)
        self._sequence += 1
        position = Position(0, 0, self._sequence)
        frame = codec.decode_frame(
            codec.pack(Frame(SCHEMA, self._incarnation, self._sequence, [write]))
        )
        changes = await self._store.apply([LoggedFrame(position, frame, 0)], {0: position})
        self._directory.apply(changes)
        self._progress.advance([position])
        return Written(position, {change.after.key: change.after for change in changes})

    async def _check(self, condition: Condition) -> None:
        record = await self._store.record(condition.record)
        assert record is not None
        current = version_of(record)
        if current != condition.version:
            raise VersionConflict(f"the version is {current}", details={"current_version": current})
