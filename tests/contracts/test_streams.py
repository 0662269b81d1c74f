"""One suite for every `ports.Streams`: JetStream on real servers, and the fake bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from memsync.adapters.jetstream.streams import JetStreamStreams
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Streams, StripeState
from tests.conditions import eventually
from tests.contracts.buses import SMALL_BYTES_MAX, TIMEOUT_S, Bed, RealBed, kill, wait_heard


async def state_with_leader(streams: Streams, stripe: int, generation: int = 0) -> StripeState:
    """The state of a stream once it has a leader; while it elects one it may have none."""

    async def led() -> StripeState | None:
        state = await streams.state(stripe, generation)
        return state if state.leader else None

    found = await eventually(led, f"stripe {stripe} has a leader")
    assert found is not None
    return found


async def test_a_stripe_without_a_stream_has_no_generation(bed: Bed) -> None:
    streams = (await bed.member()).streams
    assert await streams.generation(0) is None
    with pytest.raises(Unavailable):
        await streams.state(0, 0)


async def test_a_new_stream_is_empty_and_held_by_all_servers(bed: Bed) -> None:
    streams = (await bed.member()).streams
    await streams.create(0, 0)
    assert await streams.generation(0) == 0
    assert await streams.generation(1) is None
    state = await state_with_leader(streams, 0)
    assert (state.stripe, state.generation) == (0, 0)
    assert state.servers == ("nats-1", "nats-2", "nats-3")
    assert state.leader in state.servers
    assert (state.first_sequence, state.last_sequence) in ((0, 0), (1, 0))


async def test_the_state_tells_first_and_last(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    for number in range(1, 4):
        await member.log.publish(0, f"m-{number}", b"", timeout_s=TIMEOUT_S)
    state = await member.streams.state(0, 0)
    assert (state.first_sequence, state.last_sequence) == (1, 3)
    await bed.purge(0, 0)
    state = await member.streams.state(0, 0)
    assert (state.first_sequence, state.last_sequence) == (4, 3)


async def test_the_state_tells_how_full_a_stream_is_and_whose(small: Bed) -> None:
    member = await small.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    empty = await member.streams.state(0, 0)
    assert (empty.bytes, empty.bytes_max) == (0, SMALL_BYTES_MAX)
    assert (empty.deleted, empty.cell) == (0, "cell")
    for number in range(4):
        await member.log.publish(0, f"m-{number}", b"x" * 10_000, timeout_s=TIMEOUT_S)
    filled = await member.streams.state(0, 0)
    assert 40_000 <= filled.bytes < 42_000
    assert filled.bytes_max == SMALL_BYTES_MAX


async def test_what_is_missing_within_a_stream_is_counted(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    for number in range(1, 7):
        await member.log.publish(0, f"m-{number}", b"", timeout_s=TIMEOUT_S)
    await member.streams.trim(0, 0, first_sequence=2)
    assert (await member.streams.state(0, 0)).deleted == 0  # what is gone in front is no damage
    for sequence in (3, 5):
        await bed.erase(0, 0, sequence)
    assert (await member.streams.state(0, 0)).deleted == 2
    await member.streams.trim(0, 0, first_sequence=6)
    assert (await member.streams.state(0, 0)).deleted == 0


async def test_a_trim_takes_what_lies_before_and_nothing_else(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    for number in range(1, 11):
        await member.log.publish(0, f"m-{number}", b"data", timeout_s=TIMEOUT_S)
    full = (await member.streams.state(0, 0)).bytes
    for first in (0, 1, 4, 4, 2):  # the last two have nothing to do any more
        await member.streams.trim(0, 0, first_sequence=first)
    state = await member.streams.state(0, 0)
    assert (state.first_sequence, state.last_sequence) == (4, 10)
    assert 0 < state.bytes < full

    async def is_gone() -> bool:
        found = await member.log.fetch(Position(0, 0, 1))
        return [m.position.sequence for m in found] == list(range(4, 11))

    await eventually(is_gone, "the first three are gone on whichever server answers")
    assert await member.log.publish(0, "m-11", b"", timeout_s=TIMEOUT_S) == Position(0, 0, 11)
    assert await member.log.publish(0, "m-1", b"", timeout_s=TIMEOUT_S) == Position(0, 0, 1)


async def test_a_trim_up_to_the_end_leaves_an_empty_stream_that_goes_on(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    for number in range(1, 4):
        await member.log.publish(0, f"m-{number}", b"data", timeout_s=TIMEOUT_S)
    await member.streams.trim(0, 0, first_sequence=4)
    state = await member.streams.state(0, 0)
    assert (state.first_sequence, state.last_sequence, state.bytes) == (4, 3, 0)
    assert await member.log.publish(0, "m-4", b"", timeout_s=TIMEOUT_S) == Position(0, 0, 4)


async def test_all_members_may_trim_at_once(bed: Bed) -> None:
    members = [await bed.member(f"peer-{n}") for n in (1, 2, 3)]
    await members[0].streams.create(0, 0)
    await wait_heard(members[0].log, 0)
    for number in range(1, 11):
        await members[0].log.publish(0, f"m-{number}", b"data", timeout_s=TIMEOUT_S)
    await asyncio.gather(
        *(m.streams.trim(0, 0, first_sequence=n) for m in members for n in (3, 7, 5))
    )
    state = await members[0].streams.state(0, 0)
    assert (state.first_sequence, state.last_sequence, state.deleted) == (7, 10, 0)


async def test_a_generation_that_is_not_there_cannot_be_trimmed(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 1)
    await wait_heard(member.log, 0)
    await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S)
    for generation in (0, 2):
        with pytest.raises(Unavailable):
            await member.streams.trim(0, generation, first_sequence=2)
    assert (await member.streams.state(0, 1)).first_sequence == 1


async def test_making_what_is_there_changes_nothing(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S)
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    assert await member.log.publish(0, "b", b"", timeout_s=TIMEOUT_S) == Position(0, 0, 2)


async def test_all_members_may_make_it_at_once(bed: Bed) -> None:
    members = [await bed.member(f"peer-{n}") for n in (1, 2, 3)]
    await asyncio.gather(*(m.streams.create(0, 4) for m in members for _ in range(3)))
    await wait_heard(members[0].log, 0)
    assert [await m.streams.generation(0) for m in members] == [4, 4, 4]
    assert await members[0].log.publish(0, "a", b"", timeout_s=TIMEOUT_S) == Position(0, 4, 1)


@pytest.mark.parametrize("wrong", [1, 3])
async def test_a_second_generation_is_refused_and_harms_nothing(bed: Bed, wrong: int) -> None:
    member = await bed.member()
    await member.streams.create(0, 2)
    await wait_heard(member.log, 0)
    await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S)
    with pytest.raises(Unavailable):
        await member.streams.create(0, wrong)
    assert await member.streams.generation(0) == 2
    with pytest.raises(Unavailable):
        await member.streams.state(0, wrong)
    assert await member.log.publish(0, "b", b"", timeout_s=TIMEOUT_S) == Position(0, 2, 2)


async def test_a_lost_stream_is_seen_and_its_successor_begins_anew(bed: Bed) -> None:
    member = await bed.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S)
    await bed.lose(0, 0)
    assert await member.streams.generation(0) is None
    await member.streams.create(0, 1)
    await wait_heard(member.log, 0)
    assert await member.streams.generation(0) == 1
    assert await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S) == Position(0, 1, 1)


async def test_the_leader_hands_over_to_whom_it_is_told(bed: Bed) -> None:
    member = await bed.member()
    streams = member.streams
    await streams.create(0, 0)
    await wait_heard(member.log, 0)
    before = await state_with_leader(streams, 0)
    target = next(server for server in before.servers if server != before.leader)

    async def keeps_up() -> bool:  # a replica that has just been made cannot take over
        return target in (await streams.state(0, 0)).current

    await eventually(keeps_up, f"{target} keeps up")
    await streams.step_down(0, 0, preferred=target)

    async def has_moved() -> bool:
        return (await streams.state(0, 0)).leader == target

    await eventually(has_moved, f"{target} leads")

    async def is_published() -> bool:  # others may not have heard yet who leads
        try:
            return await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S) == Position(0, 0, 1)
        except Unavailable:
            return False

    await eventually(is_published, "the new leader takes a frame")


async def test_a_leader_is_not_moved_where_it_cannot_go(bed: Bed) -> None:
    streams = (await bed.member()).streams
    await streams.create(0, 0)
    leader = (await state_with_leader(streams, 0)).leader
    assert leader is not None
    for generation, preferred in ((0, leader), (0, "nats-9"), (1, "nats-1")):
        with pytest.raises(Unavailable):
            await streams.step_down(0, generation, preferred=preferred)
    assert (await streams.state(0, 0)).leader == leader


async def test_ids_begin_where_they_are_told_to(bed: Bed) -> None:
    streams = (await bed.member()).streams
    assert await streams.ids_end() is None
    await streams.create_ids(41)
    assert await streams.ids_end() == 40
    await streams.create_ids(41)
    await streams.create_ids(7)  # somebody else was faster: whatever is there stays
    assert await streams.ids_end() == 40


async def test_ids_are_made_once_by_many_and_taken_away_by_any(bed: Bed) -> None:
    members = [await bed.member(f"peer-{n}") for n in (1, 2, 3)]
    await asyncio.gather(*(m.streams.create_ids(n * 10) for n, m in enumerate(members, 1)))
    ends = {await m.streams.ids_end() for m in members}
    assert len(ends) == 1
    assert ends <= {9, 19, 29}
    await asyncio.gather(*(m.streams.delete_ids() for m in members))
    assert await members[0].streams.ids_end() is None
    await members[1].streams.delete_ids()
    await members[1].streams.create_ids(77)
    assert await members[2].streams.ids_end() == 76


async def test_without_a_connection_nobody_can_say(bed: Bed) -> None:
    streams = (await bed.member()).streams
    await streams.create(0, 0)
    await bed.cut()
    attempts: list[Awaitable[object]] = [
        streams.generation(0),
        streams.state(0, 0),
        streams.create(1, 0),
        streams.ids_end(),
        streams.create_ids(1),
        streams.delete_ids(),
        streams.step_down(0, 0, preferred="nats-1"),
        streams.trim(0, 0, first_sequence=2),
    ]
    for attempt in attempts:
        with pytest.raises(Unavailable) as raised:
            await attempt
        assert raised.value.definite
    await bed.restore()
    assert (await streams.generation(0), await streams.generation(1)) == (0, None)
    assert await streams.ids_end() is None


async def test_a_stream_without_an_identity_is_adopted_and_stays_as_it_was(real: RealBed) -> None:
    """Streams of earlier versions have none. Whatever an update leaves out is reset, so everything
    else must be as it was."""
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    await member.log.publish(0, "a", b"", timeout_s=TIMEOUT_S)
    stream = real.cell.stream(0, 0)
    before = (await real.ask(f"STREAM.INFO.{stream}", {}))["config"]
    bare = dict(before, metadata={})
    await real.ask(f"STREAM.UPDATE.{stream}", bare)
    assert (await member.streams.state(0, 0)).cell == ""
    await member.streams.adopt(0, 0)
    assert (await member.streams.state(0, 0)).cell == "cell"
    assert (await real.ask(f"STREAM.INFO.{stream}", {}))["config"] == before
    await member.streams.adopt(0, 0)
    assert await member.log.publish(0, "b", b"", timeout_s=TIMEOUT_S) == Position(0, 0, 2)
    with pytest.raises(Unavailable):
        await member.streams.adopt(0, 1)


async def test_a_stream_of_another_cell_keeps_its_identity(real: RealBed) -> None:
    member = await real.member()
    await member.streams.create(0, 0)
    other = JetStreamStreams(
        real.clients["peer-1"], real.cell, replicas=3, stripe_bytes_max=1 << 26, identity="other"
    )
    await other.create(0, 0)
    await other.adopt(0, 0)
    assert (await other.state(0, 0)).cell == "cell"


async def test_a_dead_server_is_no_longer_among_those_that_keep_up(real: RealBed) -> None:
    """A leader that is told to hand over to it steps down all the same."""
    streams = (await real.member()).streams
    await streams.create(0, 0)

    async def whole() -> StripeState | None:
        state = await state_with_leader(streams, 0)
        return state if len(state.current) == 3 else None

    state = await eventually(whole, "three servers keep up")
    assert state is not None
    dead = next(server for server in state.servers if server != state.leader)
    kill(real.bus, dead)

    async def is_noticed() -> bool:
        try:
            return dead not in (await streams.state(0, 0)).current
        except Unavailable:
            return False  # the dead one may have led those that answer

    await eventually(is_noticed, f"{dead} does not keep up", 15)
