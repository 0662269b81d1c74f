"""Ending loops: what Python 3.11 needs so that a cancelled loop ends."""

from __future__ import annotations

import asyncio


def is_going_on() -> bool:
    """False once this task was asked to end, also where a library lost the request.

    `asyncio.wait_for` of Python 3.11 (which nats-py uses) returns its result and drops the
    cancellation when both come in one turn of the event loop; a `while True` would then run for
    ever. Every endless loop asks this instead.
    """
    task = asyncio.current_task()
    return task is None or not task.cancelling()
