"""What callers saw, in numbers: availability, latency, recovery. Pure functions over a history.

A request counts as served when it was answered, also with a 404 or a 409: those are answers. The
connections that were open at a gateway while it was killed or frozen break or hang; they are
counted by themselves and in nothing else. So are `strong` reads, which need a majority as writes
do, and writes that name who must have them: `all` is refused while one member is gone. Requests
over NATS go over connections of the driver's
own to servers that are harmed, so they have a line of their own, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from tests.chaos.checking import Verdict
from tests.chaos.history import READS, Fault, History, Operation
from tests.chaos.outages import NOTED_S, Outage, outages
from tests.chaos.records import ALL, LOG, STRONG

TAIL_S = 1.0  # what begins so long after a fault is over still counts as under it
NINES_MAX = 9.0
RECALL_S_MAX, WRITE_KILL_S_MAX, WRITE_FREEZE_S_MAX = 1.0, 1.5, 2.5
WRITES_MIN, TAGGED_MAX = 0.999, 0.001
LOSS_S_MAX = 7.5  # conditional updates, for each loss of their stripe's leader
CALM = "calm"
ALONE, TOGETHER = ("kill ", "freeze "), "+"  # in the names of faults
# What a rolling restart must not fail; `all` is refused while a member restarts, as it should be.
UNINTERRUPTED = ("reads", "strong reads", "writes", "writes to the log", "conditional")
SAFETY = ("lost", "resurrected", "partial", "stale", "doubled", "crashed")


class Line(msgspec.Struct, frozen=True):
    """Requests of one kind. `tagged` were answered with the tag `replication`, `degraded` with any;
    `worst_s` is the slowest of those served."""

    total: int = 0
    served: int = 0
    refused: int = 0
    unknown: int = 0
    at_gateway: int = 0
    tagged: int = 0
    degraded: int = 0
    worst_s: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0

    @property
    def availability(self) -> float:
        """The share that was served, 0..1; of nothing, all."""
        return self.served / self.total if self.total else 1.0

    @property
    def nines(self) -> float:
        """2 for 99 %, 3 for 99.9 %; `NINES_MAX` where all were served."""
        missed = 1.0 - self.availability
        return NINES_MAX if missed <= 0 else min(NINES_MAX, abs(math.log10(missed)))


class Suffered(msgspec.Struct, frozen=True):
    """One fault as callers saw it. `requests_s`: from its beginning until the last read or write
    that failed had failed, 0 where none did; `conditional_s` the same for conditional updates.
    `ready_s`: from its end until all was ready and healed, None where that was not in time."""

    fault: Fault
    lines: dict[str, Line]
    requests_s: float
    conditional_s: float
    ready_s: float | None


class Figure(msgspec.Struct, frozen=True):
    """A figure that the product must reach."""

    what: str
    wanted: str
    found: str
    is_reached: bool


class Figures(msgspec.Struct, frozen=True):
    """All of it."""

    lines: dict[str, Line]
    by_kind: dict[str, dict[str, Line]]
    suffered: list[Suffered]
    figures: list[Figure]
    outages: list[Outage]


def is_recall(operation: Operation) -> bool:
    """A recall over HTTP."""
    return operation.invoke.op == "recall" and is_read(operation)


def is_read(operation: Operation) -> bool:
    """Any read over HTTP but strong ones, recalls among them."""
    invoke = operation.invoke
    return invoke.op in READS and invoke.way == "http" and invoke.consistency != STRONG


def is_strong(operation: Operation) -> bool:
    """A strong read over HTTP."""
    invoke = operation.invoke
    return invoke.op in READS and invoke.way == "http" and invoke.consistency == STRONG


def is_conditional(operation: Operation) -> bool:
    """A conditional update over HTTP: it cannot go to another stripe."""
    return operation.invoke.op == "swap" and operation.invoke.way == "http"


def is_write(operation: Operation) -> bool:
    """Any other write over HTTP that waits for whom the default names."""
    return _is_plain_write(operation) and not operation.invoke.ack


def is_to_all(operation: Operation) -> bool:
    """One that waits for all members."""
    return _is_plain_write(operation) and operation.invoke.ack == ALL


def is_to_log(operation: Operation) -> bool:
    """One that waits for the log only."""
    return _is_plain_write(operation) and operation.invoke.ack == LOG


def _is_plain_write(operation: Operation) -> bool:
    invoke = operation.invoke
    return invoke.op not in (*READS, "swap", "use") and invoke.way == "http"


def is_over_nats(operation: Operation) -> bool:
    """Anything over NATS."""
    return operation.invoke.way == "nats"


LINES: dict[str, Callable[[Operation], bool]] = {
    "recalls": is_recall,
    "reads": is_read,
    "strong reads": is_strong,
    "writes": is_write,
    "writes to all": is_to_all,
    "writes to the log": is_to_log,
    "conditional": is_conditional,
    "over NATS": is_over_nats,
}


def figures_of(history: History, verdict: Verdict) -> Figures:
    """Everything that the report shows, from the history alone."""
    load = [one for one in history.operations if _is_load(one)]
    made = (one for one in history.faults if not one.skipped and not one.without_effect)
    faults = sorted(made, key=lambda one: one.began)
    under = _attributed(load, faults)
    suffered = [_suffered(fault, under[place]) for place, fault in enumerate(faults)]
    by_kind: dict[str, list[Operation]] = {CALM: under[None]}
    for place, fault in enumerate(faults):
        by_kind.setdefault(fault.kind, []).extend(under[place])
    lines = {kind: _lines(found) for kind, found in by_kind.items()}
    total = _lines(load)
    swaps = [one for one in load if one.invoke.op == "swap" and not one.end.at_gateway]
    out = outages(swaps, history.elections, faults)
    judged = _judged(total, lines, faults, verdict)
    if swaps:
        judged.append(_of_losses(out))
    return Figures(total, lines, suffered, judged, out)


def _attributed(
    load: Sequence[Operation], faults: Sequence[Fault]
) -> dict[int | None, list[Operation]]:
    """The operations under each fault, by its place; None for those under none. One that lasts from
    one fault into the next is the first one's."""
    found: dict[int | None, list[Operation]] = {None: []}
    spans = [span(fault) for fault in faults]
    found |= {place: [] for place in range(len(faults))}
    for one in load:
        places = (p for p, (a, b) in enumerate(spans) if a <= one.ended and one.began <= b)
        found[next(places, None)].append(one)
    return found


def is_served(operation: Operation) -> bool:
    """Whether the caller got an answer, be it a no."""
    status = operation.end.status
    return operation.is_ok or (operation.is_fail and 0 < status < 500 and status != 429)


def span(fault: Fault) -> tuple[float, float]:
    """From when to when callers may feel it."""
    end = fault.taken_back if fault.ready is None else fault.ready
    return fault.began, end + TAIL_S


def line_of(operations: Iterable[Operation]) -> Line:
    """The numbers of these."""
    found = list(operations)
    ours = [one for one in found if not one.end.at_gateway]
    served = [one for one in ours if is_served(one)]
    took = sorted(one.ended - one.began for one in served)
    kinds = Counter("refused" if one.is_fail else "unknown" for one in ours if not is_served(one))
    return Line(
        total=len(ours),
        served=len(served),
        refused=kinds["refused"],
        unknown=kinds["unknown"],
        at_gateway=len(found) - len(ours),
        tagged=sum("replication" in one.end.tags for one in served),
        degraded=sum(bool(one.end.tags) for one in served),
        worst_s=took[-1] if took else 0.0,
        p50_s=_quantile(took, 0.5),
        p99_s=_quantile(took, 0.99),
    )


def _is_load(operation: Operation) -> bool:
    """What the callers did while the run went on, not what was read and settled at the end."""
    return operation.invoke.final is None and operation.invoke.process != "settler"


def _lines(operations: Sequence[Operation]) -> dict[str, Line]:
    return {name: line_of(filter(is_meant, operations)) for name, is_meant in LINES.items()}


def _suffered(fault: Fault, under: Sequence[Operation]) -> Suffered:
    plain = [one for one in under if is_read(one) or is_write(one)]
    return Suffered(
        fault=fault,
        lines=_lines(under),
        requests_s=_until_well(fault, plain),
        conditional_s=_until_well(fault, filter(is_conditional, under)),
        ready_s=None if fault.ready is None else fault.ready - fault.taken_back,
    )


def _until_well(fault: Fault, operations: Iterable[Operation]) -> float:
    failed = [one for one in operations if not is_served(one) and not one.end.at_gateway]
    ends = [one.ended for one in failed if math.isfinite(one.ended)]
    return max(0.0, max(ends, default=fault.began) - fault.began)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _judged(
    total: dict[str, Line],
    by_kind: dict[str, dict[str, Line]],
    faults: Sequence[Fault],
    verdict: Verdict,
) -> list[Figure]:
    """The figures of the issue, as far as this run's faults are those that they are about."""
    counts = verdict.counts()
    found = [
        Figure(f"{kind}", "0", str(counts[kind]), counts[kind] == 0) for kind in SAFETY
    ]  # fmt: skip
    away = sum(fault.ready is None for fault in faults)
    found.append(Figure("faults after which not all came back in time", "0", str(away), away == 0))
    kinds = {fault.kind for fault in faults}
    if kinds and all(kind.startswith(ALONE) and TOGETHER not in kind for kind in kinds):
        found += _of_one_at_a_time(total, by_kind)
    if kinds == {"restart all"}:
        lines = [total[name] for name in UNINTERRUPTED]
        failed = sum(line.total - line.served + line.at_gateway for line in lines)
        what = "rolling restart: failed requests over HTTP"
        found.append(Figure(what, "0", str(failed), failed == 0))
    return found


def _of_losses(found: Sequence[Outage]) -> Figure:
    """Each loss of a leader by itself: a cut may bring two of one stripe."""
    losses = [one for outage in found if outage.is_judged for one in outage.losses_s]
    worst = max(losses, default=0.0)
    said = f"{worst:.2f} s, {len(losses)} of {NOTED_S:g} s or more"
    what = "no conditional update done, for each loss of a stripe's leader"
    return Figure(what, f"<= {LOSS_S_MAX:g} s", said, worst <= LOSS_S_MAX)


def _of_one_at_a_time(total: dict[str, Line], by_kind: dict[str, dict[str, Line]]) -> list[Figure]:
    recalls, writes = total["recalls"], total["writes"]
    tagged = recalls.tagged / recalls.served if recalls.served else 0.0
    found = [
        Figure("recalls answered", "100 %", percent(recalls.availability), recalls.nines > 8),
        _at_most("worst recall", RECALL_S_MAX, recalls.worst_s),
        Figure("recalls tagged `replication`", "<= 0.1 %", percent(tagged), tagged <= TAGGED_MAX),
        Figure(
            "writes answered", ">= 99.9 %", percent(writes.availability),
            writes.availability >= WRITES_MIN,
        ),
    ]  # fmt: skip
    for how, limit_s in (("kill", WRITE_KILL_S_MAX), ("freeze", WRITE_FREEZE_S_MAX)):
        worst = [lines["writes"].worst_s for kind, lines in by_kind.items() if kind.startswith(how)]
        if worst:
            found.append(_at_most(f"worst write, {how}", limit_s, max(worst)))
    return found


def _at_most(what: str, limit_s: float, found_s: float) -> Figure:
    return Figure(what, f"<= {limit_s:g} s", f"{found_s:.2f} s", found_s <= limit_s)


def percent(share: float) -> str:
    """With as many digits as tell it from 100."""
    text = f"{100 * share:.2f}"
    return f"{100 * share:.5f} %" if text == "100.00" and share < 1 else f"{text} %"
