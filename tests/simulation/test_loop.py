"""Virtual time and frozen owners."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

import pytest

from tests.fakes.loop import CALLBACKS_PER_MOMENT_MAX, OWNER, StuckError, VirtualLoop


def run(loop: VirtualLoop, story: Coroutine[Any, Any, None]) -> None:
    """Run to the end."""
    try:
        loop.run_until_complete(story)
    finally:
        loop.close()


def owned(
    loop: VirtualLoop, owner: str, coroutine: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """A task of an owner."""
    context = copy_context()
    context.run(OWNER.set, owner)
    return loop.create_task(coroutine, context=context)


def test_time_jumps_to_the_next_timer() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        await asyncio.sleep(3600.0)
        assert loop.time() == 3600.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await loop.create_future()
        assert loop.time() == 3602.0

    run(loop, story())


def test_a_frozen_owner_stands_still_and_goes_on_at_once() -> None:
    loop = VirtualLoop()
    ticks: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await asyncio.sleep(1.0)
            ticks.append(loop.time())

    async def story() -> None:
        task = owned(loop, "peer", tick())
        await asyncio.sleep(1.5)
        loop.freeze("peer")
        await asyncio.sleep(5.0)
        assert ticks == [1.0]
        loop.thaw("peer")
        await task

    run(loop, story())
    assert ticks == [1.0, 6.5, 7.5]


def test_a_task_of_a_frozen_owner_makes_frozen_tasks() -> None:
    loop = VirtualLoop()
    done: list[str] = []

    async def inner() -> None:
        done.append("inner")

    async def outer() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(inner())
            loop.freeze("peer")

    async def story() -> None:
        task = owned(loop, "peer", outer())
        await asyncio.sleep(1.0)
        assert not done
        loop.thaw("peer")
        await task

    run(loop, story())
    assert done == ["inner"]


def test_something_can_happen_between_any_two_callbacks_of_an_owner() -> None:
    loop = VirtualLoop()
    steps: list[int] = []

    async def step() -> None:
        for number in range(10):
            steps.append(number)
            await asyncio.sleep(0)

    async def story() -> None:
        task = owned(loop, "peer", step())
        loop.after_callbacks("peer", 4, lambda: loop.freeze("peer"))
        await asyncio.sleep(1.0)
        assert steps == [0, 1, 2, 3]
        loop.thaw("peer")
        await task

    run(loop, story())
    assert steps == list(range(10))


def test_a_loop_in_which_nothing_will_happen_says_so() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        await loop.create_future()

    with pytest.raises(StuckError, match="no timer"):
        run(loop, story())


def test_a_loop_whose_time_stands_still_says_so() -> None:
    loop = VirtualLoop()

    async def story() -> None:
        for _ in range(CALLBACKS_PER_MOMENT_MAX):
            await asyncio.sleep(0)

    with pytest.raises(StuckError, match="without time going on"):
        run(loop, story())


def test_a_story_that_waits_for_nothing_is_stuck_at_the_end() -> None:
    loop = VirtualLoop(end_s=60.0)

    async def story() -> None:
        for _ in range(100):
            await asyncio.sleep(1.0)

    with pytest.raises(StuckError, match="before 61 s"):
        run(loop, story())
    assert loop.time() == 60.0


def test_a_thread_is_refused() -> None:
    async def story() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(StuckError, match="in a thread"):
        run(VirtualLoop(), story())


def test_a_thread_that_is_allowed_takes_no_time() -> None:
    loop = VirtualLoop(has_threads=True)

    async def story() -> None:
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        assert loop.time() == 0.0

    run(loop, story())
