"""Rows from store to store, digests, sums: what recovery and anti-entropy stand on."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from memsync import ids
from memsync.errors import InvariantBroken
from memsync.ids import OperationKey, Position, RecordKey, ScopeKey
from memsync.ports import Scrubbed, Store
from memsync.wire import codec
from memsync.wire.exchange import KeptOperation, Row
from memsync.wire.operations import (
    Attach,
    Content,
    Count,
    ItemOutcome,
    Relation,
    Signal,
    Stamp,
    Update,
)
from tests.contracts.stores import (
    NOW_MS,
    OTHER,
    SCOPE,
    apply,
    damage,
    frame,
    lose,
    memory,
    opened,
)
from tests.fakes.memories import held

START = RecordKey(b"")


@pytest.fixture(params=["sqlite", "memory"])
async def other(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A second store, of every kind."""
    async with opened(request.param, tmp_path / "other") as made:
        yield made


async def all_rows(store: Store, *, bytes_max: int = 1 << 20) -> list[Row]:
    rows: list[Row] = []
    is_end = False
    while not is_end:
        page, is_end = await store.rows_after(rows[-1].key if rows else START, bytes_max=bytes_max)
        rows += page
    return rows


async def all_operations(store: Store, *, limit: int = 1_000) -> list[KeptOperation]:
    found: list[KeptOperation] = []
    is_end = False
    while not is_end:
        scope, key = (found[-1].scope, found[-1].key) if found else (ScopeKey(b""), "")
        page, is_end = await store.operations_after(scope, OperationKey(key), limit=limit)
        found += page
    return found


async def test_a_store_that_joined_all_of_another_is_its_equal(store: Store, other: Store) -> None:
    creates = [memory(n, scope=OTHER if n % 3 else SCOPE) for n in range(20)]
    await apply(store, *(frame(n, create) for n, create in enumerate(creates)))
    forget = Update(creates[2].record, OTHER, "memory", {"deleted": codec.pack(True)})
    await apply(store, frame(90, forget), first=21)
    rows, operations = await all_rows(store), await all_operations(store)
    changes = await other.join(rows, operations, [Position(0, 0, 21), Position(2, 1, 4)])
    assert {change.after.key for change in changes} == {create.record for create in creates}
    assert all(change.before is None for change in changes)
    assert await other.digests() == await store.digests()
    assert await other.positions() == {(0, 0): 21, (2, 1): 4}
    assert await all_rows(other) == rows
    assert await all_operations(other) == operations
    found = await store.records_by_id([1_000 + n for n in range(20)])
    assert len(found) == 20
    assert await other.records_by_id([1_000 + n for n in range(20)]) == found
    for scope in map(ids.scope_key, (SCOPE, OTHER)):
        assert await held(other, scope) == await held(store, scope)
    assert other.highest_block == store.highest_block


async def test_joined_ids_and_stamps_raise_the_highest_block(store: Store, other: Store) -> None:
    create = msgspec.structs.replace(memory(1), ids=[ids.memory_id(0, 77, 5)])
    await apply(store, frame(1, create))
    await other.join(await all_rows(store), [], [])
    assert other.highest_block == 77
    written = KeptOperation(
        ids.scope_key(SCOPE), OperationKey("k"), b"r", Stamp(NOW_MS << 16, 99), 600, []
    )
    await other.join([], [written], [])
    assert other.highest_block == 99


async def test_a_highest_block_that_stands_in_no_row_is_kept(other: Store) -> None:
    await other.join([], [], [], highest_block=70)
    await other.join([], [], [], highest_block=7)
    assert other.highest_block == 70


async def test_rows_are_joined_not_put(store: Store, other: Store) -> None:
    create = memory(1)
    await apply(store, frame(1, create))
    rows = await all_rows(store)
    newer = Update(create.record, SCOPE, "memory", {"tier": codec.pack("cold")})
    await apply(other, frame(2, newer, time=NOW_MS + 9))
    before = await other.record(create.record)
    for _ in range(2):
        (change,) = await other.join(rows, [], [])
        assert change.before == before
        before = change.after
    await apply(store, frame(2, newer, time=NOW_MS + 9), first=2)
    assert await other.record(create.record) == await store.record(create.record)
    assert await other.digests() == await store.digests()
    assert await other.positions() == {(0, 0): 1}


async def test_what_two_stores_attached_and_counted_is_in_both(store: Store, other: Store) -> None:
    create = memory(1)
    key, stamp = create.record, Stamp(NOW_MS << 16, 9)
    await apply(store, frame(1, create))
    await other.join(await all_rows(store), [], [])
    relation = codec.pack(Relation(stamp, memory(2).record, "similar", 0.5, None))
    good = codec.pack(Signal(stamp, "positive", codec.seal("good")))
    bad = codec.pack(Signal(stamp, "negative", None))
    here = [
        Attach(key, SCOPE, "memory", {"relations": {"k1": relation}, "signals": {"k2": good}}),
        Count(key, SCOPE, "memory", {"uses": {"1": 4, "2": 1}}, {"last_access_ms": 7}),
    ]
    there = [
        Attach(key, SCOPE, "memory", {"signals": {"k3": bad}}),
        Count(key, SCOPE, "memory", {"uses": {"1": 2, "2": 5}}, {"last_access_ms": 9}),
    ]
    await apply(store, frame(2, *here, key="h"), first=2)
    await apply(other, frame(3, *there, key="t"), first=3)
    rows = await all_rows(store)
    await store.join(await all_rows(other), [], [])
    for _ in range(2):
        await other.join(rows, [], [])
    joined = await store.record(key)
    assert joined is not None
    assert joined == await other.record(key)
    assert joined.elements == {"relations": {"k1": relation}, "signals": {"k2": good, "k3": bad}}
    assert joined.counters == {"uses": {"1": 4, "2": 5}}
    assert joined.maxima == {"last_access_ms": 9}
    assert await store.digests() == await other.digests()


async def test_positions_only_rise(store: Store) -> None:
    await store.join([], [], [Position(0, 0, 9), Position(1, 3, 2)])
    await store.join([], [], [Position(0, 0, 5), Position(1, 3, 0)])
    assert await store.positions() == {(0, 0): 9, (1, 3): 2}


async def test_a_row_that_is_not_its_hash_is_refused_with_all_others(store: Store) -> None:
    async with opened("memory", Path()) as giver:
        await apply(giver, frame(1, memory(1), memory(2)))
        good, bad = await all_rows(giver)
    wrong = [
        msgspec.structs.replace(bad, hash=bad.hash ^ 1),
        msgspec.structs.replace(bad, state=bad.state[:-1] + b"\xc3"),
        msgspec.structs.replace(bad, key=RecordKey(b"k" * 16)),
        msgspec.structs.replace(bad, key=good.key),
    ]
    for row in wrong:
        with pytest.raises(InvariantBroken, match="received row"):
            await store.join([good, row], [], [Position(0, 0, 5)])
    assert await all_rows(store) == []
    assert await store.positions() == {}
    assert not any((await store.digests()).values())


async def test_pages_of_rows_hold_as_much_as_is_asked_for(store: Store) -> None:
    creates = [memory(n, content=codec.seal(Content(text="x" * 100 * n))) for n in range(30)]
    await apply(store, *(frame(n, create) for n, create in enumerate(creates)))
    rows = await all_rows(store)
    assert [row.key for row in rows] == sorted(create.record for create in creates)
    assert await all_rows(store, bytes_max=1) == rows
    page, is_end = await store.rows_after(START, bytes_max=5_000)
    assert not is_end
    assert 4_000 < sum(len(row.state) for row in page) <= 5_000
    assert await store.rows_after(rows[-1].key, bytes_max=1) == ([], True)
    assert await store.rows([rows[3].key, RecordKey(b"none"), rows[1].key]) in (
        [rows[1], rows[3]],
        [rows[3], rows[1]],
    )
    assert await store.rows([]) == []


async def test_operation_keys_come_in_pages_and_in_order(store: Store) -> None:
    outcome = [ItemOutcome("created", [1], "why")]
    frames = [frame(n, key=f"key {n:02} \N{SNOWMAN}", outcome=outcome) for n in range(9)]
    await apply(store, *frames)
    found = await all_operations(store)
    assert [kept.key for kept in found] == [f"key {n:02} \N{SNOWMAN}" for n in range(9)]
    assert found[0].outcome == outcome
    assert await all_operations(store, limit=2) == found
    assert await all_operations(store, limit=3) == found


async def test_a_joined_operation_key_gives_way_to_the_first(store: Store) -> None:
    scope, key = ids.scope_key(SCOPE), OperationKey("key-1")
    await apply(store, frame(1, time=20, key="key-1"))
    stamps = {}
    for time in (30, 10):
        kept = KeptOperation(scope, key, b"other", Stamp(time << 16, 1), 600, [])
        await store.join([], [kept], [])
        found = await store.operation(scope, key)
        assert found is not None
        stamps[time] = found.stamp.time >> 16
    assert stamps == {30: 20, 10: 10}


async def test_hashes_of_buckets_add_up_to_the_digests(store: Store) -> None:
    creates = [memory(n, scope=OTHER if n % 2 else SCOPE) for n in range(8)]
    await apply(store, *(frame(n, create) for n, create in enumerate(creates)))
    digests = await store.digests()
    one, two = (ids.bucket_of(ids.scope_key(scope)) for scope in (SCOPE, OTHER))
    for bucket in (one, two):
        hashes = await store.hashes([bucket])
        assert len(hashes) == 4
        assert sum(hashes.values()) % (1 << 64) == digests[bucket]
    assert len(await store.hashes([one, two])) == 8
    assert await store.hashes([(one + 1) % 1_024]) == {} or two == one + 1
    assert await store.hashes([]) == {}


async def test_a_damaged_row_is_told_and_shown_to_nobody(store: Store) -> None:
    scope = ids.scope_key(SCOPE)
    kept, bad = memory(1), memory(2, text_hash=b"same....")
    await apply(store, frame(1, kept, bad))
    await damage(store, bad.record)
    told: list[RecordKey] = []
    store.on_damage = told.extend

    async def shows() -> list[list[RecordKey]]:
        rows, _ = await store.rows_after(START, bytes_max=1 << 20)
        page, _ = await store.page(scope, now_ms=NOW_MS, limit=9, offset=0)
        return [
            [row.key for row in rows],
            [row.key for row in await store.rows([kept.record, bad.record])],
            list(await store.records([kept.record, bad.record])),
            [r.key for r in (await store.records_by_id([1_001, 1_002])).values()],
            [record.key for record in page],
            [record.key for record in await held(store, scope)],
        ]

    assert await shows() == [[kept.record]] * 6
    assert await store.record(bad.record) is None
    assert await store.duplicates([(scope, b"same....")], 0) == {}
    assert set(told) == {bad.record}
    assert len(told) >= 8


async def scrubbed(store: Store, *, rows_max: int = 4) -> list[Scrubbed]:
    """Every part of a scrub."""
    return [part async for part in store.scrub(rows_max=rows_max)]


async def found_damaged(store: Store) -> set[RecordKey]:
    """The rows that a scrub finds damaged; each once."""
    damaged = [key for part in await scrubbed(store) for key in part.damaged]
    assert len(damaged) == len(set(damaged))
    return set(damaged)


async def test_a_scrub_finds_damaged_rows_in_parts(store: Store) -> None:
    assert await scrubbed(store) == []
    creates = [memory(n) for n in range(10)]
    await apply(store, frame(1, *creates))
    for number in (3, 4, 9):
        await damage(store, creates[number].record)
    parts = await scrubbed(store)
    assert sum(part.rows for part in parts) == 10
    assert max(part.rows for part in parts) <= 4
    assert await found_damaged(store) == {creates[number].record for number in (3, 4, 9)}


async def test_a_scrub_finds_what_became_of_rows_that_it_has_seen_sound(store: Store) -> None:
    creates = [memory(n) for n in range(10)]
    await apply(store, frame(1, *creates))
    assert await found_damaged(store) == set()
    assert await found_damaged(store) == set()
    await damage(store, creates[3].record)
    assert await found_damaged(store) == {creates[3].record}
    assert await found_damaged(store) == {creates[3].record}  # and again, until it is healed
    tier = Update(creates[5].record, SCOPE, "memory", {"tier": codec.pack("cold")})
    await apply(store, frame(2, tier, memory(10)), first=2)  # what was written is no damage
    assert await found_damaged(store) == {creates[3].record}
    await damage(store, memory(10).record)
    assert await found_damaged(store) == {creates[3].record, memory(10).record}


async def test_what_is_set_aside_is_lacking_until_it_is_joined_again(store: Store) -> None:
    creates = [memory(n) for n in range(4)]
    await apply(store, frame(1, *creates))
    whole, rows = await store.digests(), await all_rows(store)
    bad = creates[1].record
    await damage(store, bad)
    assert await store.digests() == whole
    await store.set_aside([bad, creates[2].record, RecordKey(b"none")])
    assert await store.lacking() == [bad]
    hashes = {row.key: row.hash for row in rows}
    bucket = ids.bucket_of(ids.scope_key(SCOPE))
    assert (await store.digests())[bucket] == (whole[bucket] - hashes[bad]) % (1 << 64)
    assert await store.recount() == []
    tier = Update(bad, SCOPE, "memory", {"tier": codec.pack("cold")})
    await apply(store, frame(2, tier), first=2)
    assert await store.lacking() == [bad]
    await store.join([row for row in rows if row.key == bad], [], [])
    assert await store.lacking() == []
    assert await store.recount() == []
    async with opened("memory", Path()) as fresh:
        await apply(fresh, frame(1, *creates), frame(2, tier))
        assert await fresh.digests() == await store.digests()
        assert await all_rows(fresh) == await all_rows(store)
    assert await store.records_by_id([1_001])


@pytest.mark.parametrize("is_join", [False, True])
async def test_nothing_is_joined_into_a_damaged_row(store: Store, *, is_join: bool) -> None:
    creates = [memory(n) for n in range(3)]
    bad = creates[0].record
    await apply(store, frame(1, *creates))
    rows = await all_rows(store)
    await damage(store, bad)
    told: list[RecordKey] = []
    store.on_damage = told.extend
    if is_join:
        # It may be an old one: it heals nothing until it is asked for again.
        (change,) = await store.join([row for row in rows if row.key == bad], [], [])
    else:
        tier = Update(bad, SCOPE, "memory", {"tier": codec.pack("cold")})
        (change,) = await apply(store, frame(2, tier), first=2)
    assert change.before is None
    assert told == [bad]
    assert await store.lacking() == [bad]
    assert await store.recount() == []
    await store.join(rows, [], [])
    assert await store.lacking() == []
    assert await store.records_by_id([1_000])
    assert told == [bad]


async def test_a_recount_finds_buckets_that_lost_rows(store: Store) -> None:
    await apply(store, frame(1, *(memory(n) for n in range(3)), memory(9, scope=OTHER)))
    assert await store.recount() == []
    kept = await store.digests()
    await lose(store, memory(1).record)
    assert await store.digests() == kept
    bucket = ids.bucket_of(ids.scope_key(SCOPE))
    assert await store.recount() == [bucket]
    hashes = await store.hashes([bucket])
    assert (await store.digests())[bucket] == sum(hashes.values()) % (1 << 64)
    assert await store.recount() == []


async def test_rows_that_nobody_wrote_are_taken_out_damaged_or_not(store: Store) -> None:
    await apply(store, frame(1, *(memory(n) for n in range(4))))
    sound, bad = memory(1).record, memory(2).record
    rows = {row.key: row for row in await all_rows(store)}
    await damage(store, bad)
    taken = await store.take_out([sound, bad, RecordKey(b"none")])
    assert [record.key for record in taken] == [sound]
    assert sorted(await store.lacking()) == sorted([sound, bad])
    assert sorted(row.key for row in await all_rows(store)) == sorted(
        memory(n).record for n in (0, 3)
    )
    assert await store.recount() == []
    await store.join([rows[sound], rows[bad]], [], [])
    assert await store.lacking() == []
    assert {row.key: row for row in await all_rows(store)} == rows


async def test_rows_that_nobody_has_are_settled(store: Store) -> None:
    await apply(store, frame(1, memory(1), memory(2)))
    for number in (1, 2):
        await damage(store, memory(number).record)
    await store.set_aside([memory(1).record, memory(2).record])
    await store.settle([memory(1).record, RecordKey(b"none")])
    assert await store.lacking() == [memory(2).record]


async def test_sync_tells_what_was_committed(store: Store) -> None:
    assert await store.sync() == {}
    await apply(store, frame(1, memory(1)))
    assert await store.sync() == {(0, 0): 1}


async def test_what_is_lacking_survives_a_restart() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with opened("sqlite", Path(folder)) as store:
            await apply(store, frame(1, memory(1), memory(2)))
            rows = await all_rows(store)
            await damage(store, memory(1).record)
            await store.set_aside([memory(1).record])
        async with opened("sqlite", Path(folder)) as store:
            assert await store.lacking() == [memory(1).record]
            await store.join(rows, [], [])
        async with opened("sqlite", Path(folder)) as store:
            assert await store.lacking() == []
