"""`scripts/bench leases`: what leases cost a write and a recall, over NATS.

One cluster of its own, whose peers are told in turns to go on with leases and to do without
(tests/bench/without_leases.py). So both ways have the same machine, stores, leaders of stripes and
background, and a pair of blocks lies within seconds. Ratios are of such pairs, with the interval
that holds the true one in 95 of 100 runs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import nats.errors
import numpy as np
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memsync.wire import codec, context, genesis
from memsync.wire.members import Watermark
from memsync.wire.subjects import CellName
from tests.bench.comparing import PAIRS_MIN, Ratio, ratio, ratio_of_medians
from tests.bench.run import connect, text_of
from tests.bench.without_leases import WITH, WITHOUT
from tests.system.conftest import Cluster, running_cluster

UP = ("tests.bench.without_leases", "--up")
PEERS = ("peer-1", "peer-2", "peer-3")
PAIRS_DEFAULT = 60
SCOPE_MEMORIES = 1_000
REQUEST_S = 10.0
SWITCHED_S = 20.0
IDLE_S = 5.0
UNMEASURED = 6  # requests after a switch that are not counted
REFUSED_SHARE_MAX = 0.05
ADD_GOAL, RECALL_GOAL = 1.10, 1.05


class Case(msgspec.Struct, frozen=True):
    """What is measured: so many requests in a block, so many at once."""

    operation: str
    in_flight: int
    count: int


CASES = (Case("add", 1, 36), Case("add", 16, 160), Case("recall", 1, 60), Case("recall", 16, 240))


class Block(msgspec.Struct, frozen=True):
    """One case, measured once. `times_ms` are of the requests that were answered; of these,
    `degraded` said that something was missing."""

    times_ms: list[float]
    seconds: float
    refused: int = 0
    degraded: int = 0


class Way(msgspec.Struct, frozen=True):
    """One case with leases, or without: all blocks together."""

    p50_ms: float
    p95_ms: float
    per_second: float
    requests: int
    refused: int
    degraded: int


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result. `ratio` is of p50s, `time_ratio` of what a block took as a whole: so
    many times as long with leases as without."""

    operation: str
    in_flight: int
    with_leases: Way
    without: Way
    ratio: Ratio
    time_ratio: Ratio
    goal: float
    is_met: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured. `idle_cores` is what all processes together take while nobody asks,
    in cores; `load` the machine's load average at the begin and at the end."""

    pairs: int
    figures: list[Figure]
    idle_cores: dict[str, float]
    load: list[float]


class RefusedError(Exception):
    """A request was refused, or not answered in time."""


def is_met(case: Case, found: Ratio) -> bool:
    """Whether the goal is reached: an add takes at most 1.1 times as long; of a recall the interval
    holds 1.0, or it takes at most 1.05 times as long."""
    if case.operation == "add":
        return found.value <= ADD_GOAL
    return found.low <= 1.0 <= found.high or found.value <= RECALL_GOAL


class Rig:
    """The cluster, and connections to each of its servers: a server gives a request to the peer
    that is connected to it, so the peers take turns."""

    def __init__(self, cluster: Cluster, callers: list[Client], node: Client) -> None:
        self._cluster = cluster
        self._callers = callers
        self._node = node
        self._numbers, self._turns = itertools.count(), itertools.count()
        document = genesis.read(cluster.home / "genesis.json")
        self._marks = CellName(region=document.region, cell=document.cell).mark("*")

    async def fill(self) -> None:
        """The memories that recalls look among."""
        for first in range(0, SCOPE_MEMORIES, 50):
            items = [{"text": text_of(number)} for number in range(first, first + 50)]
            await self._ask("memory.bulk_add", {"items": items, "deduplicate": False}, "recalls")

    async def switch(self, *, has_leases: bool) -> None:
        """Tell the peers; returns once their watermarks show that they do so: each names both
        others, or nobody. Raises `TimeoutError`."""
        for peer in PEERS:
            os.kill(self._cluster.pid(peer), WITH if has_leases else WITHOUT)
        named: dict[str, int] = {}
        is_done = asyncio.Event()

        async def hear(message: Msg) -> None:
            told = codec.decode_told(message.data)
            if isinstance(told, Watermark):
                named[told.member] = len(told.leases)
                wanted = dict.fromkeys(PEERS, len(PEERS) - 1 if has_leases else 0)
                if named == wanted:
                    is_done.set()

        subscription = await self._node.subscribe(self._marks, cb=hear)
        try:
            async with asyncio.timeout(SWITCHED_S):
                await is_done.wait()
        finally:
            await subscription.unsubscribe()
        for case in CASES:
            await self.measure(msgspec.structs.replace(case, count=UNMEASURED))

    async def measure(self, case: Case) -> Block:
        """One block."""
        times_ms: list[float] = []
        degraded = 0
        left = iter(range(case.count))

        async def worker() -> None:
            nonlocal degraded
            for _ in left:
                began = time.perf_counter()
                try:
                    degraded += await self._once(case.operation)
                except RefusedError:
                    continue
                times_ms.append((time.perf_counter() - began) * 1e3)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(case.in_flight):
                workers.create_task(worker())
        seconds = time.perf_counter() - began
        return Block(times_ms, seconds, case.count - len(times_ms), degraded)

    async def _once(self, operation: str) -> bool:
        number = next(self._numbers)
        if operation == "recall":  # each question is a new one: no kept answer serves it
            return await self._ask("memory.query", {"query": text_of(number)}, "recalls")
        text = f"{text_of(number)} {secrets.token_hex(3)}"
        return await self._ask("memory.add", {"text": text, "deduplicate": False}, "adds")

    async def _ask(self, operation: str, body: Mapping[str, object], user: str) -> bool:
        """Ask; whether the answer is degraded. Raises `RefusedError`."""
        caller = self._callers[next(self._turns) % len(self._callers)]
        try:
            answer = await caller.request(
                f"memsync.v1.{operation}",
                json.dumps(body).encode(),
                timeout=REQUEST_S,
                headers=self._cluster.headers(user),
            )
        except (nats.errors.Error, TimeoutError) as error:
            raise RefusedError(type(error).__name__) from error
        headers = answer.headers or {}
        if headers.get(context.STATUS) not in ("200", "201"):
            raise RefusedError(answer.data.decode(errors="replace"))
        return context.DEGRADED in headers

    def cpu_seconds(self) -> float:
        """What all processes of the cluster have used, keepers left out."""
        files = (self._cluster.home / "run").glob("*.pid")
        return sum(_cpu_seconds(int(file.read_text())) for file in files)

    async def idle_cores(self) -> float:
        """What they use while nobody asks."""
        began, used = time.perf_counter(), self.cpu_seconds()
        await asyncio.sleep(IDLE_S)
        return round((self.cpu_seconds() - used) / (time.perf_counter() - began), 3)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def rigged(cluster: Cluster) -> AsyncIterator[Rig]:
    """Connections to a cluster of switchable peers."""
    async with AsyncExitStack() as stack:
        clients = []
        for server, user in ((1, "client"), (2, "client"), (3, "client"), (1, "node")):
            clients.append(await connect(cluster, server, user))
            stack.push_async_callback(clients[-1].close)
        yield Rig(cluster, clients[:3], clients[3])


async def compare(cluster: Cluster, pairs: int, progress: Progress | None = None) -> Result:
    """Measure so many pairs of blocks of each case; which way comes first changes from pair to
    pair. Raises `RefusedError` where too much was refused to compare the rest."""
    blocks: dict[tuple[Case, bool], list[Block]] = {
        (case, way): [] for case in CASES for way in (True, False)
    }
    load = [round(os.getloadavg()[0], 2)]
    idle: dict[str, float] = {}
    async with rigged(cluster) as rig:
        await rig.fill()
        for way in (False, True):
            await rig.switch(has_leases=way)
            idle[_name(way)] = await rig.idle_cores()
        numbers = range(pairs) if progress is None else progress.track(range(pairs))
        for number in numbers:
            for way in (True, False) if number % 2 == 0 else (False, True):
                await rig.switch(has_leases=way)
                for case in CASES:
                    blocks[case, way].append(await rig.measure(case))
        await rig.switch(has_leases=True)
    load.append(round(os.getloadavg()[0], 2))
    figures = [figure(case, blocks[case, True], blocks[case, False]) for case in CASES]
    return Result(pairs=pairs, figures=figures, idle_cores=idle, load=load)


def _name(has_leases: bool) -> str:
    return "with" if has_leases else "without"


def figure(case: Case, ones: list[Block], others: list[Block]) -> Figure:
    """One line: blocks with leases, and those without that they are paired with."""
    refused = sum(block.refused for block in (*ones, *others))
    allowed = REFUSED_SHARE_MAX * case.count * (len(ones) + len(others))
    if refused > allowed or not all(block.times_ms for block in (*ones, *others)):
        raise RefusedError(f"{refused} requests ({case.operation}) were refused")
    found = ratio_of_medians(
        [block.times_ms for block in ones], [block.times_ms for block in others]
    )
    return Figure(
        operation=case.operation,
        in_flight=case.in_flight,
        with_leases=way_of(ones),
        without=way_of(others),
        ratio=found,
        time_ratio=ratio([block.seconds for block in ones], [block.seconds for block in others]),
        goal=ADD_GOAL if case.operation == "add" else RECALL_GOAL,
        is_met=is_met(case, found),
    )


def way_of(blocks: list[Block]) -> Way:
    """All blocks of one way together."""
    times_ms = np.concatenate([np.asarray(block.times_ms) for block in blocks])
    p50, p95 = np.quantile(times_ms, [0.5, 0.95])
    return Way(
        p50_ms=round(float(p50), 3),
        p95_ms=round(float(p95), 3),
        per_second=round(len(times_ms) / sum(block.seconds for block in blocks), 1),
        requests=len(times_ms),
        refused=sum(block.refused for block in blocks),
        degraded=sum(block.degraded for block in blocks),
    )


def table(result: Result) -> Table:
    """The figures for a person."""
    shown = Table(title=f"what leases cost, over NATS; {result.pairs} pairs of blocks")
    shown.add_column("operation")
    for column in ("leases", "p50 ms", "p95 ms", "per s", "times as long [95 %]", "goal", "met"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in result.figures:
        name = f"{one.operation} x{one.in_flight}"
        met = "yes" if one.is_met else "NO"
        told = (f"p50 {_shown(one.ratio)}", f"{one.goal:.2f}", met)
        shown.add_row(name, "with", *_columns(one.with_leases), *told)
        shown.add_row("", "without", *_columns(one.without), f"all {_shown(one.time_ratio)}")
    return shown


def _columns(way: Way) -> tuple[str, str, str]:
    return f"{way.p50_ms:.2f}", f"{way.p95_ms:.2f}", f"{way.per_second:,.0f}"


def _shown(found: Ratio) -> str:
    return f"{found.value:.3f} [{found.low:.3f} {found.high:.3f}]"


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench leases",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="A cluster of its own, whose peers go on with leases and do without in turns. Exit "
        "codes: 0 measured, whatever the goals; 1 too much was refused; 2 wrong usage.",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=PAIRS_DEFAULT,
        help=f"pairs of blocks ({PAIRS_DEFAULT}); 4 times as many halve the intervals",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    if options.pairs < PAIRS_MIN:
        parser.error(f"--pairs: at least {PAIRS_MIN}")
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="memsync-bench-") as folder,
        running_cluster(Path(folder) / "home", up=UP) as cluster,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        try:
            result = uvloop.run(compare(cluster, options.pairs, progress))
        except RefusedError as error:
            print(f"scripts/bench leases: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(msgspec.to_builtins(result), indent=1))
    else:
        Console().print(table(result))
        idle = result.idle_cores
        print(
            f"idle, all processes: {100 * idle['with']:.0f} % of a core with leases, "
            f"{100 * idle['without']:.0f} % without; load average {result.load[0]:.1f} at the "
            f"begin, {result.load[1]:.1f} at the end"
        )
    return 0
