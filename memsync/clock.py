"""The clocks, read here and nowhere else; the core is given what they say.

Wall time goes into stamps and `created_at`. Waiting and leases use a clock that goes on while the
machine is suspended (CLOCK_BOOTTIME), so that a laptop's lid cannot stretch a lease.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the engine asks of time."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; may step in both directions."""
        ...

    def steady_s(self) -> float:
        """Seconds that only grow, also over a suspension; no meaning outside this process."""
        ...


class SystemClock:
    """The machine's clocks, with an offset for tests in development profiles."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self._offset_ms = round(offset_s * 1000)

    def wall_ms(self) -> int:
        """Milliseconds since 1970, shifted by the configured offset."""
        return time.time_ns() // 1_000_000 + self._offset_ms

    def steady_s(self) -> float:
        """CLOCK_BOOTTIME in seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
