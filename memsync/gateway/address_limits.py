"""Limits by address, for requests that no key vouches for.

Sliding windows, exact: of any `window_s` seconds at most `count` requests are let through. The
number of addresses that are remembered is bounded; the one unseen for longest is forgotten first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

ADDRESSES_MAX = 10_000
KEYS_MAX = 4_096


def loop_s() -> float:
    """What the rest of the gateway counts in: seconds of the event loop."""
    return asyncio.get_running_loop().time()


class AddressWindow:
    """One limit, for each address on its own. `now` in seconds that only grow."""

    def __init__(
        self, count: int, *, window_s: float = 1.0, now: Callable[[], float] = loop_s
    ) -> None:
        self._count = count
        self._window_s = window_s
        self._now = now
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long this address must wait; 0 = it may come now."""
        times = self._seen.get(address)
        if times is None or len(times) < self._count:
            return 0.0
        return max(0.0, times[0] + self._window_s - self._now())

    def note(self, address: str) -> None:
        """Count one request of this address."""
        times = self._seen.get(address)
        if times is None:
            times = self._seen[address] = deque(maxlen=self._count)
            if len(self._seen) > ADDRESSES_MAX:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(address)
        times.append(self._now())


class KnownKeys:
    """Which API keys were accepted lately, by hash: a limit on failures must not hit them."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return hash(key) in self._hashes

    def add(self, key: str) -> None:
        """Remember a key that was accepted."""
        hashed = hash(key)
        if hashed in self._hashes:
            self._hashes.move_to_end(hashed)
            return
        self._hashes[hashed] = None
        if len(self._hashes) > KEYS_MAX:
            self._hashes.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget a key that was refused."""
        self._hashes.pop(hash(key), None)
