"""The applier at the marks of a round: what is cut, and that nothing is held up for long."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from memsync import limits
from memsync.core.marks import Cut, Hold, make_mark
from memsync.engine.applier import Applier
from memsync.engine.progress import Progress
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Change, LoggedFrame
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, RawMessage
from tests.conditions import eventually
from tests.fakes.clock import LoopClock
from tests.fakes.store import MemoryStore

ROUND = 100
APPLY_S = 50e-6  # a frame; so the queue is full under full load


class CountingStore(MemoryStore):
    """Its sums are the applied sequences, so that a cut shows what was applied when it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.is_failing = False
        self.batches: list[int] = []

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        self.batches.append(len(frames))
        await asyncio.sleep(len(frames) * APPLY_S)
        return await super().apply(frames, ends)

    async def digests(self) -> dict[int, int]:
        if self.is_failing:
            raise Unavailable("store: locked")
        await asyncio.sleep(0.002)  # as a real one, it takes a moment in which frames go on coming
        return {stripe: end for (stripe, _), end in (await self.positions()).items()}


class Bench:
    """An applier that runs, and the stripes that fill it."""

    def __init__(self, hold_s: float) -> None:
        self.store = CountingStore()
        self.progress = Progress(LoopClock())
        self.applier = Applier(self.store, self.progress, [])
        self.applier.hold = Hold(hold_s)
        self.applier.hold.present = ROUND
        self.cuts: list[tuple[Cut, dict[int, int]]] = []
        self.applier.cut_listeners.append(lambda cut, sums: self.cuts.append((cut, sums)))
        self.ends = dict.fromkeys(range(limits.STRIPES), 0)
        self._numbers = itertools.count(1)

    def put(self, stripe: int, message_id: str, data: bytes) -> None:
        """One more message in a stripe."""
        self.ends[stripe] += 1
        self.applier.put([RawMessage(Position(stripe, 0, self.ends[stripe]), data, message_id)])

    def put_frames(self, stripe: int, count: int = 1) -> None:
        """Frames of somebody's."""
        for number in itertools.islice(self._numbers, count):
            self.put(stripe, f"9.{number:x}", codec.pack(Frame(SCHEMA, 9, number, [])))

    def put_mark(self, stripe: int, number: int = ROUND) -> Position:
        """The mark of a round; where it lies."""
        self.put(stripe, *make_mark(number))
        return Position(stripe, 0, self.ends[stripe])

    async def wait_applied(self) -> None:
        """Until everything that was put is applied."""
        ends = [Position(stripe, 0, end) for stripe, end in self.ends.items()]
        assert await self.progress.wait_for(ends, LoopClock().steady_s() + 5)

    async def wait_cut(self, number: int) -> None:
        """Until the round was cut."""

        async def is_cut() -> bool:
            return any(cut.round == number for cut, _ in self.cuts)

        await eventually(is_cut, f"round {number} cut")


@asynccontextmanager
async def running(hold_s: float = limits.MARK_HOLD_S) -> AsyncIterator[Bench]:
    bench = Bench(hold_s)
    async with asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(bench.applier.run())
        yield bench
        loop.cancel()


async def test_the_sums_are_those_at_the_marks_whatever_lies_behind_them() -> None:
    async with running() as bench:
        marks = []
        for stripe in range(limits.STRIPES):
            bench.put_frames(stripe, 5 * stripe)
            marks.append(bench.put_mark(stripe))
            bench.put_frames(stripe, 300)
        await bench.wait_applied()
        assert bench.cuts == [
            (Cut(ROUND, marks), {mark.stripe: mark.sequence for mark in marks}),
        ]


async def test_the_same_mark_is_seen_in_every_stripe() -> None:
    """It has one id; frames with an id that was applied lately are not joined again."""
    async with running() as bench:
        for stripe in range(limits.STRIPES):
            bench.put_mark(stripe)
            await bench.wait_applied()
        await bench.wait_cut(ROUND)


async def test_a_stripe_is_held_and_the_others_go_on() -> None:
    async with running() as bench:
        mark = bench.put_mark(0)
        bench.put_frames(0)
        bench.put_frames(1, 10)
        applied = [mark, Position(1, 0, 10)]
        assert await bench.progress.wait_for(applied, LoopClock().steady_s() + 5)
        assert not bench.progress.has([Position(0, 0, 2)])
        await bench.wait_applied()  # nobody waits for ever for marks that do not come
        assert bench.cuts == []


async def test_a_queue_full_of_held_frames_holds_nothing_up() -> None:
    async with running() as bench:
        bench.put_mark(0)
        bench.put_frames(0, limits.TAIL_QUEUE_FRAMES_MAX)
        assert not bench.applier.has_room
        async with asyncio.timeout(5):
            await bench.applier.wait_room()
        bench.put_mark(1)
        bench.put_mark(2)
        await bench.wait_applied()
        assert bench.cuts == []
        for stripe in range(limits.STRIPES):
            bench.put_mark(stripe, ROUND + 1)
        await bench.wait_cut(ROUND + 1)
        assert len(bench.cuts) == 1


async def test_marks_that_arrived_are_reached_however_long_the_queue_is() -> None:
    """Applying what lies before the last mark takes longer than stripes may be held."""
    async with running(hold_s=0.0) as bench:
        bench.put_mark(0)
        bench.put_frames(1, 5 * limits.APPLY_FRAMES_MAX)
        bench.put_mark(1)
        bench.put_frames(2, 5 * limits.APPLY_FRAMES_MAX)
        bench.put_mark(2)
        await bench.wait_cut(ROUND)
        assert len(bench.store.batches) > 10


async def test_a_store_that_cannot_say_its_sums_costs_a_round() -> None:
    async with running() as bench:
        bench.store.is_failing = True
        for stripe in range(limits.STRIPES):
            bench.put_mark(stripe)
            bench.put_frames(stripe)
        await bench.wait_applied()
        bench.store.is_failing = False
        for stripe in range(limits.STRIPES):
            bench.put_mark(stripe, ROUND + 1)
        await bench.wait_cut(ROUND + 1)
        assert len(bench.cuts) == 1


async def test_an_applier_that_is_broken_holds_nothing() -> None:
    async with running() as bench:
        bench.put(0, "9.ffff", b"no frame")
        for stripe in range(limits.STRIPES):
            bench.put_mark(stripe)
            bench.put_frames(stripe, limits.TAIL_QUEUE_FRAMES_MAX)

        async def is_drained() -> bool:
            return bench.applier.has_room and not bench.applier.hold.is_on

        await eventually(is_drained, "the queue taken")
        assert bench.applier.broken is not None
        assert bench.cuts == []


async def feed(bench: Bench, stripe: int, frames_at_once: int) -> None:
    """Frames without a pause, as long as there is room."""
    while True:
        await bench.applier.wait_room()
        bench.put_frames(stripe, frames_at_once)
        await asyncio.sleep(0)


@pytest.mark.parametrize("frames_at_once", [1, 40])
async def test_no_round_is_passed_over_under_full_load(frames_at_once: int) -> None:
    """Frames come all the time in three stripes, in front of, between and behind the marks."""
    rounds = range(ROUND, ROUND + 20)
    patient_s = 5.0  # the machine may have other things to do between two marks
    async with running(patient_s) as bench, asyncio.TaskGroup() as feeders:
        feeding = [
            feeders.create_task(feed(bench, stripe, frames_at_once))
            for stripe in range(limits.STRIPES)
        ]
        for number in rounds:
            bench.applier.hold.present = number
            for stripe in range(limits.STRIPES):
                bench.put_mark(stripe, number)
                await asyncio.sleep(0.001)  # servers are not equally quick
            await bench.wait_cut(number)
        for feeder in feeding:
            feeder.cancel()
        for cut, sums in bench.cuts:
            assert sums == {mark.stripe: mark.sequence for mark in cut.positions}
        assert len(bench.cuts) == len(rounds)
