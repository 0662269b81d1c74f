"""Gaps in the log: what was trimmed, lost or damaged comes from a peer that has it, and nothing is
left out silently."""

from __future__ import annotations

import asyncio

import pytest

from memsync import limits
from memsync.engine import metrics
from memsync.errors import Unavailable
from memsync.ids import Position, RecordKey
from memsync.wire.operations import RawMessage
from tests.conditions import eventually, never
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of
from tests.fakes.store import MemoryStore


async def add(peer: CellPeer, number: int) -> Position:
    written = await peer.appender.write(
        write_of(peer, f"key-{number}", create(number)),
        ack="quorum",
        deadline_s=peer.clock.steady_s() + 5,
    )
    return written.position


async def add_all(cell: Cell, numbers: range) -> list[Position]:
    return [await add(cell[0], number) for number in numbers]


async def wait_caught_up(cell: Cell, name: str, numbers: range) -> None:
    """`name` has these memories, the same rows as the first peer, and is ready."""
    peer, model = cell.peers[name], cell[0]

    async def is_caught_up() -> bool:
        for number in numbers:
            if await peer.record(create(number).record) is None:
                return False
        is_same = await peer.store.digests() == await model.store.digests()
        return is_same and peer.is_ready() and not peer.progress.lacking()

    await eventually(is_caught_up, f"{name} caught up", 20)


def purge(bus: MemoryBus) -> None:
    for stripe in bus.streams:
        bus.purge(stripe)


async def test_an_empty_peer_gets_what_was_trimmed_from_another() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        await add_all(cell, range(20))
        purge(cell.bus)
        await add_all(cell, range(20, 30))
        joined = metrics.ROWS_JOINED._value.get()
        await cell.restart("peer-3", MemoryStore(incarnation=33))
        await wait_caught_up(cell, "peer-3", range(30))
        assert metrics.ROWS_JOINED._value.get() > joined
        for number in range(30):
            key = write_of(cell[0], f"key-{number}", create(number)).key
            scope = cell[0].store._scope_key(create(number).scope)
            assert await cell.peers["peer-3"].store.operation(scope, key) is not None


@pytest.mark.parametrize("is_trimmed", [False, True])
async def test_a_peer_with_an_older_copy_of_its_store_catches_up(is_trimmed: bool) -> None:
    """Rolled back: its watermark goes back too, and the last one heard counts."""
    async with running_cell(founded()) as cell:
        await add_all(cell, range(10))
        await wait_caught_up(cell, "peer-3", range(10))
        older = cell.peers["peer-3"].store.copy()
        await add_all(cell, range(10, 30))
        if is_trimmed:
            purge(cell.bus)
        await cell.restart("peer-3", older)
        await add_all(cell, range(30, 35))
        await wait_caught_up(cell, "peer-3", range(35))


async def test_an_empty_peer_takes_rows_rather_than_a_long_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ROWS_FIRST_FRAMES", 10)
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        await add_all(cell, range(60))
        cell.bus.deaf.update(range(limits.STRIPES))
        applied = metrics.FRAMES_APPLIED._value.get()
        peer = await cell.restart("peer-3", MemoryStore(incarnation=33))
        fetch = peer.bus.fetch

        async def fetch_once_told(start: Position) -> list[RawMessage]:
            if len(peer.members.watermarks()) < 3:
                raise Unavailable("later: the others have not told how far they are")
            return await fetch(start)

        peer.bus.fetch = fetch_once_told  # type: ignore[method-assign]
        await wait_caught_up(cell, "peer-3", range(60))
        assert metrics.FRAMES_APPLIED._value.get() - applied < 60


async def test_a_hole_that_another_peer_has_applied_is_closed_by_its_rows() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        places = await add_all(cell, range(12))
        hole = places[5]
        cell.bus.erase(hole.stripe, hole.sequence)
        voided = metrics.HOLES_VOIDED._value.get()
        await cell.restart("peer-3", cell.peers["peer-3"].store)
        await wait_caught_up(cell, "peer-3", range(12))
        assert metrics.HOLES_VOIDED._value.get() == voided


async def test_a_message_that_one_server_lacks_comes_from_its_leader() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        places = await add_all(cell, range(12))
        joined = metrics.ROWS_JOINED._value.get()
        peer = await cell.restart("peer-3", MemoryStore(incarnation=33))
        real = peer.bus.fetch

        async def damaged(start: Position) -> list[RawMessage]:
            return [m for m in await real(start) if m.position != places[5]]

        peer.bus.fetch = damaged  # type: ignore[method-assign]
        await wait_caught_up(cell, "peer-3", range(12))
        assert metrics.ROWS_JOINED._value.get() == joined


async def test_a_hole_that_nobody_can_fill_is_passed_with_an_alarm() -> None:
    bus = founded()
    bus.store(0, "lost", b"never read", None)  # stored, then gone before anybody read it
    bus.erase(0, 1)
    voided = metrics.HOLES_VOIDED._value.get()
    began_s = asyncio.get_running_loop().time()
    async with running_cell(bus) as cell:  # ready once all have passed it
        assert metrics.HOLES_VOIDED._value.get() - voided == len(cell.names)
        assert cell[0].clock.steady_s() - began_s >= limits.HOLE_S
        assert all(peer.progress.has([Position(0, 0, 1)]) for peer in cell.peers.values())
        await add_all(cell, range(6))
        await wait_caught_up(cell, "peer-3", range(6))


async def test_a_hole_is_not_passed_while_a_majority_is_silent() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        places = await add_all(cell, range(12))
        cell.bus.erase(places[5].stripe, places[5].sequence)
        await cell.stop("peer-1")
        await cell.stop("peer-2")
        voided = metrics.HOLES_VOIDED._value.get()
        peer = await cell.restart("peer-3", MemoryStore(incarnation=33))

        async def says_why() -> bool:
            return any("2 must say so" in why for why in peer.progress.behind().values())

        async def is_passed() -> bool:
            return metrics.HOLES_VOIDED._value.get() > voided

        await eventually(says_why, "peer-3 says what it waits for", 20)
        await never(is_passed, "passed, and a majority is silent", 2 * limits.HOLE_S)
        await cell.restart("peer-1", cell[0].store)
        await wait_caught_up(cell, "peer-3", range(12))
        assert metrics.HOLES_VOIDED._value.get() == voided


async def test_the_tail_of_a_lost_generation_comes_from_who_has_it() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        places = await add_all(cell, range(12))
        lost = places[0].stripe
        cell.bus.lose(lost)

        async def is_remade() -> bool:
            return lost in cell.bus.streams and cell[0].tails[lost].generation == 1

        await eventually(is_remade, "the stripe is made again")
        await cell.restart("peer-3", cell.peers["peer-3"].store)
        await wait_caught_up(cell, "peer-3", range(12))
        assert cell.peers["peer-3"].progress.has(places)


async def lose_all(cell: Cell) -> None:
    """Every stream is lost, and made again by the peers."""
    lost = list(cell.bus.streams)
    for stripe in lost:
        cell.bus.lose(stripe)

    async def are_remade() -> bool:
        return all(s in cell.bus.streams and cell[0].tails[s].generation == 1 for s in lost)

    await eventually(are_remade, "all stripes are made again", 20)


async def test_an_empty_peer_in_a_cell_that_lost_its_streams_gets_all() -> None:
    async with running_cell(founded()) as cell:
        await cell.stop("peer-3")
        places = await add_all(cell, range(12))
        await lose_all(cell)
        peer = await cell.restart("peer-3", MemoryStore(incarnation=33))
        await wait_caught_up(cell, "peer-3", range(12))
        assert peer.progress.has(places)


async def test_peers_that_each_lack_what_another_has_of_lost_streams_help_each_other() -> None:
    """Neither is refused: what a peer has not, its positions do not promise."""
    async with running_cell(founded()) as cell:
        await add_all(cell, range(6))
        older = {name: cell.peers[name].store.copy() for name in ("peer-2", "peer-3")}
        await cell.stop("peer-3")
        await add_all(cell, range(6, 12))  # of these peer-2 keeps stripe 0, peer-3 the others
        newer = await cell[1].store.positions()
        await cell.stop("peer-2")
        await cell.stop("peer-1")
        for name, stripes in (("peer-2", {0}), ("peer-3", {1, 2})):
            rows, _ = await cell[1].store.rows_after(RecordKey(b""), bytes_max=1 << 20)
            kept = [Position(k, g, n) for (k, g), n in newer.items() if k in stripes]
            await older[name].join(rows, [], kept)
        for stripe in range(limits.STRIPES):
            cell.bus.lose(stripe)
        for name, store in older.items():
            await cell.restart(name, store)
        everything = [Position(k, g, n) for (k, g), n in newer.items()]

        async def have_all() -> bool:
            peers = [cell.peers[name] for name in older]
            return all(p.progress.has(everything) and not p.progress.lacking() for p in peers)

        await eventually(have_all, "both have everything", 20)


async def test_a_generation_that_is_only_read_late_is_no_reason_to_copy_all() -> None:
    async with running_cell(founded()) as cell:
        await add_all(cell, range(12))
        joined = metrics.ROWS_JOINED._value.get()
        cell.bus.cut_off.add("peer-3")
        await add_all(cell, range(12, 30))
        cell.bus.cut_off.clear()
        await wait_caught_up(cell, "peer-3", range(30))
        assert metrics.ROWS_JOINED._value.get() == joined


def founded() -> MemoryBus:
    bus = MemoryBus()
    bus.found()
    return bus
