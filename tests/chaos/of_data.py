"""Faults of what is kept: disks, the peers' SQLite files, the streams of the bus."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext

from memsync.local import secrets
from memsync.wire import subjects
from memsync.wire.subjects import CellName
from tests.chaos import disks, stores
from tests.chaos.fault import Fault
from tests.chaos.network import CannotError
from tests.chaos.of_processes import kill_for_good
from tests.chaos.slowness import SLOW_S_MIN, SlowDisk


class DiskFull(Fault):
    """No room in the peer's data folder."""

    async def make(self) -> None:
        disks.fill(self.cluster.home.data(self.targets[0]))

    async def look(self) -> None:
        if disks.is_full(self.cluster.home.data(self.targets[0])):
            self.seen = "no room"

    async def take_back(self) -> None:
        disks.make_room(self.cluster.home.data(self.targets[0]))


class DiskSlow(Fault):
    """The process's writes wait for each other."""

    async def make(self) -> None:
        name = self.targets[0]
        self._slow = SlowDisk(self.cluster.pid(name), self.cluster.home.data(name))
        self._slow.start()

    async def look(self) -> None:
        took_s = await asyncio.to_thread(
            self._slow.takes_s, self.cluster.home.data(self.targets[0])
        )
        if took_s > SLOW_S_MIN:
            self.seen = f"{1000 * took_s:.0f} ms for a write and its sync"

    async def take_back(self) -> None:
        self._slow.end()


class StoreFault(Fault):
    """The peer is killed, its file is damaged, the peer is started again."""

    lasts = False

    @property
    def store(self) -> Path:
        """The file."""
        return self.cluster.store(self.targets[0])

    async def make(self) -> None:
        await kill_for_good(self.cluster, self.targets[0])
        self.seen = await asyncio.to_thread(self.damage)
        self.cluster.release_keeper(self.targets[0])

    def damage(self) -> str:
        """Do it; nobody has the file open. Returns what shows that something was done."""
        raise NotImplementedError


class StoreZeros(StoreFault):
    """Zeros over some pages."""

    def damage(self) -> str:
        pages = stores.zero(self.store, self.context.chance)
        self.note = f"pages {', '.join(map(str, pages))}"
        return self.note if pages else ""


class StoreDeleted(StoreFault):
    """The file is gone."""

    def damage(self) -> str:
        size_bytes = self.store.stat().st_size if self.store.exists() else 0
        stores.delete(self.store)
        return f"{size_bytes} bytes" if size_bytes and not self.store.exists() else ""


class StoreRolledBack(StoreFault):
    """The file is as it was when the fault began; meanwhile the load went on."""

    lasts = True

    async def make(self) -> None:
        self._old = self.context.folder / f"{self.targets[0]}.old"
        self._old.unlink(missing_ok=True)
        await asyncio.to_thread(stores.copy, self.store, self._old)

    async def take_back(self) -> None:
        await super().make()

    def damage(self) -> str:
        lost = stores.applied(self.store) - stores.applied(self._old)
        stores.put_back(self.store, self._old)
        return f"without the last {lost} frames" if lost > 0 else ""


class RowAltered(Fault):
    """One row says something else than its peers' and its hash."""

    lasts = False
    _key: bytes | None = None

    async def make(self) -> None:
        path = self.cluster.store(self.targets[0])
        self._key = await asyncio.to_thread(stores.alter_row, path, self.context.chance)
        if self._key is None:
            raise CannotError("there is no memory to alter yet")
        self.seen = f"row {self._key.hex()}"

    def is_healed(self) -> bool:
        assert self._key is not None
        return stores.is_row_whole(self.cluster.store(self.targets[0]), self._key)


class StreamDeleted(Fault):
    """The newest generation of a stripe; the target is `stripe-N`."""

    lasts = False

    async def make(self) -> None:
        stripe = int(self.targets[0].rpartition("-")[2])
        cell = CellName(secrets.REGION, secrets.CELL)
        jetstream = self.context.bus.jetstream()
        try:
            names = [info.config.name or "" for info in await jetstream.streams_info()]
            generations = [cell.generation_of(stripe, name) for name in names]
            newest = max(found for found in generations if found is not None)
            self.note = cell.stream(stripe, newest)
            await jetstream.delete_stream(self.note)
            self.seen = await _gone(jetstream, self.note)
        except (nats.errors.Error, nats.js.errors.Error, ValueError) as error:
            raise CannotError(f"stripe {stripe}: {type(error).__name__} {error}") from error


class IdsDeleted(Fault):
    """The stream that ids are leased from."""

    lasts = False

    async def make(self) -> None:
        jetstream = self.context.bus.jetstream()
        try:
            before = (await jetstream.stream_info(subjects.IDS_STREAM)).created
            await jetstream.delete_stream(subjects.IDS_STREAM)
            self.seen = await _gone(jetstream, subjects.IDS_STREAM, before)
        except (nats.errors.Error, nats.js.errors.Error) as error:
            raise CannotError(f"{type(error).__name__} {error}") from error


async def _gone(jetstream: JetStreamContext, name: str, created: datetime | None = None) -> str:
    """What shows that the stream is gone, or has been made again since; "" where it is not."""
    try:
        found = await jetstream.stream_info(name)
    except nats.js.errors.NotFoundError:
        return f"{name} is gone"
    is_new = created is not None and found.created is not None and found.created > created
    return f"{name} is another one" if is_new else ""
