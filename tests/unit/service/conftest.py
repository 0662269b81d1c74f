"""The world of the service's tests, in which time is virtual."""

from __future__ import annotations

import pytest_asyncio

from tests.fakes.loop import virtual_time
from tests.unit.service.world import World

pytest_asyncio_loop_factories = virtual_time


@pytest_asyncio.fixture
async def world() -> World:
    made = World()
    await made.found()
    return made
