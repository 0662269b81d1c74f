"""Watching the members' clocks: a peer whose own is off coordinates nothing until it is right."""

from __future__ import annotations

from collections.abc import Callable

from memsync import limits
from memsync.clock import Clock
from memsync.core.clocks import Readings, apart_ms
from memsync.engine import metrics
from memsync.telemetry import logger
from memsync.wire.members import Told, Watermark

ONE_MOMENT_S = 0.01
TRIES = 5


class Clocks:
    """What each member's clock says. A silent member's is taken to go on. `is_member` leaves out
    those who no longer count."""

    def __init__(self, clock: Clock, is_member: Callable[[str], bool]) -> None:
        self._clock = clock
        self._is_member = is_member
        self._readings: dict[str, Readings] = {}
        self._was_off = False
        metrics.CLOCK_APART_SECONDS.set_function(lambda: (self.apart_ms() or 0.0) / 1000)

    def hear(self, told: Told) -> None:
        """Take a watermark's reading."""
        if isinstance(told, Watermark):
            readings = self._readings.setdefault(told.member, Readings())
            readings.take(told.wall_ms, self._clock.steady_s())

    def apart_ms(self) -> float | None:
        """How far this clock is ahead of the members' median; None where that cannot be said."""
        own_ms, now_s = self._now()
        others = [
            readings.wall_ms(now_s)
            for member, readings in self._readings.items()
            if self._is_member(member)
        ]
        return apart_ms(own_ms, others)

    def _now(self) -> tuple[int, float]:
        """Both clocks of this machine at one moment: a busy one may let this process wait between
        two readings, and the wall clock would seem to have been put forward."""
        own_ms, now_s = 0, self._clock.steady_s()
        for _ in range(TRIES):
            began_s, own_ms, now_s = now_s, self._clock.wall_ms(), self._clock.steady_s()
            if now_s - began_s < ONE_MOMENT_S:
                break
        return own_ms, now_s

    def member_apart_ms(self, member: str) -> float | None:
        """How far another member's clock is ahead of this one; None for one that was not heard. It
        reads late by what its watermarks took on their way."""
        readings = self._readings.get(member)
        if readings is None:
            return None
        own_ms, now_s = self._now()
        return round(readings.wall_ms(now_s) - own_ms, 1)

    def fault(self) -> str | None:
        """Why this clock must not stamp anything now; looked at for every write, so that a step
        counts at once."""
        apart = self.apart_ms()
        is_off = apart is not None and abs(apart) > limits.CLOCK_APART_MS_MAX
        if is_off != self._was_off:
            logger().error("clock.judged", is_off=is_off, apart_ms=round(apart or 0.0))
            self._was_off = is_off
        if apart is None or not is_off:
            return None
        way = "ahead of" if apart > 0 else "behind"
        return (
            f"this machine's clock is {abs(apart) / 1000:.1f} s {way} the members' median; "
            "set it right (NTP)"
        )
