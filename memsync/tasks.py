"""Ending loops: what Python 3.11 needs so that a cancelled loop ends. Work beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from memsync import limits

T = TypeVar("T")


async def beside(work: Callable[..., T], *arguments: Any, rows: int) -> T:
    """Do work over so many rows: in another thread, so that others run meanwhile, unless it is
    done sooner than a thread is woken. Cancelled, the thread goes on."""
    if rows <= limits.IN_LINE_ROWS:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


async def pause(seconds: float) -> None:
    """Sleep between two turns of a loop; not at all once this task was asked to end, also where a
    library lost the request: it would be slept through."""
    if not is_going_on():
        raise asyncio.CancelledError
    await asyncio.sleep(seconds)


def is_going_on() -> bool:
    """False once this task was asked to end, also where a library lost the request.

    `asyncio.wait_for` of Python 3.11 (which nats-py uses) returns its result and drops the
    cancellation when both come in one turn of the event loop; a `while True` would then run for
    ever. Every endless loop asks this instead.
    """
    task = asyncio.current_task()
    return task is None or not task.cancelling()
