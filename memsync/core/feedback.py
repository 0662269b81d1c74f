"""What signals make of a memory's importance, reckoned from the set of them by who reads. Pure.

    step        + 0.10 positive, - 0.10 negative, + 0.02 retrieved, - 0.02 ignored
    balance     of the last signals (at most 10, of the 30 days before the newest): what they add up
                to over what they could, -1..1, where retrieved and ignored count a fifth
    multiplier  0.5 + |balance| from the third of them on, else 1: consistent signals move a memory
                up to 1.5 times as far, mixed ones half as far
    importance  + step x multiplier, signal after signal, each time clamped to 0.05..1

It begins at the importance that a caller gave the memory last; signals before that count in the
summary only. The order is that of the stamps. So two peers that take signals at once need not know
of each other: whoever has both comes to the same importance. Nothing here reads a clock; age is
between stamps. The numbers are chosen, not measured: four signals of a kind in a row move a memory
from the middle to an end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from memsync.core.records import Record, elements_of, value_of
from memsync.core.stamps import wall_ms_of
from memsync.wire.operations import Signal, Stamp

SIGNALS = "signals"
IMPORTANCE_MIN, IMPORTANCE_MAX = 0.05, 1.0
STEPS = {"positive": 10, "negative": -10, "retrieved": 2, "ignored": -2}  # in hundredths
RECENT_MAX = 10
RECENT_MS = 30 * 86_400_000
TREND_SIGNALS_MIN = 3
MOMENTUM_MIN = 0.2  # of the balance; below it signals have no direction


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """What the last signals say together."""

    momentum: str = "neutral"
    consistency: float = 0.0
    multiplier: float = 1.0
    recent_count: int = 0


class Course(msgspec.Struct, frozen=True):
    """How a memory's importance came about: before and after its last signal."""

    before: float
    after: float
    trend: Trend


def signals_of(record: Record) -> list[Signal]:
    """The signals on a memory in the order of their stamps."""
    if SIGNALS not in record.elements:
        return []
    found = elements_of(record, SIGNALS)
    return [found[key] for key in sorted(found, key=lambda key: (found[key].stamp, key))]


def importance_of(record: Record) -> float:
    """The importance of a memory as it counts: what its callers gave it and what signals made of
    it."""
    given: float = value_of(record, "importance")
    if SIGNALS not in record.elements:
        return given
    return course_of(given, _given_at(record), signals_of(record)).after


def course_with(record: Record, signal: Signal) -> Course:
    """What one more signal, later than all others, makes of it."""
    given: float = value_of(record, "importance")
    return course_of(given, _given_at(record), [*signals_of(record), signal])


def course_of(given: float, given_at: Stamp | None, signals: Sequence[Signal]) -> Course:
    """Go through `signals`, in order, from the importance `given` at `given_at` (None: at the
    beginning)."""
    before = after = given
    recent: deque[tuple[int, int]] = deque()  # when, and the step
    total = weight = 0  # of the recent steps, with their signs and without
    for signal in signals:
        at_ms, step = wall_ms_of(signal.stamp), STEPS.get(signal.signal, 0)
        recent.append((at_ms, step))
        total, weight = total + step, weight + abs(step)
        while len(recent) > RECENT_MAX or at_ms - recent[0][0] > RECENT_MS:
            _, gone = recent.popleft()
            total, weight = total - gone, weight - abs(gone)
        if given_at is None or signal.stamp > given_at:
            before = after
            moved = after + step / 100 * _multiplier(len(recent), total, weight)
            after = round(min(max(moved, IMPORTANCE_MIN), IMPORTANCE_MAX), 6)
    return Course(before, after, _trend(len(recent), total, weight))


def _multiplier(count: int, total: int, weight: int) -> float:
    return 0.5 + abs(total) / weight if count >= TREND_SIGNALS_MIN and weight else 1.0


def _trend(count: int, total: int, weight: int) -> Trend:
    balance = total / weight if weight else 0.0
    momentum = "neutral"
    if abs(balance) >= MOMENTUM_MIN:
        momentum = "positive" if balance > 0 else "negative"
    return Trend(
        momentum=momentum,
        consistency=round(abs(balance), 6),
        multiplier=round(_multiplier(count, total, weight), 6),
        recent_count=count,
    )


def _given_at(record: Record) -> Stamp | None:
    register = record.registers.get("importance")
    return None if register is None else register.stamp
