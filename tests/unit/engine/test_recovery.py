"""Rows from one peer to another: what a giver says, and what a taker believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from memsync import limits
from memsync.engine.progress import DAMAGED_PART, ROWS_PART
from memsync.engine.repair.giving import Giver
from memsync.ids import OperationKey, RecordKey, ScopeKey, bucket_of, scope_key
from memsync.wire import codec
from memsync.wire.exchange import (
    AllOperations,
    AllRows,
    BucketHashes,
    Given,
    Row,
    SomeRows,
    Wanted,
)
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import SCOPE, Cell, CellPeer, create, running_cell, write_of
from tests.fakes.store import MemoryStore

BUCKET = bucket_of(scope_key(SCOPE))
Give = Callable[[bytes], Awaitable[bytes]]


@pytest.fixture
async def cell() -> AsyncIterator[Cell]:
    """Three peers with 20 memories."""
    bus = MemoryBus()
    bus.found()
    async with running_cell(bus) as running:
        for number in range(20):
            await running[0].appender.write(
                write_of(running[0], f"key-{number}", create(number)),
                ack="all",
                deadline_s=running[0].clock.steady_s() + 5,
            )
        yield running


def giver_of(peer: CellPeer, cell: str = "cell") -> Giver:
    return Giver(peer.store, peer.progress, cell, lambda number: None)


async def ask(giver: Giver, wanted: Wanted) -> Given:
    return codec.unpack(await giver.give(codec.pack(wanted)), Given)


def keys_of(given: Given) -> list[RecordKey]:
    return [row.key for row in given.rows]


async def all_rows(giver: Giver) -> list[Row]:
    found: list[Row] = []
    given = await ask(giver, AllRows("cell", RecordKey(b"")))
    found += given.rows
    while not given.is_end:
        given = await ask(giver, AllRows("cell", found[-1].key))
        found += given.rows
    return found


async def test_all_rows_come_in_pages_with_the_positions_before_them(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXCHANGE_BYTES_MAX", 1_000)
    giver = giver_of(cell[0])
    first = await ask(giver, AllRows("cell", RecordKey(b"")))
    assert not first.is_end
    assert first.positions == cell[0].progress.ends()
    assert first.store_incarnation == cell[0].store.incarnation
    keys = [row.key for row in await all_rows(giver)]
    assert keys == sorted(keys)
    assert {create(number).record for number in range(20)} <= set(keys)


async def test_operation_keys_come_in_pages(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXCHANGE_OPERATIONS_MAX", 7)
    giver, found = giver_of(cell[0]), []
    wanted = AllOperations("cell", ScopeKey(b""), OperationKey(""))
    while not (given := await ask(giver, wanted)).is_end:
        found += given.operations
        wanted = AllOperations("cell", found[-1].scope, found[-1].key)
    found += given.operations
    assert {f"key-{number}" for number in range(20)} <= {operation.key for operation in found}


async def test_hashes_of_buckets_come_in_pages(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXCHANGE_HASHES_MAX", 8)
    giver = giver_of(cell[0])
    found: dict[RecordKey, int] = {}
    is_end = False
    while not is_end:
        after = max(found, default=RecordKey(b""))
        given = await ask(giver, BucketHashes("cell", [BUCKET], after))
        found |= given.hashes
        is_end = given.is_end
    assert found == await cell[0].store.hashes([BUCKET])


async def test_another_cell_and_unreadable_bytes_are_refused(cell: Cell) -> None:
    giver = giver_of(cell[0])
    given = await ask(giver, AllRows("another", RecordKey(b"")))
    assert "rows of cell cell" in given.refusal
    given = codec.unpack(await giver.give(b"\xc1 nonsense"), Given)
    assert "unreadable" in given.refusal
    assert not given.rows
    assert not given.positions


async def test_who_lacks_damaged_rows_gives_no_whole_copy_and_not_those_rows(cell: Cell) -> None:
    peer = cell[0]
    damaged, sound = create(3).record, create(4).record
    peer.store.damage(damaged)
    await peer.store.set_aside([damaged])
    giver = giver_of(peer)
    given = await ask(giver, SomeRows("cell", [damaged, sound]))
    assert keys_of(given) == [sound]
    assert not given.is_end  # the other one may exist
    absent = RecordKey(b"absent")
    given = await ask(giver, SomeRows("cell", [sound, absent]))
    assert keys_of(given) == [sound]
    assert given.is_end  # there is no such row
    peer.progress.set_lacking(DAMAGED_PART, "1 damaged row")
    given = await ask(giver, AllRows("cell", RecordKey(b"")))
    assert "1 damaged row" in given.refusal


async def test_who_is_still_joining_a_copy_gives_what_its_positions_promise(cell: Cell) -> None:
    cell[0].progress.set_lacking(ROWS_PART, "a lost generation")
    assert len(await all_rows(giver_of(cell[0]))) >= 20


async def test_damaged_rows_are_replaced_by_a_peer(cell: Cell) -> None:
    peer = cell[2]
    keys = [create(number).record for number in (1, 5, 9)]
    for key in keys:
        peer.store.damage(key)
    await peer.store.set_aside(keys)
    peer.recovery.need_some(keys)
    assert DAMAGED_PART in peer.progress.lacking()
    await eventually(lambda: is_same(cell, peer), "the same rows again")
    assert not peer.progress.lacking()


async def test_rows_set_aside_before_a_restart_are_replaced_after_it(cell: Cell) -> None:
    key = create(1).record
    store = cell[2].store
    store.damage(key)
    await store.set_aside([key])
    peer = await cell.restart("peer-3", store)
    await eventually(lambda: is_same(cell, peer), "the same rows again")
    assert not await peer.store.lacking()


async def test_two_peers_with_different_damage_heal_each_other(cell: Cell) -> None:
    await cell.stop("peer-1")
    for peer, number in ((cell[1], 1), (cell[2], 2)):
        key = create(number).record
        peer.store.damage(key)
        await peer.store.set_aside([key])
        peer.recovery.need_some([key])
    for peer in (cell[1], cell[2]):
        await eventually(lambda peer=peer: is_same(cell, peer), f"{peer.name} has all rows")
        assert not peer.progress.lacking()


async def test_differing_buckets_are_taken_from_the_member_that_differs(cell: Cell) -> None:
    for number in (2, 3):
        cell[2].store.lose(create(number).record)
    await cell[2].store.recount()
    cell[2].recovery.need_buckets("peer-1", [BUCKET])
    await eventually(lambda: is_same(cell, cell[2]), "the same rows again")


async def is_same(cell: Cell, peer: CellPeer) -> bool:
    return await peer.store.digests() == await cell[0].store.digests()


def falsified(give: Give, change: Callable[[Given, int], Given]) -> Give:
    """A giver whose answers are changed; `change` is told how many there were before."""
    count = 0

    async def altered(data: bytes) -> bytes:
        nonlocal count
        given = codec.unpack(await give(data), Given)
        count += 1
        return codec.pack_given(change(given, count - 1))

    return altered


def another_store(given: Given, count: int) -> Given:
    """From the second page on it is another store."""
    return replace(given, store_incarnation=given.store_incarnation + (count > 0))


def set_back(given: Given, count: int) -> Given:
    """From the second page on the store has applied less."""
    return replace(given, positions=[] if count else given.positions)


def false_row(given: Given, _: int) -> Given:
    """A row that is not what its hash says."""
    return replace(given, rows=[Row(row.key, row.hash ^ 1, row.state) for row in given.rows])


def refused(given: Given, _: int) -> Given:
    """It has a reason not to."""
    return replace(given, refusal="not now")


def without_end(given: Given, _: int) -> Given:
    """It never ends and gives nothing."""
    return replace(given, rows=[], operations=[], is_end=False)


def replace(given: Given, **fields: object) -> Given:
    return msgspec.structs.replace(given, **fields)


@pytest.mark.parametrize("change", [another_store, set_back, false_row, refused, without_end])
async def test_a_copy_that_cannot_be_believed_is_begun_again_with_another_giver(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, change: Callable[[Given, int], Given]
) -> None:
    monkeypatch.setattr(limits, "EXCHANGE_BYTES_MAX", 1_000)  # several pages
    for stripe in cell.bus.streams:
        cell.bus.purge(stripe)
    asked: list[str] = []
    for name in ("peer-1", "peer-2"):
        real = cell.bus.givers[name]

        async def give(data: bytes, name: str = name, real: Give = real) -> bytes:
            asked.append(name)
            return await real(data)

        cell.bus.givers[name] = falsified(give, change) if name == "peer-1" else give
    peer = await cell.restart("peer-3", MemoryStore(incarnation=33))
    await eventually(lambda: is_recovered(cell, peer), "peer-3 has everything", 20)
    assert asked[0] == "peer-1"
    assert asked[-1] == "peer-2"


async def is_recovered(cell: Cell, peer: CellPeer) -> bool:
    is_complete = await is_same(cell, peer) and peer.progress.has(cell[0].progress.ends())
    return is_complete and not peer.progress.lacking()


async def test_until_the_end_of_a_copy_the_peer_says_what_it_lacks(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXCHANGE_BYTES_MAX", 1_000)
    for stripe in cell.bus.streams:
        cell.bus.purge(stripe)
    gate = asyncio.Event()
    for name in ("peer-1", "peer-2"):
        real = cell.bus.givers[name]

        async def give(data: bytes, real: Give = real) -> bytes:
            if isinstance(codec.decode_wanted(data), AllOperations):
                await gate.wait()
            return await real(data)

        cell.bus.givers[name] = give
    peer = await cell.restart("peer-3", MemoryStore(incarnation=33))

    async def has_rows() -> bool:
        return await is_same(cell, peer)

    await eventually(has_rows, "all rows are joined")
    assert "the log begins at" in peer.progress.lacking()[ROWS_PART]
    assert peer.progress.is_behind()
    assert not peer.is_ready()
    assert not peer.progress.has(cell[0].progress.ends())
    gate.set()
    await eventually(lambda: is_recovered(cell, peer), "the copy is whole")
    assert peer.is_ready()


async def test_derived_indexes_follow_rows_as_they_follow_frames(cell: Cell) -> None:
    for stripe in cell.bus.streams:
        cell.bus.purge(stripe)
    peer = await cell.restart("peer-3", MemoryStore(incarnation=33))
    await eventually(lambda: is_recovered(cell, peer), "peer-3 has everything")
    told = {change.after.key for batch in peer.batches for change in batch}
    assert {create(number).record for number in range(20)} <= told


async def test_a_giver_that_dies_in_the_middle_is_replaced(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXCHANGE_BYTES_MAX", 1_000)
    for stripe in cell.bus.streams:
        cell.bus.purge(stripe)
    real = cell.bus.givers["peer-1"]
    died = asyncio.Event()

    async def die_at_the_third(data: bytes) -> bytes:
        wanted = codec.decode_wanted(data)
        if isinstance(wanted, AllRows) and wanted.after:
            died.set()
            cell.bus.cut_off.add("peer-1")
        return await real(data)

    cell.bus.givers["peer-1"] = die_at_the_third
    peer = await cell.restart("peer-3", MemoryStore(incarnation=33))
    await died.wait()

    async def has_all() -> bool:
        is_complete = await peer.store.digests() == await cell[1].store.digests()
        return is_complete and not peer.progress.lacking()

    await eventually(has_all, "peer-3 has everything from peer-2", 20)


async def test_who_can_get_rows_of_nobody_says_so(cell: Cell) -> None:
    for stripe in cell.bus.streams:
        cell.bus.purge(stripe)
    await cell.stop("peer-1")
    await cell.stop("peer-2")
    peer = await cell.restart("peer-3", MemoryStore(incarnation=33))

    async def says_so() -> bool:
        return "members that are alive has them" in peer.progress.lacking().get(ROWS_PART, "")

    await eventually(says_so, "peer-3 says that it waits for a member")
    await cell.restart("peer-2", cell[1].store)
    await eventually(lambda: is_recovered(cell, peer), "peer-3 has everything", 20)
