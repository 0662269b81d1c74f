"""What was measured, for a person and for a program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.speed.blocks import Figure
from tests.bench.speed.goals import Line
from tests.bench.speed.machine import Noise

LOAD = "load"
KINDS = ("nats", "peer", "gateway", "postgres", LOAD)
WIDTH = 150  # where it is not a terminal
COLOURS = {
    "add": "#08519c", "recall": "#a63603", "Postgres insert": "#9ecae1",
    "pgvector recall": "#fdae6b",
}  # fmt: skip


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run: the goals' lines, the figures that they come from, and what the machine did."""

    lines: list[Line]
    figures: list[Figure]
    noise: Noise


def as_json(report: Report) -> dict[str, Any]:
    """The same as plain values; each line with what was compared and whether its goal is met."""
    lines = [
        msgspec.to_builtins(one) | {"value": one.value, "is_met": one.is_met}
        for one in report.lines
    ]
    return {
        "lines": lines,
        "figures": [msgspec.to_builtins(one) for one in report.figures],
        "noise": msgspec.to_builtins(report.noise) | {"reasons": report.noise.reasons},
    }


def show(report: Report) -> None:
    """Print both tables, and what is to be known of the machine."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if report.figures:
        console.print(_figures(report.figures))
    if report.lines:
        console.print(_goals(report.lines))
    for figure in report.figures:
        if figure.refused:
            console.print(f"[yellow]{figure.name}: {figure.refused} requests were refused[/]")
    noise = report.noise
    others = "" if noise.others is None else f"other processes took {noise.others:.2f} cores, "
    console.print(
        f"load average {noise.load[0]:.1f} at the begin, {noise.load[1]:.1f} at the end; "
        f"{others}{100 * noise.stolen:.1f} % was stolen"
    )
    for reason in noise.reasons:
        console.print(f"[yellow]the machine was busy: {reason}[/]")


def _goals(lines: Sequence[Line]) -> Table:
    table = Table(title="goals; limits were measured in the same run, in turns")
    table.add_column("measure")
    for column in ("figure", "limit", "ratio", "goal"):
        table.add_column(column, justify="right")
    table.add_column("reached")
    table.add_column("the limit is")
    for one in lines:
        sign = ("<=" if one.at_most else ">=") + (" limit +" if one.judged == "apart" else "")
        unit = "x" if one.judged == "ratio" else one.unit
        reached = {True: "[green]yes[/]", False: "[red]NO[/]", None: "[yellow]?[/]"}[one.is_met]
        ratio = _number(one.ratio)
        if one.judged == "apart" and one.value is not None:
            ratio = f"{one.value:+.2f} {one.unit}"
        table.add_row(
            one.measure, _number(one.figure, one.unit), _number(one.limit, one.unit), ratio,
            f"{sign} {one.goal:,g} {unit}", reached, one.note or one.limit_is,
        )  # fmt: skip
    return table


def _figures(figures: Sequence[Figure]) -> Table:
    table = Table(title="medians over blocks; ms of processor time per operation, by process")
    table.add_column("operation")
    for column in ("per second", "p50 ms", "p95 ms", "p99 ms", "spread", "cpu", *KINDS):
        table.add_column(column, justify="right")
    for one in figures:
        table.add_row(
            one.name, f"{one.per_second:,.0f}", f"{one.p50_ms:.2f}", f"{one.p95_ms:.2f}",
            f"{one.p99_ms:.2f}", f"{one.spread:.2f}", *_processor(one.cpu_ms),
        )  # fmt: skip
    return table


def _processor(cpu_ms: dict[str, float]) -> list[str]:
    """All servers together, and each kind of process; what makes the load stands apart."""
    kinds = dict.fromkeys(KINDS, 0.0)
    for name, used in cpu_ms.items():
        kinds[name.rpartition("-")[0] or name] += used
    total = sum(used for kind, used in kinds.items() if kind != LOAD)
    return [f"{used:.3f}" if used else "" for used in (total, *kinds.values())]


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f} {unit}".rstrip()


class Point(msgspec.Struct, frozen=True):
    """One measured load of the plot."""

    kind: str
    in_flight: int
    figure: Figure


def draw(points: Sequence[Point], path: Path) -> None:
    """Latency over load as PNG; raises `OSError` where the file cannot be written."""
    from matplotlib.figure import Figure as Drawing  # slow to import, and only a plot needs it

    drawing = Drawing(figsize=(9.0, 5.2), dpi=120, layout="constrained")
    axes = drawing.add_subplot()
    for kind in dict.fromkeys(point.kind for point in points):
        own = [point for point in points if point.kind == kind]
        rates = [point.figure.per_second for point in own]
        colour = COLOURS.get(kind)
        axes.plot(rates, [p.figure.p50_ms for p in own], "o-", color=colour, label=f"{kind}, p50")
        axes.plot(
            rates, [p.figure.p95_ms for p in own], ".--", color=colour, alpha=0.5,
            label=f"{kind}, p95",
        )  # fmt: skip
        for point, rate in zip(own, rates, strict=True):
            axes.annotate(
                str(point.in_flight), (rate, point.figure.p50_ms), fontsize=7,
                xytext=(3, -9), textcoords="offset points",
            )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("operations per second (at each point: how many in flight)")
    axes.set_ylabel("latency, ms")
    axes.set_title("latency over load, one machine, load and all", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, which="both")
    drawing.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    with path.open("wb") as file:
        drawing.savefig(file, format="png")
