"""The records of a history: who wrote what to each, and what a reader must know of it. Pure.

Several attempts with one key are one `Write`. Its effect lies between the beginning of the first
attempt and the end of the first that was answered; while none was, it may come at any time, for
ever. A write that ended before another began is the older one; all others are concurrent, and any
order of them is right.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from tests.chaos.history import CHANGES, CREATES, WRITES, Operation

Name = tuple[str, str]  # (user, ref)


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
        """It had its effect before this; infinite while it is not acknowledged."""
        return min((one.ended for one in self.attempts if one.is_ok), default=math.inf)

    @property
    def is_ok(self) -> bool:
        """Whether it was acknowledged."""
        return any(one.is_ok for one in self.attempts)

    @property
    def is_possible(self) -> bool:
        """Whether it may have had an effect."""
        return not all(one.is_fail for one in self.attempts)


class Record(msgspec.Struct):
    """One memory, as its writers know it."""

    creates: list[Write] = []
    changes: list[Write] = []
    forgets: list[Write] = []
    writers: dict[str, Write] = {}
    _ends: list[float] = []
    _floors: list[Write] = []

    def seal(self) -> None:
        """Sort what readers are measured by; call it once all writes are there."""
        acknowledged = sorted((w for w in self.changes if w.is_ok), key=lambda w: w.ended)
        newest: Write | None = None
        for write in acknowledged:
            newest = write if newest is None or write.began > newest.began else newest
            self._ends.append(write.ended)
            self._floors.append(newest)

    def floor(self, at: float) -> Write | None:
        """Of the changes that were acknowledged before `at`, the one that began last."""
        place = bisect_left(self._ends, at)
        return self._floors[place - 1] if place else None

    def is_created(self, at: float) -> bool:
        """Whether a create was acknowledged before `at`."""
        return any(write.ended < at for write in self.creates)

    def is_forgotten(self, at: float) -> bool:
        """Whether a forget was acknowledged before `at`."""
        return any(write.ended < at for write in self.forgets)

    def may_be_forgotten(self, at: float) -> bool:
        """Whether a forget may have had its effect by `at`."""
        return any(write.is_possible and write.began < at for write in self.forgets)


class Records(msgspec.Struct, frozen=True):
    """All of them, with the write that each attempt belongs to, and the reads by their numbers."""

    by_name: dict[Name, Record]
    writes: list[Write]
    by_number: dict[int, Write]
    reads: dict[int, Operation]
    of_user: dict[str, list[str]]


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


def of_operations(operations: Iterable[Operation]) -> Records:
    """Join attempts into writes, and writes into records."""
    known = list(operations)
    reads = {one.n: one for one in known if one.invoke.op not in WRITES}
    writes = attempts_of(one for one in known if one.invoke.op in WRITES)
    by_name: dict[Name, Record] = {}
    for write in writes:
        for ref in write.refs:
            record = by_name.setdefault((write.user, ref), Record())
            _add(record, write)
    for record in by_name.values():
        record.seal()
    of_user: dict[str, list[str]] = {}
    for user, ref in by_name:
        of_user.setdefault(user, []).append(ref)
    by_number = {one.n: write for write in writes for one in write.attempts}
    return Records(by_name, writes, by_number, reads, of_user)


def _add(record: Record, write: Write) -> None:
    if write.op == "forget":
        record.forgets.append(write)
        return
    (record.changes if write.op in CHANGES else record.creates).append(write)
    record.writers[write.value] = write
