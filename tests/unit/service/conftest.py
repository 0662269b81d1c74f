"""The world of the service's tests."""

from __future__ import annotations

import pytest_asyncio

from tests.unit.service.world import World


@pytest_asyncio.fixture
async def world() -> World:
    made = World()
    await made.found()
    return made
