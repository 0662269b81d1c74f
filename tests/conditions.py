"""Waiting in tests: for a condition, with a deadline; never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

POLL_S = 0.02
Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], what: str, timeout_s: float = 10.0) -> Found:
    """The first true answer of `condition`; fails the test with `what` at the deadline."""
    give_up_at = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() >= give_up_at:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)
    return found


async def eventually(
    condition: Callable[[], Awaitable[Found]], what: str, timeout_s: float = 10.0
) -> Found:
    """As `wait_until`, for conditions that have to be awaited."""
    give_up_at = time.monotonic() + timeout_s
    while not (found := await condition()):
        if time.monotonic() >= give_up_at:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(POLL_S)
    return found
