"""Rows of the table `records`: a record as columns, and whether a row is what it was when it was
written. Pure.

`hash` is over `state`. A row whose state does not have its hash was changed behind the store's
back: by a failing disk or by hand. The other columns are derived from `state`; the scrub derives
them again.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import Any, TypeAlias

import msgspec

from memsync import ids
from memsync.core import memories
from memsync.core.records import Record, row_hash, value_of
from memsync.wire import codec
from memsync.wire.exchange import KeptOperation
from memsync.wire.operations import ItemOutcome, MemoryOrigin, Stamp, Write

Columns: TypeAlias = tuple[Any, ...]

COLUMNS = (
    "key, kind, scope, hash, created_at_ms, stamp_time, place, expires_at_ms, gone, text_hash, "
    "state"
)
KEPT_COLUMNS = "scope, key, request_hash, stamp, kept_s, outcome"
MASK = (1 << 64) - 1
NO_BUCKET = -1


def columns_of(record: Record, scope: bytes, hashed: int, state: bytes) -> Columns:
    """The row of a record, in the order of `COLUMNS`."""
    origin = record.origin
    memory = origin if isinstance(origin, MemoryOrigin) else None
    return (
        record.key,
        record.kind,
        scope,
        signed(hashed),
        getattr(origin, "created_at_ms", None),
        None if record.origin_stamp is None else record.origin_stamp.time,
        0 if memory is None else memory.place,
        value_of(record, "expires_at_ms"),
        int(not memories.is_visible(record, 0)),
        None if memory is None else memory.text_hash,
        state,
    )


def is_hashed(hashed: object, state: object) -> bool:
    """Whether `state` is what was written with this (signed) hash."""
    return isinstance(hashed, int) and isinstance(state, bytes) and row_hash(state) == hashed & MASK


def is_key(key: object) -> bool:
    """Whether a row's column `key` is one, of whatever row."""
    return isinstance(key, bytes)


def bucket_of(scope: object) -> int:
    """The bucket that a row's column `scope` puts it into; `NO_BUCKET` where that is no scope."""
    return ids.bucket_of(ids.ScopeKey(scope)) if isinstance(scope, bytes) else NO_BUCKET


def hashes_in(rows: Iterable[tuple[Any, ...]], buckets: Set[int]) -> dict[ids.RecordKey, int]:
    """Key -> hash of those rows (scope, key, hash) that lie in these buckets."""
    return {
        key: hashed & MASK
        for scope, key, hashed in rows
        if bucket_of(scope) in buckets and isinstance(hashed, int)
    }


def sound_record(hashed: object, state: object) -> Record | None:
    """The record of a row; None where the row is damaged."""
    if not is_hashed(hashed, state):
        return None
    assert isinstance(state, bytes)
    try:
        return codec.unpack(state, Record)
    except msgspec.DecodeError:
        return None


def is_sound(columns: Columns) -> bool:
    """Whether a whole row is what was written: its state by the hash, the rest by the state."""
    hashed, state = columns[3], columns[-1]
    record = sound_record(hashed, state)
    if record is None:
        return False
    assert isinstance(hashed, int)
    assert isinstance(state, bytes)
    return columns == columns_of(record, ids.scope_key(record.scope), hashed & MASK, state)


def renamed(columns: Columns) -> list[ids.RecordKey]:
    """The true key of a row that lies under another one although its state is sound."""
    record = sound_record(columns[3], columns[-1])
    return [] if record is None or record.key == columns[0] else [record.key]


def kept_of(write: Write) -> KeptOperation:
    """What is kept of a write, to answer its repeat."""
    return KeptOperation(
        scope=ids.scope_key(write.scope),
        key=write.key,
        request_hash=write.request_hash,
        stamp=write.stamp,
        kept_s=write.kept_s,
        outcome=write.outcome,
    )


def kept_operation(columns: tuple[Any, ...]) -> KeptOperation:
    """A row of the table `operations`, its columns in the order of `KEPT_COLUMNS`."""
    scope, key, request_hash, ordered, kept_s, outcome = columns
    return KeptOperation(
        scope=scope,
        key=key,
        request_hash=request_hash,
        stamp=stamp_of(ordered),
        kept_s=kept_s,
        outcome=codec.unpack(outcome, list[ItemOutcome]),
    )


def signed(number: int) -> int:
    """64 bits as SQLite's integers hold them."""
    return number - (1 << 64) if number >> 63 else number


def ordered_bytes(stamp: Stamp) -> bytes:
    """A stamp as bytes that compare like it."""
    return stamp.time.to_bytes(8, "big") + stamp.incarnation.to_bytes(8, "big")


def stamp_of(ordered: bytes) -> Stamp:
    """The stamp of `ordered_bytes`."""
    return Stamp(int.from_bytes(ordered[:8], "big"), int.from_bytes(ordered[8:], "big"))
