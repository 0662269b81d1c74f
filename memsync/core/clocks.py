"""Whether a clock is to be believed, by what the members' clocks say. Pure.

A clock that is wrong must not stamp writes: stamps only grow, so one that is hours ahead takes
every later write of its records with it. The median of at least three clocks is right as long as
most of them are; of two that differ nobody knows which is wrong, so fewer than three judge nothing.

A watermark says how its sender's clock stood when it was sent. On its way it only gets older, so
the largest reading of the last seconds is the nearest to the truth. Seconds and not a number of
readings: those of one busy moment are all late together. Ten, since on a
machine with nine times the work it can do each of two seconds' was too late, and writes were
refused. That others' clocks were put back is seen so much later; a step of one's own at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

READINGS_S = 10.0  # how long a reading counts
SLOT_S = 0.25  # only the largest reading of each such time is kept
SLOTS = int(READINGS_S / SLOT_S)
CLOCKS_MIN = 3


class Readings:
    """What one member's clock said lately, as its lead over this process's steady clock."""

    def __init__(self) -> None:
        self._leads: deque[tuple[int, float]] = deque(maxlen=SLOTS)  # slot, largest lead in it
        self._lead_ms = 0.0  # the largest that counts; asked for with every write

    def take(self, wall_ms: int, steady_s: float) -> None:
        """The member's clock stood at `wall_ms` milliseconds, or later, when this one stood at
        `steady_s`."""
        slot, lead_ms = int(steady_s / SLOT_S), wall_ms - steady_s * 1000
        if self._leads and self._leads[-1][0] == slot:
            lead_ms = max(lead_ms, self._leads.pop()[1])
        self._leads.append((slot, lead_ms))
        self._lead_ms = max(lead_ms for at, lead_ms in self._leads if at > slot - SLOTS)

    def wall_ms(self, steady_s: float) -> float:
        """How the member's clock stands now, which was heard at least once; one that fell silent is
        taken to go on."""
        return self._lead_ms + steady_s * 1000


def apart_ms(own_ms: float, others_ms: Iterable[float]) -> float | None:
    """How far this clock is ahead of the median of all, negative where it is behind; None where
    there are too few to judge."""
    clocks = sorted((own_ms, *others_ms))
    if len(clocks) < CLOCKS_MIN:
        return None
    middle = len(clocks) // 2
    return own_ms - (clocks[middle] + clocks[~middle]) / 2
