"""What the contracts of the store are written with: every store, memories, frames, and harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from memsync import ids
from memsync.adapters.sqlite.store import SqliteStore, open_store
from memsync.ids import OperationKey, Position, RecordKey, Scope
from memsync.ports import LoggedFrame, Store
from memsync.wire import codec
from memsync.wire.operations import (
    SCHEMA,
    Content,
    Create,
    Frame,
    MemoryOrigin,
    Operation,
    Stamp,
    Write,
)
from tests.fakes.store import MemoryStore

SCOPE = Scope(1, "", "development", "ada")
OTHER = Scope(1, "", "development", "bob")
NOW_MS = 1_790_000_000_000


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Store]:
    """A store of this kind, empty."""
    if kind == "memory":
        yield MemoryStore()
    else:
        async with open_store(folder) as store:
            yield store


async def on_writer(store: SqliteStore, work: Callable[[Any], Any]) -> Any:
    """Do something with the writing connection, behind the store's back."""
    db = store._writer._db
    return await asyncio.get_running_loop().run_in_executor(store._thread, lambda: work(db))


async def damage(store: Store, key: RecordKey) -> None:
    """Change the bytes of a row behind the store's back."""
    if isinstance(store, MemoryStore):
        store.damage(key)
        return
    assert isinstance(store, SqliteStore)
    state = codec.pack("somebody's")
    query = "UPDATE records SET state = ? WHERE key = ?"
    await on_writer(store, lambda db: db.execute(query, (state, key)).rowcount)


async def lose(store: Store, key: RecordKey) -> None:
    """Delete a row behind the store's back."""
    if isinstance(store, MemoryStore):
        store.lose(key)
        return
    assert isinstance(store, SqliteStore)
    await on_writer(store, lambda db: db.execute("DELETE FROM records WHERE key = ?", (key,)))


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
