"""One suite for every `ports.Log`: JetStream on real servers, and the fake bus."""

from __future__ import annotations

import asyncio
import time

import pytest

from memsync import limits
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.log import JetStreamLog
from memsync.errors import MemsyncError, OutcomeUnknown, Unavailable, VersionConflict
from memsync.ids import Position, RecordKey
from memsync.ports import Log
from memsync.wire.operations import RawMessage
from tests.conditions import eventually
from tests.contracts.buses import SMALL_BYTES_MAX, TIMEOUT_S, Bed, Member, RealBed, wait_heard
from tests.fakes.bus import Fault, MemoryBus

RECORD = RecordKey(b"r" * 16)
OTHER = RecordKey(b"o" * 16)
AT_ONCE_S = 0.5  # far below any time-out of the bus, far above a busy machine's hiccups


async def founded(bed: Bed, *stripes: int) -> Member:
    """A member of a cell with these stripes, in generation 0."""
    member = await bed.member()
    for stripe in stripes:
        await member.streams.create(stripe, 0)
        await wait_heard(member.log, stripe)
    return member


async def publish(
    log: Log, message_id: str, data: bytes = b"data", *, stripe: int = 0, **more: object
) -> Position:
    """Publish with patience."""
    options = {"timeout_s": TIMEOUT_S} | more
    return await log.publish(stripe, message_id, data, **options)  # type: ignore[arg-type]


async def publish_at_last(log: Log, message_id: str) -> Position:
    """Publish the same again until it is settled; while the first is in process nobody can say."""

    async def attempt() -> Position | None:
        try:
            return await publish(log, message_id)
        except Unavailable:
            return None

    found = await eventually(attempt, f"{message_id} is settled")
    assert found is not None
    return found


async def stored(log: Log, stripe: int = 0, generation: int = 0) -> list[RawMessage]:
    """All that is in a stripe, whichever server answers first."""
    found: list[RawMessage] = []
    while more := await log.fetch(
        Position(stripe, generation, found[-1].position.sequence + 1 if found else 1)
    ):
        found += more
    return found


def names(messages: list[RawMessage]) -> list[str]:
    return [message.message_id for message in messages]


async def eventually_stored(log: Log, *message_ids: str, stripe: int = 0) -> list[RawMessage]:
    """What is in a stripe, once it ends with these: a server that answers may be behind."""

    async def is_there() -> list[RawMessage] | None:
        found = await stored(log, stripe)
        return found if names(found)[-len(message_ids) :] == [*message_ids] else None

    found = await eventually(is_there, f"{message_ids} are in stripe {stripe}")
    assert found is not None
    return found


async def test_a_frame_is_stored_where_the_answer_says(bed: Bed) -> None:
    log = (await founded(bed, 0, 1)).log
    assert await publish(log, "a", b"one") == Position(0, 0, 1)
    assert await publish(log, "b", b"two") == Position(0, 0, 2)
    assert await publish(log, "c", b"three", stripe=1) == Position(1, 0, 1)
    assert await eventually_stored(log, "a", "b") == [
        RawMessage(Position(0, 0, 1), b"one", "a"),
        RawMessage(Position(0, 0, 2), b"two", "b"),
    ]


async def test_the_same_id_answers_the_first_ones_position(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    first = await publish(log, "a", b"one")
    await publish(log, "b")
    again = await asyncio.gather(*(publish(log, "a", b"one") for _ in range(8)))
    assert set(again) == {first}
    assert names(await eventually_stored(log, "a", "b")) == ["a", "b"]


async def test_the_same_id_is_stored_once_in_each_stripe(bed: Bed) -> None:
    log = (await founded(bed, 0, 1)).log
    assert await publish(log, "a") == Position(0, 0, 1)
    assert await publish(log, "a", stripe=1) == Position(1, 0, 1)
    for stripe in (0, 1):
        assert names(await eventually_stored(log, "a", stripe=stripe)) == ["a"]


async def test_a_repeat_answers_its_position_whatever_its_condition(bed: Bed) -> None:
    """The id is looked at before the condition, so a repeat of a success is no conflict."""
    log = (await founded(bed, 0)).log
    first = await publish(log, "a", record=RECORD, after=0)
    assert await publish(log, "a", record=RECORD, after=0) == first
    assert await publish(log, "a", record=OTHER, after=77) == first


async def test_exactly_one_of_many_conditional_publishes_wins(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    outcomes: list[Position | BaseException] = await asyncio.gather(
        *(publish(log, f"w-{n}", record=RECORD, after=0) for n in range(20)),
        return_exceptions=True,
    )
    winners = [n for n, each in enumerate(outcomes) if isinstance(each, Position)]
    losers = [each for each in outcomes if not isinstance(each, Position)]
    assert len(winners) == 1
    assert [type(each) for each in losers] == [VersionConflict] * 19
    assert names(await eventually_stored(log, f"w-{winners[0]}")) == [f"w-{winners[0]}"]


async def test_a_condition_is_of_its_record_alone(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    await publish(log, "frame")
    first = await publish(log, "a", record=RECORD, after=0)
    assert await publish(log, "b", record=OTHER, after=0) == Position(0, 0, 3)
    for wrong in (0, 1, 3, 99):
        with pytest.raises(VersionConflict):
            await publish(log, f"refused-{wrong}", record=RECORD, after=wrong)
    await publish(log, "c", record=RECORD, after=first.sequence)
    assert names(await eventually_stored(log, "c")) == ["frame", "a", "b", "c"]


async def last(log: Log, generation: int = 0, record: RecordKey = RECORD) -> int:
    """The last sequence on a record's subject, as a server has it."""
    return await log.last_of_record(0, generation, record, timeout_s=TIMEOUT_S)


async def eventually_last(log: Log, wanted: int, record: RecordKey = RECORD) -> None:
    """Whichever server answers may be behind for a moment."""

    async def is_there() -> bool:
        return await last(log, record=record) == wanted

    await eventually(is_there, f"{wanted} is the last")


async def test_the_last_of_a_record_is_its_own_subjects_last(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    assert await last(log) == 0
    await publish(log, "a", record=RECORD, after=0)
    await publish(log, "b", record=RECORD, after=1)
    await publish(log, "frame")
    await publish(log, "c", record=OTHER)
    await eventually_last(log, 2)
    await eventually_last(log, 4, OTHER)


async def test_the_last_of_a_record_whose_messages_are_gone_is_none(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    await publish(log, "a", record=RECORD, after=0)
    await eventually_last(log, 1)
    await bed.purge(0, 0)
    await eventually_last(log, 0)
    assert await publish(log, "b", record=RECORD, after=0) == Position(0, 0, 2)


async def test_the_last_of_a_record_is_of_one_generation(bed: Bed) -> None:
    member = await founded(bed, 0)
    await publish(member.log, "a", record=RECORD)
    await bed.lose(0, 0)
    with pytest.raises(Unavailable):
        await last(member.log)
    await member.streams.create(0, 1)
    await wait_heard(member.log, 0)
    assert await last(member.log, 1) == 0
    assert await publish(member.log, "b", record=RECORD, after=0) == Position(0, 1, 1)
    with pytest.raises(Unavailable):
        await last(member.log)


async def test_a_stream_that_is_not_there_takes_nothing_for_certain(bed: Bed) -> None:
    member = await founded(bed, 1)
    started = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        await publish(member.log, "a")
    assert raised.value.code == "NO_STRIPE_LEADER"
    assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S
    with pytest.raises(Unavailable):
        await member.log.fetch(Position(0, 0, 1))


async def test_a_full_stripe_refuses_for_certain_until_it_is_emptied(small: Bed) -> None:
    log = (await founded(small, 0, 1)).log
    data = b"x" * (SMALL_BYTES_MAX // 8)
    taken: list[str] = []
    refusal: Unavailable | None = None
    while refusal is None and len(taken) < 10:
        try:
            await publish(log, f"m-{len(taken)}", data)
            taken.append(f"m-{len(taken)}")
        except Unavailable as error:
            refusal = error
    assert refusal is not None
    assert "full" in refusal.message
    assert refusal.definite
    assert len(taken) >= 6
    assert await publish(log, taken[0], data) == Position(0, 0, 1)  # a repeat is still answered
    assert await publish(log, "elsewhere", data, stripe=1) == Position(1, 0, 1)
    assert names(await eventually_stored(log, taken[-1])) == taken
    await small.purge(0, 0)
    refused = f"m-{len(taken)}"
    assert await publish(log, refused, data) == Position(0, 0, len(taken) + 1)
    assert names(await eventually_stored(log, refused)) == [refused]


async def test_a_message_that_is_too_large_is_refused_at_once_for_certain(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    started = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        await publish(log, "large", b"x" * (limits.NATS_PAYLOAD_BYTES_MAX + 1))
    assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S
    assert await publish(log, "small") == Position(0, 0, 1)


async def test_the_largest_frame_is_stored_and_read_back(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    data = b"x" * limits.FRAME_BYTES_MAX
    await publish(log, "a", data, timeout_s=10.0)
    await publish(log, "b", data, timeout_s=10.0)
    await publish(log, "c", data, timeout_s=10.0)
    found = await eventually_stored(log, "a", "b", "c")
    assert [message.data == data for message in found] == [True] * 3


async def test_without_a_connection_everything_is_refused_at_once_for_certain(bed: Bed) -> None:
    member = await founded(bed, 0)
    other = await bed.member("peer-2")
    assert member.log.fault() is None
    await publish(member.log, "before")
    await bed.cut()
    assert member.log.fault()
    started = time.monotonic()
    for attempt in (
        publish(member.log, "a"),
        publish(member.log, "b", record=RECORD, after=0),
        member.log.fetch(Position(0, 0, 1)),
        member.log.last_of_record(0, 0, RECORD, timeout_s=TIMEOUT_S),
    ):
        with pytest.raises(Unavailable) as raised:
            await attempt
        assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S
    assert await publish(other.log, "meanwhile") == Position(0, 0, 2)
    await bed.restore()
    assert member.log.fault() is None
    await publish(member.log, "after")
    assert names(await eventually_stored(other.log, "after")) == ["before", "meanwhile", "after"]


async def test_a_cancelled_publish_is_stored_whole_or_not_at_all(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    tasks = [asyncio.create_task(publish(log, f"m-{n}")) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in outcomes} <= {asyncio.CancelledError, Position}
    positions = await asyncio.gather(*(publish_at_last(log, f"m-{n}") for n in range(20)))
    assert sorted(p.sequence for p in positions) == list(range(1, 21))
    found = await eventually_stored(log, f"m-{positions.index(max(positions))}")
    assert sorted(names(found)) == sorted(f"m-{n}" for n in range(20))


async def test_reading_begins_anywhere_and_ends_at_the_end(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    ids = [f"m-{n}" for n in range(1, 21)]
    for each in ids:
        await publish(log, each)
    await eventually_stored(log, ids[-1])
    for start in (0, 1, 2, 13, 20):
        found = await log.fetch(Position(0, 0, start))
        assert names(found) == ids[max(start, 1) - 1 :]
        assert [m.position.sequence for m in found] == list(range(max(start, 1), 21))
    for beyond in (21, 22, 1_000_000):
        assert await log.fetch(Position(0, 0, beyond)) == []


async def test_reading_an_empty_stream_finds_nothing(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    assert await log.fetch(Position(0, 0, 1)) == []


async def test_one_batch_is_read_at_a_time(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    count = limits.FETCH_BATCH_MESSAGES + 20
    positions = await asyncio.gather(*(publish(log, f"m-{n}") for n in range(count)))
    last = positions.index(max(positions))
    assert len(await eventually_stored(log, f"m-{last}")) == count
    first = await log.fetch(Position(0, 0, 1))
    assert [m.position.sequence for m in first] == list(range(1, limits.FETCH_BATCH_MESSAGES + 1))


async def test_a_message_that_is_gone_from_within_is_a_visible_jump(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    for number in range(1, 6):
        await publish(log, f"m-{number}")
    await bed.erase(0, 0, 3)

    async def jumps() -> bool:
        found = await log.fetch(Position(0, 0, 1))
        return [m.position.sequence for m in found] == [1, 2, 4, 5]

    await eventually(jumps, "sequence 3 is gone")
    assert names(await log.fetch(Position(0, 0, 3))) == ["m-4", "m-5"]


async def test_what_was_trimmed_is_a_visible_jump(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    for number in range(1, 4):
        await publish(log, f"m-{number}")
    await bed.purge(0, 0)
    await publish(log, "m-4")
    found = await eventually_stored(log, "m-4")
    assert [m.position for m in found] == [Position(0, 0, 4)]


async def test_a_generation_that_is_not_there_cannot_be_read(bed: Bed) -> None:
    member = await founded(bed, 0)
    await publish(member.log, "a")
    for generation in (1, 7):
        with pytest.raises(Unavailable):
            await member.log.fetch(Position(0, generation, 1))
    await bed.lose(0, 0)
    await member.streams.create(0, 1)
    await wait_heard(member.log, 0)
    with pytest.raises(Unavailable):
        await member.log.fetch(Position(0, 0, 1))
    assert await publish(member.log, "a") == Position(0, 1, 1)
    assert [m.position for m in await stored(member.log, 0, 1)] in ([], [Position(0, 1, 1)])


async def test_one_message_is_read_from_the_leader(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    await publish(log, "a", b"one")
    await publish(log, "b", b"two", record=RECORD)
    for expected in (
        RawMessage(Position(0, 0, 1), b"one", "a"),
        RawMessage(Position(0, 0, 2), b"two", "b"),
    ):
        assert await log.fetch_from_leader(expected.position) == expected
    assert await log.fetch_from_leader(Position(0, 0, 3)) is None


async def test_the_leader_says_that_a_message_is_gone(bed: Bed) -> None:
    log = (await founded(bed, 0)).log
    for number in range(1, 4):
        await publish(log, f"m-{number}")
    await bed.erase(0, 0, 2)
    assert await log.fetch_from_leader(Position(0, 0, 2)) is None
    found = await log.fetch_from_leader(Position(0, 0, 3))
    assert found is not None
    assert found.message_id == "m-3"
    await bed.purge(0, 0)
    assert await log.fetch_from_leader(Position(0, 0, 3)) is None


async def test_a_leader_that_cannot_be_asked_says_nothing_about_a_message(bed: Bed) -> None:
    """None would say that nobody ever had an answer for it."""
    member = await founded(bed, 0)
    await publish(member.log, "a")
    for position in (Position(0, 1, 1), Position(1, 0, 1)):
        with pytest.raises(Unavailable):
            await member.log.fetch_from_leader(position)
    await bed.cut()
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await member.log.fetch_from_leader(Position(0, 0, 1))
    assert time.monotonic() - started < AT_ONCE_S
    await bed.restore()
    await bed.lose(0, 0)
    with pytest.raises(Unavailable):
        await member.log.fetch_from_leader(Position(0, 0, 1))


async def heard_first(log: Log, heard: list[RawMessage], mark: str) -> None:
    """Publish until the listener hears it: its interest has to spread among the servers."""
    attempts = iter(range(1_000))

    async def hears() -> bool:
        await publish(log, f"{mark}-{next(attempts)}")
        return any(message.message_id.startswith(mark) for message in heard)

    await eventually(hears, f"{mark} is heard")


async def test_frames_are_heard_as_they_are_stored(bed: Bed) -> None:
    member = await founded(bed, 0, 1)
    other = await bed.member("peer-2")
    heard: list[RawMessage] = []
    await other.log.listen(0, heard.append)
    await heard_first(member.log, heard, "hello")
    await publish(member.log, "elsewhere", stripe=1)
    last = 0
    for number in range(40):
        record = RECORD if number % 2 else None
        last = (await publish(member.log, f"m-{number}", b"%d" % number, record=record)).sequence

    async def hears_last() -> bool:
        return heard[-1].position.sequence == last

    await eventually(hears_last, "the last frame is heard")
    ours = [message for message in heard if message.message_id.startswith("m-")]
    assert names(ours) == [f"m-{number}" for number in range(40)]
    assert [m.data for m in ours] == [b"%d" % number for number in range(40)]
    assert heard == sorted(heard, key=lambda m: m.position)
    assert "elsewhere" not in names(heard)
    inside = {m.position: m for m in await eventually_stored(member.log, "m-39")}
    assert all(inside[m.position] == m for m in heard)


async def test_a_refused_or_repeated_frame_is_not_heard(bed: Bed) -> None:
    member = await founded(bed, 0)
    heard: list[RawMessage] = []
    await member.log.listen(0, heard.append)
    await heard_first(member.log, heard, "hello")
    await publish(member.log, "once", record=RECORD, after=0)
    await publish(member.log, "once", record=RECORD, after=0)
    with pytest.raises(VersionConflict):
        await publish(member.log, "refused", record=RECORD, after=0)
    await heard_first(member.log, heard, "bye")
    assert [each for each in names(heard) if each in ("once", "refused")] == ["once"]


async def test_listening_goes_on_after_a_reconnect_with_a_gap(bed: Bed) -> None:
    member = await founded(bed, 0)
    other = await bed.member("peer-2")
    heard: list[RawMessage] = []
    await other.log.listen(0, heard.append)
    await heard_first(member.log, heard, "hello")
    await bed.cut("peer-2")
    for number in range(3):
        await publish(member.log, f"missed-{number}")
    await bed.restore("peer-2")
    await heard_first(member.log, heard, "again")
    assert not [each for each in names(heard) if each.startswith("missed")]
    assert heard == sorted(heard, key=lambda m: m.position)


async def test_the_next_generation_is_heard_as_what_it_is(bed: Bed) -> None:
    member = await founded(bed, 0)
    heard: list[RawMessage] = []
    await member.log.listen(0, heard.append)
    await heard_first(member.log, heard, "old")
    await bed.lose(0, 0)
    await member.streams.create(0, 1)
    await wait_heard(member.log, 0)
    await heard_first(member.log, heard, "new")
    generations = {m.message_id.split("-")[0]: m.position.generation for m in heard}
    assert generations == {"old": 0, "new": 1}


@pytest.mark.parametrize(
    "fault", ["no leader", "full", "silent", "stored but silent", "unknown, then no leader"]
)
async def test_every_fault_of_the_fake_keeps_the_contract(fault: Fault) -> None:
    """What a definite error refused is never there; no error is a version conflict by guess."""
    bus = MemoryBus()
    bus.found()
    log = bus.peer("peer-1")
    bus.faults[0] = fault
    definite = fault in ("no leader", "full")
    with pytest.raises(Unavailable) as raised:
        await publish(log, "a", record=RECORD, after=0)
    assert raised.value.definite is definite
    is_stored = names(await stored(log)) == ["a"]
    assert is_stored is (fault in ("stored but silent", "unknown, then no leader"))
    with pytest.raises(MemsyncError) as again:
        await publish(log, "b", record=RECORD, after=7)
    assert again.value.definite is (definite or fault == "unknown, then no leader")
    assert "b" not in names(await stored(log))


async def test_one_answer_of_the_fake_is_lost_and_then_there_is_no_leader() -> None:
    bus = MemoryBus()
    bus.found()
    log = bus.peer("peer-1")
    bus.faults[0] = "unknown, then no leader"
    with pytest.raises(OutcomeUnknown):
        await publish(log, "a")
    for _ in range(2):
        with pytest.raises(Unavailable) as raised:
            await publish(log, "a")
        assert raised.value.code == "NO_STRIPE_LEADER"
    assert await last(log) == 0  # needs no leader
    bus.faults.clear()
    assert await publish(log, "a") == Position(0, 0, 1)


async def test_a_closed_connection_has_a_fault_and_takes_nothing(real: RealBed) -> None:
    member = await founded(real, 0)
    await connection.close(real.clients["peer-1"])
    assert member.log.fault()
    with pytest.raises(Unavailable):
        await publish(member.log, "a")
    log = JetStreamLog(real.admin, real.cell)
    assert await stored(log) == []
