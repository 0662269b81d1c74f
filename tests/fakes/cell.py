"""A cell of real engines on the in-memory bus and stores, for tests of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from memsync import ids
from memsync.core import membership
from memsync.core.records import Record
from memsync.engine.engine import Engine, Identity, Intervals, Ports
from memsync.engine.peer import Connection
from memsync.ids import OperationKey, Position, RecordKey, Scope
from memsync.ports import Change, LoggedFrame
from memsync.wire import codec
from memsync.wire.operations import (
    SCHEMA,
    Content,
    Create,
    Frame,
    MemoryOrigin,
    Operation,
    Update,
    Write,
)
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.clock import LoopClock
from tests.fakes.recollection import MemoryRecollection
from tests.fakes.store import MemoryStore

SCOPE = Scope(1, "", "development", "ada")
SELDOM = Intervals(mark_every_s=1e9)  # tests look at what lies in the streams: no marks


class CellPeer:
    """One peer of the cell: its parts, to be looked at and to be harmed."""

    def __init__(
        self,
        bus: MemoryBus,
        name: str,
        names: Sequence[str],
        *,
        identity: str = "cell",
        store: MemoryStore | None = None,
        positions: Mapping[tuple[int, int], int] | None = None,
        intervals: Intervals = SELDOM,
        founding: Sequence[Operation] = (),
    ) -> None:
        self.name = name
        self.founding = list(founding) or [membership.founding(names)]
        self.bus = bus.peer(name)
        self.bus.identity = identity
        self.closed_for_good = asyncio.Event()
        self.connections = 0
        self.clock = LoopClock()
        number = names.index(name) + 1 if name in names else 99
        self.store = store or MemoryStore(incarnation=number)
        self.recollection = MemoryRecollection()
        self.batches: list[Sequence[Change]] = []
        self.engine = Engine(
            Identity(name=name, cell=identity, label="cell", founders=tuple(names)),
            Ports(
                clock=self.clock,
                store=self.store,
                log=self.bus,
                streams=self.bus,
                marks=self.bus.marks(),
                recollection=self.recollection,
                peers=self.bus.peers(),
                servers=self.bus,
            ),
            Connection(
                connect=self._connect,
                watch=self._watch,
                lease=self.bus.lease,
                leased=self.bus.leased,
                keep={},
            ),
            positions=positions or {},
            derived=[self.batches.append],
            is_sync_required=True,
            intervals=intervals,
        )
        self.progress = self.engine.progress
        self.applier = self.engine.applier
        self.members = self.engine.members
        self.durability = self.engine.durability
        self.appender = self.engine.appender
        self.tails = self.engine.tails
        self.recovery = self.engine.recovery
        self.health = self.engine.health
        self.peer = self.engine.peer

    async def run(self) -> None:
        """Join the founding, and live until cancelled or dismissed."""
        write = msgspec.structs.replace(
            write_of(self, "~genesis", *self.founding),
            stamp=membership.FOUNDING_STAMP,
        )
        logged = LoggedFrame(Position(0, 0, 0), Frame(SCHEMA, 0, 0, [write]), 0)
        await self.store.apply([logged], {})
        await self.engine.load()
        living = asyncio.create_task(self.peer.run())
        dismissed = asyncio.create_task(self.engine.standing.wait_dismissed())
        try:
            await asyncio.wait([living, dismissed], return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                living.result()
        finally:
            living.cancel()
            dismissed.cancel()
            await asyncio.wait([living, dismissed])

    async def _connect(self) -> None:
        await asyncio.sleep(0)

    async def _watch(self) -> None:
        self.connections += 1
        await self.closed_for_good.wait()
        self.closed_for_good.clear()

    def is_ready(self) -> bool:
        """All checks ok."""
        return not any(said.startswith("failed") for said in self.health.checks().values())

    async def record(self, key: RecordKey) -> Record | None:
        """A record in this peer's store."""
        return await self.store.record(key)


class Cell:
    """Peers on one bus. `start` and `stop` run and end a peer's loops."""

    def __init__(
        self,
        bus: MemoryBus,
        names: Sequence[str],
        tasks: asyncio.TaskGroup,
        intervals: Intervals = SELDOM,
        founding: Sequence[Operation] = (),
    ) -> None:
        self.bus = bus
        self.names = names
        self.founding = founding
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[None]] = {}
        self.peers = {
            name: CellPeer(bus, name, names, intervals=intervals, founding=founding)
            for name in names
        }

    def __getitem__(self, number: int) -> CellPeer:
        return self.peers[self.names[number]]

    def start(self, name: str) -> None:
        """Run a peer's loops."""
        self._running[name] = self._tasks.create_task(self.peers[name].run())

    def add(self, name: str) -> CellPeer:
        """Start a peer on a new machine: not among the founders, with an empty store."""
        self.peers[name] = CellPeer(self.bus, name, self.names, founding=self.founding)
        self.start(name)
        return self.peers[name]

    async def again(self, name: str) -> CellPeer:
        """Start a peer that was stopped, with the store that it had."""
        return await self.restart(name, self.peers[name].store)

    async def stop(self, name: str) -> None:
        """End a peer's loops; it is deaf and dumb from then on."""
        task = self._running.pop(name)
        task.cancel()
        await asyncio.wait([task])
        self.bus.mark_listeners[:] = [e for e in self.bus.mark_listeners if e[0] != name]
        for listeners in self.bus.listeners.values():
            listeners[:] = [entry for entry in listeners if entry[0] != name]

    async def restart(self, name: str, store: MemoryStore) -> CellPeer:
        """Another process of a peer, over this store."""
        if name in self._running:
            await self.stop(name)
        positions = await store.positions()
        self.peers[name] = CellPeer(
            self.bus,
            name,
            self.names,
            store=store,
            positions=positions,
            founding=self.founding,
        )
        self.start(name)
        return self.peers[name]

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
    bus: MemoryBus,
    *,
    peers: int = 3,
    start: bool = True,
    intervals: Intervals = SELDOM,
    founding: Sequence[Operation] = (),
) -> AsyncIterator[Cell]:
    """A cell whose peers run until the end of the block."""
    async with asyncio.TaskGroup() as tasks:
        cell = Cell(bus, [f"peer-{n + 1}" for n in range(peers)], tasks, intervals, founding)
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
