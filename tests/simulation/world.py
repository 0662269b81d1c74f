"""The cell and everything around it: one loop, one network, three machines, one bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any

from memsync.core.membership import Membership
from memsync.errors import Unavailable
from memsync.wire import genesis as genesis_file
from tests.fakes.bus import MemoryBus
from tests.fakes.clock import START_MS, LoopClock
from tests.fakes.loop import VirtualLoop
from tests.simulation import recalling
from tests.simulation.chance import chance
from tests.simulation.disk import Disk
from tests.simulation.history import History
from tests.simulation.network import PORT, SimulatedNetwork
from tests.simulation.process import Machine, Process

RESTART_S = 0.3
MEMBERS = ("peer-1", "peer-2", "peer-3")
STRANGER = "peer-4"  # who may join
Tracer = Callable[[float, str, str], None]


class World:
    """Made inside its loop. `trace` hears what happens: time, who, what."""

    def __init__(self, loop: VirtualLoop, seed: int, trace: Tracer | None = None) -> None:
        self.loop = loop
        self.seed = seed
        self.names = list(MEMBERS)
        self.network = SimulatedNetwork(loop, chance(seed, "network"))
        self.network.run_task = self._begin
        self.bus = MemoryBus(network=self.network)
        servers = chance(seed, "servers")
        self.bus.lag = lambda: servers.randint(1, 5) if servers.random() < 0.2 else 0
        self.history = History()
        self.processes: dict[str, Process] = {}
        self._recalling = recalling.by_words if seed % 2 else recalling.real
        self._trace = trace
        self.is_traced = trace is not None
        self._ended: set[asyncio.Task[None]] = set()
        for place in ("gateway", PORT):
            self.network.contexts[place] = Context()
        self.genesis, self.api_key = genesis_file.found(
            cell="cell",
            region="local",
            members=list(MEMBERS),
            environment="development",
            founded_at_ms=START_MS - 1000,
        )
        self.machines = {name: self._machine(name) for name in (*MEMBERS, STRANGER)}
        self._newest: Membership | None = None
        self.may_be_removed: set[str] = set()
        self.may_end: set[str] = set()  # processes of members that were to be removed

    def _machine(self, name: str) -> Machine:
        draw = chance(self.seed, f"machine {name}")
        clock = LoopClock(
            self.loop,
            boot_s=draw.uniform(10, 10_000),
            rate=1 + draw.uniform(-1e-3, 1e-3),
            offset_ms=draw.randrange(-40, 40),
        )
        return Machine(name, clock, Disk(chance(self.seed, f"disk {name}"), draw.getrandbits(60)))

    def note(self, who: str, what: str) -> None:
        """Something happened, for those who read along."""
        if self._trace is not None:
            self._trace(self.loop.time(), who, what)

    def start(self, name: str) -> None:
        """Start a process of this peer where none runs."""
        if name in self.processes:
            return
        if name not in self.names:
            self.names.append(name)
        process = Process(self.machines[name], self.bus, self.genesis, self._recalling)
        self.processes[name] = process
        self.network.contexts[name] = process.context
        process.start(self.loop).add_done_callback(partial(self._process_ended, process))
        self.note(name, f"started as {process.owner}")

    def kill(self, name: str) -> None:
        """End the peer's process, if one runs."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        self.network.contexts[name] = Context()
        self.loop.thaw(process.owner)
        process.kill()
        self.note(name, f"killed {process.owner}")

    def _process_ended(self, process: Process, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        what = f"dismissed: {process.dismissal}" if error is None else f"{_leaf(error)!r}"
        self.note(process.owner, f"ended: {what}")
        is_removed = process.name in self.may_be_removed
        if process.dismissal is not None and (is_removed or process.owner in self.may_end):
            self.kill(process.name)
            if not is_removed:  # it has joined again since, and its operator starts it
                self.loop.call_later(RESTART_S, self.start, process.name, context=Context())
        elif process.engine is None and isinstance(error, Unavailable):
            self.kill(process.name)  # it could not start, and its keeper tries again
            self.loop.call_later(RESTART_S, self.start, process.name, context=Context())
        else:
            self.history.troubles.append(("process", f"{process.owner}: {what}"))

    def _begin(self, name: str, do: Callable[[], Awaitable[Any]]) -> asyncio.Future[object] | None:
        process = self.processes.get(name)
        return None if process is None else process.begin(self.loop, do)

    def members(self) -> list[str]:
        """Who belongs to the cell by now, as far as any of those knew that ran when this was
        asked."""
        known = [p.engine.standing.current for p in self.processes.values() if p.engine is not None]
        for one in known:
            if self._newest is None or one.stamp > self._newest.stamp:
                self._newest = one
        return sorted(MEMBERS if self._newest is None else self._newest.members)

    def is_ready(self) -> bool:
        """Whether every member is up and ready."""
        found = [self.processes.get(name) for name in self.members()]
        return all(process is not None and process.is_ready() for process in found)


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
