"""How fast a peer that was away applies what it missed, and how long one that lost its store takes
until it has everything again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path

import msgspec
from nats.aio.msg import Msg

from memsync.ids import Position
from memsync.wire import codec, genesis
from memsync.wire.members import Watermark
from memsync.wire.subjects import CellName
from tests.bench.speed import raw
from tests.bench.speed.blocks import Told, in_turns
from tests.bench.speed.goals import Line, line
from tests.bench.speed.rig import Rig
from tests.conditions import eventually
from tests.system.conftest import Cluster

AWAY, GIVER = "peer-3", "peer-1"
IN_FLIGHT = 256
CAUGHT_UP_S = 120.0
MISSED_GOAL_S, REBUILT_GOAL_S = 10.0, 60.0  # of 50,000 operations, and of 100,000 memories
REBUILT_USERS = 100
GONE_S = 20.0
CONNECTED = "bus.connected"
LOOK_S = 0.005
NOTICED_S = 1.0  # until no server gives a request to the one that is gone: it would be lost
BESIDE = "raw SQLite, rows in batches of 256"


class CatchUp(msgspec.Struct, frozen=True, kw_only=True):
    """So many `operations` were applied `seconds` after the new process had reached the bus, which
    took it `start_s` from its keeper's turn on."""

    operations: int
    seconds: float
    start_s: float

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


async def lines(rig: Rig, adds: int, folder: Path, told: Told) -> list[Line]:
    """The line of the table, beside raw SQLite right after it."""
    found = await measured(rig, adds, told)
    beside = raw.inserts(BESIDE, folder)
    limit = (await in_turns([beside], rounds=3, seconds=1.0, told=told))[BESIDE].per_second
    measure = f"operations/s of a restarted peer that missed {found.operations:,}"
    return [
        line(
            measure, "/s", found.per_second, 20_000,
            limit=limit, limit_is=BESIDE, at_most=False,
        ),
        line(f"until {found.operations:,} missed operations are applied", "s", found.seconds,
             MISSED_GOAL_S),
    ]  # fmt: skip


def scopes_to_rebuild(memories: int) -> Mapping[str, int]:
    """End users with so many memories together."""
    users = min(REBUILT_USERS, memories)
    return {f"rebuilt-{number}": memories // users for number in range(users)}


async def rebuilt_lines(rig: Rig, memories: int, told: Told) -> list[Line]:
    """The line of a peer whose store is lost, in a cell that has at least so many memories. Counts
    from its keeper's turn on, until it is ready and has as many rows as the others."""
    cluster = rig.cluster
    told(f"{AWAY} loses its store")
    async with _away(rig):
        shutil.rmtree(cluster.home / "data" / AWAY)
        began_s = time.monotonic()
    told(f"{AWAY} fills its store again")
    url = cluster.peer_url(int(AWAY.removeprefix("peer-")))

    async def is_ready() -> bool:
        return await asyncio.to_thread(cluster.is_ready, url)

    await eventually(is_ready, f"{AWAY} is ready again", CAUGHT_UP_S, every_s=LOOK_S)
    took_s = time.monotonic() - began_s
    rig.find_processes()
    rows = {member: _memories_of(cluster, member) for member in (AWAY, GIVER)}
    assert rows[AWAY] == rows[GIVER] >= memories, rows
    measure = f"until a peer that lost its store has {rows[AWAY]:,} memories and is ready"
    return [line(measure, "s", took_s, REBUILT_GOAL_S)]


def _memories_of(cluster: Cluster, member: str) -> int:
    path = cluster.home / "data" / member / "store.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        counted = db.execute("SELECT count(*) FROM records WHERE kind = 'memory'").fetchone()
    return int(counted[0])


class Watermarks:
    """The last watermark of each member, and when it was heard."""

    def __init__(self) -> None:
        self.last: dict[str, Watermark] = {}

    async def hear(self, message: Msg) -> None:
        """Take one in."""
        told = codec.decode_told(message.data)
        if isinstance(told, Watermark):
            self.last[told.member] = told

    def entries(self, member: str) -> int:
        """How many entries of the log a member has applied."""
        return entries_of(self.last[member].positions)


def entries_of(positions: list[Position]) -> int:
    """How many entries lie up to these positions."""
    return sum(position.sequence for position in positions)


async def measured(rig: Rig, adds: int, told: Told) -> CatchUp:
    """Kill a peer, add so many memories one by one, let it come back."""
    cluster = rig.cluster
    document = genesis.read(cluster.home / "genesis.json")
    marks = Watermarks()
    subject = CellName(region=document.region, cell=document.cell).mark("*")
    subscription = await rig.library_node.subscribe(subject, cb=marks.hear)
    await _until(lambda: {AWAY, GIVER} <= marks.last.keys(), "watermarks are heard", GONE_S)
    async with _away(rig):
        incarnation = marks.last[AWAY].incarnation
        told(f"{adds:,} adds while {AWAY} is away")
        await rig.repeat(rig.add, adds, in_flight=IN_FLIGHT)
        target = marks.entries(GIVER)
    told(f"{AWAY} catches up")
    began_s = time.time()
    await _until(lambda: marks.last[AWAY].incarnation != incarnation, "it is back", CAUGHT_UP_S)
    await _until(lambda: marks.entries(AWAY) >= target, "it has caught up", CAUGHT_UP_S)
    ended_s = marks.last[AWAY].wall_ms / 1e3
    await subscription.unsubscribe()
    rig.find_processes()
    connected_s = connected_at(cluster.home / "logs" / f"{AWAY}.log")
    assert began_s < connected_s < ended_s, (began_s, connected_s, ended_s)
    return CatchUp(operations=adds, seconds=ended_s - connected_s, start_s=connected_s - began_s)


@asynccontextmanager
async def _away(rig: Rig) -> AsyncIterator[None]:
    """Kill a peer; its keeper starts it again at the end."""
    cluster = rig.cluster
    keeper = int((cluster.home / "run" / "keepers" / f"{AWAY}.pid").read_text())
    try:
        os.kill(keeper, signal.SIGSTOP)
        old = cluster.kill(AWAY)
        await _until(lambda: _has_ended(old), f"{AWAY} ended", GONE_S)
        await asyncio.sleep(NOTICED_S)
        yield
    finally:
        os.kill(keeper, signal.SIGCONT)


def connected_at(log: Path) -> float:
    """When the process that writes this log last reached the bus, as Unix time."""
    events = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    times = [event["timestamp"] for event in events if event["event"] == CONNECTED]
    return datetime.fromisoformat(times[-1]).timestamp()


async def _until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    async def is_so() -> bool:
        return condition()

    await eventually(is_so, what, within_s, every_s=LOOK_S)


def _has_ended(pid: int) -> bool:
    """Also while nobody has taken its exit code."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"
