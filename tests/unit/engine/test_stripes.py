"""Founding, lost streams, leaders and ids: what any peer does without being told."""

from __future__ import annotations

import pytest

from memsync import limits
from memsync.engine.stripes import IDS_APART, plan_move, repair_ids
from memsync.ids import Position
from memsync.ports import StripeState
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import create, running_cell, write_of


def state(stripe: int, leader: str | None) -> StripeState:
    return StripeState(stripe, 0, leader, ("nats-1", "nats-2", "nats-3"), 1, 0)


@pytest.mark.parametrize(
    ("leaders", "move"),
    [
        (["nats-1", "nats-2", "nats-3"], None),
        (["nats-1", "nats-1", "nats-3"], (0, "nats-2")),
        (["nats-1", "nats-2", "nats-2"], (1, "nats-3")),
        (["nats-2", "nats-2", "nats-2"], (0, "nats-1")),
        ([None, "nats-2", "nats-2"], None),
    ],
)
def test_leaders_are_spread_one_move_at_a_time(
    leaders: list[str | None], move: tuple[int, str] | None
) -> None:
    assert plan_move({k: state(k, leader) for k, leader in enumerate(leaders)}) == move


def test_one_server_alone_has_nowhere_to_move_a_leader() -> None:
    alone = StripeState(0, 0, "nats-1", ("nats-1",), 1, 0)
    assert plan_move(dict.fromkeys(range(limits.STRIPES), alone)) is None


async def test_a_new_cell_founds_its_streams_and_spreads_their_leaders() -> None:
    bus = MemoryBus()
    async with running_cell(bus):

        async def is_spread() -> bool:
            return len({stream.leader for stream in bus.streams.values()}) == 3

        await eventually(is_spread, "three leaders on three servers")
        assert [stream.generation for stream in bus.streams.values()] == [0, 0, 0]
        assert bus.first_block == 4  # three blocks were leased, from 1 on


async def test_nothing_is_founded_while_a_majority_is_silent() -> None:
    bus = MemoryBus()
    async with running_cell(bus, start=False) as cell:
        cell.start("peer-1")

        async def has_looked() -> bool:
            return "a majority must say" in (cell[0].peer.stripes.fault or "")

        await eventually(has_looked, "peer-1 waits for others")
        assert bus.streams == {}
        assert bus.first_block is None
        cell.start("peer-2")
        await cell.wait_ready()
        assert len(bus.streams) == limits.STRIPES


async def test_a_lost_stream_comes_back_as_the_next_generation_and_loses_nothing() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        peer = cell[0]

        async def add(number: int) -> Position:
            written = await peer.appender.write(
                write_of(peer, f"key-{number}", create(number)),
                ack="all",
                deadline_s=peer.clock.steady_s() + 5,
            )
            return written.position

        first = await add(1)
        bus.lose(first.stripe)
        during = await add(2)
        assert during.stripe != first.stripe

        async def is_back() -> bool:
            return first.stripe in bus.streams and peer.tails[first.stripe].generation == 1

        await eventually(is_back, "the stripe is back")
        assert bus.streams[first.stripe].generation == 1
        peer.appender._avoided_until_s.clear()
        after = await add(3)
        assert (after.stripe, after.generation) == (first.stripe, 1)
        for other in cell.peers.values():
            for number in (1, 2, 3):
                assert await other.record(create(number).record) is not None


async def test_an_empty_stream_that_is_lost_is_not_made_a_second_time() -> None:
    """Nothing was applied from it yet, but a frame may have had its PubAck."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:

        async def is_noted() -> bool:
            return all(peer.progress.end_of(2) == Position(2, 0, 0) for peer in cell.peers.values())

        await eventually(is_noted, "every peer knows generation 0")
        bus.lose(2)

        async def is_back() -> bool:
            return 2 in bus.streams

        await eventually(is_back, "the stripe is back")
        assert bus.streams[2].generation == 1


async def test_a_position_of_another_generation_covers_nothing() -> None:
    async with running_cell(MemoryBus()) as cell:
        progress = cell[0].progress
        progress.advance([Position(0, 1, 50)])
        assert progress.has([Position(0, 1, 50)])
        assert not progress.has([Position(0, 0, 1)])
        assert not progress.has([Position(0, 2, 1)])


async def test_lost_ids_are_made_again_above_everything_seen() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        highest = 3

        async def is_known() -> bool:
            marks = cell[1].members.watermarks().values()
            return max(mark.highest_block for mark in marks) == highest

        await eventually(is_known, "peer-2 knows the highest block")
        bus.first_block = 1  # somebody made it again from the beginning
        await repair_ids(cell[1].bus, cell[1].members)
        assert bus.first_block == highest + 2 * IDS_APART
        assert await cell[1].bus.lease() > highest
        await repair_ids(cell[1].bus, cell[1].members)
        assert bus.first_block == highest + 2 * IDS_APART + 1
