"""The write side of the store: joins batches of frames into the tables, on the one writer thread.

A batch is one transaction: records, ids, operation keys, digests and applied positions appear
together or not at all. Everything is plain blocking `sqlite3`: one hop per batch, not per
statement.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping, Sequence

from memsync import ids, limits
from memsync.core import memories
from memsync.core.records import Record, join_operation, row_hash, value_of
from memsync.core.stamps import wall_ms_of
from memsync.ids import Position, RecordKey
from memsync.ports import Change, LoggedFrame
from memsync.telemetry import logger
from memsync.wire import codec
from memsync.wire.operations import Create, Frame, MemoryOrigin, Write

_MASK = (1 << 64) - 1
_UPSERT = """
    INSERT INTO records (key, kind, scope, hash, created_at_ms, stamp_time, place, expires_at_ms,
                         gone, text_hash, state)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET
        hash = excluded.hash, created_at_ms = excluded.created_at_ms,
        stamp_time = excluded.stamp_time, place = excluded.place,
        expires_at_ms = excluded.expires_at_ms, gone = excluded.gone,
        text_hash = excluded.text_hash, state = excluded.state
"""
_KEEP_OPERATION = """
    INSERT INTO operations (scope, key, request_hash, stamp, kept_until_ms, kept_s, outcome)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (scope, key) DO UPDATE SET
        request_hash = excluded.request_hash, stamp = excluded.stamp,
        kept_until_ms = excluded.kept_until_ms, kept_s = excluded.kept_s,
        outcome = excluded.outcome
    WHERE excluded.kept_until_ms - excluded.kept_s * 1000 > operations.kept_until_ms
        OR (excluded.stamp < operations.stamp
            AND operations.kept_until_ms - operations.kept_s * 1000 <= excluded.kept_until_ms)
"""
# The first write with a key is kept, unless the other came when it was no longer kept; whichever of
# the two is joined first.
_KEEP_POSITION = """
    INSERT INTO positions (stripe, generation, sequence) VALUES (?, ?, ?)
    ON CONFLICT (stripe, generation) DO UPDATE SET sequence = max(sequence, excluded.sequence)
"""
OPERATIONS_DROPPED_MAX = 1_000  # expired operation keys taken away with one batch, at the most


class Writer:
    """The connection that writes. All methods block; only the writer thread calls them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._sums: dict[int, int] = dict(connection.execute("SELECT bucket, sum FROM buckets"))
        self.incarnation: int = self._meta("incarnation", secrets.randbits(62))
        self.highest_block: int = self._meta("highest_block", 0)

    def apply(self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]) -> list[Change]:
        """Join and commit; see `ports.Store.apply`."""
        changes, hashes = self._joined([logged.frame for logged in frames])
        self._db.execute("BEGIN IMMEDIATE")
        try:
            sums = self._put_records(changes, hashes)
            highest_block = self._put_ids(frames)
            self._put_operations([write for f in frames for write in f.frame.writes])
            self._db.executemany(
                _KEEP_POSITION, [(p.stripe, p.generation, p.sequence) for p in ends.values()]
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._sums |= sums
        self.highest_block = highest_block
        return changes

    def _joined(self, frames: Sequence[Frame]) -> tuple[list[Change], dict[RecordKey, int]]:
        """Every record that the frames speak of, before and after, and the hashes stored before."""
        writes = [write for frame in frames for write in frame.writes]
        keys = dict.fromkeys(op.record for write in writes for op in write.operations)
        before, hashes = self._read(list(keys))
        after: dict[RecordKey, Record] = dict(before)
        for write in writes:
            for operation in write.operations:
                key = operation.record
                after[key] = join_operation(after.get(key), operation, write.stamp)
        changes = [Change(before=before.get(key), after=after[key]) for key in keys]
        return changes, hashes

    def _read(
        self, keys: Sequence[RecordKey]
    ) -> tuple[dict[RecordKey, Record], dict[RecordKey, int]]:
        """Those records that exist, and the hashes that are stored with them."""
        found: dict[RecordKey, Record] = {}
        hashes: dict[RecordKey, int] = {}
        for first in range(0, len(keys), 500):
            part = keys[first : first + 500]
            query = (
                f"SELECT key, hash, state FROM records WHERE key IN ({','.join('?' * len(part))})"
            )
            for key, hashed, state in self._db.execute(query, part):
                found[key] = codec.unpack(state, Record)
                hashes[key] = hashed & _MASK
        return found, hashes

    def _put_records(
        self, changes: Sequence[Change], hashes: Mapping[RecordKey, int]
    ) -> dict[int, int]:
        """Write the rows that changed; returns the new sums of their buckets."""
        rows: list[tuple[object, ...]] = []
        touched: dict[int, int] = {}
        for change in changes:
            if change.after is change.before or change.after == change.before:
                continue
            state = codec.pack(change.after)
            scope = ids.scope_key(change.after.scope)
            bucket = ids.bucket_of(scope)
            new, old = row_hash(state), hashes.get(change.after.key, 0)
            before = touched.get(bucket, self._sums.get(bucket, 0))
            touched[bucket] = (before + new - old) & _MASK
            rows.append(_row(change.after, scope, new, state))
        self._db.executemany(_UPSERT, rows)
        self._db.executemany(
            "INSERT OR REPLACE INTO buckets (bucket, sum) VALUES (?, ?)",
            [(bucket, _signed(total)) for bucket, total in touched.items()],
        )
        return touched

    def _put_ids(self, frames: Sequence[LoggedFrame]) -> int:
        """Make ids resolve; returns the highest block seen, which is kept too."""
        operations = [op for f in frames for write in f.frame.writes for op in write.operations]
        pairs = [
            (identifier, op.record)
            for op in operations
            if isinstance(op, Create)
            for identifier in op.ids
        ]
        blocks = [f.frame.incarnation for f in frames] + [ids.block_of(i) for i, _ in pairs]
        highest = max([self.highest_block, *blocks])
        for identifier, key in pairs:
            self._put_id(identifier, key)
        if highest > self.highest_block:
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'highest_block'", (highest,))
        return highest

    def _put_id(self, identifier: int, key: RecordKey) -> None:
        """One id stands for one record; should two claim it, the smaller key has it everywhere."""
        insert = "INSERT INTO ids (id, key) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
        if self._db.execute(insert, (identifier, key)).rowcount:
            return
        (holder,) = self._db.execute("SELECT key FROM ids WHERE id = ?", (identifier,)).fetchone()
        if holder == key:
            return
        logger().error("id.claimed_twice", id=identifier)
        self._db.execute("UPDATE ids SET key = min(key, ?) WHERE id = ?", (key, identifier))

    def _put_operations(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        rows = [
            (
                ids.scope_key(write.scope),
                write.key,
                write.request_hash,
                _ordered(write),
                wall_ms_of(write.stamp) + write.kept_s * 1000,
                write.kept_s,
                codec.pack(write.outcome),
            )
            for write in writes
        ]
        self._db.executemany(_KEEP_OPERATION, rows)
        # A day's grace covers clocks that differ; the time is the newest write's, not a clock's.
        newest_ms = max(wall_ms_of(write.stamp) for write in writes)
        self._db.execute(
            "DELETE FROM operations WHERE (scope, key) IN (SELECT scope, key FROM operations "
            "WHERE kept_until_ms < ? ORDER BY kept_until_ms LIMIT ?)",
            (newest_ms - limits.OPERATION_KEY_CALLERS_S * 1000, OPERATIONS_DROPPED_MAX),
        )

    def _meta(self, name: str, initial: int) -> int:
        self._db.execute("INSERT OR IGNORE INTO meta (name, value) VALUES (?, ?)", (name, initial))
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(found[0])


def _row(record: Record, scope: bytes, hashed: int, state: bytes) -> tuple[object, ...]:
    origin = record.origin
    memory = origin if isinstance(origin, MemoryOrigin) else None
    return (
        record.key,
        record.kind,
        scope,
        _signed(hashed),
        None if origin is None else origin.created_at_ms,
        None if record.origin_stamp is None else record.origin_stamp.time,
        0 if memory is None else memory.place,
        value_of(record, "expires_at_ms"),
        not memories.is_visible(record, 0),
        None if memory is None else memory.text_hash,
        state,
    )


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _ordered(write: Write) -> bytes:
    """A stamp as bytes that compare like it."""
    return write.stamp.time.to_bytes(8, "big") + write.stamp.incarnation.to_bytes(8, "big")


def stamp_parts(ordered: bytes) -> tuple[int, int]:
    """(time, incarnation) of `_ordered`."""
    return int.from_bytes(ordered[:8], "big"), int.from_bytes(ordered[8:], "big")
