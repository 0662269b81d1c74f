"""One suite for every `ports.Store`: the SQLite one and the fake that other tests stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memsync import ids
from memsync.adapters.sqlite.store import open_store
from memsync.core.records import Record
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import OperationKey, Position, RecordKey, Scope
from memsync.ports import Store
from memsync.wire import codec
from memsync.wire.operations import (
    ApiKeyOrigin,
    Content,
    Create,
    Frame,
    ItemOutcome,
    MemoryOrigin,
    Stamp,
    Update,
    Vector,
)
from memsync.wire.requests import ForgetFilters, format_moment
from tests.contracts.stores import NOW_MS, OTHER, SCOPE, apply, frame, memory
from tests.fakes import memories as fakes
from tests.fakes.memories import held


def keys_of(records: Sequence[Record]) -> list[RecordKey]:
    return [record.key for record in records]


async def test_what_was_applied_is_found_by_key_and_id(store: Store) -> None:
    create = memory(1)
    changes = await apply(store, frame(1, create))
    assert [(change.before, change.after.key) for change in changes] == [(None, create.record)]
    record = await store.record(create.record)
    assert record is not None
    assert record.origin == create.origin
    assert await store.records_by_id([1_001, 5]) == {1_001: record}
    assert await store.records([create.record, RecordKey(b"x" * 16)]) == {create.record: record}
    assert await store.record(RecordKey(b"x" * 16)) is None
    assert await store.records([]) == {}


async def test_positions_advance_with_their_batch(store: Store) -> None:
    assert await store.positions() == {}
    await apply(store, frame(1, memory(1)), frame(2, memory(2)))
    await apply(store, frame(3, memory(3)), stripe=2, first=7)
    assert await store.positions() == {(0, 0): 2, (2, 0): 7}
    await store.apply([], {0: Position(0, 1, 4)})
    assert await store.positions() == {(0, 0): 2, (0, 1): 4, (2, 0): 7}


async def test_a_batch_with_a_broken_invariant_leaves_nothing(store: Store) -> None:
    good, bad = memory(1), Update(RecordKey(b"k" * 16), SCOPE, "memory", {"colour": b"\xc0"})
    with pytest.raises(InvariantBroken):
        await apply(store, frame(1, good), frame(2, bad))
    assert await store.record(good.record) is None
    assert await store.positions() == {}
    assert await store.operation(ids.scope_key(SCOPE), OperationKey("key-1")) is None
    await apply(store, frame(1, good))
    assert await store.record(good.record) is not None


async def test_a_repeat_changes_nothing(store: Store) -> None:
    create = memory(1)
    await apply(store, frame(1, create))
    before = await store.record(create.record)
    changes = await apply(store, frame(1, create), first=2)
    assert [change.after for change in changes] == [before]
    assert await store.record(create.record) == before


async def test_pages_show_the_newest_first_and_count_all(store: Store) -> None:
    creates = [memory(n) for n in range(5)]
    await apply(store, *(frame(n, create) for n, create in enumerate(creates)))
    await apply(store, frame(9, memory(9, scope=OTHER)), first=6)
    scope = ids.scope_key(SCOPE)
    page, total = await store.page(scope, now_ms=NOW_MS, limit=2, offset=1)
    assert keys_of(page) == [creates[3].record, creates[2].record]
    assert total == 5
    assert await store.page(scope, now_ms=NOW_MS, limit=2, offset=9) == ([], 5)


async def test_gone_and_expired_memories_are_not_shown(store: Store) -> None:
    kept, forgotten = memory(1), memory(2)
    expired = memory(3, expires_at_ms=NOW_MS)
    lasting = memory(4, expires_at_ms=NOW_MS + 1)
    await apply(store, frame(1, kept, forgotten, expired, lasting))
    forget = Update(forgotten.record, SCOPE, "memory", {"deleted": codec.pack(True)})
    await apply(store, frame(2, forget), first=2)
    scope = ids.scope_key(SCOPE)
    page, total = await store.page(scope, now_ms=NOW_MS, limit=9, offset=0)
    assert keys_of(page) == [lasting.record, kept.record]
    assert total == 2
    meant = await store.matching(scope, ForgetFilters(source=None), now_ms=NOW_MS, limit=9)
    assert keys_of(meant) == [kept.record, lasting.record]
    assert keys_of(await held(store, scope)) == [kept.record, expired.record, lasting.record]
    record = await store.record(forgotten.record)
    assert record is not None


async def test_matching_knows_every_filter(store: Store) -> None:
    creates = [
        memory(0, source="mail", tags=["a", "b"]),
        memory(1, source="chat", tags=["a"], event_type="note"),
        memory(2, source="mail", tags=["b", "c"]),
    ]
    await apply(store, frame(1, *creates))
    cold = Update(creates[2].record, SCOPE, "memory", {"tier": codec.pack("cold")})
    await apply(store, frame(2, cold), first=2)

    async def meant(limit: int = 9, **filters: Any) -> list[int]:
        found = await store.matching(
            ids.scope_key(SCOPE), ForgetFilters(**filters), now_ms=NOW_MS, limit=limit
        )
        return [record.ids[0] - 1_000 for record in found]

    assert await meant(source="mail") == [0, 2]
    assert await meant(tags=["a", "b"]) == [0]
    assert await meant(event_type="note") == [1]
    assert await meant(tier="cold") == [2]
    assert await meant(tier="hot") == [0, 1]
    assert await meant(after=format_moment(NOW_MS + 1000)) == [1, 2]
    assert await meant(before=format_moment(NOW_MS + 1000)) == [0, 1]
    assert await meant(limit=1, source="mail") == [0]


async def test_duplicates_are_found_by_text_scope_and_time(store: Store) -> None:
    first, second = memory(1, text_hash=b"same...."), memory(2, text_hash=b"same....")
    await apply(store, frame(1, first), frame(2, second))
    scope = ids.scope_key(SCOPE)
    same = (scope, b"same....")

    async def since(at_ms: int, *texts: tuple[ids.ScopeKey, bytes]) -> dict[Any, RecordKey]:
        return {text: one.key for text, one in (await store.duplicates(texts, at_ms)).items()}

    assert await since(NOW_MS, same) == {same: first.record}
    assert await since(NOW_MS + 1001, same) == {same: second.record}
    assert await since(NOW_MS + 2001, same) == {}
    elsewhere, other = (ids.scope_key(OTHER), b"same...."), (scope, b"other...")
    assert await since(NOW_MS, elsewhere, other) == {}
    assert await since(NOW_MS, elsewhere, same, other, same) == {same: first.record}
    assert await since(NOW_MS) == {}


async def test_a_row_is_kept_of_every_write_but_those_that_their_records_keep(store: Store) -> None:
    def added(number: int, key: str, *, outcomes: int = 1, **fields: Any) -> Frame:
        origin = {"operation_key": key, "request_hash": b"r" * 16, **fields}
        create = memory(number, **origin)
        outcome = [ItemOutcome("created", create.ids)] * outcomes
        return frame(number, create, key=key, outcome=outcome)

    frames = [
        added(1, "~ours"),
        added(2, "callers"),
        added(3, "~named", client_ref="ref"),  # others may make the same record
        added(4, "~second of a bulk", place=1),
        added(5, "~and one skipped", outcomes=2),
        added(6, "~of another request", request_hash=b"h" * 16),
        frame(7, Update(memory(1).record, SCOPE, "memory", {"source": codec.pack("x")}), key="~up"),
        frame(8, memory(8), memory(9), key="~bulk"),
    ]
    await apply(store, *frames)
    scope = ids.scope_key(SCOPE)
    keys = [write.key for each in frames for write in each.writes]
    assert [key for key in keys if await store.operation(scope, key) is None] == ["~ours"]
    kept = await store.record(frames[0].writes[0].operations[0].record)
    assert kept is not None
    assert isinstance(kept.origin, MemoryOrigin)
    assert (kept.origin.operation_key, kept.origin.request_hash) == ("~ours", b"r" * 16)


async def test_look_ups_at_once_find_each_what_was_asked(store: Store) -> None:
    creates = [memory(number) for number in range(12)]
    await apply(store, *(frame(number, one) for number, one in enumerate(creates)))
    scope = ids.scope_key(SCOPE)

    async def text(number: int) -> RecordKey | None:
        wanted = (scope, b"text%04d" % number)
        found = await store.duplicates([wanted], NOW_MS)
        return found[wanted].key if wanted in found else None

    async def request(number: int) -> bytes | None:
        kept = await store.operation(scope, OperationKey(f"key-{number}"))
        return kept.request_hash if kept else None

    keys = [one.record for one in creates]
    asked = [text(number) for number in range(14)], [request(number) for number in range(14)]
    gone = asyncio.ensure_future(text(0))
    both = asyncio.gather(asyncio.gather(*asked[0]), asyncio.gather(*asked[1]))
    gone.cancel()  # who goes away takes nothing from the others
    assert await both == [[*keys, None, None], [b"r" * 16] * 12 + [None, None]]


@pytest.mark.parametrize("count", range(1, 10))
async def test_any_number_of_look_ups_at_once_are_answered(store: Store, count: int) -> None:
    creates = [memory(number) for number in range(count)]
    await apply(store, *(frame(number, one) for number, one in enumerate(creates)))
    scope = ids.scope_key(SCOPE)
    keys = [OperationKey(f"key-{number}") for number in range(count)]
    found = await asyncio.gather(*(store.operation(scope, key) for key in keys))
    assert [kept.request_hash for kept in found if kept] == [b"r" * 16] * count
    records = await asyncio.gather(*(store.record(one.record) for one in creates))
    assert [record.key for record in records if record] == [one.record for one in creates]


async def test_a_look_up_sees_what_was_committed_before_it_was_asked(store: Store) -> None:
    scope = ids.scope_key(SCOPE)
    for number in range(20):
        before = asyncio.ensure_future(store.operation(scope, OperationKey("none")))
        await apply(store, frame(number, memory(number)), first=number + 1)
        assert await store.operation(scope, OperationKey(f"key-{number}")) is not None
        assert await before is None


async def test_the_first_write_of_an_operation_key_is_kept(store: Store) -> None:
    scope, key = ids.scope_key(SCOPE), OperationKey("once")
    later = frame(2, key="once", time=20, outcome=[ItemOutcome("created", [2])])
    first = frame(1, key="once", time=10, outcome=[ItemOutcome("created", [1], "why")])
    await apply(store, later, first)
    kept = await store.operation(scope, key)
    assert kept is not None
    assert kept.outcome == [ItemOutcome("created", [1], "why")]
    assert kept.stamp == Stamp(10 << 16, 1)
    assert kept.kept_s == 600
    assert await store.operation(ids.scope_key(OTHER), key) is None


async def test_an_expired_operation_key_may_be_used_again(store: Store) -> None:
    scope, key = ids.scope_key(SCOPE), OperationKey("again")
    first = frame(1, key="again", time=1_000, request_hash=b"1" * 16)
    within = frame(2, key="again", time=600_000, request_hash=b"2" * 16)
    after = frame(3, key="again", time=601_001, request_hash=b"3" * 16)
    for order in ([first, within], [within, first]):
        await apply(store, *order)
        kept = await store.operation(scope, key)
        assert kept is not None
        assert kept.request_hash == b"1" * 16
    for order in ([first, after], [after, first]):
        await apply(store, *order)
        kept = await store.operation(scope, key)
        assert kept is not None
        assert kept.request_hash == b"3" * 16


async def test_small_kinds_are_listed_whole(store: Store) -> None:
    origin = ApiKeyOrigin(b"h", "ms_dev_1", "n", "development", ["memory:*"], "", "pro", 1, None)
    scope = Scope(1, "", "development", "")
    key = Create(ids.record_key_of_ref("api_key", scope, "h"), scope, [5], origin)
    await apply(store, frame(1, key, memory(1)))
    assert [record.origin for record in await store.of_kind("api_key")] == [origin]
    assert await store.of_kind("project") == []


async def test_a_record_without_its_create_is_kept_but_shown_nowhere(store: Store) -> None:
    create = memory(1)
    update = Update(create.record, SCOPE, "memory", {"importance": codec.pack(0.9)})
    await apply(store, frame(1, update))
    scope = ids.scope_key(SCOPE)
    assert await store.record(create.record) is not None
    assert await store.page(scope, now_ms=NOW_MS, limit=9, offset=0) == ([], 0)
    assert await held(store, scope) == []
    await apply(store, frame(2, create), first=2)
    assert keys_of(await held(store, scope)) == [create.record]


async def test_the_newest_scopes_are_told_within_their_bounds(store: Store) -> None:
    third = Scope(1, "", "development", "cy")
    await apply(store, frame(1, *(memory(n) for n in range(3))))
    await apply(store, frame(2, memory(10, scope=OTHER), memory(5, scope=third)), first=2)
    newest = [ids.scope_key(scope) for scope in (OTHER, third, SCOPE)]
    assert await store.newest_scopes(scopes_max=9, memories_max=5) == newest
    assert await store.newest_scopes(scopes_max=2, memories_max=5) == newest[:2]
    assert await store.newest_scopes(scopes_max=9, memories_max=4) == newest[:2]
    forget = Update(memory(10, scope=OTHER).record, OTHER, "memory", {"deleted": codec.pack(True)})
    await apply(store, frame(3, forget), first=3)
    assert await store.newest_scopes(scopes_max=9, memories_max=5) == newest[1:]


async def test_memories_without_a_vector_of_a_model_are_found_page_by_page(store: Store) -> None:
    ours = Vector("m", bytes(range(8)))

    def written(*vectors: Vector | None) -> list[Create]:
        return [
            fakes.create(f"v{n}", "a text of vector m", identifier=900 + n, vector=vector)
            for n, vector in enumerate(vectors)
        ]

    creates = written(
        None, ours, Vector("other", bytes(8)), Vector("m", bytes(4)), Vector("m", b"")
    )
    await apply(store, frame(1, *creates, memory(1)))
    hidden = Update(creates[1].record, creates[1].scope, "memory",
                    {"vector": codec.pack(codec.seal(Vector("other", bytes(8))))})  # fmt: skip
    gone = Update(creates[2].record, creates[2].scope, "memory", {"deleted": codec.pack(True)})
    for rows_max in (1, 2, 100):
        found: list[RecordKey] = []
        after: RecordKey | None = RecordKey(b"")
        while after is not None:
            some, after = await store.vectorless(after, model="m", dimensions=4, rows_max=rows_max)
            found += some
        assert found == sorted(found)
        lacking = {creates[0].record, creates[2].record, creates[3].record, memory(1).record}
        assert set(found) == lacking
    await apply(store, frame(2, hidden, gone), first=2)
    some, _ = await store.vectorless(RecordKey(b""), model="m", dimensions=4, rows_max=100)
    assert set(some) == lacking - {creates[2].record} | {creates[1].record}


async def test_many_ids_resolve_at_once(store: Store) -> None:
    creates = [memory(n) for n in range(600)]
    await apply(store, *(frame(n, *creates[n : n + 100]) for n in range(0, 600, 100)))
    found = await store.records_by_id(list(range(1_000, 21_000)))
    assert sorted(found) == list(range(1_000, 1_600))
    assert len(await store.records([create.record for create in creates])) == 600


async def test_readers_see_whole_batches_only(store: Store) -> None:
    scope = ids.scope_key(SCOPE)
    done = asyncio.Event()

    async def watch() -> set[int]:
        totals = set()
        while not done.is_set():
            _, total = await store.page(scope, now_ms=NOW_MS, limit=1, offset=0)
            totals.add(total)
            await asyncio.sleep(0)
        return totals

    watching = asyncio.create_task(watch())
    for n in range(10):
        await apply(store, frame(n, *(memory(n * 50 + i) for i in range(50))), first=n + 1)
        await asyncio.sleep(0)
    done.set()
    totals = await watching
    assert totals
    assert all(total % 50 == 0 for total in totals)


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    create = memory(1)
    async with open_store(tmp_path) as store:
        await apply(store, frame(1, create))
        incarnation, digests = store.incarnation, await store.digests()
        assert store.highest_block == 1
    async with open_store(tmp_path) as store:
        assert store.incarnation == incarnation
        assert await store.digests() == digests
        assert store.highest_block == 1
        assert await store.positions() == {(0, 0): 1}
        assert await store.record(create.record) is not None


async def test_an_id_that_two_records_claim_is_the_same_ones_everywhere(tmp_path: Path) -> None:
    one, other = memory(1), msgspec.structs.replace(memory(2), ids=[1_001])
    holders = []
    for name, order in (("a", [one, other]), ("b", [other, one])):
        async with open_store(tmp_path / name) as store:
            await apply(store, *(frame(n, create) for n, create in enumerate(order)))
            holders.append((await store.records_by_id([1_001]))[1_001].key)
    assert holders == [min(one.record, other.record)] * 2


async def test_a_full_disk_is_an_ordinary_error_and_loses_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, frame(1, memory(1)))
        digests = await store.digests()
        db = store._writer._db
        pages = await asyncio.get_running_loop().run_in_executor(
            store._thread, lambda: db.execute("PRAGMA page_count").fetchone()[0]
        )

        async def allow(count: int) -> None:
            await asyncio.get_running_loop().run_in_executor(
                store._thread, lambda: db.execute(f"PRAGMA max_page_count = {count}").fetchone()
            )

        await allow(pages)
        big = [memory(n, content=codec.seal(Content(text="x" * 8_000))) for n in range(2, 12)]
        with pytest.raises(Unavailable, match="full"):
            await apply(store, frame(2, *big), first=2)
        assert await store.positions() == {(0, 0): 1}
        assert await store.digests() == digests
        await allow(100_000)
        await apply(store, frame(2, *big), first=2)
        assert len(await held(store, ids.scope_key(SCOPE))) == 11


async def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        db = store._writer._db
        await asyncio.get_running_loop().run_in_executor(
            store._thread, lambda: db.execute("PRAGMA user_version = 99")
        )
    with pytest.raises(Exception, match="start a newer memsync"):
        async with open_store(tmp_path):
            pass
