"""Stamps: a hybrid logical clock that is given the time and never asks for it. Pure.

Kulkarni et al., "Logical Physical Clocks" (2014): the upper bits follow the wall clock, the lower
16 count what happens within one millisecond, and a stamp is always above those it must beat. A
clock that steps back only makes the counter run on; one
that is far ahead wins over the others until it is put right.
"""

from __future__ import annotations

from collections.abc import Iterable

from memsync.wire.operations import Stamp

LOGICAL_BITS = 16


def next_stamp(
    last: Stamp, *, wall_ms: int, incarnation: int, above: Iterable[Stamp] = ()
) -> Stamp:
    """A stamp above `last`, above all of `above`, and not below the wall clock."""
    floor = max((stamp.time for stamp in above), default=0)
    time = max(wall_ms << LOGICAL_BITS, last.time + 1, floor + 1)
    return Stamp(time=time, incarnation=incarnation)


def wall_ms_of(stamp: Stamp) -> int:
    """The milliseconds since 1970 that a stamp stands for."""
    return stamp.time >> LOGICAL_BITS
