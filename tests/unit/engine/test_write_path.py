"""The write path on real engines: who has a write when it is answered, what every fault leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memsync import limits
from memsync.engine.writing.appender import Written
from memsync.errors import (
    MemsyncError,
    NoQuorum,
    OutcomeUnknown,
    Unavailable,
)
from memsync.ids import Position
from memsync.ports import LoggedFrame
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, RawMessage
from tests.conditions import eventually
from tests.fakes.bus import LongWires, MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of


async def add(
    peer: CellPeer, number: int, *, budget_s: float = 5.0, ack: str = "quorum"
) -> Written:
    """Add memory `number` through `peer`."""
    return await peer.appender.write(
        write_of(peer, f"key-{number}", create(number)),
        ack=ack,  # type: ignore[arg-type]
        deadline_s=peer.clock.steady_s() + budget_s,
    )


async def holders(cell: Cell, number: int) -> set[str]:
    """The peers whose store has memory `number`."""
    key = create(number).record
    return {name for name, peer in cell.peers.items() if await peer.record(key) is not None}


def founded() -> MemoryBus:
    bus = MemoryBus()
    bus.found()
    return bus


async def test_an_answered_write_is_on_its_coordinator_and_a_majority() -> None:
    async with running_cell(founded()) as cell:
        written = await add(cell[0], 1)
        having = await holders(cell, 1)
        assert "peer-1" in having
        assert len(having) >= 2
        assert written.records[create(1).record].ids == [101]
        assert written.position.sequence >= 1


async def test_each_coordinator_writes_to_its_own_stripe() -> None:
    async with running_cell(founded()) as cell:
        stripes = [(await add(cell[place], place)).position.stripe for place in range(3)]
        assert stripes == [0, 1, 2]
        cell.bus.faults[1] = "no leader"
        assert [(await add(cell[1], 10 + n)).position.stripe for n in range(2)] == [2, 2]


async def test_ack_log_waits_for_no_other_member_whoever_is_in_its_frame() -> None:
    """Frames that nobody else gets: one with such writes alone, one with another beside it."""
    async with running_cell(founded()) as cell:
        cell.bus.cut_off.update({"peer-2", "peer-3"})
        alone = await add(cell[0], 1, ack="log")
        assert alone.records[create(1).record].ids == [101]
        cell.bus.gate = asyncio.Event()
        others = [asyncio.create_task(add(cell[0], 10 + n)) for n in range(4)]

        async def is_under_way() -> bool:
            return cell[0].appender._in_flight > 0

        await eventually(is_under_way, "a frame is under way, what comes now shares the next")
        logged = asyncio.create_task(add(cell[0], 2, ack="log"))
        others.append(asyncio.create_task(add(cell[0], 20)))
        cell.bus.gate.set()
        assert (await logged).records[create(2).record].ids == [102]
        assert not any(other.done() for other in others)
        assert await holders(cell, 2) == {"peer-1"}
        cell.bus.cut_off.clear()
        await asyncio.gather(*others)


async def test_ack_all_waits_for_every_member() -> None:
    async with running_cell(founded()) as cell:
        await add(cell[0], 1, ack="all")
        assert await holders(cell, 1) == {"peer-1", "peer-2", "peer-3"}


async def test_a_dead_member_does_not_stop_writes_but_stops_ack_all_at_once() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        await add(cell[0], 1)

        async def is_noticed() -> bool:
            return len(cell[0].members.alive()) == 2

        await eventually(is_noticed, "peer-3 counts as dead")
        with pytest.raises(NoQuorum, match="peer-3 not alive"):
            await add(cell[0], 2, ack="all")
        assert await holders(cell, 2) == set()


async def test_fewer_than_a_majority_alive_is_refused_at_once_and_writes_nothing() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-2")
        await cell.stop("peer-3")

        async def is_noticed() -> bool:
            return not cell[0].members.has_majority()

        await eventually(is_noticed, "alone")
        with pytest.raises(NoQuorum, match="1 of 3 members alive") as refused:
            await add(cell[0], 1)
        assert refused.value.definite
        assert all(not stream.messages for stream in cell.bus.streams.values())

        async def is_tagged() -> bool:
            return cell[0].progress.is_behind()

        await eventually(is_tagged, "recalls here are tagged `replication`")


async def test_a_member_that_hears_nothing_is_caught_up_when_it_hears_again() -> None:
    async with running_cell(founded()) as cell:
        cell.bus.cut_off.add("peer-3")
        for number in range(20):
            await add(cell[number % 2], number)
        assert "peer-3" not in await holders(cell, 19)
        cell.bus.cut_off.clear()

        async def is_caught_up() -> bool:
            return all(["peer-3" in await holders(cell, n) for n in range(20)])

        await eventually(is_caught_up, "peer-3 has all")


@pytest.mark.parametrize("fault", ["no leader", "silent", "stored but silent", "full"])
async def test_a_stripe_that_fails_is_left_for_the_next_and_the_effect_is_one(fault: str) -> None:
    async with running_cell(founded()) as cell:
        cell.bus.faults[0] = fault  # type: ignore[assignment]
        written = await add(cell[0], 1)
        assert written.position.stripe != 0
        record = await cell[0].record(create(1).record)
        assert record is not None
        assert record.ids == [101]
        in_two = sum(len(stream.messages) for stream in cell.bus.streams.values())
        assert in_two == (2 if fault == "stored but silent" else 1)


async def test_all_stripes_refusing_is_definite_and_any_silence_is_not() -> None:
    async with running_cell(founded()) as cell:
        for stripe in range(limits.STRIPES):
            cell.bus.faults[stripe] = "no leader"
        with pytest.raises(NoQuorum) as refused:
            await add(cell[0], 1, budget_s=0.2)
        assert refused.value.definite
        cell.bus.faults[1] = "silent"
        with pytest.raises(OutcomeUnknown) as unknown:
            await add(cell[0], 2, budget_s=0.2)
        assert not unknown.value.definite


async def test_a_stored_frame_without_cover_is_never_acknowledged() -> None:
    """Stored by the bus, applied by nobody else: the answer must be "unknown", not "done"."""
    async with running_cell(founded()) as cell:
        cell.bus.deaf.update(range(limits.STRIPES))
        for name in ("peer-2", "peer-3"):
            peer = cell.peers[name]

            async def refuse(*_: object) -> list[object]:
                raise Unavailable("store: disk full")

            peer.store.apply = refuse  # type: ignore[method-assign, assignment]
        with pytest.raises(OutcomeUnknown):
            await add(cell[0], 1, budget_s=0.8)


async def test_what_arrives_while_frames_are_under_way_goes_into_one_frame() -> None:
    async with running_cell(founded()) as cell:
        cell.bus.gate = asyncio.Event()
        appender = cell[0].appender
        writes = []
        for number in range(limits.FRAMES_IN_FLIGHT_MAX):
            writes.append(asyncio.create_task(add(cell[0], number)))

            async def is_sent(count: int = number + 1) -> bool:
                return appender._in_flight == count

            await eventually(is_sent, "a frame of its own, at once")
        writes += [asyncio.create_task(add(cell[0], n)) for n in range(4, 100)]

        async def are_waiting() -> bool:
            return len(appender._queue) == 96

        await eventually(are_waiting, "the rest waits")
        cell.bus.gate.set()
        await asyncio.gather(*writes)
        frames = sum(len(stream.messages) for stream in cell.bus.streams.values())
        assert frames == limits.FRAMES_IN_FLIGHT_MAX + 1
        assert len(await holders(cell, 99)) >= 2


async def test_frames_leave_half_of_a_frame_apart_and_a_lone_write_at_once() -> None:
    bus = founded()
    async with running_cell(bus) as cell:
        bus.network = LongWires()
        for number in range(20):  # it learns how long a frame takes
            before_s = cell[0].clock.steady_s()
            await add(cell[0], number)
        frame_s = cell[0].clock.steady_s() - before_s
        begun = sum(len(stream.messages) for stream in bus.streams.values())
        writes = []
        for number in range(100, 140):
            writes.append(asyncio.create_task(add(cell[0], number)))
            await asyncio.sleep(frame_s / 10)
        await asyncio.gather(*writes)
        frames = sum(len(stream.messages) for stream in bus.streams.values()) - begun
        assert 8 <= frames <= 11  # 40 tenths of a frame's time, and one for the last


async def test_a_write_that_was_never_sent_is_definitely_not_there() -> None:
    async with running_cell(founded()) as cell:
        cell.bus.gate = asyncio.Event()
        appender = cell[0].appender
        under_way = []
        for number in range(limits.FRAMES_IN_FLIGHT_MAX):
            under_way.append(asyncio.create_task(add(cell[0], number)))

            async def is_sent(count: int = number + 1) -> bool:
                return appender._in_flight == count

            await eventually(is_sent, "a frame under way")
        with pytest.raises(Unavailable, match="nothing was written") as refused:
            await add(cell[0], 50, budget_s=0.1)
        assert refused.value.definite
        cell.bus.gate.set()
        await asyncio.gather(*under_way)
        assert await holders(cell, 50) == set()


async def test_a_bulk_is_one_frame_and_appears_in_one_step() -> None:
    async with running_cell(founded()) as cell:
        peer = cell[0]
        bulk = write_of(peer, "bulk", *(create(n) for n in range(300)))
        deadline_s = peer.clock.steady_s() + 5
        await peer.appender.write(bulk, ack="all", deadline_s=deadline_s)
        assert sum(len(stream.messages) for stream in cell.bus.streams.values()) == 1
        for other in cell.peers.values():
            assert [len(changes) for changes in other.batches if changes] == [300]


async def test_a_lost_republish_is_read_back_from_the_stream() -> None:
    async with running_cell(founded()) as cell:
        cell.bus.deaf.update(range(limits.STRIPES))
        await add(cell[0], 1, ack="all")
        assert await holders(cell, 1) == {"peer-1", "peer-2", "peer-3"}


async def test_an_unreadable_frame_stops_the_peer_and_it_says_why() -> None:
    async with running_cell(founded()) as cell:
        cell.bus.store(0, "strange", codec.pack(Frame(SCHEMA + 1, 1, 1, [])), None)

        async def is_stopped() -> bool:
            return all(peer.applier.broken is not None for peer in cell.peers.values())

        await eventually(is_stopped, "the appliers stopped")
        assert "frame schema 2" in cell[0].health.checks()["store"]
        assert cell[0].health.is_recalling()
        assert cell[0].progress.is_behind()
        with pytest.raises(NoQuorum, match="stopped applying"):
            await add(cell[0], 1)


async def test_a_store_that_fails_for_a_while_loses_nothing() -> None:
    async with running_cell(founded()) as cell:
        store, failures = cell[2].store, 3
        real = store.apply

        async def sometimes(*arguments: object) -> object:
            nonlocal failures
            if failures:
                failures -= 1
                raise Unavailable("store: disk full")
            return await real(*arguments)  # type: ignore[arg-type]

        store.apply = sometimes  # type: ignore[method-assign, assignment]
        await add(cell[0], 1)

        async def is_applied() -> bool:
            return "peer-3" in await holders(cell, 1)

        await eventually(is_applied, "peer-3 has it after all")
        assert failures == 0


async def test_a_peer_whose_store_fails_says_that_it_may_be_behind() -> None:
    async with running_cell(founded()) as cell:
        peer = cell[2]
        real = peer.store.apply
        full = True

        async def maybe(*arguments: object) -> object:
            if full:
                raise Unavailable("store: disk full")
            return await real(*arguments)  # type: ignore[arg-type]

        peer.store.apply = maybe  # type: ignore[method-assign, assignment]
        await add(cell[0], 1)

        async def is_tagged() -> bool:
            return peer.progress.is_behind() and "disk full" in peer.health.checks()["store"]

        await eventually(is_tagged, "its recalls are tagged, its readiness says why")
        full = False

        async def is_well() -> bool:
            return not peer.progress.is_behind()

        await eventually(is_well, "it has caught up")


async def test_writes_under_way_end_when_the_majority_dies() -> None:
    async with running_cell(founded()) as cell:
        peer = cell[0]
        await cell.stop("peer-2")
        await cell.stop("peer-3")
        began_s = cell[0].clock.steady_s()
        with pytest.raises(MemsyncError) as ended:
            await add(peer, 1, budget_s=9.0)  # sent while they still count as alive
        assert not ended.value.definite
        assert cell[0].clock.steady_s() - began_s < 2 * limits.WATERMARK_SILENT_S


async def test_lazy_servers_stop_writes_and_not_recalls() -> None:
    bus = founded()
    async with running_cell(bus) as cell:
        cell[0].durability._judge({"nats-2": "acknowledges before it syncs"})
        with pytest.raises(NoQuorum, match="nats-2 acknowledges before it syncs"):
            await add(cell[0], 1)
        assert "nats-2" in cell[0].health.checks()["sync"]
        assert cell[0].health.is_recalling()


async def test_a_repeat_is_answered_only_when_a_majority_has_the_first_attempt() -> None:
    async with running_cell(founded()) as cell:
        peer = cell[0]
        await add(peer, 1, ack="all")
        deadline_s = peer.clock.steady_s() + 5
        await peer.appender.wait_settled(ack="all", deadline_s=deadline_s)
        peer.progress.advance([Position(0, 0, 10_000)])  # applied here, heard of by nobody
        with pytest.raises(OutcomeUnknown):
            await peer.appender.wait_settled(ack="quorum", deadline_s=peer.clock.steady_s() + 0.1)
        await peer.appender.wait_settled(ack="log", deadline_s=peer.clock.steady_s())


async def test_no_write_waits_for_a_heartbeat() -> None:
    """A watermark is told as soon as there is something to tell: 40 writes one after the other take
    much less than 40 heartbeats."""
    async with running_cell(founded()) as cell:
        began_s = cell[0].clock.steady_s()
        for number in range(40):
            await add(cell[0], number)
        assert cell[0].clock.steady_s() - began_s < 40 * limits.WATERMARK_S / 2


async def test_a_peer_that_lacks_what_others_have_tags_its_answers() -> None:
    async with running_cell(founded()) as cell:
        behind = cell[2]
        real = behind.store.apply
        gate = asyncio.Event()

        async def slow(*arguments: Any) -> Any:
            await gate.wait()
            return await real(*arguments)

        behind.store.apply = slow  # type: ignore[method-assign]
        await add(cell[0], 1)

        async def is_tagged() -> bool:
            return "members' positions" in behind.progress.behind()

        await eventually(is_tagged, "peer-3 knows that it lags")
        gate.set()

        async def is_fresh() -> bool:
            return not behind.progress.is_behind()

        await eventually(is_fresh, "and that it has caught up")


async def test_a_frame_that_comes_from_several_stripes_is_joined_once() -> None:
    async with running_cell(founded()) as cell:
        cell.bus.faults[0] = "stored but silent"
        await add(cell[0], 1, ack="all")
        cell.bus.faults.clear()

        async def is_read() -> bool:
            return all(
                peer.progress.has([Position(0, 0, 1), Position(1, 0, 1)])
                for peer in cell.peers.values()
            )

        await eventually(is_read, "both copies are read")
        for peer in cell.peers.values():
            assert sum(len(changes) for changes in peer.batches) == 1


async def test_the_queue_of_the_applier_is_bounded_in_bytes() -> None:
    peer = Cell(MemoryBus(), ["peer-1"], asyncio.TaskGroup())[0]
    big = RawMessage(Position(0, 0, 1), b"x" * limits.FRAME_BYTES_TARGET, "")
    count = 0
    while peer.applier.has_room:
        peer.applier.put([big])
        count += 1
    assert count * limits.FRAME_BYTES_TARGET <= limits.TAIL_QUEUE_BYTES_MAX


async def test_a_connection_that_is_closed_for_good_is_made_anew() -> None:
    async with running_cell(founded()) as cell:
        peer = cell[0]
        await add(peer, 1)
        incarnation = peer.appender.incarnation
        peer.closed_for_good.set()

        async def is_back() -> bool:
            return peer.connections == 2

        await eventually(is_back, "a second connection")
        await add(peer, 2, ack="all")
        assert peer.appender.incarnation == incarnation


class Swallowing(CellPeer):
    """A peer whose library takes a cancellation for the end of its own call."""

    async def _connect(self) -> None:
        self.connections += 1
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return


async def test_a_peer_ends_though_a_library_loses_its_cancellation() -> None:
    peer = Swallowing(MemoryBus(), "peer-1", ["peer-1"])
    life = asyncio.create_task(peer.peer.run())

    async def is_connecting() -> bool:
        return peer.connections == 1

    await eventually(is_connecting, "it connects")
    life.cancel()
    done, _ = await asyncio.wait([life], timeout=5.0)
    assert done == {life}


async def test_an_own_frame_that_comes_as_rows_is_answered_from_the_store() -> None:
    """The tail then never sees the frame; a coordinator that waited for it would wait for ever."""
    bus = MemoryBus()
    peer, giver = (CellPeer(bus, name, ["peer-1", "peer-2"]) for name in ("peer-1", "peer-2"))
    frame = Frame(SCHEMA, 7, 1, [write_of(giver, "op-1", create(1))])
    applied = peer.applier.expect(frame)
    position = Position(0, 0, 1)
    await giver.store.apply([LoggedFrame(position, frame, 0)], {0: position})
    rows = await giver.store.rows([create(1).record])
    await peer.applier.join_rows(rows, [], [position], highest_block=0)
    assert not applied.done()
    assert set(await peer.applier.joined(frame, applied)) == {create(1).record}
