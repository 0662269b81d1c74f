"""The write side of the store: joins frames, and rows of other peers, into the tables, on the one
writer thread.

A batch is one transaction: records, ids, operation keys, digests and applied positions appear
together or not at all. Everything is plain blocking `sqlite3`: one hop per batch, not per
statement.

A row that is not what its hash says is never joined into. It is set aside within the same
transaction: taken out, its bucket's sum counted again from the rows, its key kept in `lacking`. The
operations of the batch are then joined into nothing, and when the row comes back from another peer
(`join`) the two are joined: the state is a join, so nothing depends on the detour.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from memsync import ids, limits
from memsync.adapters.sqlite import rows as row
from memsync.core.memories import is_kept_by_record
from memsync.core.records import Record, join, join_operation, received, row_hash, stamps_of
from memsync.core.stamps import wall_ms_of
from memsync.ids import Position, RecordKey
from memsync.ports import Change, LoggedFrame
from memsync.telemetry import logger
from memsync.wire import codec
from memsync.wire.exchange import KeptOperation, Row

_UPSERT = f"""
    INSERT INTO records ({row.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
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
# In halves, since SQLite's integers would overflow. 0.1 s for 100,000 rows.
COUNTED = """
    SELECT scope, sum(hash & 4294967295), sum((hash >> 32) & 4294967295) FROM records GROUP BY scope
"""
OPERATIONS_DROPPED_MAX = 1_000  # expired operation keys taken away with one batch, at the most


class _Known(msgspec.Struct, frozen=True):
    """What the store has of some keys: sound records with their stored hashes, and damaged rows."""

    records: dict[RecordKey, Record]
    hashes: dict[RecordKey, int]
    damaged: list[RecordKey]


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction does. `blocks` are the id blocks that it speaks of; `arrived` are rows
    that came from another peer."""

    known: _Known
    changes: list[Change]
    operations: list[KeptOperation]
    blocks: Iterable[int]
    positions: Iterable[Position]
    arrived: Iterable[RecordKey] = ()


class Writer:
    """The connection that writes. All methods block; only the writer thread calls them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        kept = connection.execute("SELECT bucket, sum FROM buckets")
        self._sums: dict[int, int] = {bucket: total & row.MASK for bucket, total in kept}
        self._lacking = {key for (key,) in connection.execute("SELECT key FROM lacking")}
        self.incarnation: int = self._meta("incarnation", secrets.randbits(62))
        self.highest_block: int = self._meta("highest_block", 0)
        self._met: list[RecordKey] = []
        self._suspects: set[int] = set()  # buckets whose sums were wrong when rows were set aside

    def apply(self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]) -> list[Change]:
        """Join frames and commit; see `ports.Store.apply`."""
        writes = [write for logged in frames for write in logged.frame.writes]
        keys = dict.fromkeys(op.record for write in writes for op in write.operations)
        known = self._read(list(keys))
        after: dict[RecordKey, Record] = dict(known.records)
        for write in writes:
            for operation in write.operations:
                key = operation.record
                after[key] = join_operation(after.get(key), operation, write.stamp)
        return self._commit(
            _Batch(
                known=known,
                changes=[Change(known.records.get(key), after[key]) for key in keys],
                operations=[row.kept_of(one) for one in writes if not is_kept_by_record(one)],
                blocks=[logged.frame.incarnation for logged in frames],
                positions=ends.values(),
            )
        )

    def join(
        self,
        rows: Sequence[Row],
        operations: Sequence[KeptOperation],
        positions: Sequence[Position],
        highest_block: int = 0,
    ) -> list[Change]:
        """Join another peer's rows and commit; see `ports.Store.join`."""
        records = [received(one) for one in rows]
        known = self._read(list(dict.fromkeys(record.key for record in records)))
        after: dict[RecordKey, Record] = dict(known.records)
        for record in records:
            found = after.get(record.key)
            after[record.key] = record if found is None else join(found, record)
        stamps = [stamp for record in records for stamp in stamps_of(record)]
        stamps += [kept.stamp for kept in operations]
        return self._commit(
            _Batch(
                known=known,
                changes=[Change(known.records.get(key), joined) for key, joined in after.items()],
                operations=list(operations),
                blocks=[highest_block, *(stamp.incarnation for stamp in stamps)],
                positions=positions,
                arrived=set(after) - set(known.damaged),
            )
        )

    def set_aside(self, keys: Sequence[RecordKey]) -> None:
        """Take out those that are damaged; see `ports.Store.set_aside`."""
        damaged = [c for c in self._chosen(row.COLUMNS, keys) if not row.is_sound(c)]
        if damaged:
            known = _Known(records={}, hashes={}, damaged=[columns[0] for columns in damaged])
            self._commit(_Batch(known=known, changes=[], operations=[], blocks=[], positions=[]))
            self._lack([key for columns in damaged for key in row.renamed(columns)])

    def take_out(self, keys: Sequence[RecordKey]) -> list[Record]:
        """Set rows aside whatever they are; see `ports.Store.take_out`."""
        known = self._read(keys)
        there = [*known.records, *known.damaged]
        if there:
            out = _Known(records={}, hashes={}, damaged=there)
            self._commit(_Batch(known=out, changes=[], operations=[], blocks=[], positions=[]))
        return list(known.records.values())

    def recount(self) -> list[int]:
        """Make the kept sums those of the rows; see `ports.Store.recount`."""
        rows = self._db.execute(f"{COUNTED} UNION ALL SELECT bucket, sum, NULL FROM buckets")
        wrong = wrong_sums(rows)
        with _transaction(self._db):
            self._put_sums(wrong)
        self._sums |= wrong
        suspects, self._suspects = self._suspects, set()
        return sorted(suspects | wrong.keys())

    @property
    def has_suspects(self) -> bool:
        """Whether `recount` has something to tell whatever the sums are now."""
        return bool(self._suspects)

    def _lack(self, keys: Sequence[RecordKey]) -> None:
        """Remember rows as lacking that are not there to be set aside."""
        if keys:
            with _transaction(self._db):
                self._db.executemany(
                    "INSERT OR IGNORE INTO lacking (key) VALUES (?)", [(key,) for key in keys]
                )
            self._lacking.update(keys)

    def settle(self, keys: Sequence[RecordKey]) -> None:
        """See `ports.Store.settle`."""
        with _transaction(self._db):
            self._db.executemany("DELETE FROM lacking WHERE key = ?", [(key,) for key in keys])
        self._lacking.difference_update(keys)

    def close(self) -> None:
        """Write everything out; nothing can be done after."""
        self._db.close()

    def take_met(self) -> list[RecordKey]:
        """The damaged rows that batches met since this was last asked."""
        met, self._met = self._met, []
        return met

    def _commit(self, batch: _Batch) -> list[Change]:
        with _transaction(self._db):
            sums = self._put_aside(batch.known.damaged)
            sums = self._put_records(batch.changes, batch.known.hashes, sums)
            highest_block = self._put_ids(batch)
            self._put_operations(batch.operations)
            self._db.executemany(
                _KEEP_POSITION, [(p.stripe, p.generation, p.sequence) for p in batch.positions]
            )
            found = self._lacking.intersection(batch.arrived)
            self._db.executemany("DELETE FROM lacking WHERE key = ?", [(key,) for key in found])
        self._sums |= sums
        self._lacking -= found
        self._lacking.update(filter(row.is_key, batch.known.damaged))
        self.highest_block = highest_block
        return batch.changes

    def _read(self, keys: Sequence[RecordKey]) -> _Known:
        known = _Known({}, {}, [])
        for key, hashed, state in self._chosen("key, hash, state", keys):
            record = row.sound_record(hashed, state)
            if record is None:
                known.damaged.append(key)
            else:
                known.records[key] = record
                known.hashes[key] = hashed & row.MASK
        self._met += known.damaged
        return known

    def _chosen(self, columns: str, keys: Sequence[RecordKey]) -> Iterable[tuple[Any, ...]]:
        for first in range(0, len(keys), 500):
            part = keys[first : first + 500]
            marks = ",".join("?" * len(part))
            yield from self._db.execute(
                f"SELECT {columns} FROM records WHERE key IN ({marks})", part
            )

    def _put_aside(self, damaged: Sequence[RecordKey]) -> dict[int, int]:
        """Take rows out; returns the sums of their buckets without them. The stored hash may be
        what is damaged, so it cannot just be subtracted. A bucket that does not come to its kept
        sum with them may have lost other rows, too: `recount` will tell it."""
        if not damaged:
            return {}
        scopes = [scope for (scope,) in self._chosen("scope", damaged)]
        buckets = {row.bucket_of(scope) for scope in scopes} - {row.NO_BUCKET}
        before = self._counted(buckets)
        self._suspects |= {b for b, total in before.items() if total != self._sums.get(b, 0)}
        self._db.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in damaged])
        self._db.executemany(
            "INSERT OR IGNORE INTO lacking (key) VALUES (?)",
            [(key,) for key in damaged if row.is_key(key)],
        )
        sums = self._counted(buckets)
        self._put_sums(sums)
        return sums

    def _counted(self, buckets: Iterable[int]) -> dict[int, int]:
        """The sums of these buckets, from the rows."""
        counted = counted_sums(self._db.execute(COUNTED))
        return {bucket: counted.get(bucket, 0) for bucket in buckets}

    def _put_records(
        self, changes: Sequence[Change], hashes: Mapping[RecordKey, int], counted: dict[int, int]
    ) -> dict[int, int]:
        """Write the rows that changed; returns the new sums of their buckets and of those that
        were `counted` before."""
        rows: list[row.Columns] = []
        touched = dict(counted)
        for change in changes:
            if change.after is change.before or change.after == change.before:
                continue
            state = codec.pack(change.after)
            scope = ids.scope_key(change.after.scope)
            bucket = ids.bucket_of(scope)
            new, old = row_hash(state), hashes.get(change.after.key, 0)
            before = touched.get(bucket, self._sums.get(bucket, 0))
            touched[bucket] = (before + new - old) & row.MASK
            rows.append(row.columns_of(change.after, scope, new, state))
        self._db.executemany(_UPSERT, rows)
        self._put_sums(touched)
        return touched

    def _put_sums(self, sums: Mapping[int, int]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO buckets (bucket, sum) VALUES (?, ?)",
            [(bucket, row.signed(total)) for bucket, total in sums.items()],
        )

    def _put_ids(self, batch: _Batch) -> int:
        """Make ids resolve; returns the highest block seen, which is kept too."""
        pairs = [
            (identifier, change.after.key)
            for change in batch.changes
            for identifier in change.after.ids
            if change.before is None or identifier not in change.before.ids
        ]
        blocks = [ids.block_of(identifier) for identifier, _ in pairs]
        highest = max([self.highest_block, *batch.blocks, *blocks])
        before = self._db.total_changes
        self._db.executemany(
            "INSERT INTO ids (id, key) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", pairs
        )
        if self._db.total_changes - before < len(pairs):
            for identifier, key in pairs:
                self._settle_id(identifier, key)
        if highest > self.highest_block:
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'highest_block'", (highest,))
        return highest

    def _settle_id(self, identifier: int, key: RecordKey) -> None:
        """One id stands for one record; should two claim it, the smaller key has it everywhere."""
        (holder,) = self._db.execute("SELECT key FROM ids WHERE id = ?", (identifier,)).fetchone()
        if holder == key:
            return
        logger().error("id.claimed_twice", id=identifier)
        self._db.execute("UPDATE ids SET key = min(key, ?) WHERE id = ?", (key, identifier))

    def _put_operations(self, operations: Sequence[KeptOperation]) -> None:
        if not operations:
            return
        rows = [
            (
                kept.scope,
                kept.key,
                kept.request_hash,
                row.ordered_bytes(kept.stamp),
                wall_ms_of(kept.stamp) + kept.kept_s * 1000,
                kept.kept_s,
                codec.pack(kept.outcome),
            )
            for kept in operations
        ]
        self._db.executemany(_KEEP_OPERATION, rows)
        # A day's grace covers clocks that differ; the time is the newest write's, not a clock's.
        newest_ms = max(wall_ms_of(kept.stamp) for kept in operations)
        self._db.execute(
            "DELETE FROM operations WHERE (scope, key) IN (SELECT scope, key FROM operations "
            "WHERE kept_until_ms < ? ORDER BY kept_until_ms LIMIT ?)",
            (newest_ms - limits.OPERATION_KEY_CALLERS_S * 1000, OPERATIONS_DROPPED_MAX),
        )

    def _meta(self, name: str, initial: int) -> int:
        self._db.execute("INSERT OR IGNORE INTO meta (name, value) VALUES (?, ?)", (name, initial))
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return int(found[0])


def counted_sums(rows: Iterable[tuple[bytes, int, int]]) -> dict[int, int]:
    """The sums of the buckets of what `COUNTED` gives."""
    sums: dict[int, int] = {}
    for scope, low, high in rows:
        if (bucket := row.bucket_of(scope)) == row.NO_BUCKET:
            continue  # a damaged row, which the scrub meets
        sums[bucket] = (sums.get(bucket, 0) + low + (high << 32)) & row.MASK
    return sums


def wrong_sums(rows: Iterable[tuple[Any, ...]]) -> dict[int, int]:
    """Of what `COUNTED` and the kept sums (bucket, sum, NULL) give together: the counted sums of
    buckets that are kept with another."""
    found = list(rows)
    counted = counted_sums(columns for columns in found if columns[2] is not None)
    kept = {bucket: total & row.MASK for bucket, total, high in found if high is None}
    return {
        bucket: counted.get(bucket, 0)
        for bucket in counted.keys() | kept.keys()
        if counted.get(bucket, 0) != kept.get(bucket, 0)
    }


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
