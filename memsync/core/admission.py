"""How many requests an API key may send: sliding windows of a second, a minute and an hour. Pure.

Each window is a ring of `GRANULES` counts and one for the granule that is passing, so its memory
does not grow with the limit (3.6 million an hour would, as a list of times). A request is counted
until the granule that it fell into lies wholly outside the window. So never more than the limit
passes within any span of the window's length; a key that sends exactly its limit may wait up to 1 %
of the window longer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from math import floor
from types import MappingProxyType

import msgspec

GRANULES = 100
KEYS_MAX = 10_000  # a key takes about 2 KB; the longest unused one is let go first


class RateLimits(msgspec.Struct, frozen=True):
    """How many requests may pass within each span."""

    per_second: int
    per_minute: int
    per_hour: int


TIERS: Mapping[str, RateLimits] = MappingProxyType(
    {
        "free": RateLimits(2, 30, 100),
        "pro": RateLimits(10, 200, 5_000),
        "enterprise": RateLimits(50, 1_000, 50_000),
        "unlimited": RateLimits(1_000, 60_000, 3_600_000),
    }
)
_SPANS_S = (1.0, 60.0, 3_600.0)


class Verdict(msgspec.Struct, frozen=True):
    """Whether a request passes, and how its tightest window stands after it.

    `reset_s` is in how many seconds that window gets room again; `retry_after_s`, of a request that
    did not pass, in how many seconds every window has room.
    """

    admitted: bool
    limit: int
    remaining: int
    reset_s: float
    retry_after_s: float = 0.0


class Window:
    """The requests of one key within the last `span_s` seconds."""

    def __init__(self, span_s: float) -> None:
        self._granule_s = span_s / GRANULES
        self._counts = array("L", [0] * (GRANULES + 1))
        self._now = 0  # the number of the granule that is passing
        self.total = 0

    def advance(self, now_s: float) -> None:
        """Let go of what is older than the window; a time before the last one changes nothing."""
        now = floor(now_s / self._granule_s)
        for tick in range(max(self._now + 1, now - GRANULES), now + 1):
            place = tick % (GRANULES + 1)
            self.total -= self._counts[place]
            self._counts[place] = 0
        self._now = max(self._now, now)

    def count(self) -> None:
        """Count one request now."""
        self._counts[self._now % (GRANULES + 1)] += 1
        self.total += 1

    def room_in_s(self, limit: int, now_s: float) -> float:
        """Seconds until fewer than `limit` requests are counted, if none passes meanwhile."""
        left = self.total
        for tick in range(self._now - GRANULES, self._now + 1):
            if left < limit:
                break
            left -= self._counts[tick % (GRANULES + 1)]
            if left < limit:
                return max(0.0, (tick + GRANULES + 1) * self._granule_s - now_s)
        return 0.0

    def oldest_leaves_in_s(self, now_s: float) -> float:
        """Seconds until the oldest counted request is forgotten; 0 where there is none."""
        return self.room_in_s(self.total, now_s)


class Admission:
    """The windows of every key that was seen lately, at most `keys_max` of them."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._windows: OrderedDict[Hashable, tuple[Window, ...]] = OrderedDict()

    def admit(self, key: Hashable, limits: RateLimits, now_s: float) -> Verdict:
        """Judge a request at `now_s` (a clock that only grows); one that passes is counted."""
        windows = self._of(key)
        allowed = (limits.per_second, limits.per_minute, limits.per_hour)
        for window in windows:
            window.advance(now_s)
        pairs = list(zip(windows, allowed, strict=True))
        admitted = all(window.total < limit for window, limit in pairs)
        if admitted:
            for window in windows:
                window.count()
        tightest, limit = min(reversed(pairs), key=lambda pair: pair[1] - pair[0].total)
        wait_s = 0.0 if admitted else max(w.room_in_s(n, now_s) for w, n in pairs)
        remaining = max(0, limit - tightest.total)
        reset_s = (
            tightest.oldest_leaves_in_s(now_s) if remaining else tightest.room_in_s(limit, now_s)
        )
        return Verdict(admitted, limit, remaining, reset_s, wait_s)

    def _of(self, key: Hashable) -> tuple[Window, ...]:
        windows = self._windows.get(key)
        if windows is None:
            windows = self._windows[key] = tuple(Window(span_s) for span_s in _SPANS_S)
            if len(self._windows) > self._keys_max:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(key)
        return windows
