"""Every fault that the nemesis knows: how it is made, taken back, and known to be healed.

kill        SIGKILL; the keeper starts the process again after 0.1 s
freeze      SIGSTOP until it is taken back
gone        SIGKILL, and nobody starts it again until it is taken back
restart     SIGTERM, one process after the other, each once all are ready again
cut, ...    the network between machines; server i and peer i are machine i
disk full   the peer's data folder is a small tmpfs that has no room left
slow disk   the kernel lets the process write 20 times a second; needs root and a real disk
clock       the peer's clock is hours off
store ...   the peer's SQLite file, damaged while the peer is down
row         one row of it, altered while the peer runs
stream, ids a stream of the bus deleted
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from memsync import limits
from memsync.local import secrets
from memsync.wire import subjects
from memsync.wire.subjects import CellName
from tests.chaos import disks, stores
from tests.chaos.cluster import GATEWAYS, NAMES, PEERS, SERVERS, Cluster
from tests.chaos.network import MACHINES, CannotError
from tests.chaos.relay import CLIENT
from tests.chaos.slowness import SlowDisk
from tests.conditions import eventually

CLOCK_OFFSET_S = 3 * 3600.0
TOGETHER = "+"
DOWN_S = 5.0
STEP_READY_S = 30.0
AFTER_KILL_S = 1.0  # so long a connection to a killed process may still be found broken


class Context:
    """What faults work on. `bus` is the driver's connection as the cluster's own user."""

    def __init__(self, cluster: Cluster, bus: Client, chance: random.Random, folder: Path) -> None:
        self.cluster = cluster
        self.bus = bus
        self.chance = chance
        self.folder = folder
        self.now: Callable[[], float] = lambda: 0.0
        self._harmed: list[tuple[str, set[int], float, float]] = []

    def harm(self, gateway: str, ports: set[int]) -> None:
        """The connections of these callers' ports are at a gateway that is now harmed."""
        self._harmed.append((gateway, ports, self.now(), float("inf")))

    def harm_no_more(self, gateway: str) -> None:
        """The gateway runs again."""
        until = self.now() + AFTER_KILL_S
        self._harmed = [
            (name, ports, began, min(end, until) if name == gateway else end)
            for name, ports, began, end in self._harmed
        ]

    def harmed(self, port: int, began: float, ended: float) -> str:
        """See `driver.Gateways`."""
        for name, ports, since, until in self._harmed:
            if port in ports and since <= ended and began <= until:
                return name
        return ""


class Fault:
    """One fault; `make` and `take_back` once each."""

    note = ""

    def __init__(self, context: Context, targets: list[str]) -> None:
        self.context = context
        self.cluster = context.cluster
        self.targets = targets

    async def make(self) -> None:
        """Bring it about; raises `CannotError` where this machine does not let us."""
        raise NotImplementedError

    async def take_back(self) -> None:
        """End it, as far as that is ours to do."""

    def is_healed(self) -> bool:
        """Whether the product has done its part, beside being ready."""
        return True

    @property
    def lasts(self) -> bool:
        """Whether it stays until it is taken back."""
        return True


class Kill(Fault):
    """kill -9. A gateway is frozen first, so that its connections can be read without a race."""

    lasts = False

    async def make(self) -> None:
        for name in self.targets:
            if name in GATEWAYS:
                self.cluster.signal(name, signal.SIGSTOP)
                self.context.harm(name, self.cluster.connections(name))
            self.cluster.signal(name, signal.SIGKILL)

    async def take_back(self) -> None:
        for name in self.targets:
            self.context.harm_no_more(name)


class Freeze(Fault):
    """SIGSTOP and SIGCONT."""

    async def make(self) -> None:
        for name in self.targets:
            self.cluster.signal(name, signal.SIGSTOP)
            if name in GATEWAYS:
                self.context.harm(name, self.cluster.connections(name))

    async def take_back(self) -> None:
        for name in self.targets:
            self.cluster.signal(name, signal.SIGCONT)
            self.context.harm_no_more(name)


class Gone(Fault):
    """kill -9 with nobody to start it again."""

    async def make(self) -> None:
        for name in self.targets:
            await kill_for_good(self.cluster, name)

    async def take_back(self) -> None:
        for name in self.targets:
            self.cluster.release_keeper(name)


class Restart(Fault):
    """SIGTERM to one process after the other, each once all are ready again; and after a server,
    as who looks after NATS would do it, once every stream has its leader and whole replicas. The
    note says when each was begun."""

    lasts = False

    async def make(self) -> None:
        began, steps = self.context.now(), []
        for name in self.targets:
            steps.append(f"{name} +{self.context.now() - began:.1f}")
            self.note = ", ".join(steps)
            await restart(self.cluster, name)
            if missing := await self.cluster.wait_ready(STEP_READY_S):
                raise AssertionError(f"after {name}: {', '.join(missing)} not ready")
            if name in SERVERS:
                await eventually(self._are_streams_whole, "whole streams", STEP_READY_S)

    async def _are_streams_whole(self) -> bool:
        try:
            found = await self.context.bus.jetstream().streams_info()
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError):
            return False
        clusters = [info.cluster for info in found if info.cluster is not None]
        return bool(clusters) and all(
            one.leader and all(r.current and not r.offline for r in one.replicas or [])
            for one in clusters
        )


class OfMachine(Fault):
    """Something between machines; the target is `machine-N`."""

    @property
    def machine(self) -> int:
        """The number of the machine."""
        return int(self.targets[0].rpartition("-")[2])


class Cut(OfMachine):
    """Packets between the machine and some others are dropped; callers reach both sides."""

    def pairs(self) -> list[tuple[int, int]]:
        """(from, to) of what is dropped."""
        others = [one for one in MACHINES if one != self.machine]
        return [(self.machine, one) for one in others] + [(one, self.machine) for one in others]

    async def make(self) -> None:
        self.cluster.network.drop(self.pairs())

    async def take_back(self) -> None:
        self.cluster.network.pass_again(self.pairs())


class CutOneWay(Cut):
    """What the machine sends to the others is dropped, what they send arrives."""

    def pairs(self) -> list[tuple[int, int]]:
        return [(self.machine, one) for one in MACHINES if one != self.machine]


class CutGateways(Cut):
    """The gateways and the machine do not reach each other."""

    def pairs(self) -> list[tuple[int, int]]:
        return [(self.machine, CLIENT), (CLIENT, self.machine)]


class LinkDown(OfMachine):
    """The machine's cable is out."""

    async def make(self) -> None:
        self.cluster.network.unplug(self.machine)

    async def take_back(self) -> None:
        self.cluster.network.plug(self.machine)


class Slow(OfMachine):
    """Everything from and to the machine takes longer."""

    delay_ms, jitter_ms, loss = 40, 20, 0.0

    async def make(self) -> None:
        def slow() -> str:
            return self.cluster.network.slow(
                self.machine, delay_ms=self.delay_ms, jitter_ms=self.jitter_ms, loss=self.loss
            )

        by = await asyncio.to_thread(slow)
        self.note = f"{self.delay_ms} ms and {100 * self.loss:g} % by {by}"

    async def take_back(self) -> None:
        await asyncio.to_thread(self.cluster.network.slow_no_more)


class Lossy(Slow):
    """Some of what goes from and to the machine is lost."""

    delay_ms, jitter_ms, loss = 1, 0, 0.05


class DiskFull(Fault):
    """No room in the peer's data folder."""

    async def make(self) -> None:
        disks.fill(self.cluster.home.data(self.targets[0]))

    async def take_back(self) -> None:
        disks.make_room(self.cluster.home.data(self.targets[0]))


class DiskSlow(Fault):
    """The process's writes wait for each other."""

    async def make(self) -> None:
        name = self.targets[0]
        self._slow = SlowDisk(self.cluster.pid(name), self.cluster.home.data(name))
        self._slow.start()

    async def take_back(self) -> None:
        self._slow.end()


class Clock(Fault):
    """The peer starts again with a clock that is hours off, and again with a right one."""

    async def make(self) -> None:
        offset = self.context.chance.choice([CLOCK_OFFSET_S, -CLOCK_OFFSET_S])
        self.note = f"{offset:+.0f} s"
        self._set(offset, "development")
        await restart(self.cluster, self.targets[0])

    async def take_back(self) -> None:
        self._set(0.0, "production")
        await restart(self.cluster, self.targets[0])

    def _set(self, offset_s: float, profile: str) -> None:
        path = self.cluster.home.config(f"{self.targets[0]}.toml")
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(?m)^clock_offset_s = .*$", f"clock_offset_s = {offset_s}", text)
        text = re.sub(r"(?m)^profile = .*$", f'profile = "{profile}"', text)
        path.write_text(text, encoding="utf-8")


class StoreFault(Fault):
    """The peer is killed, its file is damaged, the peer is started again."""

    lasts = False

    @property
    def store(self) -> Path:
        """The file."""
        return self.cluster.store(self.targets[0])

    async def make(self) -> None:
        await kill_for_good(self.cluster, self.targets[0])
        await asyncio.to_thread(self.damage)
        self.cluster.release_keeper(self.targets[0])

    def damage(self) -> None:
        """Do it; nobody has the file open."""
        raise NotImplementedError


class StoreZeros(StoreFault):
    """Zeros over some pages."""

    def damage(self) -> None:
        pages = stores.zero(self.store, self.context.chance)
        self.note = f"pages {', '.join(map(str, pages))}"


class StoreDeleted(StoreFault):
    """The file is gone."""

    def damage(self) -> None:
        stores.delete(self.store)


class StoreRolledBack(StoreFault):
    """The file is as it was when the fault began; meanwhile the load went on."""

    lasts = True

    async def make(self) -> None:
        self._old = self.context.folder / f"{self.targets[0]}.old"
        self._old.unlink(missing_ok=True)
        await asyncio.to_thread(stores.copy, self.store, self._old)

    async def take_back(self) -> None:
        await super().make()

    def damage(self) -> None:
        stores.put_back(self.store, self._old)


class RowAltered(Fault):
    """One row says something else than its peers' and its hash."""

    lasts = False
    _key: bytes | None = None

    async def make(self) -> None:
        path = self.cluster.store(self.targets[0])
        self._key = await asyncio.to_thread(stores.alter_row, path, self.context.chance)
        if self._key is None:
            raise CannotError("there is no memory to alter yet")

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
        except (nats.errors.Error, nats.js.errors.Error, ValueError) as error:
            raise CannotError(f"stripe {stripe}: {type(error).__name__} {error}") from error


class IdsDeleted(Fault):
    """The stream that ids are leased from."""

    lasts = False

    async def make(self) -> None:
        try:
            await self.context.bus.jetstream().delete_stream(subjects.IDS_STREAM)
        except (nats.errors.Error, nats.js.errors.Error) as error:
            raise CannotError(f"{type(error).__name__} {error}") from error


class Together(Fault):
    """Several at once; what one of them cannot do keeps all from being made."""

    def __init__(self, context: Context, parts: list[Fault]) -> None:
        super().__init__(context, [target for part in parts for target in part.targets])
        self._parts = parts
        self._made: list[Fault] = []

    async def make(self) -> None:
        for part in self._parts:
            try:
                await part.make()
            except CannotError:
                await self.take_back()
                raise
            finally:
                self.note = ", ".join(filter(None, (one.note for one in self._parts)))
            self._made.append(part)

    async def take_back(self) -> None:
        while self._made:
            await self._made.pop().take_back()

    def is_healed(self) -> bool:
        return all(part.is_healed() for part in self._parts)

    @property
    def lasts(self) -> bool:
        return any(part.lasts for part in self._parts)


async def kill_for_good(cluster: Cluster, name: str) -> None:
    """kill -9, and wait until the process is gone; its keeper is held."""
    cluster.hold_keeper(name)
    pid = cluster.signal(name, signal.SIGKILL)
    await _wait(lambda: _has_ended(pid), f"{name} ended", DOWN_S)


async def restart(cluster: Cluster, name: str) -> None:
    """SIGTERM, and wait until the keeper has started it again."""
    pid = cluster.signal(name, signal.SIGTERM)
    await _wait(lambda: cluster.pid(name) not in (pid, 0), f"{name} started again", STEP_READY_S)


async def _wait(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    async def is_so() -> bool:
        return condition()

    await eventually(is_so, what, timeout_s)


def _has_ended(pid: int) -> bool:
    """Also while nobody has taken its exit code."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


MACHINE_NAMES = tuple(f"machine-{number}" for number in MACHINES)
STRIPES = tuple(f"stripe-{number}" for number in range(limits.STRIPES))

# name -> (kind, who may be its target, how many of them at once; 0 = all, one after the other)
FAULTS: dict[str, tuple[type[Fault], tuple[str, ...], int]] = {
    "kill peer": (Kill, PEERS, 1),
    "kill nats": (Kill, SERVERS, 1),
    "kill gateway": (Kill, GATEWAYS, 1),
    "freeze peer": (Freeze, PEERS, 1),
    "freeze nats": (Freeze, SERVERS, 1),
    "freeze gateway": (Freeze, GATEWAYS, 1),
    "gone peer": (Gone, PEERS, 1),
    "gone nats": (Gone, SERVERS, 1),
    "gone two peers": (Gone, PEERS, 2),
    "gone two nats": (Gone, SERVERS, 2),
    "restart all": (Restart, NAMES, 0),
    "cut machine": (Cut, MACHINE_NAMES, 1),
    "cut one way": (CutOneWay, MACHINE_NAMES, 1),
    "cut gateways": (CutGateways, MACHINE_NAMES, 1),
    "link down": (LinkDown, MACHINE_NAMES, 1),
    "slow machine": (Slow, MACHINE_NAMES, 1),
    "lossy machine": (Lossy, MACHINE_NAMES, 1),
    "disk full": (DiskFull, PEERS[2:], 1),
    "slow disk": (DiskSlow, (*PEERS[:2], *SERVERS), 1),  # the third peer's may be a tmpfs
    "clock": (Clock, PEERS, 1),
    "store zeros": (StoreZeros, PEERS, 1),
    "store deleted": (StoreDeleted, PEERS, 1),
    "store rolled back": (StoreRolledBack, PEERS, 1),
    "row altered": (RowAltered, PEERS, 1),
    "stream deleted": (StreamDeleted, STRIPES, 1),
    "ids deleted": (IdsDeleted, ("MEMSYNC_IDS",), 1),
}
ONE_AT_A_TIME = tuple(name for name in FAULTS if name.partition(" ")[0] in ("kill", "freeze"))
MIXES = {
    "one": ONE_AT_A_TIME,
    "short": (*ONE_AT_A_TIME, "cut machine", "store deleted"),
    "full": tuple(FAULTS),
}


def chosen(text: str) -> list[str]:
    """The faults that a list of names means, by their names or the beginnings of them ("kill",
    "store"); those joined by + come together. Raises `ValueError` for one that means none."""
    found: list[str] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        several = [one.strip() for one in part.split(TOGETHER)]
        meant = [name for name in FAULTS if name == part or name.startswith(part + " ")]
        if len(several) > 1 and all(one in FAULTS for one in several):
            meant = [TOGETHER.join(several)]
        if not meant:
            raise ValueError(f"{part!r} is none of: {', '.join(FAULTS)}")
        found += meant
    return found


def sequence(names: list[str], chance: random.Random) -> Iterator[tuple[str, list[list[str]]]]:
    """For ever (fault, the targets of each of its parts): every fault once before any comes
    again."""
    while True:
        for name in chance.sample(names, len(names)):
            yield name, [_targets(part, chance) for part in name.split(TOGETHER)]


def _targets(name: str, chance: random.Random) -> list[str]:
    _, candidates, count = FAULTS[name]
    return chance.sample(candidates, count) if count else list(candidates)


def made(name: str, targets: list[list[str]], context: Context) -> Fault:
    """The fault of that name, or several together, at these targets."""
    parts = [
        FAULTS[part][0](context, those)
        for part, those in zip(name.split(TOGETHER), targets, strict=True)
    ]
    return parts[0] if len(parts) == 1 else Together(context, parts)
