"""One suite for every `ports.Store`: the SQLite one and the fake that other tests stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memsync import ids
from memsync.adapters.sqlite.store import open_store
from memsync.core.records import Record
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import OperationKey, Position, RecordKey, Scope
from memsync.ports import LoggedFrame, Store
from memsync.wire import codec
from memsync.wire.operations import (
    SCHEMA,
    ApiKeyOrigin,
    Content,
    Create,
    Frame,
    ItemOutcome,
    MemoryOrigin,
    Operation,
    Stamp,
    Update,
    Write,
)
from memsync.wire.requests import ForgetFilters, format_moment
from tests.fakes.store import MemoryStore

SCOPE = Scope(1, "", "development", "ada")
OTHER = Scope(1, "", "development", "bob")
NOW_MS = 1_790_000_000_000


@asynccontextmanager
async def _open(kind: str, folder: Path) -> AsyncIterator[Store]:
    if kind == "memory":
        yield MemoryStore()
    else:
        async with open_store(folder) as store:
            yield store


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Every store in turn, empty."""
    async with _open(request.param, tmp_path / "store") as opened:
        yield opened


def memory(number: int, *, scope: Scope = SCOPE, **fields: Any) -> Create:
    """The creation of memory `number`, one second after that of `number` - 1."""
    origin = MemoryOrigin(
        operation_key=OperationKey(f"op-{number}"),
        request_hash=b"h" * 16,
        content=codec.seal(Content(text=f"memory {number}")),
        text_hash=b"text%04d" % number,
        created_at_ms=NOW_MS + number * 1000,
        occurred_at_ms=None,
        expires_at_ms=None,
        place=0,
        client_ref=None,
        session_id=None,
        role=None,
        source=None,
        event_type=None,
        tags=[],
        importance=0.5,
        is_summary=False,
    )
    origin = msgspec.structs.replace(origin, **fields)
    key = ids.record_key_of_operation("memory", scope, origin.operation_key, b"h", 0)
    return Create(record=key, scope=scope, ids=[1_000 + number], origin=origin)


def frame(number: int, *operations: Operation, time: int = 0, key: str = "", **more: Any) -> Frame:
    """A frame with one write."""
    write = Write(
        key=OperationKey(key or f"key-{number}"),
        request_hash=more.get("request_hash", b"r" * 16),
        kept_s=600,
        scope=SCOPE,
        actor="key:1",
        reason="",
        stamp=Stamp((time or NOW_MS + number) << 16, 1),
        outcome=more.get("outcome", []),
        operations=list(operations),
    )
    return Frame(SCHEMA, 1, number, [write])


async def apply(store: Store, *frames: Frame, stripe: int = 0, first: int = 1) -> list[Any]:
    """Apply frames as consecutive messages of a stripe."""
    logged = [
        LoggedFrame(Position(stripe, 0, first + i), each, 100) for i, each in enumerate(frames)
    ]
    ends = {stripe: Position(stripe, 0, first + len(frames) - 1)}
    return await store.apply(logged, ends)


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
    assert keys_of(await store.memories(scope)) == [kept.record, expired.record, lasting.record]
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
    found = await store.duplicate(scope, b"same....", NOW_MS)
    assert found is not None
    assert found.key == first.record
    later = await store.duplicate(scope, b"same....", NOW_MS + 1001)
    assert later is not None
    assert later.key == second.record
    assert await store.duplicate(scope, b"same....", NOW_MS + 2001) is None
    assert await store.duplicate(ids.scope_key(OTHER), b"same....", NOW_MS) is None
    assert await store.duplicate(scope, b"other...", NOW_MS) is None


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
    assert await store.memories(scope) == []
    await apply(store, frame(2, create), first=2)
    assert keys_of(await store.memories(scope)) == [create.record]


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
        assert len(await store.memories(ids.scope_key(SCOPE))) == 11


async def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        db = store._writer._db
        await asyncio.get_running_loop().run_in_executor(
            store._thread, lambda: db.execute("PRAGMA user_version = 99")
        )
    with pytest.raises(Exception, match="start a newer memsync"):
        async with open_store(tmp_path):
            pass
