"""A cell of real engines on the in-memory bus and stores, for tests of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from memsync import ids, limits
from memsync.clock import SystemClock
from memsync.core.records import Record
from memsync.engine.appender import Appender
from memsync.engine.applier import Applier
from memsync.engine.durability import Durability
from memsync.engine.health import Health
from memsync.engine.members import Members
from memsync.engine.peer import Peer
from memsync.engine.progress import Progress
from memsync.engine.tail import Tail
from memsync.ids import OperationKey, RecordKey, Scope
from memsync.ports import Change
from memsync.wire import codec
from memsync.wire.members import Watermark
from memsync.wire.operations import Content, Create, MemoryOrigin, Operation, Update, Write
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.store import MemoryStore

SCOPE = Scope(1, "", "development", "ada")


class CellPeer:
    """One peer of the cell: its parts, to be looked at and to be harmed."""

    def __init__(
        self, bus: MemoryBus, name: str, names: Sequence[str], *, identity: str = "cell"
    ) -> None:
        self.name = name
        self.bus = bus.peer(name)
        self.closed_for_good = asyncio.Event()
        self.connections = 0
        self.clock = SystemClock()
        self.store = MemoryStore(incarnation=names.index(name) + 1 if name in names else 99)
        self.progress = Progress(self.clock)
        self.batches: list[Sequence[Change]] = []
        self.applier = Applier(self.store, self.progress, [self.batches.append])
        self.identity = identity
        self.members = Members(
            name,
            names,
            identity,
            marks=self.bus.marks(),
            progress=self.progress,
            clock=self.clock,
            own=self.watermark,
        )
        self.durability = Durability(self.bus, is_required=True)
        self.appender = Appender(
            self.bus,
            self.store,
            self.applier,
            self.members,
            self.progress,
            self.durability,
            self.clock,
        )
        self.tails = {
            k: Tail(k, self.bus, self.bus, self.applier, self.progress)
            for k in range(limits.STRIPES)
        }
        self.health = Health(
            log=self.bus,
            applier=self.applier,
            appender=self.appender,
            members=self.members,
            progress=self.progress,
            durability=self.durability,
        )
        self.peer = Peer(
            connect=self._connect,
            watch=self._watch,
            lease=self.bus.lease,
            keep={},
            streams=self.bus,
            members=self.members,
            applier=self.applier,
            appender=self.appender,
            tails=self.tails,
            durability=self.durability,
        )

    async def _connect(self) -> None:
        await asyncio.sleep(0)

    async def _watch(self) -> None:
        self.connections += 1
        await self.closed_for_good.wait()
        self.closed_for_good.clear()

    def watermark(self) -> Watermark:
        """This peer's watermark, as memsync/nodes/peer.py makes it."""
        return Watermark(
            member=self.name,
            cell=self.identity,
            store_incarnation=self.store.incarnation,
            incarnation=self.appender.incarnation,
            positions=self.progress.applied(),
            leases=[],
            highest_block=self.appender.incarnation,
            wall_ms=self.clock.wall_ms(),
        )

    def is_ready(self) -> bool:
        """All checks ok."""
        return all(said == "ok" for said in self.health.checks().values())

    async def record(self, key: RecordKey) -> Record | None:
        """A record in this peer's store."""
        return await self.store.record(key)


class Cell:
    """Peers on one bus. `start` and `stop` run and end a peer's loops."""

    def __init__(self, bus: MemoryBus, names: Sequence[str], tasks: asyncio.TaskGroup) -> None:
        self.bus = bus
        self.names = names
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}
        self.peers = {name: CellPeer(bus, name, names) for name in names}

    def __getitem__(self, number: int) -> CellPeer:
        return self.peers[self.names[number]]

    def start(self, name: str) -> None:
        """Run a peer's loops."""
        self._running[name] = self._tasks.create_task(self.peers[name].peer.run())

    async def stop(self, name: str) -> None:
        """End a peer's loops; it is deaf and dumb from then on."""
        task = self._running.pop(name)
        task.cancel()
        await asyncio.wait([task])
        self.bus.mark_listeners[:] = [e for e in self.bus.mark_listeners if e[0] != name]
        for listeners in self.bus.listeners.values():
            listeners[:] = [entry for entry in listeners if entry[0] != name]

    async def wait_ready(self) -> None:
        """Wait until every running peer is ready."""

        async def all_ready() -> bool:
            return all(self.peers[name].is_ready() for name in self._running)

        await eventually(all_ready, "all peers ready")

    def stop_all(self) -> None:
        """Cancel what still runs."""
        for task in self._running.values():
            task.cancel()


@asynccontextmanager
async def running_cell(
    bus: MemoryBus, *, peers: int = 3, start: bool = True
) -> AsyncIterator[Cell]:
    """A cell whose peers run until the end of the block."""
    async with asyncio.TaskGroup() as tasks:
        cell = Cell(bus, [f"peer-{n + 1}" for n in range(peers)], tasks)
        if start:
            for name in cell.names:
                cell.start(name)
            await cell.wait_ready()
        yield cell
        cell.stop_all()


def create(number: int, *, identifier: int | None = None) -> Create:
    """The creation of memory `number`; equal numbers are one record."""
    key = ids.record_key_of_ref("memory", SCOPE, f"m-{number}")
    origin = MemoryOrigin(
        operation_key=OperationKey(f"op-{number}"),
        request_hash=b"h" * 16,
        content=codec.seal(Content(text=f"memory {number}")),
        text_hash=b"t" * 8,
        created_at_ms=1,
        occurred_at_ms=None,
        expires_at_ms=None,
        place=0,
        client_ref=f"m-{number}",
        session_id=None,
        role=None,
        source=None,
        event_type=None,
        tags=[],
        importance=0.5,
        is_summary=False,
    )
    return Create(key, SCOPE, [identifier or 100 + number], origin)


def retag(number: int, tag: str) -> Update:
    """An update of memory `number`."""
    return Update(create(number).record, SCOPE, "memory", {"tags": codec.pack([tag])})


def write_of(peer: CellPeer, key: str, *operations: Operation) -> Write:
    """A write of these operations, stamped by `peer`."""
    return Write(
        key=OperationKey(key),
        request_hash=b"r" * 16,
        kept_s=600,
        scope=SCOPE,
        actor="key:1",
        reason="",
        stamp=peer.appender.stamp(),
        outcome=[],
        operations=list(operations),
    )
