"""How a sample looks: tables for a screen, or one line for a log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from memsync.cli.output import STATES, Cell, fitting
from memsync.cli.status.command import age
from memsync.cli.top.sample import Load, Operation, Sample

PROCESS_COLUMNS = (
    "Process", "State", "Up", "CPU", "Memory", "Lag", "In flight", "Queued", "Index",
)  # fmt: skip
SPARE_COLUMNS = ("CPU", "Memory", "Index", "Queued", "Up")  # the last one goes first
KILOBYTE = 1_000
MEGABYTE = 1_000_000


def screen(sample: Sample, columns_max: int) -> RenderableType:
    """A sample as tables below each other."""
    parts: list[RenderableType] = [_heading(sample), Text()]
    if sample.operations:
        parts.append(
            fitting(
                ("Operation", "Per second", "p50", "p95", "By status"),
                [_operation(one) for one in sample.operations],
                columns_max,
            )
        )
    else:
        parts.append(Text("no requests" if sample.interval_s else "counting ...", style="dim"))
    rows = [_process(one) for one in sample.processes]
    parts += [Text(), fitting(PROCESS_COLUMNS, rows, columns_max, SPARE_COLUMNS)]
    if sample.stripes:
        stripes = [
            (f"stripe-{one.stripe}", one.leader or Text("no leader", style="red"),
             one.generation, one.last_sequence)
            for one in sample.stripes
        ]  # fmt: skip
        parts += [Text(), fitting(("Stripe", "Leader", "Generation", "Last"), stripes, columns_max)]
    troubles = list(_troubles(sample))
    if troubles:
        parts += [Text(), *(Text(line, style="red") for line in troubles)]
    return Group(*parts)


def line(sample: Sample) -> str:
    """A sample in one line, for a log."""
    state = "ready" if sample.ready else "not ready"
    parts = [sample.at, state, f"{sample.requests_per_s or 0:g} requests/s"]
    for one in sample.operations:
        times = f"p50 {_time(one.p50_ms)} p95 {_time(one.p95_ms)}"
        parts.append(f"{one.operation} {one.per_s:g}/s {times} ({_statuses(one)})")
    parts += [f"{one.name} lag {one.lag_entries}" for one in sample.processes if one.lag_entries]
    return "; ".join([*parts, *_troubles(sample)])


def _heading(sample: Sample) -> Text:
    state = "ready" if sample.ready else "not ready"
    heading = Text("memsync top  ", style="bold")
    at = datetime.fromisoformat(sample.at).astimezone()
    heading.append(at.strftime("%H:%M:%S  "))
    heading.append(state, style=STATES.get(state, "red"))
    if sample.requests_per_s is not None:
        heading.append(f"  {sample.requests_per_s:g} requests/s over {sample.interval_s:.1f} s")
    return heading.append("  q ends", style="dim")


def _operation(one: Operation) -> list[Cell]:
    return [one.operation, f"{one.per_s:g}", _time(one.p50_ms), _time(one.p95_ms), _statuses(one)]


def _process(one: Load) -> list[Cell]:
    style = "" if one.state == "running" else STATES.get(one.state, "red")
    cpu = None if one.cpu_percent is None else f"{one.cpu_percent:.0f}%"
    in_flight = one.requests_in_flight if one.writes_in_flight is None else one.writes_in_flight
    return [
        one.name, Text(one.state, style=style), age(one.uptime_s), cpu, _size(one.memory_bytes),
        one.lag_entries, in_flight, one.writes_queued, _size(one.hot_index_bytes),
    ]  # fmt: skip


def _statuses(one: Operation) -> str:
    return " ".join(f"{status}: {rate:g}" for status, rate in one.statuses.items())


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    if milliseconds >= 1_000:
        return f"{milliseconds / 1_000:.1f} s"
    return f"{milliseconds:.1f} ms"


def _size(count: int | None) -> str | None:
    if count is None:
        return None
    if count < MEGABYTE:
        return f"{count / KILOBYTE:.0f} kB"
    return f"{count / MEGABYTE:.0f} MB"


def _troubles(sample: Sample) -> Iterator[str]:
    """What is wrong, a sentence each."""
    for one in sample.processes:
        for check, why in one.failed.items():
            yield f"{one.name} fails in {check}: {why}"
    for stripe in sample.stripes:
        if stripe.leader is None:
            yield f"stripe {stripe.stripe} has no leader"
    yield from sample.problems
