"""`scripts/bench healing`: how long until a row that was altered in one peer's file is as it was.

A whole cluster with many memories, which nobody asks for anything. Each time one bit of one row in
peer-2's SQLite file is turned over, beside the running peer: at first right after the scrub has
read that row, so that it is found as late as can be, then in any row at any moment. Every look at
it also looks whether another peer has it. Before that: what the idle cluster takes, empty and with
its memories, over whole passes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from memsync import limits
from tests.bench.scale import Figure, table
from tests.bench.speed import machine, rig, standing
from tests.bench.speed.blocks import Told
from tests.bench.speed.goals import Line
from tests.conditions import eventually
from tests.system.conftest import Cluster, running_cluster

HARMED = 2
PEERS = (1, 2, 3)
USERS = 100
LATE_S = 5 * limits.SCRUB_PROMISED_S  # so late it is no longer waited for
LOOK_S = 0.1
BUSY_S = 10.0
PASSED = "memsync_scrub_passed_timestamp_seconds"
READ = "memsync_scrub_rows_total"
TOOK = "memsync_scrub_pass_seconds"
IDLE_PASSES = 2


def store_of(cluster: Cluster, peer: int) -> Path:
    """A peer's SQLite file."""
    return cluster.home / "data" / f"peer-{peer}" / "store.sqlite"


def row_of(store: Path, key: bytes) -> tuple[object, ...] | None:
    """The row of a memory as it lies there, but for its number."""
    with closing(sqlite3.connect(f"file:{quote(str(store))}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT * FROM records WHERE key = ?", (key,)).fetchone()
    return None if found is None else tuple(found[1:])


def keys_of(store: Path) -> list[bytes]:
    """The memories in a store, those last that the scrub reads first."""
    with closing(sqlite3.connect(f"file:{quote(str(store))}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT key FROM records WHERE kind = 'memory' ORDER BY row")
        return [key for (key,) in rows]


def turn_bit(store: Path, key: bytes, chance: random.Random) -> None:
    """Turn one bit of a row's state over, behind the back of whoever has the store open."""
    with closing(sqlite3.connect(store, timeout=BUSY_S)) as db, db:
        db.execute("BEGIN IMMEDIATE")
        (state,) = db.execute("SELECT state FROM records WHERE key = ?", (key,)).fetchone()
        altered = bytearray(state)
        altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
        db.execute("UPDATE records SET state = ? WHERE key = ?", (bytes(altered), key))


class Healing:
    """Rows of the harmed peer, altered and watched."""

    def __init__(self, cluster: Cluster, chance: random.Random, told: Told) -> None:
        self._cluster = cluster
        self._chance = chance
        self._told = told

    async def late_s(self) -> float:
        """A row is altered right after it was read; how long until it was healed."""
        self._told("waiting for the end of a pass")
        passed = self._scrubbed()[PASSED]
        await self._until(lambda: self._scrubbed()[PASSED] != passed, "a pass ended")
        read = self._scrubbed()[READ]
        self._told("waiting for the next pass")
        await self._until(lambda: self._scrubbed()[READ] != read, "the next pass began")
        return await self._healed_s(keys_of(store_of(self._cluster, HARMED))[-1])

    async def any_s(self) -> float:
        """Any row is altered at any moment; how long until it was healed."""
        wait_s = self._chance.uniform(0.0, limits.SCRUB_PASS_S)
        self._told(f"waiting for {wait_s:.0f} s")
        until = time.monotonic() + wait_s
        await self._until(lambda: time.monotonic() >= until, "any moment")
        keys = keys_of(store_of(self._cluster, HARMED))
        return await self._healed_s(self._chance.choice(keys))

    def passed_s(self) -> float:
        """How long the last whole pass took, from its begin to the sums."""
        return self._scrubbed()[TOOK]

    async def _healed_s(self, key: bytes) -> float:
        stores = [store_of(self._cluster, peer) for peer in PEERS]
        sound = row_of(stores[0], key)
        assert sound is not None
        assert [row_of(store, key) for store in stores] == [sound] * len(stores)
        self._told("waiting for a row to be healed")
        turn_bit(stores[HARMED - 1], key, self._chance)
        began_s = time.monotonic()
        assert row_of(stores[HARMED - 1], key) != sound

        def is_healed() -> bool:
            for peer, store in zip(PEERS, stores, strict=True):
                assert peer == HARMED or row_of(store, key) == sound, f"it spread to peer-{peer}"
            return row_of(stores[HARMED - 1], key) == sound

        await self._until(is_healed, "the row is as it was")
        return time.monotonic() - began_s

    def _scrubbed(self) -> Mapping[str, float]:
        answer = httpx.get(self._cluster.peer_url(HARMED) + "/metrics", timeout=10.0)
        families = text_string_to_metric_families(answer.text)
        found = {one.name: one.value for family in families for one in family.samples}
        return {name: found.get(name, 0.0) for name in (PASSED, READ, TOOK)}

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        async def is_so() -> bool:
            return condition()

        await eventually(is_so, what, LATE_S, every_s=LOOK_S)


async def fill(cluster: Cluster, memories: int, told: Told) -> None:
    """Add so many memories of many end users, and wait until every peer has them."""
    each, more = divmod(memories, USERS)
    sizes = {f"user-{number}": each + (number < more) for number in range(USERS)}
    async with rig.opened(cluster) as loaded:
        await loaded.make_keys()
        await loaded.fill(sizes, told)

    async def are_everywhere() -> bool:
        return all(len(keys_of(store_of(cluster, peer))) == memories for peer in PEERS)

    await eventually(are_everywhere, "every peer has all memories", LATE_S, every_s=1.0)


async def run(
    cluster: Cluster, memories: int, times: int, chance: random.Random, told: Told
) -> list[Figure]:
    """Fill, look at the idle cluster, alter rows."""
    idle_s = IDLE_PASSES * limits.SCRUB_PASS_S
    idle = [_figure_of(line) for line in await standing.idle_lines(cluster, 0, told, idle_s)]
    await fill(cluster, memories, told)
    healing = Healing(cluster, chance, told)
    await healing.late_s()  # all peers are through with the first pass, for which all rows are new
    pids = {f"peer-{peer}": cluster.pid(f"peer-{peer}") for peer in PEERS}
    before, began_s = machine.used(pids), time.monotonic()
    lines = await standing.idle_lines(cluster, memories, told, idle_s)
    used_s = max(used - before[name] for name, used in machine.used(pids).items())
    share = 100 * used_s / (time.monotonic() - began_s)
    idle += [_figure_of(line) for line in lines]
    idle.append(Figure("idle peer among them, the one that takes most", share, "% of a core"))
    late = [await healing.late_s() for _ in range(times)]
    pass_s = healing.passed_s()
    anyhow = [await healing.any_s() for _ in range(times)]
    goal = f"{limits.SCRUB_PROMISED_S:g} s"
    return [
        Figure("memories", memories, ""),
        *idle,
        Figure("a pass of the scrub", pass_s, "s"),
        *(Figure("altered right after it was read: healed after", s, "s", goal) for s in late),
        *(Figure("any row at any moment: healed after", s, "s", goal) for s in anyhow),
    ]


def _figure_of(line: Line) -> Figure:
    assert line.figure is not None
    return Figure(line.measure, line.figure, line.unit, f"{line.goal:g} {line.unit}")


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench healing", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--memories", type=int, default=limits.SCRUB_PROMISED_ROWS)
    parser.add_argument("--times", type=int, default=3, help="that a row is altered each way (3)")
    parser.add_argument("--seed", type=int, default=1, help="of which rows, bits, moments (1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    load = os.getloadavg()
    with (
        tempfile.TemporaryDirectory(prefix="memsync-bench-") as folder,
        console.status("starting") as status,
        running_cluster(Path(folder) / "home") as cluster,
    ):
        cluster.wait_ready()
        chance = random.Random(options.seed)
        figures = uvloop.run(run(cluster, options.memories, options.times, chance, status.update))
    if options.json:
        print(json.dumps([msgspec.to_builtins(figure) for figure in figures], indent=1))
    else:
        title = (
            f"3 peers, one machine, load {load[0]:.1f} before and {os.getloadavg()[0]:.1f} after"
        )
        Console().print(table(figures, title))
    return 0
