"""Members come and go: by the record, at once, one at a time, and never so that two halves of a
cell can decide apart."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from memsync import errors
from memsync.core import membership
from memsync.core.membership import Membership
from memsync.core.records import Record, as_record, join_operation, stamps_of
from memsync.engine.cell.members import STRANGER_SAID_S
from memsync.engine.writing.appender import Condition, Written
from memsync.wire import codec
from memsync.wire.members import Roster, Watermark
from memsync.wire.operations import Stamp
from tests.conditions import eventually
from tests.fakes.bus import LongWires, MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of


async def write(peer: CellPeer, number: int) -> Written:
    """Add memory `number`, for a quorum."""
    return await peer.appender.write(
        write_of(peer, f"key-{number}", create(number)),
        ack="quorum",
        deadline_s=peer.clock.steady_s() + 5,
    )


async def write_change(peer: CellPeer, changed: Membership) -> None:
    """Write a membership as the service does."""
    record = await peer.record(membership.RECORD)
    assert record is not None
    draft = write_of(peer, f"change-{changed.members}", membership.update_to(changed))
    peer.appender.stamp(above=stamps_of(record))
    await peer.appender.write(
        draft,
        ack="quorum",
        deadline_s=peer.clock.steady_s() + 5,
        condition=Condition(membership.RECORD, changed.version),
    )


async def change(peer: CellPeer, *, joins: str = "", leaves: str = "") -> None:
    """Join or remove one, as soon as that may be."""
    standing = peer.engine.standing

    async def is_allowed() -> bool:
        deadline_s = peer.clock.steady_s() + 5
        try:
            if joins:
                changed = await standing.joined(joins, deadline_s)
            else:
                changed = await standing.without(leaves, deadline_s)
        except errors.Unavailable:
            return False
        await write_change(peer, changed)
        return True

    await eventually(is_allowed, "the change may be written")


async def is_everywhere(cell: Cell, *members: str) -> None:
    """Wait until all these members go by this membership."""

    async def agree() -> bool:
        return all(set(cell.peers[name].members.names) == set(members) for name in members)

    await eventually(agree, f"{members} everywhere")


async def test_a_new_machine_is_an_observer_until_it_is_joined() -> None:
    async with running_cell(MemoryBus()) as cell:
        await write(cell[0], 1)
        new = cell.add("peer-4")

        async def is_warm() -> bool:
            return await new.record(create(1).record) is not None

        await eventually(is_warm, "the observer has what was written before it came")
        assert new.health.checks()["membership"] == (
            "failed: peer-4 is not a member of cell cell yet: run `memsync cluster join peer-4`"
        )
        with pytest.raises(errors.NoQuorum, match="run `memsync cluster join peer-4`"):
            await write(new, 2)
        assert await new.engine.leases.wait_fresh(new.clock.steady_s() + 1) == "behind"

        async def is_present() -> bool:
            return "peer-4" in cell[0].members.present() and len(new.members.alive()) == 3

        await eventually(is_present, "it hears the members and they hear that it is there")
        assert new.members.alive() == ["peer-1", "peer-2", "peer-3"]
        assert "peer-4" not in cell[0].members.alive()
        assert "peer-4" not in cell[0].members.watermarks()
        await change(cell[0], joins="peer-4")
        await is_everywhere(cell, *cell.names, "peer-4")
        await cell.wait_ready()
        await write(new, 3)
        assert cell[0].members.majority == 3


async def test_joining_under_load_loses_and_refuses_nothing() -> None:
    async with running_cell(MemoryBus(network=LongWires())) as cell:
        numbers = itertools.count()
        written: list[int] = []
        refused: list[str] = []
        stop = asyncio.Event()

        async def load(peer: CellPeer) -> None:
            while not stop.is_set():
                number = next(numbers)
                try:
                    await write(peer, number)
                except errors.NoQuorum as error:
                    refused.append(error.message)
                    return
                written.append(number)

        async with asyncio.TaskGroup() as tasks:
            for name in cell.names:
                tasks.create_task(load(cell.peers[name]))
            new = cell.add("peer-4")
            await change(cell[1], joins="peer-4")
            await is_everywhere(cell, *cell.names, "peer-4")
            await change(cell[2], leaves="peer-1")
            await is_everywhere(cell, "peer-2", "peer-3", "peer-4")
            stop.set()
        assert written
        assert [said.partition(" from")[0] for said in refused] in ([], ["peer-1 was removed"])

        async def has_all() -> bool:
            records = await new.store.records([create(n).record for n in written])
            return len(records) == len(written)

        await eventually(has_all, "the new member has everything")


async def test_the_cell_goes_on_with_one_of_four_dead_and_not_with_two() -> None:
    async with running_cell(MemoryBus()) as cell:
        new = cell.add("peer-4")
        await change(cell[0], joins="peer-4")
        await is_everywhere(cell, *cell.names, "peer-4")
        await cell.wait_ready()
        await cell.stop("peer-1")
        await write(new, 1)
        await cell.stop("peer-2")

        async def is_refused() -> bool:
            return new.appender.why_not() == "2 of 4 members alive"

        await eventually(is_refused, "two of four are no majority")
        frames = sum(len(stream.messages) for stream in cell.bus.streams.values())
        with pytest.raises(errors.NoQuorum, match="nothing was written"):
            await write(new, 2)
        assert frames == sum(len(stream.messages) for stream in cell.bus.streams.values())


async def test_a_dead_member_is_removed_and_no_longer_counts() -> None:
    async with running_cell(MemoryBus()) as cell:
        await cell.stop("peer-3")
        await change(cell[0], leaves="peer-3")
        await is_everywhere(cell, "peer-1", "peer-2")
        assert cell[0].members.majority == 2
        await cell[0].appender.write(
            write_of(cell[0], "all", create(1)),
            ack="all",
            deadline_s=cell[0].clock.steady_s() + 5,
        )
        removed = await cell.again("peer-3")
        async with asyncio.timeout(5):
            why = await removed.engine.standing.wait_dismissed()
        assert why.startswith("peer-3 was removed from cell cell.")
        assert "memsync cluster join peer-3" in why


async def test_one_that_is_joined_again_stays() -> None:
    async with running_cell(MemoryBus()) as cell:
        await cell.stop("peer-3")
        await change(cell[0], leaves="peer-3")
        await is_everywhere(cell, "peer-1", "peer-2")
        await change(cell[1], joins="peer-3")
        back = await cell.again("peer-3")
        await is_everywhere(cell, *cell.names)
        await cell.wait_ready()
        assert back.engine.standing.dismissal is None
        await write(back, 1)


async def test_one_that_knows_of_its_removal_only_reads_on_before_it_ends() -> None:
    """It was joined again while it was down: its own store does not know that yet."""
    async with running_cell(MemoryBus()) as cell:
        await change(cell[2], leaves="peer-3")
        await cell[2].engine.standing.wait_dismissed()
        await is_everywhere(cell, "peer-1", "peer-2")
        await cell.stop("peer-3")
        await change(cell[0], joins="peer-3")
        back = await cell.again("peer-3")
        await is_everywhere(cell, *cell.names)
        await cell.wait_ready()
        assert back.engine.standing.dismissal is None


async def test_a_member_that_applies_its_own_removal_ends() -> None:
    async with running_cell(MemoryBus()) as cell:
        await change(cell[2], leaves="peer-3")
        why = await cell[2].engine.standing.wait_dismissed()
        assert "was removed" in why
        with pytest.raises(errors.NoQuorum, match="was removed"):
            await write(cell[2], 1)
        await is_everywhere(cell, "peer-1", "peer-2")
        await write(cell[0], 2)


async def test_the_next_change_waits_for_a_majority_of_the_new_members() -> None:
    async with running_cell(MemoryBus()) as cell:
        await change(cell[0], joins="peer-4")
        standing = cell[0].engine.standing
        with pytest.raises(errors.Unavailable, match="change of the membership"):
            await standing.joined("peer-5", cell[0].clock.steady_s() + 1)
        cell.add("peer-4")
        await change(cell[0], joins="peer-5")
        assert standing.current.members[-2:] == ("peer-4", "peer-5")


async def test_of_two_changes_of_one_version_one_is_made() -> None:
    async with running_cell(MemoryBus()) as cell:
        standing = cell[0].engine.standing

        async def is_settled() -> bool:
            try:
                await standing.joined("peer-4", cell[0].clock.steady_s() + 1)
            except errors.Unavailable:
                return False
            return True

        await eventually(is_settled, "a change may come")
        current = standing.current
        wanted = [
            membership.joined(current, f"peer-{n}", ["peer-1", "peer-2", "peer-3"]) for n in (4, 5)
        ]
        ended = await asyncio.gather(
            *(write_change(cell[n], one) for n, one in enumerate(wanted)), return_exceptions=True
        )
        assert sorted(map(type, ended), key=str) == [type(None), errors.VersionConflict]

        async def agree() -> bool:
            found = {cell.peers[name].members.names for name in cell.names}
            return len(found) == 1 and len(standing.current.members) == 4

        await eventually(agree, "one of the two is made everywhere")


async def test_a_peer_that_has_not_heard_of_a_change_covers_nothing_with_those_who_have() -> None:
    """What keeps a coordinator that is two changes behind from finding a majority of its own."""
    async with running_cell(MemoryBus()) as cell:
        members = cell[0].members
        written = await write(cell[0], 1)
        soon_s = cell[0].clock.steady_s() + 5
        assert await members.wait_covered([written.position], "quorum", soon_s)
        later = membership.read(
            membership_record(cell[0].engine.standing.current.members, Stamp(5, 5))
        )
        members.set_membership(later)
        assert members.agreeing() == ["peer-1"]
        assert not await members.wait_covered(
            [written.position], "quorum", cell[0].clock.steady_s() + 0.05
        )


def membership_record(members: tuple[str, ...], stamp: Stamp) -> Record:
    """A record of these members as written at `stamp`."""
    founding = as_record(membership.founding(members), membership.FOUNDING_STAMP)
    changed = membership.founded(members)
    return join_operation(founding, membership.update_to(changed), stamp)


async def test_of_two_processes_of_one_name_the_later_start_stays() -> None:
    async with running_cell(MemoryBus()) as cell:
        first = cell[1]
        second = CellPeer(cell.bus, "peer-2", cell.names)
        running = asyncio.create_task(second.run())
        why = await first.engine.standing.wait_dismissed()
        assert why.startswith(
            f"another process named peer-2 with a later start (incarnation "
            f"{second.appender.incarnation} > {first.appender.incarnation}) is running"
        )
        assert first.appender.why_not() == why
        assert not first.engine.leases.is_fresh()
        assert second.engine.standing.dismissal is None
        running.cancel()
        await asyncio.wait([running])


async def test_without_an_incarnation_nobody_ends() -> None:
    async with running_cell(MemoryBus(), start=False) as cell:
        peer = cell[0]
        own = Watermark("peer-1", "cell", 1, 17, [], [], {}, "", 0, 0)
        peer.members._hear(codec.pack(own))
        assert peer.engine.standing.dismissal is None
        peer.appender.start(12)
        peer.members._hear(codec.pack(Watermark("peer-1", "cell", 1, 11, [], [], {}, "", 0, 0)))
        peer.members._hear(codec.pack(Watermark("peer-1", "other", 1, 19, [], [], {}, "", 0, 0)))
        assert peer.engine.standing.dismissal is None
        peer.members._hear(codec.pack(own))
        assert "17 > 12" in (peer.engine.standing.dismissal or "")


async def test_who_belongs_to_another_cell_is_named_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_cell(MemoryBus(), start=False) as cell:
        members = cell[0].members
        stranger = Watermark("peer-2", "another", 1, 17, [], [], {}, "", 0, 0)
        for _ in range(10):
            members._hear(codec.pack(stranger))
        members._hear(codec.pack(Roster("peer-3", "another", Stamp(1, 1), ["peer-3"], 0)))
        assert set(members._strangers) == {"peer-2", "peer-3"}
        assert caplog.messages.count("member.of_another_cell") == 2
        assert members.alive() == ["peer-1"]
        assert STRANGER_SAID_S == 60
