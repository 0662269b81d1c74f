"""Rows that are not what was written, on real engines: found, never spread, healed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from memsync.core.records import Record, join_operation
from memsync.engine.engine import Intervals
from memsync.errors import Unavailable
from memsync.ids import RecordKey
from memsync.ports import Scrubbed
from memsync.wire.operations import Operation
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, retag, running_cell, write_of

QUICK = Intervals(mark_every_s=60.0, scrub_pass_s=0.1, scrub_pause_s=0.01)
NEVER = Intervals(mark_every_s=60.0, scrub_pass_s=600.0, scrub_pause_s=600.0)
ROWS = 20


def founded() -> MemoryBus:
    bus = MemoryBus()
    bus.found()
    return bus


def key_of(number: int) -> RecordKey:
    return create(number).record


async def write(peer: CellPeer, key: str, *operations: Operation, ack: str = "all") -> None:
    await peer.appender.write(
        write_of(peer, key, *operations),
        ack=ack,  # type: ignore[arg-type]
        deadline_s=peer.clock.steady_s() + 5.0,
    )


async def fill(cell: Cell) -> Record:
    """Some memories everywhere; returns memory 1."""
    await write(cell[0], "fill", *(create(number) for number in range(ROWS)))
    found = await cell[0].record(key_of(1))
    assert found is not None
    return found


def altered(record: Record) -> Record:
    """What somebody made of it by hand, with a hash that fits."""
    return msgspec.structs.replace(record, ids=[31337])


def is_whole(
    peer: CellPeer, key: RecordKey, expected: Record | None
) -> Callable[[], Awaitable[bool]]:
    """Whether a peer has a row, says that it lacks none, and is ready."""

    async def look() -> bool:
        is_there = peer.store.peek(key) == expected  # who reads it would meet it
        return is_there and not peer.progress.lacking() and peer.is_ready()

    return look


async def wait_all(cell: Cell, expected: Record | None, key: RecordKey) -> None:
    for peer in cell.peers.values():
        await eventually(is_whole(peer, key, expected), f"{peer.name} whole")


async def test_a_damaged_row_is_found_and_comes_back_from_a_member() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        cell[1].store.damage(key_of(1))
        await wait_all(cell, record, key_of(1))


async def test_a_peer_that_lacks_rows_says_so_until_it_has_them() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        await cell.stop("peer-1")
        await cell.stop("peer-3")
        cell[1].store.damage(key_of(1))

        async def says_so() -> bool:
            return cell[1].health.checks()["rows"].startswith("failed: ")

        await eventually(says_so, "the check `rows` failed")
        assert cell[1].progress.is_behind()
        cell.start("peer-3")
        await eventually(is_whole(cell[1], key_of(1), record), "healed by the one that came back")


async def test_who_meets_a_damaged_row_has_it_healed_without_the_scrub() -> None:
    async with running_cell(founded(), intervals=NEVER) as cell:
        record = await fill(cell)
        cell[1].store.damage(key_of(1))
        assert await cell[1].store.records([key_of(1), key_of(2)]) != {}
        assert cell[1].progress.lacking()  # the very read that met it is not fresh
        await eventually(is_whole(cell[1], key_of(1), record), "healed")


async def test_an_update_that_comes_first_is_joined_into_the_true_row() -> None:
    async with running_cell(founded(), intervals=NEVER) as cell:
        record = await fill(cell)
        cell[1].store.damage(key_of(1))
        operation = retag(1, "new")
        update = write_of(cell[0], "update", operation)
        await cell[0].appender.write(update, ack="all", deadline_s=cell[0].clock.steady_s() + 5.0)
        await wait_all(cell, join_operation(record, operation, update.stamp), key_of(1))


async def test_a_row_that_was_deleted_comes_back() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        cell[1].store.lose(key_of(1))
        await wait_all(cell, record, key_of(1))
        assert await cell[1].store.digests() == await cell[0].store.digests()


async def test_a_row_that_was_altered_with_its_hash_is_replaced_and_spreads_to_nobody() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        forged = altered(record)
        cell[1].store.put_in(forged)
        assert await cell[1].record(key_of(1)) == forged  # nothing about the row itself is wrong
        await eventually(is_whole(cell[1], key_of(1), record), "the true row")
        await wait_all(cell, record, key_of(1))
        assert await cell[1].store.digests() == await cell[0].store.digests()


async def test_a_row_that_nobody_wrote_is_taken_out_and_the_indexes_drop_it() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        stranger = msgspec.structs.replace(record, key=key_of(999))
        cell[1].store.put_in(stranger)
        await wait_all(cell, None, key_of(999))
        assert await cell[1].store.lacking() == []
        told = [change.after for batch in cell[1].batches for change in batch]
        assert [one.origin for one in told if one.key == key_of(999)] == [None]


async def test_a_damaged_row_that_nobody_wrote_is_not_waited_for() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        cell[1].store.put_in(msgspec.structs.replace(record, key=key_of(999)))
        cell[1].store.damage(key_of(999))
        await wait_all(cell, None, key_of(999))
        assert await cell[1].store.lacking() == []


async def test_many_rows_damaged_on_two_peers_at_once_are_healed_on_both() -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        await fill(cell)
        whole = await cell[2].store.digests()
        for number in range(ROWS):
            cell[number % 2].store.damage(key_of(number))

        async def are_healed() -> bool:
            sums = [await peer.store.digests() for peer in cell.peers.values()]
            return all(found == whole for found in sums) and all(
                peer.store.peek(key_of(number)) is not None and not peer.progress.lacking()
                for peer in cell.peers.values()
                for number in range(ROWS)
            )

        await eventually(are_healed, "both healed")


async def test_rows_of_a_cell_of_one_are_lost_and_it_goes_on() -> None:
    async with running_cell(founded(), peers=1, intervals=QUICK) as cell:
        await fill(cell)
        cell[0].store.damage(key_of(1))
        cell[0].store.lose(key_of(2))

        async def is_over() -> bool:
            return (
                await cell[0].store.recount() == []
                and await cell[0].store.rows([key_of(1)]) == []
                and cell[0].is_ready()
                and not cell[0].progress.lacking()
            )

        await eventually(is_over, "the peer goes on")


async def test_a_store_that_cannot_be_read_is_scrubbed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_cell(founded(), intervals=QUICK) as cell:
        record = await fill(cell)
        scrub, calls = cell[1].store.scrub, 0

        async def failing(*, rows_max: int) -> AsyncIterator[Scrubbed]:
            nonlocal calls
            calls += 1
            if calls < 5:
                raise Unavailable("store: disk I/O error")
            async for part in scrub(rows_max=rows_max):
                yield part

        monkeypatch.setattr(cell[1].store, "scrub", failing)
        cell[1].store.damage(key_of(1))
        await eventually(is_whole(cell[1], key_of(1), record), "healed after all")
        assert calls >= 5
