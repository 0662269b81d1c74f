"""Whose sums differ from ours, and whether that means anything. Pure.

Sums of two members can be compared where both are of one round and were taken at the same marks.
Once may be a coincidence (rows that were joined from elsewhere run ahead of the log for a moment);
twice running with the same member is a divergence.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from memsync.wire import codec
from memsync.wire.members import Sums

ROUNDS_KEPT = 4  # of each member
DIFFERENT_MAX = 1  # times running without consequences


class Verdict(msgspec.Struct, frozen=True):
    """What comparing one round with one member came to: how many times running the sums were
    different, and whether that begins or ends an episode."""

    member: str
    round: int
    times_different: int
    begins: bool
    ends: bool

    @property
    def is_divergence(self) -> bool:
        """Whether there are rows to be exchanged."""
        return self.times_different > DIFFERENT_MAX


class Comparing:
    """What this member and the others had at the marks of the last rounds."""

    def __init__(self) -> None:
        self._own: dict[int, Sums] = {}
        self._heard: dict[str, dict[int, Sums]] = {}
        self._different: dict[str, int] = {}

    def note_own(self, own: Sums) -> list[Verdict]:
        """This member's sums of a round: compared with all that were heard before it."""
        self._own[own.minute] = own
        _forget_old(self._own)
        heard = [rounds[own.minute] for rounds in self._heard.values() if own.minute in rounds]
        return self._compared(heard)

    def note_heard(self, told: Sums) -> list[Verdict]:
        """Another member's: compared with this one's of the same round, if it is there yet."""
        rounds = self._heard.setdefault(told.member, {})
        if told.minute in rounds:
            return []
        rounds[told.minute] = told
        _forget_old(rounds)
        return self._compared([told])

    def _compared(self, heard: list[Sums]) -> list[Verdict]:
        found = []
        for told in heard:
            own = self._own.get(told.minute)
            if own is not None and own.positions == told.positions:
                found.append(self._verdict(told, is_equal=own.digest == told.digest))
        return found

    def _verdict(self, told: Sums, *, is_equal: bool) -> Verdict:
        before = self._different.pop(told.member, 0)
        times = 0 if is_equal else before + 1
        if times:
            self._different[told.member] = times
        return Verdict(
            member=told.member,
            round=told.minute,
            times_different=times,
            begins=before <= DIFFERENT_MAX < times,
            ends=times <= DIFFERENT_MAX < before,
        )


def digest_of(sums: Mapping[int, int]) -> bytes:
    """16 bytes over all bucket sums; a bucket that is missing is one whose sum is 0."""
    return blake2b(codec.pack(_without_empty(sums)), digest_size=16).digest()


def different_buckets(one: Mapping[int, int], other: Mapping[int, int]) -> list[int]:
    """The buckets whose sums are not the same."""
    return sorted(b for b in one.keys() | other.keys() if one.get(b, 0) != other.get(b, 0))


def _without_empty(sums: Mapping[int, int]) -> list[tuple[int, int]]:
    return sorted((bucket, total) for bucket, total in sums.items() if total)


def _forget_old(rounds: dict[int, Sums]) -> None:
    while len(rounds) > ROUNDS_KEPT:
        del rounds[next(iter(rounds))]
