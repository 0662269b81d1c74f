"""Founding, lost streams, leaders and ids: what any peer does without being told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from memsync import limits
from memsync.engine.streams.id_stream import APART, PLACES
from memsync.engine.streams.stripes import LOOKS_BEFORE_OTHERS_ACT, Stripes, plan_move
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import StripeState
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus, SilentError, T, Wires
from tests.fakes.cell import create, running_cell, write_of

FIRST_RESERVED = APART * PLACES


def state(stripe: int, leader: str | None, *dead: str) -> StripeState:
    servers = ("nats-1", "nats-2", "nats-3")
    current = tuple(server for server in servers if server not in dead)
    return StripeState(stripe, 0, leader, servers, 1, 0, 0, 1, 0, "", current)


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


def test_no_leader_is_handed_to_a_server_that_does_not_keep_up() -> None:
    """It would step down all the same, and the stripe had no leader for seconds."""
    led = ["nats-2", "nats-2", "nats-3"]
    assert plan_move({k: state(k, leader, "nats-1") for k, leader in enumerate(led)}) is None
    assert plan_move({k: state(k, leader) for k, leader in enumerate(led)}) == (0, "nats-1")


class Mute(Wires):
    """Nobody says how one stripe is."""

    def __init__(self, stripe: int) -> None:
        self._stripe = stripe

    async def ask(self, kind: str, source: str, do: Callable[[], T], *, timeout_s: float) -> T:
        if kind == "state" and isinstance(do, partial) and do.args[0] == self._stripe:
            raise SilentError
        return await super().ask(kind, source, do, timeout_s=timeout_s)


def test_one_server_alone_has_nowhere_to_move_a_leader() -> None:
    alone = StripeState(0, 0, "nats-1", ("nats-1",), 1, 0, 0, 1, 0, "", ("nats-1",))
    assert plan_move(dict.fromkeys(range(limits.STRIPES), alone)) is None


async def test_a_new_cell_founds_its_streams_and_spreads_their_leaders() -> None:
    bus = MemoryBus()
    async with running_cell(bus):

        async def is_spread() -> bool:
            return len({stream.leader for stream in bus.streams.values()}) == 3

        await eventually(is_spread, "three leaders on three servers")
        assert [stream.generation for stream in bus.streams.values()] == [0, 0, 0]
        assert bus.first_block == FIRST_RESERVED + 1 + 3  # three blocks were leased


async def test_nothing_is_founded_while_a_majority_is_silent() -> None:
    bus = MemoryBus()
    async with running_cell(bus, start=False) as cell:
        cell.start("peer-1")

        async def has_looked() -> bool:
            return "a majority must say" in (cell[0].engine.caretakers.stripes.fault or "")

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
    bus = MemoryBus()
    bus.found()
    async with running_cell(bus) as cell:
        progress = cell[0].progress
        progress.advance([Position(0, 1, 50)])
        assert progress.has([Position(0, 1, 50)])
        assert not progress.has([Position(0, 0, 1)])
        assert not progress.has([Position(0, 2, 1)])


async def test_a_stripe_that_is_gone_for_one_look_only_is_not_made() -> None:
    """A server that has just begun to lead may not know of it yet."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        stripes = cell[0].engine.caretakers.stripes
        kept = bus.streams.pop(1)
        with pytest.raises(Unavailable, match="looking again"):
            await stripes._make(1)
        bus.streams[1] = kept
        await stripes._look_after(1)
        assert bus.streams[1] is kept


async def test_two_that_make_the_next_generation_at_once_make_one() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        for _ in range(3):
            bus.lose(1)
            for _ in range(2):  # the first finds that it is gone
                looks = [
                    peer.engine.caretakers.stripes._fault_of(1)
                    for peer in cell.peers.values()
                    for _ in range(4)
                ]
                await asyncio.gather(*looks)
        assert bus.streams[1].generation == 3


async def test_who_has_an_old_view_makes_no_second_generation() -> None:
    """Peer-1 heard of generation 1 and would make 2; peer-2 did not and made 1. One stands."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        bus.lose(1)
        await cell[1].bus.create(1, 1)
        with pytest.raises(Unavailable):
            await cell[0].bus.create(1, 2)
        stripes = cell[0].engine.caretakers.stripes
        assert await stripes._fault_of(1) is not None  # generation 0 is gone
        assert await stripes._fault_of(1) is None
        assert cell[0].progress.end_of(1) == Position(1, 1, 0)


async def test_readiness_says_which_stripe_has_no_leader_and_fails_without_any() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        stripes = cell[0].engine.caretakers.stripes
        assert stripes.verdict() == "ok"
        stripes.states[1] = state(1, None)
        assert stripes.verdict() == (
            "ok: no leader of stripe 1 at the moment; writes go to the others"
        )
        assert cell[0].is_ready()
        for stripe in (0, 2):
            stripes.states[stripe] = state(stripe, None)
        assert stripes.verdict().startswith("failed: no stripe has a leader")
        assert not cell[0].is_ready()


async def test_a_stripe_that_does_not_answer_twice_counts_as_without_leader() -> None:
    """Its servers do not answer while they elect one; the other stripes are looked after."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        stripes = cell[0].engine.caretakers.stripes
        bus.network = Mute(1)

        async def is_noticed() -> bool:
            return stripes.leaderless() == [1]

        await eventually(is_noticed, "stripe 1 has no leader")
        assert stripes.states[0].leader is not None
        bus.network = Wires()

        async def is_back() -> bool:
            return stripes.verdict() == "ok"

        await eventually(is_back, "stripe 1 has a leader again")


async def test_leaders_are_spread_by_another_where_the_first_member_does_not() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        third = cell[2]
        stripes = Stripes(
            third.bus,
            third.engine.caretakers.ownership,
            third.members,
            third.applier,
            third.progress,
            third.tails,
        )
        stripes.states = {
            k: state(k, leader) for k, leader in enumerate(("nats-2", "nats-2", "nats-3"))
        }
        for stripe, leader in enumerate(("nats-2", "nats-2", "nats-3")):
            bus.streams[stripe].leader = leader
        bus.moves.clear()
        for _ in range(LOOKS_BEFORE_OTHERS_ACT):
            assert await stripes._spread_leaders() is None
        assert bus.moves == []
        assert await stripes._spread_leaders() is None
        assert bus.moves == [(0, "nats-1")]
        assert await stripes._spread_leaders() is None  # done: nothing more is wanted
        assert bus.moves == [(0, "nats-1")]
