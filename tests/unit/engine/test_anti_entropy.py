"""Members that compare what they hold, on real engines: rounds, divergence, and its end."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter as Counts
from collections.abc import Callable

from memsync.core.marks import round_of
from memsync.core.records import Record
from memsync.engine import metrics
from memsync.engine.engine import Intervals
from memsync.ids import Position
from memsync.ports import LoggedFrame
from memsync.wire.operations import SCHEMA, Frame, Operation
from tests.conditions import eventually
from tests.fakes.bus import LongWires, MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, retag, running_cell, write_of

OFTEN = Intervals(mark_every_s=0.4, scrub_pass_s=60.0)


def founded() -> MemoryBus:
    bus = MemoryBus()
    bus.found()
    return bus


async def add(peer: CellPeer, number: int) -> None:
    await peer.appender.write(
        write_of(peer, f"key-{number}", create(number)),
        ack="all",
        deadline_s=peer.clock.steady_s() + 5.0,
    )


async def join_alone(peer: CellPeer, *operations: Operation) -> None:
    """Have an operation joined into one store and no other, as a fault of ours might."""
    frame = Frame(SCHEMA, 77, 1, [write_of(peer, "alone", *operations)])
    await peer.store.apply([LoggedFrame(Position(0, 0, 0), frame, 0)], {})


def rounds_of(peer: CellPeer) -> list[int]:
    """The rounds that were cut at a peer and are still remembered."""
    return list(peer.engine.anti_entropy._sums)


async def wait_rounds(cell: Cell, count: int, *, members: slice = slice(None)) -> None:
    """Until so many further rounds were cut at each of the members."""
    seen: dict[str, set[int]] = {name: set() for name in cell.names[members]}
    before = {name: set(rounds_of(cell.peers[name])) for name in seen}

    async def is_enough() -> bool:
        for name, rounds in seen.items():
            rounds |= set(rounds_of(cell.peers[name])) - before[name]
        return all(len(rounds) >= count for rounds in seen.values())

    await eventually(is_enough, f"{count} rounds at {sorted(seen)}")


async def wait_same(cell: Cell, number: int, expected: Callable[[Record], bool]) -> None:
    """Until all peers have the same version of a memory, and the expected one."""
    key = create(number).record

    async def is_same() -> bool:
        found = [await peer.record(key) for peer in cell.peers.values()]
        return all(one is not None and one == found[0] and expected(one) for one in found)

    await eventually(is_same, f"memory {number} the same everywhere", 15.0)


def divergences() -> float:
    return metrics.DIVERGENCES._value.get()


async def test_members_that_hold_the_same_compare_and_say_nothing() -> None:
    before = divergences()
    async with running_cell(founded(), intervals=OFTEN) as cell:
        await add(cell[0], 1)
        await wait_rounds(cell, 3)
        (number, *_) = set.intersection(*(set(rounds_of(peer)) for peer in cell.peers.values()))
        told = [peer.engine.anti_entropy.sums(number) for peer in cell.peers.values()]
        assert told[0]
        assert told[0] == told[1] == told[2]
    assert divergences() == before


async def test_a_mark_lies_once_in_each_stripe_whoever_publishes_it() -> None:
    async with running_cell(founded(), intervals=OFTEN) as cell:
        await wait_rounds(cell, 3)
        for stream in cell.bus.streams.values():
            rounds = Counts(round_of(message.message_id) for message in stream.messages)
            del rounds[None]
            assert len(rounds) >= 3
            assert set(rounds.values()) == {1}


async def test_rounds_go_on_when_the_first_member_is_gone() -> None:
    async with running_cell(founded(), intervals=OFTEN) as cell:
        await cell.stop("peer-1")
        await wait_rounds(cell, 2, members=slice(1, None))


async def test_a_stripe_that_takes_no_marks_costs_rounds_and_nothing_else() -> None:
    async with running_cell(founded(), intervals=OFTEN) as cell:
        cell.bus.faults[1] = "no leader"
        before = {name: rounds_of(peer) for name, peer in cell.peers.items()}
        for number in range(1, 9):
            await add(cell[0], number)
            await asyncio.sleep(0.1)  # two rounds go by
        later = {name: rounds_of(peer) for name, peer in cell.peers.items()}
        assert all(len(set(later[name]) - set(before[name])) <= 1 for name in later)
        del cell.bus.faults[1]
        await wait_rounds(cell, 1)


async def test_what_one_member_lost_comes_back_from_the_others() -> None:
    before = divergences()
    async with running_cell(founded(), intervals=OFTEN) as cell:
        await add(cell[0], 1)
        await add(cell[0], 2)
        cell[2].store.lose(create(1).record)
        await cell[2].store.recount()
        await wait_same(cell, 1, lambda record: record.ids == [101])
        assert cell[2].is_ready()
    assert divergences() > before


async def test_what_only_one_member_has_comes_to_the_others_and_both_sides_join() -> None:
    async with running_cell(founded(), intervals=OFTEN) as cell:
        await add(cell[0], 1)
        await join_alone(cell[0], retag(1, "left"))
        await join_alone(cell[1], create(1, identifier=999))
        await wait_same(
            cell, 1, lambda record: record.ids == [101, 999] and "tags" in record.registers
        )


async def test_a_divergence_is_told_once_as_long_as_it_lasts() -> None:
    async with running_cell(founded(), peers=2, intervals=OFTEN) as cell:
        before = divergences()
        await add(cell[0], 1)
        for peer in cell.peers.values():
            peer.engine.recovery.need_buckets = lambda member, buckets: None  # type: ignore[method-assign]
        await join_alone(cell[0], retag(1, "left"))
        await wait_rounds(cell, 5)
        assert divergences() == before + 2  # each side once
        await join_alone(cell[1], retag(2, "right"))
        await wait_rounds(cell, 3)
        assert divergences() == before + 2


async def test_a_member_that_lacks_rows_tells_no_sums() -> None:
    async with running_cell(founded(), intervals=OFTEN) as cell:
        before = divergences()
        cell[2].progress.set_lacking("test", "rows are to come")
        await join_alone(cell[2], create(5))
        await wait_rounds(cell, 4, members=slice(0, 2))
        assert divergences() == before
        assert await cell[0].record(create(5).record) is None
        cell[2].progress.set_lacking("test", None)
        await wait_same(cell, 5, lambda record: True)


async def test_rounds_under_full_load_are_cut_at_the_same_place_and_are_equal() -> None:
    before = divergences()
    numbers = itertools.count(1)
    bus = founded()
    bus.network = LongWires()
    async with running_cell(bus, intervals=OFTEN) as cell, asyncio.TaskGroup() as tasks:

        async def keep_adding(peer: CellPeer) -> None:
            while True:
                await add(peer, next(numbers))

        writers = [
            tasks.create_task(keep_adding(peer)) for peer in cell.peers.values() for _ in range(8)
        ]
        await wait_rounds(cell, 4)
        for writer in writers:
            writer.cancel()
    assert divergences() == before
    assert next(numbers) > 100
