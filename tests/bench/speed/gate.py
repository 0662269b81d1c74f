"""`scripts/bench gate`: whether the product became slower, on whatever machine this is.

Times differ from machine to machine and from minute to minute, so they are not compared. What is
compared are ratios: what an operation takes by what raw operations of the bus take, measured in
turns in one run; medians of blocks. Processor time per operation, less what the idle cluster takes
in as long, is the steadier kind of ratio and bears the smaller margin: of seven runs with a load
average of 8 to 20 on two cores the greatest of an unchanged product's was 1.04 to 1.29 times the
smallest (with the best third of the blocks instead of their median 1.14 to 1.51), and against a
quiet machine's 1.04 to 1.94. Latencies grow
many times as long under such load, ours more than the raw ones, so they are judged only where
others leave the machine alone.

What is worse by more than its margin is measured once more before the gate fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench.speed import cases, rig
from tests.bench.speed.blocks import (
    Block,
    Case,
    Figure,
    RefusedError,
    Told,
    block_of,
    case,
    in_turns,
)
from tests.bench.speed.machine import Watch
from tests.bench.speed.rig import BULK, Rig
from tests.system.conftest import running_cluster

BASELINE = Path(__file__).parents[1] / "baseline.json"
ROUNDS, SECONDS = 6, 0.6
ATTEMPTS = 2
USERS, MEMORIES = 6, 1_000
WEB_CONNECTIONS = 16
PROCESSOR_MARGIN = 2.2
LATENCY_MARGIN = 2.0
OTHERS_MAX = 0.25  # cores that other processes may take where latencies are judged
PUBLISH_16 = "raw R3 publish x16"
IDLE = "idle cluster, a second"
PROCESSOR, LATENCY = "processor time", "p50"
Of = Callable[[Block], float]
Figures = Mapping[str, Figure]


class Rule(msgspec.Struct, frozen=True):
    """One ratio: what of a case, by the sum of the same of raw ones."""

    ours: str
    kind: str
    raw: tuple[str, ...]

    @property
    def name(self) -> str:
        """As it stands in the baseline."""
        return f"{self.ours}, {self.kind}"

    @property
    def margin(self) -> float:
        """So many times the recorded ratio may be."""
        return PROCESSOR_MARGIN if self.kind == PROCESSOR else LATENCY_MARGIN

    def ratio(self, figures: Figures) -> float:
        """The median of its blocks by those of the raw ones."""
        of = _processor_beyond(_idle_cores(figures)) if self.kind == PROCESSOR else _p50
        raw = sum(_typical(figures[name], of) for name in self.raw)
        if self.ours == IDLE:
            return _idle_cores(figures) * 1e3 / raw
        return _typical(figures[self.ours], of) / raw


RAW_16 = (PUBLISH_16, cases.REQUEST_16)
RULES = (
    Rule(cases.ADD_16, PROCESSOR, RAW_16),
    Rule(cases.ADD_64, PROCESSOR, RAW_16),
    Rule(cases.BULK_16, PROCESSOR, RAW_16),
    Rule(cases.RECALL_16, PROCESSOR, RAW_16),
    Rule(cases.WEB_RECALL_16, PROCESSOR, RAW_16),
    Rule(IDLE, PROCESSOR, RAW_16),
    Rule(cases.BARE_ADD, LATENCY, (cases.BARE_PUBLISH, cases.BARE_REQUEST)),
    Rule(cases.BARE_RECALL, LATENCY, (cases.BARE_REQUEST,)),
)


class Measured(msgspec.Struct, frozen=True):
    """Ratios by the names of their rules, and how many cores other processes took meanwhile."""

    others: float
    ratios: dict[str, float]


class Baseline(Measured, frozen=True):
    """The same, and when it was recorded."""

    recorded: str


class Verdict(msgspec.Struct, frozen=True):
    """One ratio beside the recorded one; `recorded` is None for a rule that is new. What is not
    `judged` is shown only."""

    name: str
    ratio: float
    recorded: float | None
    margin: float
    is_judged: bool

    @property
    def times(self) -> float | None:
        """So many times the recorded ratio it is."""
        return None if self.recorded is None else self.ratio / self.recorded

    @property
    def is_worse(self) -> bool:
        """Whether the gate fails for it."""
        return self.times is None or (self.is_judged and self.times > self.margin)

    def said(self) -> str:
        """Why the gate fails, in one line."""
        if self.times is None:
            return f"{self.name}: the baseline has no such ratio"
        return (
            f"{self.name}: {self.times:.2f} times what was recorded ({self.ratio:.2f} times raw "
            f"operations', recorded {self.recorded:.2f}); at most {self.margin:g} times is allowed"
        )


def judged(found: Measured, baseline: Baseline) -> list[Verdict]:
    """Each rule's ratio beside what was recorded."""
    is_quiet = found.others <= OTHERS_MAX
    return [
        Verdict(
            rule.name, found.ratios[rule.name], baseline.ratios.get(rule.name), rule.margin,
            is_judged=is_quiet or rule.kind == PROCESSOR,
        )
        for rule in RULES
    ]  # fmt: skip


def best_of(runs: Sequence[Measured]) -> Measured:
    """Of each ratio the smallest."""
    ratios = {rule.name: min(run.ratios[rule.name] for run in runs) for rule in RULES}
    return Measured(min(run.others for run in runs), ratios)


def _processor_beyond(idle_cores: float) -> Of:
    """Processor time per operation, less what nobody's operation needs."""

    def processor(block: Block) -> float:
        return block.cpu_ms - idle_cores * block.seconds / block.count * 1e3

    return processor


def _p50(block: Block) -> float:
    return block.p50_ms


def _idle_cores(figures: Figures) -> float:
    return statistics.median(
        block.cpu_ms / 1e3 * block.per_second for block in figures[IDLE].blocks
    )


def _typical(figure: Figure, of: Of) -> float:
    return statistics.median(map(of, figure.blocks))


def _cases(loaded: Rig, users: Sequence[str]) -> list[Case]:
    recalls, usage = loaded.recalls(users), loaded.usage
    return [
        _idle(loaded),
        case(cases.BARE_PUBLISH, loaded.raw_publish, 1, usage),
        case(cases.BARE_REQUEST, loaded.raw_request, 1, usage),
        case(cases.BARE_ADD, loaded.add, 1, usage),
        case(cases.BARE_RECALL, recalls, 1, usage),
        case(PUBLISH_16, loaded.raw_publish, 16, usage),
        case(cases.ADD_16, loaded.add, 16, usage),
        case(cases.ADD_64, loaded.add, 64, usage),
        case(cases.BULK_16, loaded.bulk_add, 16, usage, counted=BULK),
        case(cases.REQUEST_16, loaded.raw_request, 16, usage),
        case(cases.RECALL_16, recalls, 16, usage),
        case(cases.WEB_RECALL_16, loaded.web_recalls(users), 16, usage),
    ]


def _idle(loaded: Rig) -> Case:
    """What the cluster does while nobody asks. A block is one operation."""

    async def measure(seconds: float) -> Block:
        before = loaded.usage()
        await asyncio.sleep(seconds)
        used = {name: total - before[name] for name, total in loaded.usage().items()}
        return block_of([seconds], seconds, used)

    return Case(IDLE, 0, measure)


async def measured(folder: Path, is_enough: Callable[[Measured], bool], told: Told) -> Measured:
    """The ratios of a cluster of its own, of one attempt or, where that is not enough, of the best
    of two. Raises `RefusedError`."""
    told("starting a cluster")
    users = [f"user-{number}" for number in range(USERS)]
    with running_cluster(folder / "home") as cluster:
        await asyncio.to_thread(cluster.wait_ready)
        async with rig.opened(cluster, web_connections=WEB_CONNECTIONS) as loaded:
            await loaded.make_keys()
            await loaded.fill(dict.fromkeys(users, MEMORIES), told)
            await loaded.warm(users, told)
            runs: list[Measured] = []
            while len(runs) < ATTEMPTS and not (runs and is_enough(best_of(runs))):
                watch = Watch(loaded.usage)
                figures = await in_turns(
                    _cases(loaded, users), rounds=ROUNDS, seconds=SECONDS, told=told
                )
                ratios = {rule.name: rule.ratio(figures) for rule in RULES}
                runs.append(Measured(watch.noise().others or 0.0, ratios))
    return best_of(runs)


def show(found: Measured, verdicts: Sequence[Verdict], console: Console) -> None:
    """Print all ratios, and what became worse."""
    table = Table(title="times what raw operations of the bus take; medians of blocks")
    table.add_column("operation")
    for column in ("ratio", "recorded", "times", "allowed"):
        table.add_column(column, justify="right")
    for one in verdicts:
        colour = "red" if one.is_worse else "green" if one.is_judged else "yellow"
        recorded = "-" if one.recorded is None else f"{one.recorded:.2f}"
        times = "-" if one.times is None else f"[{colour}]{one.times:.2f}[/]"
        allowed = f"{one.margin:g}" if one.is_judged else "not judged"
        table.add_row(one.name, f"{one.ratio:.2f}", recorded, times, allowed)
    console.print(table)
    if found.others > OTHERS_MAX:
        console.print(
            f"[yellow]other processes took {found.others:.2f} cores: latencies are not judged[/]"
        )
    for one in verdicts:
        if one.is_worse:
            console.print(f"[red]worse:[/] {one.said()}", soft_wrap=True, highlight=False)


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    errors = Console(stderr=True)
    baseline = msgspec.json.decode(options.baseline.read_bytes(), type=Baseline)
    if options.result is not None:
        found = msgspec.json.decode(options.result.read_bytes(), type=Measured)
    else:
        try:
            found = _measured(baseline, options.record, errors)
        except RefusedError as error:
            print(f"scripts/bench gate: {error}", file=sys.stderr)
            return 1
    if options.record:
        _record(found, options.baseline)
        return 0
    verdicts = judged(found, baseline)
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        show(found, verdicts, Console())
    if any(one.is_worse for one in verdicts):
        print(
            "scripts/bench gate: slower than the baseline. If that is meant, or the raw operations "
            "became faster: scripts/bench gate --record, and say why in the commit",
            file=sys.stderr,
        )
        return 1
    return 0


def _record(found: Measured, file: Path) -> None:
    rounded = {name: round(ratio, 3) for name, ratio in found.ratios.items()}
    made = {"recorded": date.today().isoformat(), "others": found.others, "ratios": rounded}
    file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"recorded in {file}")
    if found.others > OTHERS_MAX:
        print(f"other processes took {found.others:.2f} cores: record it on a quiet machine")


def _measured(baseline: Baseline, is_recording: bool, errors: Console) -> Measured:
    def is_enough(found: Measured) -> bool:
        return not is_recording and not any(one.is_worse for one in judged(found, baseline))

    with (
        tempfile.TemporaryDirectory(prefix="memsync-bench-") as folder,
        errors.status("starting") as status,
    ):
        try:
            return uvloop.run(measured(Path(folder), is_enough, status.update))
        except* RefusedError as group:
            raise RefusedError("; ".join(map(str, group.exceptions))) from group


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench gate",
        description=(__doc__ or "").partition(": ")[2],
        epilog="Exit codes: 0 not slower; 1 slower, or a request was refused; 2 wrong usage.",
    )
    parser.add_argument("--json", action="store_true", help="print the ratios as JSON")
    parser.add_argument("--record", action="store_true", help="make these ratios the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="another baseline")
    parser.add_argument(
        "--result", type=Path, metavar="FILE", help="judge ratios that --json printed earlier"
    )
    return parser
