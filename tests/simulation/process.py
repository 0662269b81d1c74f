"""One peer: a machine (clock, disk) and the processes that run on it, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from memsync.adapters.jetstream.id_blocks import RETRY_S, IdBlocks
from memsync.clock import Clock
from memsync.engine.engine import Engine, Identity, Intervals, Ports
from memsync.engine.peer import Connection
from memsync.errors import NoQuorum, Unavailable
from memsync.ids import Position
from memsync.ports import LoggedFrame, Store
from memsync.service.founding import genesis_writes
from memsync.service.parts import parts_of
from memsync.service.service import Service
from memsync.tasks import is_going_on
from memsync.wire import genesis as genesis_file
from memsync.wire.genesis import Genesis
from memsync.wire.operations import SCHEMA, Frame
from tests.fakes.bus import MemoryBus, PeerBus
from tests.fakes.clock import LoopClock
from tests.fakes.loop import OWNER, VirtualLoop
from tests.fakes.recollection import MemoryRecollection
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.recalling import Recalling

INTERVALS = Intervals(mark_every_s=2.0, scrub_pass_s=5.0, scrub_pause_s=0.5)


class BusIds(IdBlocks):
    """Id blocks as the product hands them out, leased from the bus in memory. `name` is the place
    that it is asked from."""

    def __init__(
        self, bus: MemoryBus, port: PeerBus, name: str, highest: Callable[[], Awaitable[int]]
    ) -> None:
        super().__init__(None, 0, highest)  # type: ignore[arg-type]
        self._bus = bus
        self._port = port
        self._name = name

    async def lease(self) -> int:
        """As `IdBlocks.lease`: a block that is not above all that were seen is not taken."""
        highest = max(await self._highest(), self.highest_leased)
        block = await self._port.lease()
        if block <= highest:
            raise NoQuorum(f"id block {block} is not above {highest}; nothing was written")
        self.hear(block)
        for name, hear in self._bus.lease_listeners:
            if name not in self._bus.cut_off:
                self._bus.network.send("leased", self._name, name, partial(hear, block))
        return block

    def hear(self, block: int) -> None:
        """Somebody has leased a block."""
        self.highest_leased = max(self.highest_leased, block)

    async def run(self) -> None:
        """Lease ahead, and hear what others lease."""
        self._bus.lease_listeners.append((self._name, self.hear))
        while is_going_on():
            await self._wanted.wait()
            try:
                async with self._leasing:
                    if len(self._blocks) < 2:
                        self._blocks.append((await self.lease(), 1))
                self._wanted.clear()
            except Unavailable:
                await asyncio.sleep(RETRY_S)


class Machine:
    """What of a peer outlasts its processes."""

    def __init__(self, name: str, clock: LoopClock, disk: Disk) -> None:
        self.name = name
        self.clock = clock
        self.disk = disk
        self.recollection = MemoryRecollection()
        self.started = 0  # processes so far


class Process:
    """A process of a peer, from its start to its end."""

    def __init__(
        self,
        machine: Machine,
        bus: MemoryBus,
        genesis: Genesis,
        recalling: Callable[[Store, Clock], Recalling],
    ) -> None:
        machine.started += 1
        self.name = machine.name
        self.machine = machine
        self.owner = f"{machine.name}.{machine.started}"
        self.store: SimulatedStore = machine.disk.open()
        self._recalling = recalling(self.store, machine.clock)
        self.bus = bus.peer(machine.name)
        self.bus.identity = genesis_file.identity(genesis)
        self.marks, self.peers = self.bus.marks(), self.bus.peers()
        self.engine: Engine | None = None
        self.service: Service | None = None
        self.context: Context = copy_context()
        self.context.run(OWNER.set, self.owner)
        self._shared_bus = bus
        self._genesis = genesis
        self._requests: set[asyncio.Task[Any]] = set()
        self.dismissal: str | None = None
        self._life: asyncio.Task[None] | None = None

    def start(self, loop: VirtualLoop) -> asyncio.Task[None]:
        """Run; the task ends with the process."""
        self._life = loop.create_task(self._live(), context=self.context, name=self.owner)
        return self._life

    async def _live(self) -> None:
        founding = Frame(SCHEMA, 0, 0, [genesis_writes(self._genesis)])
        await self.store.apply([LoggedFrame(Position(0, 0, 0), founding, 0)], {})
        self.engine = engine = self._assembled(await self.store.positions())
        await engine.load()
        recall = self._recalling.recall
        self.service = Service(
            parts_of(engine, recall, self._ids, cell_secret="secret"), engine.health
        )
        async with asyncio.TaskGroup() as tasks:
            lasting = [
                tasks.create_task(engine.peer.run(), name="peer"),
                tasks.create_task(self._recalling.run(), name="recall"),
                tasks.create_task(self.service.run(), name="service"),
                tasks.create_task(self._respond(engine, self.service), name="responder"),
            ]
            await engine.standing.wait_dismissed()
            for task in lasting:
                task.cancel()
        self.dismissal = engine.standing.dismissal

    async def _respond(self, engine: Engine, service: Service) -> None:
        await engine.standing.wait_member()
        self._shared_bus.services[self.name] = service

    def _assembled(self, positions: dict[tuple[int, int], int]) -> Engine:
        async def highest() -> int:
            assert self.engine is not None
            return self.engine.caretakers.id_stream.highest_seen()

        async def watch() -> None:
            await asyncio.get_running_loop().create_future()

        async def connect() -> None:
            await asyncio.sleep(0.001)

        self._ids = BusIds(self._shared_bus, self.bus, self.name, highest)
        return Engine(
            Identity(
                name=self.name,
                cell=self.bus.identity,
                label=self._genesis.cell,
                founders=tuple(self._genesis.members),
            ),
            Ports(
                clock=self.machine.clock,
                store=self.store,
                log=self.bus,
                streams=self.bus,
                marks=self.marks,
                recollection=self.machine.recollection,
                peers=self.peers,
                servers=self.bus,
            ),
            Connection(
                connect=connect,
                watch=watch,
                lease=self._ids.lease,
                leased=lambda: self._ids.highest_leased,
                keep={"id-blocks": self._ids.run},
            ),
            positions=positions,
            derived=self._recalling.derived,
            is_sync_required=True,
            intervals=INTERVALS,
        )

    def begin(self, loop: VirtualLoop, do: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        """Do what somebody asks this process to do; it ends with the process."""

        async def doing() -> Any:
            return await do()

        task = loop.create_task(doing(), context=self.context.copy())
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return task

    def kill(self) -> None:
        """End at once. What it was about to do stays without effect on the disk and the bus."""
        self.store.close()
        self._shared_bus.disown(self.bus, self.marks, self.peers)
        if self._life is not None:
            self._life.cancel()
        for task in list(self._requests):
            task.cancel()

    def is_ready(self) -> bool:
        """All checks ok."""
        if self.engine is None:
            return False
        return not any(said.startswith("failed") for said in self.engine.health.checks().values())
