"""Recalls load indexes in threads, which take no time here: time is virtual. Where a test is marked
`real_time` it is not: it speaks to real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from tests.fakes.loop import END_S, VirtualLoop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """In place of the one of the folder above, which refuses threads."""
    if item.get_closest_marker("real_time") is not None:
        return {"real": asyncio.new_event_loop}
    return {"virtual": partial(VirtualLoop, end_s=END_S, has_threads=True)}
