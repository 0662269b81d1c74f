"""`scripts/bench` and its modes write, recall, catchup, memory, http, limits, growth: a whole
cluster beside its limits, measured in turns.

Each starts a cluster of its own (3 nats-servers that sync before they acknowledge, 3 peers, 2
gateways) on free ports in a temporary home, and loads it from this process. With `--postgres DIR`
PostgreSQL with pgvector runs beside. Everything is on one machine, the load too: read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from memsync import limits
from tests.bench.speed import catching_up, goals, growth, report, rig, standing
from tests.bench.speed import postgres as beside
from tests.bench.speed.blocks import Figure, RefusedError, Told, case, in_turns
from tests.bench.speed.cases import BARE_PUBLISH, BARE_REQUEST, PUBLISH, REQUEST, Cases, once_each
from tests.bench.speed.goals import Line
from tests.bench.speed.machine import Watch
from tests.bench.speed.postgres import NoPostgresError, Postgres
from tests.bench.speed.report import Point, Report
from tests.bench.speed.rig import Rig
from tests.system.conftest import Cluster, running_cluster

MODES: Mapping[str, str] = {
    "all": "everything below",
    "write": "adds and bulk adds beside a raw R3 publish and Postgres",
    "recall": "recalls by load and by size of the scope beside pgvector and bare FAISS",
    "catchup": "how fast a peer that was away, or lost its store, has what the others have",
    "memory": "resident memory, disk, and what an idle cluster takes",
    "http": "adds and recalls at the gateways beside those over NATS",
    "limits": "what the bus, FAISS and SQLite alone can do",
    "growth": "one peer with few and with many end users",
}
CLUSTERED = frozenset(MODES) - {"growth"}
PLOTTED = ("all", "write", "recall")
USERS, MEMORIES = 30, 1_000
WEB_CONNECTIONS = 64
LOADS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
POSTGRES_CONNECTIONS_MAX = 64
SECONDS_MIN = 0.1
ERRORS_SHOWN = 3
RAW = (PUBLISH, REQUEST, BARE_PUBLISH, BARE_REQUEST)  # that tell how steady the machine was


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    mode: str
    rounds: int
    seconds: float
    adds: int
    users: int
    large: int
    postgres: Path | None
    plot: Path | None

    def has(self, *modes: str) -> bool:
        """Whether one of these is to be measured."""
        return self.mode == "all" or self.mode in modes


class Run:
    """One run of a mode, on a cluster."""

    def __init__(self, options: Options, cluster: Cluster, folder: Path, told: Told) -> None:
        self._options = options
        self._cluster = cluster
        self._folder = folder
        self._told = told
        self._lines: list[Line] = []
        self._figures: dict[str, Figure] = {}
        self._points: list[Point] = []

    async def measure(self) -> Report:
        """Everything the mode asks for. Raises `RefusedError`."""
        options = self._options
        if options.has("memory"):
            self._lines += await standing.idle_lines(self._cluster, 0, self._told)
        async with AsyncExitStack() as stack:
            loaded = await stack.enter_async_context(
                rig.opened(self._cluster, web_connections=WEB_CONNECTIONS)
            )
            peer = await stack.enter_async_context(self._beside())
            watch = Watch(lambda: {**loaded.usage(), **(peer.usage_with_driver() if peer else {})})
            await self._turns(loaded, peer)
            noise = watch.noise(max((f.spread for f in self._raw()), default=1.0))
            if options.has("catchup"):
                self._lines += await catching_up.lines(
                    loaded, options.adds, self._folder, self._told
                )
                if not options.has("recall"):  # else there are as many memories already
                    await loaded.fill(catching_up.scopes_to_rebuild(options.large), self._told)
                self._lines += await catching_up.rebuilt_lines(loaded, options.large, self._told)
            if options.plot is not None:
                await self._plot(loaded, peer, options.plot)
        self._lines = [*goals.lines_of(self._figures), *self._lines]
        return Report(lines=self._lines, figures=list(self._figures.values()), noise=noise)

    def _raw(self) -> list[Figure]:
        return [figure for name, figure in self._figures.items() if name in RAW]

    @asynccontextmanager
    async def _beside(self) -> AsyncIterator[Postgres | None]:
        """Postgres, where it is asked for."""
        folder = self._options.postgres
        if folder is None or not self._options.has("write", "recall"):
            yield None
            return
        async with beside.running(folder, self._told) as peer:
            self._told("filling Postgres")
            await peer.prepare(users=USERS, memories=MEMORIES)
            yield peer

    async def _turns(self, loaded: Rig, peer: Postgres | None) -> None:
        """What is measured in turns, and before it the scopes that it needs."""
        options = self._options
        users = {f"user-{number}": MEMORIES for number in range(USERS)}
        sizes = {size: f"size-{size}" for size in goals.SIZES if size <= options.large}
        filled = users if options.has("recall", "memory", "http") else {}
        if options.has("recall"):
            filled = filled | {user: size for size, user in sizes.items()}
        await loaded.make_keys()
        if filled:
            content = standing.content_of(filled)
            before = standing.disk_of(self._cluster)
            await loaded.fill(filled, self._told)
            disk = standing.disk_lines(before, standing.disk_of(self._cluster), content)
            await loaded.warm(list(filled), self._told)
            large = sum(size > limits.EXACT_ROWS_MAX for size in filled.values())
            await loaded.wait_built(large, self._told)
        made = Cases(loaded, peer, self._folder)
        cases = [
            *(made.limits(goals.SIZES) if options.mode == "limits" else []),
            *(made.write() if options.has("write") else []),
            *(made.recall(list(users)) if options.has("recall") else []),
            *(made.sizes(sizes) if options.has("recall") else []),
            *(made.http(list(users)) if options.has("http") else []),
        ]
        self._figures = await in_turns(
            once_each(cases), rounds=options.rounds, seconds=options.seconds, told=self._told
        )
        if options.has("memory"):
            self._lines += [*standing.memory_lines(loaded, content), *disk]
            self._lines += await standing.idle_lines(self._cluster, content.memories, self._told)

    async def _plot(self, loaded: Rig, peer: Postgres | None, path: Path) -> None:
        """Latency over load, a block or three for each."""
        users = [f"user-{number}" for number in range(USERS)]
        steps = {}
        if self._options.has("write"):
            steps["add"] = loaded.add
        if self._options.has("recall"):
            steps["recall"] = loaded.recalls(users)
        for load in LOADS:
            cases = [case(kind, step, load, loaded.usage) for kind, step in steps.items()]
            if peer is not None and load <= POSTGRES_CONNECTIONS_MAX:
                if "add" in steps:
                    cases.append(peer.case("Postgres insert", "insert", load))
                if "recall" in steps:
                    nodes = min(load, beside.NODES)
                    cases.append(peer.case("pgvector recall", "recall", load, nodes=nodes))
            found = await in_turns(cases, rounds=3, seconds=self._options.seconds, told=self._told)
            self._points += [Point(kind, load, figure) for kind, figure in found.items()]
        report.draw(sorted(self._points, key=lambda point: point.in_flight), path)


async def run(options: Options, folder: Path, told: Told) -> Report:
    """Measure a mode. Raises `RefusedError`, `NoPostgresError`."""
    found = Report(lines=[], figures=[], noise=Watch().noise())
    if options.mode in CLUSTERED:
        told("starting a cluster")
        with running_cluster(folder / "home") as cluster:
            await asyncio.to_thread(cluster.wait_ready)
            found = await Run(options, cluster, folder, told).measure()
    if options.has("growth"):
        watch = Watch()
        lines = await growth.lines(folder / "growth", options.users, told)
        noise = found.noise if found.figures else watch.noise()
        found = msgspec.structs.replace(found, lines=[*found.lines, *lines], noise=noise)
    return found


def main(arguments: list[str], mode: str = "all") -> int:
    """The command line of a mode; returns the exit code."""
    parser = _parser(mode)
    parsed = parser.parse_args(arguments)
    postgres = parsed.postgres.resolve() if parsed.postgres is not None else None
    options = Options(
        mode=mode, rounds=parsed.rounds, seconds=parsed.seconds, adds=parsed.adds,
        users=parsed.users, large=parsed.large, postgres=postgres, plot=parsed.plot,
    )  # fmt: skip
    if options.rounds < 1 or options.seconds < SECONDS_MIN or options.users <= growth.FEW:
        parser.error(
            f"--rounds: at least 1; --seconds: at least {SECONDS_MIN}; "
            f"--users: more than {growth.FEW}"
        )
    if options.plot is not None and mode not in PLOTTED:
        parser.error(f"--plot: only with {', '.join(PLOTTED)}")
    errors = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="memsync-bench-") as folder,
        errors.status("starting") as status,
    ):
        try:
            found = uvloop.run(run(options, Path(folder), status.update))
        except* (RefusedError, NoPostgresError) as group:
            problem = group
        else:
            problem = None
    if problem is not None:
        for error in _leaves(problem):
            print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    if parsed.json:
        print(json.dumps(report.as_json(found), indent=1))
    else:
        report.show(found)
    return 0


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found[:ERRORS_SHOWN]


def _parser(mode: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench" if mode == "all" else f"scripts/bench {mode}",
        description=f"{MODES[mode]}. {(__doc__ or '').partition(': ')[2]}",
        epilog="Exit codes: 0 measured, whatever the goals; 1 a request was refused, or Postgres "
        "cannot be run; 2 wrong usage.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each line (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block (1)")
    parser.add_argument(
        "--postgres",
        type=Path,
        metavar="DIR",
        help="run PostgreSQL with pgvector beside; DIR keeps its packages, which are installed "
        "there if need be, and its data. Needs root and a user postgres",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="also draw latency over load (write, recall, all)"
    )
    parser.add_argument("--adds", type=int, default=50_000, help="missed in catchup (50000)")
    parser.add_argument("--users", type=int, default=20_000, help="end users in growth (20000)")
    parser.add_argument(
        "--large", type=int, default=100_000, help="largest scope, and memories in catchup (100000)"
    )
    return parser
