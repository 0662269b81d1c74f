"""Memories for tests, made as a coordinator makes them: creates, updates and frames with stamps."""

from __future__ import annotations

from typing import Any

import msgspec

from memsync.core.recall.lexical import terms_of, text_hash
from memsync.core.records import Record, join_operation
from memsync.ids import (
    OperationKey,
    Position,
    RecordKey,
    Scope,
    ScopeKey,
    record_key_of_ref,
    scope_key,
)
from memsync.ports import LoggedFrame, Store
from memsync.wire import codec
from memsync.wire.operations import (
    SCHEMA,
    Attach,
    Content,
    Create,
    Frame,
    MemoryOrigin,
    Operation,
    Relation,
    Stamp,
    Update,
    Vector,
    Write,
)

NOW_MS = 1_780_000_000_000
SCOPE = Scope(organisation=7, project="", environment="development", end_user="ada")


def stamp(at_ms: int, counter: int = 0) -> Stamp:
    """A stamp of the one process that tests write with."""
    return Stamp(time=at_ms << 16 | counter, incarnation=9)


def key_of(name: str, scope: Scope = SCOPE) -> RecordKey:
    """The record key of the memory that tests call `name`."""
    return record_key_of_ref("memory", scope, name)


def create(
    name: str,
    text: str,
    *,
    scope: Scope = SCOPE,
    at_ms: int = NOW_MS,
    identifier: int = 1,
    vector: Vector | None = None,
    metadata: dict[str, Any] | None = None,
    with_terms: bool = True,
    **fields: Any,
) -> Create:
    """A memory as `memory.add` would create it; `fields` are those of `MemoryOrigin`."""
    terms = terms_of(text) if with_terms else None
    content = Content(text=text, metadata=metadata, terms=terms, vector=vector)
    origin = MemoryOrigin(
        **{
            "operation_key": OperationKey(name),
            "request_hash": b"",
            "content": codec.seal(content),
            "text_hash": text_hash(scope_key(scope), text),
            "created_at_ms": at_ms,
            "occurred_at_ms": None,
            "expires_at_ms": None,
            "place": 0,
            "client_ref": name,
            "session_id": None,
            "role": None,
            "source": None,
            "event_type": None,
            "tags": [],
            "importance": 0.5,
            "is_summary": False,
        }
        | fields
    )
    return Create(record=key_of(name, scope), scope=scope, ids=[identifier], origin=origin)


def memory(name: str, text: str, *, counter: int = 0, **fields: Any) -> Record:
    """The record of a memory that was just created."""
    operation = create(name, text, **fields)
    origin = operation.origin
    assert isinstance(origin, MemoryOrigin)
    return join_operation(None, operation, stamp(origin.created_at_ms, counter))


def changed(record: Record, *, at_ms: int = NOW_MS + 1, **registers: Any) -> Record:
    """The record after an update that wrote these registers."""
    packed = {name: codec.pack(value) for name, value in registers.items()}
    update = Update(record=record.key, scope=record.scope, kind="memory", registers=packed)
    return join_operation(record, update, stamp(at_ms))


def related(record: Record, to: str, *, at_ms: int = NOW_MS + 1, **fields: Any) -> Record:
    """The record after it was related to the memory that tests call `to`; `fields` are those of
    `Relation`."""
    given = {"type": "extends", "confidence": 1.0, "metadata": None} | fields
    relation = Relation(stamp=stamp(at_ms), to=key_of(to, record.scope), **given)
    by_key = {f"{to} {relation.type} {at_ms}": codec.pack(relation)}
    attach = Attach(record.key, record.scope, "memory", {"relations": by_key})
    return join_operation(record, attach, stamp(at_ms))


def frame(
    *operations: Operation, sequence: int = 1, at_ms: int = NOW_MS, key: str = "k"
) -> LoggedFrame:
    """One write with these operations, as found in stripe 0."""
    write = Write(
        key=OperationKey(key),
        request_hash=b"r",
        kept_s=600,
        scope=operations[0].scope if operations else SCOPE,
        actor="test",
        reason="",
        stamp=stamp(at_ms, sequence),
        outcome=[],
        operations=list(operations),
    )
    made = Frame(schema=SCHEMA, incarnation=9, number=sequence, writes=[write])
    return LoggedFrame(
        position=Position(0, 0, sequence), frame=made, size_bytes=len(msgspec.msgpack.encode(made))
    )


async def held(store: Store, scope: ScopeKey) -> list[Record]:
    """All that `Store.memories` tells of a scope."""
    return [record async for page in store.memories(scope) for record in page]
