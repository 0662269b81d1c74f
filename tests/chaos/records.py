"""The records of a history: who wrote what to each, and what a reader must know of it. Pure.

Several attempts with one key are one `Write`. Its effect lies between the beginning of the first
attempt and the end of the first that was answered; while none was, it may come at any time, for
ever. A write that ended before another began is the older one; all others are concurrent, and any
order of them is right.

An answer to `Memsync-Ack: log` promises that the log and the coordinator have it, and says nothing
of when others do: readers need not know of it, and it is older than nothing. But it is there at the
end, unless a stream of the log was deleted (`is_log_lost`). What a `strong` read showed is with a
majority and with whoever answers as fresh, so it counts as acknowledged from then on, whatever its
writer was told.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

import msgspec

from tests.chaos.history import CHANGES, CREATES, WRITES, Operation

Name = tuple[str, str]  # (user, ref)
LOG, ALL, STRONG, LOCAL = "log", "all", "strong", "local"
# Who reads: one that must know what was acknowledged, one after all was healed, one that may lag.
FRESH, FINAL, BEHIND = "fresh", "final", "behind"
REPLICATION = "replication"


class Write(msgspec.Struct, frozen=True):
    """All attempts of one write, in the order of their beginning."""

    attempts: list[Operation]

    @property
    def n(self) -> int:
        """The number of the first attempt."""
        return self.attempts[0].n

    @property
    def op(self) -> str:
        """What it does."""
        return self.attempts[0].invoke.op

    @property
    def user(self) -> str:
        """Whose records it means."""
        return self.attempts[0].invoke.user

    @property
    def refs(self) -> list[str]:
        """The records that it means."""
        return self.attempts[0].invoke.refs

    @property
    def value(self) -> str:
        """What it writes, which nobody else does."""
        return self.attempts[0].invoke.value

    @property
    def count(self) -> int:
        """To what it sets a counter."""
        return self.attempts[0].invoke.count

    @property
    def began(self) -> float:
        """It had no effect before this."""
        return self.attempts[0].began

    @property
    def ended(self) -> float:
        """It had its effect before this; infinite while it is not acknowledged by more than the
        log."""
        return min((one.ended for one in self._answered if one.invoke.ack != LOG), default=math.inf)

    @property
    def answered(self) -> float:
        """It was acknowledged before this, be it by the log only; infinite while it is not."""
        return min((one.ended for one in self._answered), default=math.inf)

    @property
    def everywhere(self) -> float:
        """Every member had it before this, as far as anybody was told; infinite while nobody was.
        (`Memsync-Ack: all`.)"""
        return min((one.ended for one in self._answered if one.invoke.ack == ALL), default=math.inf)

    @property
    def _answered(self) -> list[Operation]:
        return [one for one in self.attempts if one.is_ok]

    @property
    def is_ok(self) -> bool:
        """Whether it was acknowledged."""
        return any(one.is_ok for one in self.attempts)

    def is_kept(self, *, is_log_lost: bool) -> bool:
        """Whether it must be there at the end."""
        return math.isfinite(self.ended if is_log_lost else self.answered)

    @property
    def is_possible(self) -> bool:
        """Whether it may have had an effect."""
        return not all(one.is_fail for one in self.attempts)


Times = Mapping[str, Callable[[Write], float]]
"""By kind of reader: when a write was known for certain, to those who began to read later."""


class Record(msgspec.Struct):
    """One memory, as its writers know it; how it is read by `FRESH`, `FINAL` and `BEHIND`."""

    creates: list[Write] = []
    changes: list[Write] = []
    forgets: list[Write] = []
    writers: dict[str, Write] = {}
    _times: Times = {}
    _floors: dict[str, tuple[list[float], list[Write]]] = {}

    def seal(self, times: Times) -> None:
        """Sort what readers are measured by; call it once all writes are there."""
        self._times = times
        for reader, known_s in times.items():
            ends: list[float] = []
            floors: list[Write] = []
            newest: Write | None = None
            for write in sorted(self.changes, key=known_s):
                if math.isfinite(known_s(write)):
                    newest = write if newest is None or write.began > newest.began else newest
                    ends.append(known_s(write))
                    floors.append(newest)
            self._floors[reader] = ends, floors

    def floor(self, at: float, reader: str) -> Write | None:
        """Of the changes that must be known at `at`, the one that began last."""
        ends, floors = self._floors.get(reader, ([], []))
        place = bisect_left(ends, at)
        return floors[place - 1] if place else None

    def is_created(self, at: float, reader: str) -> bool:
        """Whether a create must be known at `at`."""
        return any(self._times[reader](write) < at for write in self.creates)

    def is_forgotten(self, at: float, reader: str) -> bool:
        """Whether a forget must be known at `at`."""
        return any(self._times[reader](write) < at for write in self.forgets)

    def may_be_forgotten(self, at: float) -> bool:
        """Whether a forget may have had its effect by `at`."""
        return any(write.is_possible and write.began < at for write in self.forgets)


class Records(msgspec.Struct, frozen=True):
    """All of them, with the write that each attempt belongs to, and the reads by their numbers.
    `is_set_back`: what a peer once had it may lack, since a store was harmed."""

    by_name: dict[Name, Record]
    writes: list[Write]
    by_number: dict[int, Write]
    reads: dict[int, Operation]
    of_user: dict[str, list[str]]
    is_set_back: bool = False


def is_older(write: Write, than: Write) -> bool:
    """Whether `write` can only rank below the change `than`: it was over before that began. Every
    create ranks below every change."""
    return write.op in CREATES or write.ended < than.began


def attempts_of(operations: Iterable[Operation]) -> list[Write]:
    """Join attempts into writes."""
    attempts: dict[int, list[Operation]] = {}
    for operation in operations:
        attempts.setdefault(operation.invoke.first or operation.n, []).append(operation)
    return [Write(sorted(found, key=lambda one: one.began)) for found in attempts.values()]


def of_operations(
    operations: Iterable[Operation], *, is_log_lost: bool = False, is_set_back: bool = False
) -> Records:
    """Join attempts into writes, and writes into records."""
    known = list(operations)
    reads = {one.n: one for one in known if one.invoke.op not in WRITES}
    writes = attempts_of(one for one in known if one.invoke.op in WRITES)
    by_name: dict[Name, Record] = {}
    for write in writes:
        for ref in write.refs:
            record = by_name.setdefault((write.user, ref), Record())
            _add(record, write)
    shown = _shown(known, by_name)
    times: Times = {
        FRESH: lambda write: min(write.ended, shown.get(write.n, math.inf)),
        FINAL: lambda write: min(
            write.ended if is_log_lost else write.answered, shown.get(write.n, math.inf)
        ),
        BEHIND: lambda write: write.everywhere,
    }
    for record in by_name.values():
        record.seal(times)
    of_user: dict[str, list[str]] = {}
    for user, ref in by_name:
        of_user.setdefault(user, []).append(ref)
    by_number = {one.n: write for write in writes for one in write.attempts}
    return Records(by_name, writes, by_number, reads, of_user, is_set_back)


def _shown(operations: Iterable[Operation], by_name: dict[Name, Record]) -> dict[int, float]:
    """The end of the first strong read that showed each write. One that is tagged is not strong."""
    found: dict[int, float] = {}
    for read in operations:
        if read.invoke.consistency != STRONG or not read.is_ok or REPLICATION in read.end.tags:
            continue
        for seen in read.end.seen:
            writers = by_name.get((read.invoke.user, seen.ref), Record()).writers
            for value in (seen.made, seen.value):
                if (write := writers.get(value)) is not None:
                    found[write.n] = min(read.ended, found.get(write.n, math.inf))
    return found


def _add(record: Record, write: Write) -> None:
    if write.op == "forget":
        record.forgets.append(write)
        return
    (record.changes if write.op in CHANGES else record.creates).append(write)
    record.writers[write.value] = write
