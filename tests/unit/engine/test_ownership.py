"""Two cells with one name on one bus: neither reads, hears or writes the other's streams."""

from __future__ import annotations

import asyncio

import pytest

from memsync.engine.streams.ownership import OwnedLog, Ownership
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.wire.operations import RawMessage
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of


def owned(bus: MemoryBus, identity: str) -> tuple[Ownership, OwnedLog]:
    """What a member of a cell with this identity has of the bus."""
    peer = bus.peer("peer-1")
    peer.identity = identity
    ownership = Ownership(peer, identity, "cell", lambda why: None)
    return ownership, OwnedLog(peer, ownership)


async def test_nothing_is_written_before_it_is_known_whose_a_stripe_is() -> None:
    bus = MemoryBus()
    bus.found()
    ownership, log = owned(bus, "cell")
    with pytest.raises(Unavailable) as raised:
        await log.publish(0, "a", b"", timeout_s=1)
    assert raised.value.definite
    assert bus.streams[0].messages == []
    await ownership.state(0, 0)
    assert await log.publish(0, "a", b"", timeout_s=1) == Position(0, 0, 1)
    with pytest.raises(Unavailable):
        await log.publish(1, "a", b"", timeout_s=1)


async def test_reading_looks_whose_it_is_and_hearing_waits_for_that() -> None:
    bus = MemoryBus()
    bus.found()
    _, log = owned(bus, "cell")
    heard: list[RawMessage] = []
    await log.listen(0, heard.append)
    other = bus.peer("peer-2")
    await other.publish(0, "a", b"", timeout_s=1)
    await asyncio.sleep(0)
    assert heard == []
    assert [m.message_id for m in await log.fetch(Position(0, 0, 1))] == ["a"]
    await other.publish(0, "b", b"", timeout_s=1)
    await asyncio.sleep(0)
    assert [m.message_id for m in heard] == ["b"]


async def test_another_cells_stream_is_neither_read_nor_heard_nor_written() -> None:
    bus = MemoryBus()
    bus.found()
    bus.streams[0].cell = "theirs"
    ownership, log = owned(bus, "ours")
    heard: list[RawMessage] = []
    await log.listen(0, heard.append)
    await bus.peer("peer-2").publish(0, "a", b"", timeout_s=1)
    await asyncio.sleep(0)
    for attempt in (log.fetch(Position(0, 0, 1)), log.fetch_from_leader(Position(0, 0, 1))):
        with pytest.raises(Unavailable, match="another cell"):
            await attempt
    assert heard == []
    assert "give this cell another name" in (log.fault() or "")
    with pytest.raises(Unavailable, match="identity theirs"):
        await ownership.state(0, 0)
    with pytest.raises(Unavailable):
        await log.publish(0, "b", b"", timeout_s=1)
    assert [m.message_id for m in bus.streams[0].messages] == ["a"]


async def test_a_stream_from_before_is_taken_and_marked() -> None:
    bus = MemoryBus()
    bus.found()
    bus.streams[0].cell = ""
    ownership, log = owned(bus, "ours")
    await ownership.state(0, 0)
    assert bus.streams[0].cell == "ours"
    assert await log.publish(0, "a", b"", timeout_s=1) == Position(0, 0, 1)


async def test_a_peer_on_another_cells_bus_ends_and_says_what_to_do() -> None:
    """Its store stays as it was, and so do the other cell's streams."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        await cell[0].appender.write(
            write_of(cell[0], "key-1", create(1)),
            ack="all",
            deadline_s=cell[0].clock.steady_s() + 5,
        )
        ends = {k: stream.last for k, stream in bus.streams.items()}
        stranger = CellPeer(bus, "peer-9", ["peer-9"], identity="another")
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(stranger.peer.run())
            async with asyncio.timeout(5):
                why = await stranger.engine.standing.wait_dismissed()
            life.cancel()
        assert "use that cell's genesis file" in why
        assert stranger.health.checks()["cell"].startswith("failed: the streams of cell")
        assert await stranger.store.positions() == {}
        assert await stranger.record(create(1).record) is None
        assert {k: stream.last for k, stream in bus.streams.items()} == ends


async def test_peers_whose_stream_another_cell_has_made_write_nothing_into_it() -> None:
    """Somebody deleted a stream, and a cell of the same name came and founded itself there."""
    bus = MemoryBus()
    bus.found()
    async with asyncio.TaskGroup() as tasks:
        cell = Cell(bus, ["peer-1", "peer-2", "peer-3"], tasks)
        bus.streams[1].cell = "another"
        for name in cell.names:
            cell.start(name)
        async with asyncio.timeout(5):
            for peer in cell.peers.values():
                await peer.engine.standing.wait_dismissed()
        cell.stop_all()
    assert bus.streams[1].messages == []
