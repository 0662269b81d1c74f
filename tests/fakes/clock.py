"""A machine's clocks as the event loop counts: real seconds on a real loop, virtual on a virtual
one."""

from __future__ import annotations

import asyncio

START_MS = 1_780_000_000_000


class LoopClock:
    """`offset_ms` is how far the wall clock is off; `boot_s` how long the machine has been up;
    `rate` how fast both clocks go."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        boot_s: float = 0.0,
        rate: float = 1.0,
        offset_ms: int = 0,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._boot_s = boot_s
        self._rate = rate
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        """What the machine takes for the time."""
        return START_MS + int(self._loop.time() * self._rate * 1000) + self.offset_ms

    def steady_s(self) -> float:
        """Seconds since its start; goes on in a pause."""
        return self._boot_s + self._loop.time() * self._rate
