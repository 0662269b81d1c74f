"""What the ports promise while servers are dead: kill -9 of a stripe's leader, and of two of three.

Real servers only; the fake's faults are held to the same in test_log.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sized

import pytest

from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.adapters.jetstream.servers import NatsServers
from memsync.errors import NoQuorum, NoStripeLeader, OutcomeUnknown, Unavailable, VersionConflict
from memsync.ids import Position, RecordKey
from memsync.ports import Log
from memsync.wire.operations import RawMessage
from tests.conditions import eventually
from tests.contracts.buses import TIMEOUT_S, RealBed, kill, settings_of, wait_heard

RECORD = RecordKey(b"r" * 16)
PUBLISH_TIMEOUT_S = 0.3
LAST_TIMEOUT_S = 1.0
ELECTED_S = 30.0
AT_ONCE_S = 5.0  # a time-out of the bus and a busy machine
NEW_AFTER_ELECTION = 20


class Attempts:
    """Publishes, by what is known of each."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.stored: dict[str, Position] = {}
        self.refused: dict[str, Unavailable] = {}
        self.unknown: set[str] = set()

    async def publish(self, message_id: str) -> bool:
        """One attempt; whether it was stored for certain."""
        try:
            self.stored[message_id] = await self._log.publish(
                0, message_id, message_id.encode(), timeout_s=PUBLISH_TIMEOUT_S
            )
        except OutcomeUnknown:
            self.unknown.add(message_id)
        except Unavailable as error:
            self.refused[message_id] = error
        return message_id in self.stored


async def all_of(log: Log, last: int) -> dict[int, RawMessage]:
    """Everything up to sequence `last`, from whatever servers have it."""
    found: dict[int, RawMessage] = {}

    async def has_all() -> bool:
        start = max(found, default=0) + 1
        found.update({m.position.sequence: m for m in await log.fetch(Position(0, 0, start))})
        return max(found, default=0) >= last

    await eventually(has_all, f"all up to {last} is read")
    return found


async def test_a_killed_leader_makes_no_answer_false(real: RealBed) -> None:
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)

    async def leader() -> str | None:
        return (await member.streams.state(0, 0)).leader

    led_by = await eventually(leader, "the stripe has a leader")
    assert led_by is not None
    attempts = Attempts(member.log)
    is_over = asyncio.Event()

    async def write(writer: int) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            if not await attempts.publish(f"w{writer}-{number}"):
                await asyncio.sleep(0.01)  # a stripe without a leader refuses thousands a second

    async with asyncio.TaskGroup() as tasks:
        writers = [tasks.create_task(write(n)) for n in range(4)]
        await eventually(lambda: _more_than(attempts.stored, 20), "writes go on")
        kill(real.bus, led_by)
        await eventually(lambda: _more_than(attempts.refused, 0), "a leader is missed", ELECTED_S)
        before = len(attempts.stored)
        await eventually(
            lambda: _more_than(attempts.stored, before + NEW_AFTER_ELECTION),
            "another leader takes frames",
            ELECTED_S,
        )
        is_over.set()
    assert all(writer.done() for writer in writers)
    last = await member.log.publish(0, "last", b"", timeout_s=TIMEOUT_S)
    found = await all_of(member.log, last.sequence)
    assert sorted(found) == list(range(1, last.sequence + 1))
    for message_id, position in attempts.stored.items():
        assert found[position.sequence].message_id == message_id
        assert found[position.sequence].data == message_id.encode()
    inside = [message.message_id for message in found.values()]
    assert len(set(inside)) == len(inside)
    assert not {*attempts.refused} & {*inside}
    # Definite either way: no leader, or the connection itself went with the server.
    assert {type(each) for each in attempts.refused.values()} <= {NoStripeLeader, Unavailable}
    assert set(inside) <= {*attempts.stored, *attempts.unknown, "last"}
    assert (await leader()) != led_by


async def _more_than(found: Sized, count: int) -> bool:
    return len(found) > count


async def test_one_server_left_answers_reads_and_refuses_the_rest(real: RealBed) -> None:
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    await member.streams.create_ids(1)
    blocks = IdBlocks(real.clients["peer-1"], 0, _nothing_seen)
    for number in range(1, 11):
        await member.log.publish(0, f"m-{number}", b"", record=RECORD, timeout_s=TIMEOUT_S)
    assert await blocks.lease() == 1
    heard: list[bytes] = []
    await member.marks.listen(heard.append)
    await _wait_for_copies(real)
    state = await member.streams.state(0, 0)
    others = sorted(set(state.servers) - {state.leader})
    for name in others:
        kill(real.bus, name)

    async def reads() -> list[RawMessage]:
        try:
            return await member.log.fetch(Position(0, 0, 1))
        except Unavailable:
            return []  # the connection is on its way to the survivor

    found = await eventually(reads, "the survivor answers reads")
    assert [m.position.sequence for m in found] == list(range(1, 11))
    assert await member.log.fetch(Position(0, 0, 11)) == []
    # The leader does not know yet: what it is given it keeps, and stores when the others are back.
    attempts = Attempts(member.log)
    await asyncio.gather(*(attempts.publish(f"g-{n}") for n in range(10)))
    assert not attempts.stored
    assert attempts.unknown

    async def tells() -> bool:
        await member.marks.tell(b"mark")
        return b"mark" in heard

    await eventually(tells, "marks go on")
    await _check_refused(member.log, real, blocks)
    real.bus.start(int(others[0].removeprefix("nats-")))  # with it the former leader leads again
    await _check_settled(member.log, attempts)


async def _check_settled(log: Log, attempts: Attempts) -> None:
    """Every one that was not certain to be refused is now stored once; no other is."""

    async def settled() -> bool:
        for message_id in ("last", *attempts.unknown - set(attempts.stored)):
            await attempts.publish(message_id)
        return {"last", *attempts.unknown} <= set(attempts.stored)

    kept = {*attempts.unknown}
    await eventually(settled, "repeats of the unknown ones are answered", ELECTED_S)
    last = max(attempts.stored.values())
    inside = [message.message_id for message in (await all_of(log, last.sequence)).values()]
    assert len(set(inside)) == len(inside)
    assert {each for each in inside if each.startswith("g-")} == kept


async def _check_refused(log: Log, real: RealBed, blocks: IdBlocks) -> None:
    unsettled = (OutcomeUnknown, NoStripeLeader)
    # A leader that does not know yet that it is alone still checks conditions, and does so rightly.
    for record, after, expected in (
        (None, None, unsettled),
        (RECORD, 10, unsettled),
        (RECORD, 3, (*unsettled, VersionConflict)),
    ):
        started = time.monotonic()
        with pytest.raises(expected):
            await log.publish(
                0, f"n-{after}", b"", record=record, after=after, timeout_s=PUBLISH_TIMEOUT_S
            )
        assert time.monotonic() - started < AT_ONCE_S
    started = time.monotonic()
    assert await log.last_of_record(0, 0, RECORD, timeout_s=LAST_TIMEOUT_S) == 10
    assert time.monotonic() - started < AT_ONCE_S
    started = time.monotonic()
    with pytest.raises(NoQuorum) as refused:
        await blocks.lease()
    assert refused.value.definite
    assert time.monotonic() - started < AT_ONCE_S
    with pytest.raises(Unavailable, match="1 of 3 NATS servers"):
        await NatsServers(settings_of(real.bus), "test", real.cell).faults()


async def _nothing_seen() -> int:
    return 0


async def _wait_for_copies(real: RealBed) -> None:
    """Wait until every server has all: two are enough for an acknowledgement."""

    async def are_current() -> bool:
        info = await real.ask(f"STREAM.INFO.{real.cell.stream(0, 0)}", {})
        cluster = info["cluster"]
        return bool(cluster.get("leader")) and all(
            replica["current"] and not replica.get("lag") for replica in cluster["replicas"]
        )

    await eventually(are_current, "all copies are current")
