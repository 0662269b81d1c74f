"""The timeline of a run as PNG: latency of every request, failures, and the faults as bands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tests.chaos.figures import LINES, is_served
from tests.chaos.history import Fault, History, Operation

SHOWN = {"writes": "#08519c", "recalls": "#41ab5d"}
BANDS = ("#fdd0a2", "#dadaeb")
FAILED, HUNG, TAGGED = "#cb181d", "#969696", "#fe9929"
LEAST_MS = 0.5


def draw(history: History, path: Path) -> None:
    """Write the chart; raises `OSError` where the file cannot be written."""
    from matplotlib.figure import Figure  # slow to import, and only a chart needs it

    load = [
        one for one in history.operations
        if one.invoke.final is None and one.invoke.process != "settler"
    ]  # fmt: skip
    end = max((one.ended for one in load if math.isfinite(one.ended)), default=1.0)
    figure = Figure(figsize=(min(40.0, max(11.0, end / 15)), 7.0), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for place, fault in enumerate(history.faults):
        _band(above, below, place, fault)
    for name, colour in SHOWN.items():
        meant = [one for one in load if LINES[name](one) and not one.end.at_gateway]
        _points(above, [one for one in meant if is_served(one)], colour, name, size=4)
        if name == "recalls":
            tagged = [one for one in meant if "replication" in one.end.tags]
            _points(above, tagged, TAGGED, "recalls tagged `replication`", size=9)
    failed = [one for one in load if not is_served(one) and not one.end.at_gateway]
    _points(above, failed, FAILED, "failed", size=16, marker="x")
    hung = [one for one in load if one.end.at_gateway]
    _points(above, hung, HUNG, "at a harmed gateway", size=12, marker="+")
    above.set_yscale("log")
    above.set_ylabel("milliseconds")
    _per_second(below, load, int(end) + 1)
    figure.legend(loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    below.set_xlabel("seconds")
    below.set_xlim(0, end)
    seed = history.run.seed if history.run else "?"
    above.set_title(f"scripts/chaos, seed {seed}: {len(load)} requests", fontsize=10)
    with path.open("wb") as file:
        figure.savefig(file, format="png")


def _band(above: Any, below: Any, place: int, fault: Fault) -> None:
    if fault.skipped:
        return
    end = max(fault.taken_back, fault.began + 0.3)
    for axes in (above, below):
        axes.axvspan(fault.began, end, color=BANDS[place % 2], alpha=0.7, linewidth=0)
        if fault.ready is not None:
            axes.axvspan(end, max(end, fault.ready), color="#eeeeee", linewidth=0)
    above.annotate(
        f"{fault.kind} {fault.targets[0] if len(fault.targets) == 1 else ''}",
        (fault.began, 1.0), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
        va="top", ha="right",
    )  # fmt: skip


def _points(
    axes: Any, operations: list[Operation], colour: str, label: str, *, size: int, marker: str = "."
) -> None:
    ended = [one for one in operations if math.isfinite(one.ended)]
    times = [one.began for one in ended]
    took = [max(LEAST_MS, 1000 * (one.ended - one.began)) for one in ended]
    axes.scatter(times, took, s=size, c=colour, marker=marker, label=label, linewidths=0.8)


def _per_second(axes: Any, load: list[Operation], seconds: int) -> None:
    served, failed = [0] * seconds, [0] * seconds
    for one in load:
        if math.isfinite(one.ended):
            is_good = is_served(one) or bool(one.end.at_gateway)
            (served if is_good else failed)[min(seconds - 1, int(one.ended))] += 1
    axes.step(range(seconds), served, where="post", color="#525252", label="served each second")
    axes.bar(range(seconds), failed, width=1.0, align="edge", color=FAILED)
    axes.set_ylabel("per second")
