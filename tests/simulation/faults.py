"""What goes wrong: some faults for each seed, at random moments, for random lengths, overlapping.

Each fault is a coroutine that harms the world, puts it right, and says whether it took effect. One
that did not (nobody sent what it would have lost) is replaced by another, so each seed has `FAULTS`
that did. What no system could survive is not done: a store loses commits on one machine only where
the log may lose a whole stream, since both together would be the loss of every copy.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

from memsync import limits
from memsync.wire import context
from tests.fakes.bus import BUS
from tests.simulation.clients import Gateway
from tests.simulation.history import OK, Event
from tests.simulation.network import Condition
from tests.simulation.world import MEMBERS, STRANGER, World

FAULTS = 6  # of each seed, that take effect
TRIES = 12  # of one of them, each with another kind
CHANGE_TRIES = 8
# How often a kind is begun, where it is not once: what takes effect less often is begun more often.
WEIGHTS = {"delay": 1.4, "loss": 1.5, "leader": 1.5, "disk": 1.2, "stream": 1.1, "clock": 0.9}
FIRST_S, LAST_S = 1.0, 4.4  # when faults begin
KINDS = (
    "crash", "pause", "partition", "loss", "duplication", "delay", "clock", "disk", "stream", "ids",
    "trim", "leader", "membership",
)  # fmt: skip
TRAVELLERS: tuple[frozenset[str], ...] = (
    frozenset(),  # everything
    frozenset({"mark"}),
    frozenset({"frame"}),
    frozenset({"publish"}),
    frozenset({"publish answered"}),
    frozenset({"fetch", "fetch answered"}),
    frozenset({"request", "request answered"}),
    frozenset({"rows", "rows answered", "pass_on", "pass_on answered"}),
    frozenset({"mark", "frame"}),
    frozenset({"frame", "fetch answered", "request"}),
    frozenset({"last answered", "publish answered"}),
    # A peer that lags while it hears the others: what leases are for, so it comes three times.
    *[frozenset({"frame", "fetch", "fetch answered"})] * 3,
)

# What takes the place of a fault without effect: what can be done at any moment.
REPLACING = ("crash", "pause", "partition", "duplication", "clock")
HEARD = (frozenset({"mark"}), frozenset({"frame"}), frozenset({"mark", "frame"}))


class Faults:
    """The faults of one seed."""

    def __init__(self, world: World, gateway: Gateway, chance: random.Random) -> None:
        self._world = world
        self._gateway = gateway
        self._changing = asyncio.Lock()
        self._chance = chance
        self.planned = self._plan()
        self._lossy = self._member()  # the one machine that may lose commits
        self._does: dict[str, Callable[[], Awaitable[bool]]] = {
            "crash": self._crash,
            "pause": self._pause,
            "partition": self._partition,
            "loss": self._loss,
            "duplication": self._duplication,
            "delay": self._delay,
            "clock": self._clock,
            "disk": self._disk,
            "stream": self._stream,
            "ids": self._ids,
            "trim": self._trim,
            "leader": self._leader,
            "membership": self._membership,
        }

    def _plan(self) -> list[tuple[float, str]]:
        kinds = self._chance.choices(KINDS, [WEIGHTS.get(kind, 1.0) for kind in KINDS], k=FAULTS)
        return sorted((self._chance.uniform(FIRST_S, LAST_S), kind) for kind in kinds)

    async def run(self) -> None:
        """Do what is planned; returns when all of it is over."""
        async with asyncio.TaskGroup() as faults:
            for at_s, kind in self.planned:
                faults.create_task(self._do(at_s, kind))

    async def _do(self, at_s: float, kind: str) -> None:
        await asyncio.sleep(at_s - self._world.loop.time())
        history = self._world.history
        for _ in range(TRIES):
            history.planned.append(kind)
            if await self._does[kind]():
                history.faults.append(kind)
                return
            kind = self._chance.choice(REPLACING)
        history.troubles.append(("faults", f"none of {TRIES} took effect"))

    def _member(self) -> str:
        return self._chance.choice(self._world.members())

    def _note(self, what: str) -> None:
        self._world.note("fault", what)

    async def _at_some_callback(self, member: str, do: Callable[[], None]) -> bool:
        """Between two callbacks of the member: a random one, soon. Whether it came to that."""
        process = self._world.processes.get(member)
        if process is None:
            return False
        happened = asyncio.Event()

        def then() -> None:
            do()
            happened.set()

        count = self._chance.randrange(200)
        self._world.loop.after_callbacks(process.owner, count, then)
        try:
            async with asyncio.timeout(1.0):
                await happened.wait()
        except TimeoutError:
            self._world.loop.disarm(process.owner)  # it has ended, or is frozen already
            return False
        return True

    async def _crash(self) -> bool:
        member = self._member()
        is_lossy = self._chance.random() < 0.5 and self._may_lose(member)
        self._note(f"crash of {member}{' with loss' if is_lossy else ''}")
        end = partial(self._end, member, is_lossy=is_lossy)
        has_crashed = await self._at_some_callback(member, end)
        await asyncio.sleep(self._chance.choice((0.05, 0.4, 1.5)) * (0.5 + self._chance.random()))
        self._world.start(member)
        return has_crashed

    def _end(self, member: str, *, is_lossy: bool) -> None:
        self._world.loop.call_soon(self._kill, member, is_lossy)

    def _kill(self, member: str, is_lossy: bool) -> None:
        self._world.kill(member)
        if is_lossy:
            lost = self._world.machines[member].disk.cut_power()
            self._world.machines[member].recollection.lose()
            self._note(f"{member} lost {lost} commits")

    def _may_lose(self, member: str) -> bool:
        kinds = {kind for _, kind in self.planned}
        if {"stream", "membership"} <= kinds:
            return False  # who is removed takes a copy away, too
        return member == self._lossy or "stream" not in kinds

    async def _pause(self) -> bool:
        member = self._member()
        process = self._world.processes.get(member)
        if process is None:
            return False
        frozen_s = self._chance.choice((0.1, 0.6, 2.0)) * (0.5 + self._chance.random())
        self._note(f"pause of {member} for {frozen_s:.3f} s")
        freeze = partial(self._world.loop.freeze, process.owner)
        is_frozen = await self._at_some_callback(member, freeze)
        self._note(f"{process.owner} is frozen")
        await asyncio.sleep(frozen_s)
        self._world.loop.thaw(process.owner)
        self._note(f"{process.owner} goes on")
        return is_frozen

    async def _partition(self) -> bool:
        member = self._member()
        other = self._chance.choice([name for name in self._world.names if name != member])
        cuts = self._chance.choice(
            (
                {(member, BUS), (BUS, member)},
                {(member, BUS)},
                {(BUS, member)},
                {(member, other)},
                {(member, other), (other, member)},
            )
        )
        is_noticed = len(cuts) == 2 and (member, BUS) in cuts and self._chance.random() < 0.5
        self._note(f"partition: {sorted(cuts)}{' noticed' if is_noticed else ''}")
        met = self._world.network.met
        before = sum(met[cut] for cut in cuts)
        self._world.network.cuts |= cuts
        if is_noticed:
            self._world.bus.cut_off.add(member)
        await asyncio.sleep(self._length_s())
        self._world.network.cuts -= cuts
        self._world.bus.cut_off.discard(member)
        self._reconnected(member)
        self._note(f"partition over: {sorted(cuts)}")
        return is_noticed or sum(met[cut] for cut in cuts) > before

    def _reconnected(self, member: str) -> None:
        process = self._world.processes.get(member)
        if process is not None and process.engine is not None:
            reconnected = process.engine.peer.reconnected
            self._world.loop.call_soon(reconnected, context=process.context)

    def _length_s(self) -> float:
        return self._chance.choice((0.15, 0.6, 1.6)) * (0.5 + self._chance.random())

    def _place(self) -> str:
        return self._chance.choice(("", *self._world.names))

    async def _bad(self, condition: Condition) -> bool:
        """For a while; whether any message met it."""
        network = self._world.network
        self._note(f"{condition}")
        before = network.met[condition]
        network.conditions.append(condition)
        try:
            await asyncio.sleep(self._length_s())
        finally:
            if condition in network.conditions:  # else all was put right meanwhile
                network.conditions.remove(condition)
            self._note(f"over: {condition}")
        return network.met[condition] > before

    async def _loss(self) -> bool:
        loss = self._chance.choice((0.1, 0.4, 0.9))
        kinds = self._chance.choice(TRAVELLERS)
        return await self._bad(Condition(kinds=kinds, place=self._place(), loss=loss))

    async def _duplication(self) -> bool:
        """Of what is said to all. A request that came twice would be answered twice, which no
        connection does; whoever repeats one says so by its key."""
        kinds = self._chance.choice(HEARD)
        return await self._bad(Condition(kinds=kinds, place=self._place(), doubling=0.6))

    async def _delay(self) -> bool:
        kinds = self._chance.choice(TRAVELLERS)
        delay_s = self._chance.choice((0.02, 0.1, 0.5, 1.5))
        return await self._bad(Condition(kinds=kinds, place=self._place(), delay_s=delay_s))

    async def _clock(self) -> bool:
        member = self._member()
        clock = self._world.machines[member].clock
        jump_ms = self._chance.choice((120, 400, 5_000, 3_600_000)) * self._chance.choice((1, -1))
        self._note(f"clock jumps by {jump_ms} ms")
        clock.offset_ms += jump_ms
        was_read = member in self._world.processes
        await asyncio.sleep(self._length_s())
        clock.offset_ms -= jump_ms
        return was_read or member in self._world.processes

    async def _disk(self) -> bool:
        member = self._member()
        disk = self._world.machines[member].disk
        before = disk.met
        if self._chance.random() < 0.5:
            disk.slow_s = self._chance.choice((0.05, 0.2, 0.6))
            self._note(f"disk of {member} takes {disk.slow_s} s longer")
            await asyncio.sleep(self._length_s())
            disk.slow_s = 0.0
            return disk.met > before
        length_s = self._length_s()
        disk.failing_until_s = self._world.loop.time() + length_s
        self._note(f"disk of {member} fails until {disk.failing_until_s:.3f}")
        await asyncio.sleep(length_s)
        return disk.met > before

    async def _stream(self) -> bool:
        stripe = self._chance.randrange(limits.STRIPES)
        if stripe not in self._world.bus.streams:
            return False
        generation = self._world.bus.streams[stripe].generation
        self._note(f"stream {stripe}.{generation} is deleted")
        self._world.bus.lose(stripe)
        return True

    async def _ids(self) -> bool:
        first, was = self._chance.choice((None, 1)), self._world.bus.first_block
        self._note(f"the stream of ids is lost; it begins at {first}")
        self._world.bus.first_block = first
        return first != was

    async def _trim(self) -> bool:
        """Take out of a stripe what all machines have, even after a power cut."""
        stripe = self._chance.randrange(limits.STRIPES)
        stream = self._world.bus.streams.get(stripe)
        if stream is None:
            return False
        place = (stripe, stream.generation)
        disks = [self._world.machines[name].disk for name in self._world.names]
        lowest = min(disk.states[0]._positions.get(place, 0) for disk in disks)
        self._note(f"stripe {stripe} is trimmed up to {lowest} of {stream.last}")
        first = stream.first
        self._world.bus.trim(stripe, stream.generation, lowest + 1)
        return stream.first > first

    async def _leader(self) -> bool:
        stripe = self._chance.randrange(limits.STRIPES)
        fault = self._chance.choice(
            ("no leader", "silent", "stored but silent", "unknown, then no leader")
        )
        self._note(f"stripe {stripe}: {fault}")
        before = self._world.bus.faults_met[stripe]
        self._world.bus.faults[stripe] = fault  # type: ignore[assignment]
        await asyncio.sleep(self._length_s())
        self._world.bus.faults.pop(stripe, None)
        self._note(f"stripe {stripe} is well")
        return self._world.bus.faults_met[stripe] > before

    async def _membership(self) -> bool:
        """One member more or less, and perhaps back again; an operator asks until it is done."""
        async with self._changing:
            if self._chance.random() < 0.5 and STRANGER not in self._world.members():
                is_changed = await self._join(STRANGER)
                if self._chance.random() < 0.5:
                    is_changed |= await self._remove(STRANGER)
                return is_changed
            member = self._chance.choice(MEMBERS)
            is_changed = await self._remove(member)
            await asyncio.sleep(self._chance.random())
            return await self._join(member) or is_changed

    async def _join(self, member: str) -> bool:
        if self._chance.random() < 0.5 and member not in self._world.may_be_removed:
            self._world.start(member)
            await asyncio.sleep(self._chance.random())
        if is_changed := await self._change("cluster.join", member):
            self._world.may_be_removed.discard(member)
        self._world.start(member)
        return is_changed

    async def _remove(self, member: str) -> bool:
        self._world.may_be_removed.add(member)
        if (process := self._world.processes.get(member)) is not None:
            self._world.may_end.add(process.owner)
        return await self._change("cluster.remove", member)

    async def _change(self, operation: str, member: str) -> bool:
        """Whether the change was made, or was made already."""
        self._note(f"{operation} {member}")
        for _ in range(CHANGE_TRIES):
            event = Event(
                number=-1,
                client=-1,
                operation=operation,
                user="",
                effect=None,
                body={"name": member},
                headers={
                    context.API_KEY: self._world.api_key,
                    context.OPERATION_KEY: f"~{self._chance.randbytes(16).hex()}",
                    context.DEADLINE_MS: "1500",
                },
                peers=self._chance.sample(self._world.names, len(self._world.names)),
                invoked_s=self._world.loop.time(),
            )
            await self._gateway.pass_on(event)
            self._note(f"{operation} {member}: {event.outcome} {event.status} {event.answer}")
            is_so = (member in self._world.members()) == (operation == "cluster.join")
            if event.outcome == OK or is_so:
                return True
            await asyncio.sleep(0.3)
        return False


def heal(world: World) -> None:
    """Put everything right, whatever is still under way."""
    for process in list(world.processes.values()):
        world.loop.thaw(process.owner)
    world.network.conditions.clear()
    world.network.cuts.clear()
    world.bus.faults.clear()
    for name, machine in world.machines.items():
        world.bus.cut_off.discard(name)
        machine.disk.failing_until_s = machine.disk.slow_s = 0.0
    for name in world.names:
        world.start(name)
