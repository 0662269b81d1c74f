"""An event loop whose time jumps to the next timer, and whose peers can be frozen.

Nothing here reads a clock, and nothing waits. A callback belongs to the owner in its context
(`OWNER`), which every task inherits from the one that made it. The callbacks of a frozen owner are
kept back and run at once, in their order, when it thaws: as the kernel keeps what arrives for a
process that was stopped.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from asyncio.events import Handle, TimerHandle
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import partial
from typing import Any

OWNER: ContextVar[str] = ContextVar("owner", default="")
CALLBACKS_PER_MOMENT_MAX = 100_000
END_S = 600.0  # no test waits for anything that long: it hangs


class StuckError(Exception):
    """Nothing will ever happen again, or time no longer goes on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` is in virtual seconds from 0; nothing goes on after `end_s`."""

    def __init__(self, *, end_s: float = math.inf, has_threads: bool = False) -> None:
        super().__init__()
        self._now_s = 0.0
        self._end_s = end_s
        self._has_threads = has_threads
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._timers_made = 0
        self._held: dict[str, list[Handle]] = {}  # of frozen owners
        self._fuses: dict[str, tuple[int, Callable[[], None]]] = {}
        self._at_this_moment = 0
        self.callbacks = 0

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> TimerHandle:
        """As asyncio's; the timers lie in a heap of tuples, which compares faster."""
        timer = TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def freeze(self, owner: str) -> None:
        """From now on run nothing of this owner."""
        self._held.setdefault(owner, [])

    def thaw(self, owner: str) -> None:
        """Run what was kept back, and what comes."""
        self._ready.extend(self._held.pop(owner, []))

    def after_callbacks(self, owner: str, count: int, then: Callable[[], None]) -> None:
        """Call `then` between two callbacks of this owner: when `count` more of them have run."""
        self._fuses[owner] = (count, then)

    def disarm(self, owner: str) -> None:
        """What was to happen after some callbacks does not happen any more."""
        self._fuses.pop(owner, None)

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                raise StuckError("no callback and no timer is left")
            if timers[0][0] > self._end_s:
                raise StuckError(f"nothing is left to do before {timers[0][0]:g} s")
            self._now_s = max(self._now_s, timers[0][0])
            self._at_this_moment = 0
        while timers and timers[0][0] <= self._now_s:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                ready.append(timer)
        self._at_this_moment += len(ready)
        if self._at_this_moment > CALLBACKS_PER_MOMENT_MAX:
            raise StuckError(f"{self._at_this_moment} callbacks without time going on")
        self.callbacks += len(ready)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled and not (
                (self._held or self._fuses) and self._is_kept_back(handle)
            ):
                handle._run()

    def _is_kept_back(self, handle: Handle) -> bool:
        owner = handle._context.get(OWNER, "")
        if owner in self._fuses:
            count, then = self._fuses[owner]
            if count <= 0:
                del self._fuses[owner]
                then()
            else:
                self._fuses[owner] = (count - 1, then)
        if owner in self._held:
            self._held[owner].append(handle)
            return True
        return False

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """What a thread does takes no time, where threads are allowed at all: real time would pass
        in it and the virtual one would go on."""
        if not self._has_threads:
            raise StuckError(f"{func} in a thread, and time is virtual")
        future = self.create_future()
        self.call_soon(_do, future, partial(func, *args))
        return future

    def _write_to_self(self) -> None:
        """There is one thread."""


def virtual_time() -> dict[str, Callable[[], VirtualLoop]]:
    """What a conftest calls `pytest_asyncio_loop_factories`, for the tests of its folder."""
    return {"virtual": partial(VirtualLoop, end_s=END_S)}


def _do(future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    """The work of a thread, at once."""
    if future.cancelled():
        return
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - it is raised where the future is awaited
        future.set_exception(error)
