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
    condition: Callable[[], Awaitable[Found]],
    what: str,
    timeout_s: float = 10.0,
    *,
    every_s: float = POLL_S,
) -> Found:
    """As `wait_until`, for conditions that have to be awaited; in the seconds of the event loop."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + timeout_s
    while not (found := await condition()):
        if loop.time() >= give_up_at:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(every_s)
    return found


async def never(condition: Callable[[], Awaitable[object]], what: str, for_s: float) -> None:
    """Fails the test with `what` as soon as the condition holds within `for_s` of the event loop:
    only where time is virtual, for it takes all of them."""
    loop = asyncio.get_running_loop()
    until = loop.time() + for_s
    while loop.time() < until:
        if await condition():
            raise AssertionError(what)
        await asyncio.sleep(POLL_S)
