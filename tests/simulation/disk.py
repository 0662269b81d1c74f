"""A peer's store on a disk that takes its time, fails, and may lose what was not synced.

The joins are those of `MemoryStore`. A commit is atomic and lasts over the end of the process. What
a power cut takes is any number of the last commits that were not synced.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from memsync.core.records import Record
from memsync.errors import Unavailable
from memsync.ids import Position, ScopeKey
from memsync.ports import Change, LoggedFrame, Scrubbed
from tests.fakes.store import MemoryStore

COMMIT_S_MAX = 0.002
READ_S_MAX = 0.0006
UNSYNCED_MAX = 12  # commits; the system writes by itself what is older
_READS = (
    "record", "records", "records_by_id", "duplicates", "matching", "operation",
    "rows_after", "rows", "operations_after", "hashes",
)  # fmt: skip


class Disk:
    """What of a store lasts: the newest state, and those that a power cut may go back to."""

    def __init__(self, chance: random.Random, incarnation: int) -> None:
        self.chance = chance
        self.states = [MemoryStore(incarnation)]
        self.failing_until_s = 0.0
        self.slow_s = 0.0  # how much longer a commit takes
        self.met = 0  # commits that were slow, or failed

    def open(self) -> SimulatedStore:
        """The store as a new process finds it."""
        return SimulatedStore(self)

    def cut_power(self) -> int:
        """Lose some of what was not synced; how many commits."""
        lost = self.chance.randrange(len(self.states))
        del self.states[len(self.states) - lost :]
        return lost

    def lose(self, incarnation: int) -> None:
        """The file is gone."""
        self.states = [MemoryStore(incarnation)]


class SimulatedStore(MemoryStore):
    """`ports.Store`, opened by one process."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.restore(disk.states[-1])
        self.disk: Disk | None = disk

    def close(self) -> None:
        """The process is gone: whatever it still does stays without effect on the disk."""
        self.disk = None

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Commit after a moment, and be done after another."""
        await self._write()
        changes = await super().apply(frames, ends)
        self._committed()
        await asyncio.sleep(0)
        return changes

    async def join(self, *arguments: Any, **more: Any) -> list[Change]:
        """As `apply`."""
        await self._write()
        changes = await super().join(*arguments, **more)
        self._committed()
        await asyncio.sleep(0)
        return changes

    async def set_aside(self, *arguments: Any) -> None:
        """As `apply`."""
        await self._write()
        await super().set_aside(*arguments)
        self._committed()

    async def sync(self) -> dict[tuple[int, int], int]:
        """From now on no power cut takes what was committed before the call."""
        await self._write()
        if self.disk is not None:
            del self.disk.states[:-1]
        return await super().sync()

    async def memories(self, scope: ScopeKey) -> AsyncIterator[list[Record]]:
        """Each page comes a moment after it was read."""
        async for page in super().memories(scope):
            if self.disk is None:
                raise Unavailable("store: this process has ended")
            await asyncio.sleep(READ_S_MAX * self.disk.chance.random())
            yield page

    async def scrub(self, *, rows_max: int) -> AsyncIterator[Scrubbed]:
        """As `memories`."""
        async for part in super().scrub(rows_max=rows_max):
            if self.disk is None:
                raise Unavailable("store: this process has ended")
            await asyncio.sleep(READ_S_MAX * self.disk.chance.random())
            yield part

    async def _write(self) -> None:
        disk = self.disk
        if disk is None:
            raise Unavailable("store: this process has ended")
        await asyncio.sleep((COMMIT_S_MAX + disk.slow_s) * disk.chance.random() ** 2)
        is_failing = asyncio.get_running_loop().time() < disk.failing_until_s
        disk.met += is_failing or disk.slow_s > 0
        if is_failing:
            raise Unavailable("store: disk error")

    def _committed(self) -> None:
        self._undo.clear()
        if self.disk is not None:
            self.disk.states.append(MemoryStore.copy(self))
            del self.disk.states[:-UNSYNCED_MAX]


def _reading(name: str) -> Any:
    real = getattr(MemoryStore, name)

    async def read(self: SimulatedStore, *arguments: Any, **more: Any) -> Any:
        """The read happens some time between the call and the answer."""
        if self.disk is None:
            raise Unavailable("store: this process has ended")
        wait_s = READ_S_MAX * self.disk.chance.random()
        is_late = self.disk.chance.random() < 0.5
        if is_late:
            await asyncio.sleep(wait_s)
        found = await real(self, *arguments, **more)
        if not is_late:
            await asyncio.sleep(wait_s)
        return found

    return read


for _name in _READS:
    setattr(SimulatedStore, _name, _reading(_name))
