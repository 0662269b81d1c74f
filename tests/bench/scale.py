"""`scripts/bench scale`: one peer with very many memories: how soon it answers after its start,
how much memory it takes, how fast recalls are in small and large scopes, and how far approximate
search agrees with exact search.

The store is filled by the product's own code but without its API (tests/bench/filling.py); then
`memsync dev` runs on it: one nats-server, one peer. Recalls are NATS requests with questions that
differ; a raw request-reply between two connections is measured in the same run, in turns. The
machine's load counts: read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from memsync import limits
from memsync.ids import Scope
from memsync.local.home import Home
from memsync.local.ports import Ports, choose_free
from memsync.wire import genesis as genesis_file
from memsync.wire.genesis import Genesis
from tests.bench import agreement
from tests.bench.filling import fill, parts_of
from tests.bench.one_peer import Caller, OnePeer, Timing

SMALL, MIDDLE = 50, 1_000
SMALL_SCOPES, MIDDLE_SCOPES = 20, 5
K = 10
RECALLS = 300
LOADED_WITHIN_S = 120.0
LOOK_S = 0.5
BUILDS = "memsync_hot_index_builds_total"


class Figure(msgspec.Struct, frozen=True):
    """One line of the result; `goal` is what the project asks for, "" where nothing."""

    name: str
    value: float
    unit: str
    goal: str = ""


class Plan(msgspec.Struct, frozen=True):
    """Which scopes there are: (end user, memories). `large` come first."""

    large: list[tuple[str, int]]
    middle: list[tuple[str, int]]
    small: list[tuple[str, int]]
    rest: list[tuple[str, int]]

    @property
    def all(self) -> list[tuple[str, int]]:
        """Every scope."""
        return self.large + self.middle + self.small + self.rest


def plan_of(memories: int, users: int, large: Sequence[int]) -> Plan:
    """Scopes of the sizes that are looked at, and the rest shared out evenly."""
    fixed = Plan(
        large=[(f"large-{size}-{number}", size) for number, size in enumerate(large)],
        middle=[(f"middle-{number}", MIDDLE) for number in range(MIDDLE_SCOPES)],
        small=[(f"small-{number}", SMALL) for number in range(SMALL_SCOPES)],
        rest=[],
    )
    left = memories - sum(size for _, size in fixed.all)
    others = users - len(fixed.all)
    if left < others or others < 1:
        raise ValueError(f"{memories} memories are too few for these scopes")
    each, more = divmod(left, others)
    rest = [(f"user-{number}", each + (number < more)) for number in range(others)]
    return msgspec.structs.replace(fixed, rest=rest)


def scope_of(cell: Genesis, end_user: str) -> Scope:
    """The scope that the first key of the cell means by this end user."""
    return Scope(cell.organisation.id, "", cell.key.environment, end_user)


async def run(home: Home, ports: Ports, plan: Plan, told: Any) -> list[Figure]:
    """Fill a store, start a peer on it, measure."""
    peer = OnePeer(home, ports)
    with peer.running():
        pass  # the cell is founded, its streams are made
    began = time.perf_counter()
    total = sum(size for _, size in plan.all)
    cell = genesis_file.read(home.genesis)
    parts = list(parts_of([(scope_of(cell, u), n) for u, n in plan.all], int(time.time() * 1e3)))
    folder, identity = home.data("peer-1"), genesis_file.identity(cell)
    size = await fill(folder, identity, parts, lambda n: told(f"{n:,} of {total:,}"))
    figures = [
        Figure("memories", total, ""),
        Figure("scopes", len(plan.all), ""),
        Figure("filling the store", time.perf_counter() - began, "s"),
        Figure("store per memory", size / total, "bytes"),
    ]
    ends = accumulate(size for _, size in plan.all)
    scopes = {user: (end - n, n) for (user, n), end in zip(plan.all, ends, strict=True)}
    with peer.running(wait=False):
        async with peer.caller(scopes) as caller:
            figures += await _start(peer, caller, plan, told)
            figures += await _touches(caller, plan, told)
            await _built(peer, plan, told)
            figures += await _speed(peer, caller, plan, told)
            figures += await _memory(peer, caller, plan, told)
    for user, n in plan.large:
        if n > limits.EXACT_ROWS_MAX:
            told(f"approximate against exact, {n:,} memories")
            first, _ = scopes[user]
            found = await agreement.measured(folder, identity, scope_of(cell, user), first, k=K)
            figures += _agreement(found, n)
    return figures


def _agreement(found: agreement.Agreement, n: int) -> list[Figure]:
    name = f"approximate search in {n:,}"
    return [
        Figure(f"{name}, recall@{K} against exact", found.ranked, "", "0.98"),
        Figure(f"{name}, recall@{K} of cosines", found.by_cosine, "", "0.98"),
        Figure(f"{name}, processor time", found.approximate_ms, "ms"),
        Figure(f"exact search in {n:,}, processor time", found.exact_ms, "ms"),
        Figure(f"{name}, built in (processor time)", found.build_s, "s"),
    ]


async def _start(peer: OnePeer, caller: Caller, plan: Plan, told: Any) -> list[Figure]:
    """From the start of the peer's process to the first whole answer, in a scope that is not
    loaded then."""
    told("the first answer after a start")
    user, _ = plan.rest[0]
    await caller.wait_recalled(user, within_s=LOADED_WITHIN_S)
    first_s = peer.age_s()
    return [Figure("first answer after the start of the process", first_s, "s", "5 s")]


async def _touches(caller: Caller, plan: Plan, told: Any) -> list[Figure]:
    figures = []
    for size, scopes, goal in (
        (SMALL, plan.small, "5 ms"),
        (MIDDLE, plan.middle, ""),
        *((n, [(user, n)], "") for user, n in plan.large),
    ):
        told(f"first touch of scopes of {size:,}")
        times = [await caller.wait_recalled(user, within_s=LOADED_WITHIN_S) for user, _ in scopes]
        middle = sorted(times)[len(times) // 2] * 1e3
        figures.append(Figure(f"first touch of a scope of {size:,}, median", middle, "ms", goal))
    return figures


async def _built(peer: OnePeer, plan: Plan, told: Any) -> None:
    """Until approximate search is built for every scope that is to have it."""
    told("building approximate search")
    wanted = sum(size > limits.EXACT_ROWS_MAX for _, size in plan.large)
    give_up_at = time.monotonic() + LOADED_WITHIN_S
    while peer.metrics().get(BUILDS, 0.0) < wanted:
        assert time.monotonic() < give_up_at, "approximate search was not built"
        await asyncio.sleep(LOOK_S)


async def _speed(peer: OnePeer, caller: Caller, plan: Plan, told: Any) -> list[Figure]:
    """Recalls in warm scopes and raw requests, in turns."""
    figures = []
    goals = {MIDDLE: "1 ms", 100_000: "6 ms"}
    for user, n in (*plan.small[:1], *plan.middle[:1], *plan.large):
        told(f"recalls in a scope of {n:,}")
        await caller.recalls(user, count=20)
        timing = Timing()
        raw = Timing()
        processor_s = 0.0
        for _ in range(RECALLS // 20):
            before_s = peer.processor_s()
            timing.add(await caller.recalls(user, count=20))
            processor_s += peer.processor_s() - before_s
            raw.add(await caller.echoes(count=20))
        name = f"recall in a scope of {n:,}"
        figures += [
            Figure(f"{name}, p50", timing.at(0.5) * 1e3, "ms", goals.get(n, "")),
            Figure(f"{name}, p95", timing.at(0.95) * 1e3, "ms"),
            Figure(f"{name}, the peer's own share, p50", timing.own(0.5) * 1e3, "ms"),
            Figure(f"{name}, processor time of the peer", processor_s / RECALLS * 1e3, "ms"),
            Figure(f"{name}, p50 times a raw request's", timing.at(0.5) / raw.at(0.5), "x"),
        ]
    return figures


async def _memory(peer: OnePeer, caller: Caller, plan: Plan, told: Any) -> list[Figure]:
    """What the peer holds once it has answered in every scope."""
    told("a recall in every scope")
    for user, _ in plan.all:
        await caller.wait_recalled(user, within_s=LOADED_WITHIN_S)
    metrics = peer.metrics()
    index, kept = (
        sum(metrics[name] for name in names) / 2**20
        for names in (
            ["memsync_hot_index_bytes"],
            ["memsync_recall_results_bytes", "memsync_recall_shown_bytes"],
        )
    )
    return [
        Figure("resident, all scopes asked once", peer.resident_mb(), "MB", "2,500 MB"),
        Figure("resident, the most ever", peer.resident_most_mb(), "MB", "2,500 MB"),
        Figure("loaded scopes", metrics["memsync_hot_index_scopes"], ""),
        Figure("loaded scopes take, as reckoned", index, "MB"),
        Figure("answers and memories that are kept take, as reckoned", kept, "MB"),
        Figure(
            "resident above an idle peer's, times reckoned",
            (peer.resident_mb() - peer.idle_mb) / (index + kept),
            "x",
            "0.8 to 1.2",
        ),
    ]


def table(figures: Sequence[Figure], title: str = "one peer, one machine, load and all") -> Table:
    """The figures for a person."""
    shown = Table(title=title)
    shown.add_column("what")
    shown.add_column("value", justify="right")
    shown.add_column("goal", justify="right")
    for figure in figures:
        digits = 0 if abs(figure.value) >= 1_000 else 3
        shown.add_row(figure.name, f"{figure.value:,.{digits}f} {figure.unit}", figure.goal)
    return shown


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench scale", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--memories", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument(
        "--large", type=int, action="append", help="a scope of this size (100000); repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        plan = plan_of(options.memories, options.users, options.large or [100_000])
    except ValueError as error:
        parser.error(str(error))
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="memsync-bench-") as folder,
        console.status("starting") as status,
    ):
        home = Home(Path(folder) / "home")
        ports = choose_free(Ports(peers=1, servers=1, gateways=0))
        figures = uvloop.run(run(home, ports, plan, status.update))
    if options.json:
        print(json.dumps([msgspec.to_builtins(figure) for figure in figures], indent=1))
    else:
        Console().print(table(figures))
    return 0
