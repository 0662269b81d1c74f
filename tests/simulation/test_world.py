"""Times of the history: who asks later is later, also at one moment of virtual time."""

from __future__ import annotations

import asyncio

from tests.fakes.loop import VirtualLoop
from tests.simulation.world import World


def test_a_read_that_follows_a_write_at_once_is_after_it() -> None:
    """Else the judge would not know which of them came first, and ask nothing of the read."""
    loop = VirtualLoop()

    async def story() -> None:
        world = World(loop, 1)
        await asyncio.sleep(1.0)
        ended_s, invoked_s = world.tick(), world.tick()
        assert loop.time() == 1.0
        assert 1.0 <= ended_s < invoked_s < 1.000001
        await asyncio.sleep(1.0)
        assert world.tick() == 2.0

    try:
        loop.run_until_complete(story())
    finally:
        loop.close()
