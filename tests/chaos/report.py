"""What a run says at its end: for a person as tables, for a machine as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.chaos.checking import Verdict
from tests.chaos.figures import LOSS_S_MAX, NINES_MAX, Figures, Line, Suffered, percent
from tests.chaos.history import History

ANOMALIES_SHOWN = 12
WIDTH = 170


def as_json(history: History, verdict: Verdict, figures: Figures) -> dict[str, Any]:
    """Everything, as plain values."""
    run = history.run
    return {
        "seed": run.seed if run else None,
        "options": run.options if run else {},
        "verdict": {
            "counts": verdict.counts(),
            "anomalies": msgspec.to_builtins(verdict.anomalies),
            "judged": dict(verdict.judged),
            "unjudged": dict(verdict.unjudged),
            "cannot": verdict.cannot,
        },
        "total": {name: _line(line) for name, line in figures.lines.items()},
        "by_kind": {
            kind: {name: _line(line) for name, line in lines.items()}
            for kind, lines in figures.by_kind.items()
        },
        "faults": [
            msgspec.to_builtins(one.fault)
            | {
                "requests_s": one.requests_s,
                "conditional_s": one.conditional_s,
                "ready_s": one.ready_s,
            }
            for one in figures.suffered
        ],
        "outages": [
            msgspec.to_builtins(one) | {"losses_s": one.losses_s} for one in figures.outages
        ],
        "skipped": [
            {"kind": one.kind, "why": one.skipped} for one in history.faults if one.skipped
        ],
        "notes": [note.text for note in history.notes],
        "figures": msgspec.to_builtins(figures.figures),
    }


def _line(line: Line) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(line)
    return found | {"availability": line.availability, "nines": line.nines}


def show(history: History, verdict: Verdict, figures: Figures, console: Console) -> None:
    """The tables and the verdict."""
    if history.run is not None:
        said = ", ".join(f"{name} {value}" for name, value in history.run.options.items() if value)
        console.print(f"seed {history.run.seed}: {said}", highlight=False)
    if figures.suffered:
        console.print(_faults(figures))
        console.print(_by_kind(figures))
    console.print(_availability(figures))
    console.print(_figures(figures))
    for line in [*_outages(figures), *_words(history, verdict)]:
        console.print(line, highlight=False, markup=False)


def _faults(figures: Figures) -> Table:
    table = Table(title="each fault: failed of all requests; seconds", title_justify="left")
    for name in ("at", "fault"):
        table.add_column(name)
    for name in (
        "writes", "worst", "conditional", "recalls", "worst", "tagged", "other reads",
        "at that gateway", "requests well after", "conditional", "all ready after",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for one in figures.suffered:
        table.add_row(*_row(one))
    return table


def _row(one: Suffered) -> list[str]:
    fault, lines = one.fault, one.lines
    reads, recalls, writes = lines["reads"], lines["recalls"], lines["writes"]
    shown = f"{fault.kind}: {', '.join(fault.targets) if len(fault.targets) < 4 else 'all'}"
    return [
        f"{fault.began:.0f}",
        shown + (f" ({fault.note})" if fault.note else ""),
        _failed(writes),
        f"{writes.worst_s:.2f}",
        _failed(lines["conditional"]),
        _failed(recalls),
        f"{recalls.worst_s:.2f}",
        str(recalls.tagged),
        f"{reads.total - reads.served - (recalls.total - recalls.served)}",
        str(sum(lines[name].at_gateway for name in ("reads", "writes", "conditional"))),
        f"{one.requests_s:.1f}",
        f"{one.conditional_s:.1f}",
        "not in time" if one.ready_s is None else f"{one.ready_s:.1f}",
    ]


def _failed(line: Line) -> str:
    return f"{line.total - line.served} / {line.total}"


def _availability(figures: Figures) -> Table:
    table = Table(title="the whole run, without retries by the caller", title_justify="left")
    table.add_column("requests")
    for name in (
        "all", "served", "nines", "refused", "unknown", "at that gateway", "tagged", "degraded",
        "p50 ms", "p99 ms", "worst s",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for name, line in figures.lines.items():
        table.add_row(name, *_cells(line))
    return table


def _by_kind(figures: Figures) -> Table:
    table = Table(title="availability by kind of fault: percent (nines)", title_justify="left")
    table.add_column("during")
    for name in ("reads", "worst read s", "writes", "worst write s", "conditional"):
        table.add_column(name, justify="right")
    for kind, lines in figures.by_kind.items():
        reads, writes = lines["reads"], lines["writes"]
        table.add_row(
            kind, _share(reads), f"{reads.worst_s:.2f}", _share(writes), f"{writes.worst_s:.2f}",
            _share(lines["conditional"]),
        )  # fmt: skip
    return table


def _share(line: Line) -> str:
    if not line.total:
        return "-"
    return f"{percent(line.availability)} ({_nines(line)}) of {line.total}"


def _nines(line: Line) -> str:
    return "all" if line.nines >= NINES_MAX else f"{line.nines:.1f}"


def _cells(line: Line) -> Iterator[str]:
    yield str(line.total)
    yield percent(line.availability)
    yield _nines(line)
    for count in (line.refused, line.unknown, line.at_gateway, line.tagged, line.degraded):
        yield str(count)
    yield f"{1000 * line.p50_s:.0f}"
    yield f"{1000 * line.p99_s:.0f}"
    yield f"{line.worst_s:.2f}"


def _figures(figures: Figures) -> Table:
    table = Table(title="figures to reach", title_justify="left")
    for name in ("figure", "wanted", "found", ""):
        table.add_column(name)
    for one in figures.figures:
        table.add_row(one.what, one.wanted, one.found, "pass" if one.is_reached else "FAIL")
    return table


def _outages(figures: Figures) -> Iterator[str]:
    """Those that are more than one loss of a leader within its time."""
    told = [
        one for one in figures.outages if len(one.elections) > 1 or max(one.losses_s) > LOSS_S_MAX
    ]
    for one in told[:ANOMALIES_SHOWN]:
        parts = " + ".join(f"{part:.1f}" for part in one.losses_s)
        why = "" if one.is_judged else ", not judged: no quorum"
        yield f"stripe {one.stripe} from {one.began:.1f} s: no update for {parts} s{why}"


def _words(history: History, verdict: Verdict) -> Iterator[str]:
    for fault in history.faults:
        if fault.skipped:
            yield f"skipped {fault.kind}: {fault.skipped}"
        if fault.without_effect:
            yield f"without effect {fault.kind}: {fault.without_effect}"
    yield from (f"note: {note.text}" for note in history.notes[:ANOMALIES_SHOWN])
    yield "judged: " + ", ".join(f"{n} {what}" for what, n in sorted(verdict.judged.items()))
    for what, n in sorted(verdict.unjudged.items()):
        yield f"not judged: {n} {what}"
    yield ", ".join(f"{kind} {n}" for kind, n in verdict.counts().items())
    for one in verdict.anomalies[:ANOMALIES_SHOWN]:
        place = f"{one.user}/{one.ref}" if one.user else one.ref
        yield f"  {one.kind}: {place}: {one.detail} (operations {one.operations})"
    if (more := len(verdict.anomalies) - ANOMALIES_SHOWN) > 0:
        yield f"  and {more} more"
    for why in verdict.cannot[:ANOMALIES_SHOWN]:
        yield f"cannot judge: {why}"
