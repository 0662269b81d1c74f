"""`ports.Store` in memory: the same joins and the same digests as the real one, over plain
dictionaries and slow loops.

Records are immutable, so a copy of the store is a copy of its dictionaries. What was committed
since the last `sync` is kept as a list of what was there before: `crash` takes it back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from memsync.core.memories import is_kept_by_record, is_visible
from memsync.core.recall.vectors import lacks_vector
from memsync.core.records import (
    Record,
    join,
    join_operation,
    received,
    row_hash,
    stamps_of,
    value_of,
)
from memsync.core.stamps import wall_ms_of
from memsync.errors import Unavailable
from memsync.ids import (
    OperationKey,
    Position,
    RecordKey,
    Scope,
    ScopeKey,
    block_of,
    bucket_of,
    scope_key,
)
from memsync.ports import Change, LoggedFrame, Scrubbed, StoredOperation
from memsync.wire import codec
from memsync.wire.exchange import KeptOperation, Row
from memsync.wire.operations import MemoryOrigin
from memsync.wire.requests import ForgetFilters, parse_moment

_Place = tuple[ScopeKey, OperationKey]


class MemoryStore:
    """Each call is atomic because nothing in it waits. `on_damage` as the port has it."""

    def __init__(self, incarnation: int = 1) -> None:
        self.incarnation = incarnation
        self.highest_block = 0
        self.on_damage: Callable[[Sequence[RecordKey]], None] | None = None
        self.fault: Unavailable | None = None  # raised by whatever writes
        self._records: dict[RecordKey, Record] = {}
        self._positions: dict[tuple[int, int], int] = {}
        self._operations: dict[_Place, StoredOperation] = {}
        self._lacking: set[RecordKey] = set()
        self._damaged: set[RecordKey] = set()
        self._lost: dict[int, int] = {}  # bucket -> what the kept sums have too much
        self._holders: dict[int, RecordKey] = {}
        self._states: dict[RecordKey, tuple[Record, bytes, int]] = {}  # packed and hashed once
        self._scope_keys: dict[Scope, ScopeKey] = {}
        self._sweep_at_ms = 0  # no operation key expires before
        self._undo: list[Callable[[], object]] = []

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Join into copies first: a broken invariant leaves everything as it was."""
        self._check_fault()
        writes = [write for logged in frames for write in logged.frame.writes]
        after: dict[RecordKey, Record] = {}
        met: set[RecordKey] = set()
        for write in writes:
            for operation in write.operations:
                key = operation.record
                known = after[key] if key in after else self._known(key, met)
                after[key] = join_operation(known, operation, write.stamp)
        kept = [
            KeptOperation(
                self._scope_key(write.scope),
                write.key,
                write.request_hash,
                write.stamp,
                write.kept_s,
                list(write.outcome),
            )
            for write in writes
            if not is_kept_by_record(write)
        ]
        blocks = [logged.frame.incarnation for logged in frames]
        return self._commit(after, met, kept, ends.values(), blocks)

    async def join(
        self,
        rows: Sequence[Row],
        operations: Sequence[KeptOperation],
        positions: Sequence[Position],
        highest_block: int = 0,
    ) -> list[Change]:
        """Join rows as the real store does."""
        self._check_fault()
        after: dict[RecordKey, Record] = {}
        met: set[RecordKey] = set()
        stamps = [kept.stamp for kept in operations]
        for row in rows:
            record = received(row)
            known = after[row.key] if row.key in after else self._known(row.key, met)
            after[row.key] = record if known is None else join(known, record)
            stamps += stamps_of(record)
        blocks = [highest_block, *(stamp.incarnation for stamp in stamps)]
        return self._commit(after, met, operations, positions, blocks, arrived=set(after) - met)

    def _check_fault(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _known(self, key: RecordKey, met: set[RecordKey]) -> Record | None:
        """The record to join into; a damaged one is `met`."""
        if key in self._damaged:
            met.add(key)
            return None
        return self._records.get(key)

    def _commit(
        self,
        after: Mapping[RecordKey, Record],
        met: set[RecordKey],
        operations: Iterable[KeptOperation],
        positions: Iterable[Position],
        blocks: Sequence[int],
        arrived: Iterable[RecordKey] = (),
    ) -> list[Change]:
        self._put_aside(met)
        changes = [Change(self._records.get(key), record) for key, record in after.items()]
        for change in changes:
            if change.after is not change.before:
                self._set(self._records, change.after.key, change.after)
        fresh = [
            (identifier, change.after.key)
            for change in changes
            for identifier in change.after.ids
            if change.before is None or identifier not in change.before.ids
        ]
        for identifier, key in fresh:
            self._set(self._holders, identifier, min(key, self._holders.get(identifier, key)))
        highest = max([self.highest_block, *blocks, *(block_of(i) for i, _ in fresh)])
        if highest != self.highest_block:
            self._undo.append(partial(setattr, self, "highest_block", self.highest_block))
            self.highest_block = highest
        for kept in operations:
            self._keep_operation(kept)
        for end in positions:
            place = (end.stripe, end.generation)
            known = self._positions.get(place)
            if known is None or known < end.sequence:
                self._set(self._positions, place, end.sequence)
        for key in self._lacking.intersection(arrived):
            self._lacking.discard(key)
            self._undo.append(partial(self._lacking.add, key))
        self._report(met)
        return changes

    def _set(self, kept: dict[Any, Any], key: Any, value: Any) -> None:
        if key in kept:
            self._undo.append(partial(kept.__setitem__, key, kept[key]))
        else:
            self._undo.append(partial(kept.pop, key, None))
        kept[key] = value

    def _put_aside(self, keys: Iterable[RecordKey]) -> None:
        for key in keys:
            record = self._records.pop(key)
            self._damaged.discard(key)
            self._lacking.add(key)
            self._undo.append(partial(self._put_back, key, record))

    def _put_back(self, key: RecordKey, record: Record) -> None:
        self._records[key] = record
        self._damaged.add(key)
        self._lacking.discard(key)

    async def positions(self) -> dict[tuple[int, int], int]:
        """(stripe, generation) -> the last applied sequence."""
        return dict(self._positions)

    async def sync(self) -> dict[tuple[int, int], int]:
        """From now on `crash` leaves what is here."""
        self._check_fault()
        self._undo.clear()
        return dict(self._positions)

    def crash(self, *, lose_unsynced: bool) -> None:
        """End as a process ends: with a power cut, what was committed since the last sync is
        lost."""
        self.on_damage = None
        if lose_unsynced:
            for take_back in reversed(self._undo):
                take_back()
        self._undo.clear()
        self._sweep_at_ms = min(map(_dropped_ms, self._operations.values()), default=0)

    def copy(self) -> MemoryStore:
        """A copy of the files, with the incarnation that is in them."""
        made = MemoryStore(self.incarnation)
        made.restore(self)
        return made

    def restore(self, other: MemoryStore) -> None:
        """Put the files of `other` in the place of these, as somebody does who rolls back."""
        self.incarnation = other.incarnation
        self.highest_block = other.highest_block
        for name in ("records", "positions", "operations", "lacking", "damaged", "lost"):
            setattr(self, f"_{name}", getattr(other, f"_{name}").copy())
        self._holders = dict(other._holders)
        self._sweep_at_ms = other._sweep_at_ms
        self._undo.clear()

    def damage(self, key: RecordKey) -> None:
        """Change the bytes of a row behind the store's back."""
        assert key in self._records
        self._damaged.add(key)

    def peek(self, key: RecordKey) -> Record | None:
        """What a row holds unless it is damaged, without anybody meeting it."""
        return None if key in self._damaged else self._records.get(key)

    def lose(self, key: RecordKey) -> None:
        """Delete a row behind the store's back: its bucket's kept sum still has it."""
        _, hashed = self._packed(key)
        bucket = self._bucket(self._records.pop(key))
        self._damaged.discard(key)
        self._lost[bucket] = (self._lost.get(bucket, 0) + hashed) % (1 << 64)

    def put_in(self, record: Record) -> None:
        """Write a sound row behind the store's back, perhaps over another."""
        if record.key in self._records:
            self.lose(record.key)
        self._records[record.key] = record
        _, hashed = self._packed(record.key)
        bucket = self._bucket(record)
        self._lost[bucket] = (self._lost.get(bucket, 0) - hashed) % (1 << 64)

    async def rows_after(self, after: RecordKey, *, bytes_max: int) -> tuple[list[Row], bool]:
        """Rows above a key."""
        rows: list[Row] = []
        size = 0
        for key in sorted(key for key in self._records if key > after):
            if self._is_damaged(key):
                continue
            state, hashed = self._packed(key)
            size += len(state)
            if rows and size > bytes_max:
                return rows, False
            rows.append(Row(key, hashed, state))
        return rows, True

    async def rows(self, keys: Sequence[RecordKey]) -> list[Row]:
        """Those of `keys` that exist and are not damaged."""
        found = [key for key in keys if key in self._records and not self._is_damaged(key)]
        packed = {key: self._packed(key) for key in found}
        return [Row(key, hashed, state) for key, (state, hashed) in packed.items()]

    async def operations_after(
        self, scope: ScopeKey, key: OperationKey, *, limit: int
    ) -> tuple[list[KeptOperation], bool]:
        """Operation keys above (scope, key)."""
        places = sorted(place for place in self._operations if place > (scope, key))
        found = [
            KeptOperation(*place, kept.request_hash, kept.stamp, kept.kept_s, kept.outcome)
            for place in places[:limit]
            for kept in [self._operations[place]]
        ]
        return found, len(places) <= limit

    async def digests(self) -> dict[int, int]:
        """Bucket -> the sum of its rows' hashes, modulo 2^64."""
        sums = dict(self._lost)
        for key, record in self._records.items():
            bucket = self._bucket(record)
            sums[bucket] = (sums.get(bucket, 0) + self._packed(key)[1]) % (1 << 64)
        return sums

    async def hashes(self, buckets: Sequence[int]) -> dict[RecordKey, int]:
        """Every row of these buckets with its hash."""
        return {
            key: self._packed(key)[1]
            for key, record in self._records.items()
            if self._bucket(record) in buckets
        }

    async def scrub(self, *, rows_max: int) -> AsyncIterator[Scrubbed]:
        """The damaged ones among the next rows, in the order of their keys."""
        after = RecordKey(b"")
        while keys := sorted(key for key in self._records if key > after)[:rows_max]:
            damaged = [key for key in keys if key in self._damaged]
            yield Scrubbed(rows=len(keys), damaged=damaged, worked_s=0.0)
            after = keys[-1]

    async def set_aside(self, keys: Sequence[RecordKey]) -> None:
        """Take out those that are damaged."""
        self._check_fault()
        self._put_aside(sorted(self._damaged.intersection(keys)))

    async def take_out(self, keys: Sequence[RecordKey]) -> list[Record]:
        """Take out those that are there, damaged or not."""
        there = sorted(self._records.keys() & set(keys))
        taken = [self._records[key] for key in there if key not in self._damaged]
        self._put_aside(there)
        return taken

    async def lacking(self) -> list[RecordKey]:
        """Rows that were set aside and have not come back."""
        return sorted(self._lacking)

    async def settle(self, keys: Sequence[RecordKey]) -> None:
        """These rows are not lacking."""
        self._check_fault()
        for key in self._lacking.intersection(keys):
            self._lacking.discard(key)
            self._undo.append(partial(self._lacking.add, key))

    async def recount(self) -> list[int]:
        """The buckets that lost rows."""
        self._check_fault()
        wrong = sorted(bucket for bucket, total in self._lost.items() if total)
        self._lost = {}
        return wrong

    async def record(self, key: RecordKey) -> Record | None:
        """One record, visible or not."""
        return None if self._is_damaged(key) else self._records.get(key)

    async def records(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Record]:
        """Those of `keys` that exist."""
        return {
            key: self._records[key]
            for key in keys
            if key in self._records and not self._is_damaged(key)
        }

    async def records_by_id(self, identifiers: Sequence[int]) -> dict[int, Record]:
        """Those ids that resolve; the smaller key has an id that two records claim."""
        holders = {i: self._holders[i] for i in identifiers if i in self._holders}
        found = await self.records(list(holders.values()))
        return {i: found[key] for i, key in holders.items() if key in found}

    async def duplicates(
        self, texts: Sequence[tuple[ScopeKey, bytes]], since_ms: int
    ) -> dict[tuple[ScopeKey, bytes], Record]:
        """The oldest memory with each text since then that is not forgotten or purged."""
        held: dict[tuple[ScopeKey, bytes], list[Record]] = {text: [] for text in texts}
        for scope in {scope for scope, _ in texts}:
            for record in self._memories(scope):
                text = (scope, _origin(record).text_hash)
                if text in held and _origin(record).created_at_ms >= since_ms:
                    held[text].append(record)
        return {text: min(alike, key=_creation) for text, alike in held.items() if alike}

    async def page(
        self, scope: ScopeKey, *, now_ms: int, limit: int, offset: int
    ) -> tuple[list[Record], int]:
        """Visible memories, newest first, and how many there are in all."""
        visible = [r for r in self._in_order(scope) if is_visible(r, now_ms)][::-1]
        return visible[offset : offset + limit], len(visible)

    async def matching(
        self, scope: ScopeKey, filters: ForgetFilters, *, now_ms: int, limit: int
    ) -> list[Record]:
        """Visible memories that the filters mean, oldest first."""
        visible = [r for r in self._in_order(scope) if is_visible(r, now_ms)]
        return [record for record in visible if _is_meant(record, filters)][:limit]

    async def memories(self, scope: ScopeKey) -> AsyncIterator[list[Record]]:
        """Every memory of a scope that is not forgotten or purged, in the order of their creation,
        three at a time."""
        found = self._in_order(scope)
        for first in range(0, len(found), 3):
            yield found[first : first + 3]

    def _in_order(self, scope: ScopeKey) -> list[Record]:
        return sorted(self._memories(scope), key=_creation)

    def _memories(self, scope: ScopeKey) -> list[Record]:
        return [
            record
            for record in self._records.values()
            if record.kind == "memory"
            and self._scope_key(record.scope) == scope
            and is_visible(record, 0)
            and not self._is_damaged(record.key)
        ]

    async def vectorless(
        self, after: RecordKey, *, model: str, dimensions: int, rows_max: int
    ) -> tuple[list[RecordKey], RecordKey | None]:
        """By asking each record."""
        keys = sorted(key for key in self._records if key > after)[:rows_max]
        lacking = [
            key
            for key in keys
            if key not in self._damaged and lacks_vector(self._records[key], model, dimensions)
        ]
        return lacking, keys[-1] if len(keys) == rows_max else None

    async def newest_scopes(self, *, scopes_max: int, memories_max: int) -> list[ScopeKey]:
        """By the newest memory of each scope."""
        found: dict[ScopeKey, list[int]] = {}
        for record in self._records.values():
            if record.kind == "memory" and record.origin is not None and is_visible(record, 0):
                found.setdefault(scope_key(record.scope), []).append(record.origin.created_at_ms)
        chosen: list[ScopeKey] = []
        total = 0
        for scope in sorted(found, key=lambda s: (-max(found[s]), s))[:scopes_max]:
            total += len(found[scope])
            if total <= memories_max:
                chosen.append(scope)
        return chosen

    async def of_kind(self, kind: str) -> list[Record]:
        """Every record of a small kind."""
        return [
            record
            for record in self._records.values()
            if kind != "memory" and record.kind == kind and not self._is_damaged(record.key)
        ]

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        """What is kept of the write with this key."""
        return self._operations.get((scope, key))

    def _keep_operation(self, kept: KeptOperation) -> None:
        """The first write with a key counts, until it is no longer kept."""
        place = (kept.scope, kept.key)
        known = self._operations.get(place)
        if known is None or _counts_before(kept, known):
            stored = StoredOperation(kept.request_hash, kept.stamp, kept.kept_s, kept.outcome)
            self._set(self._operations, place, stored)
            self._sweep_at_ms = min(self._sweep_at_ms or 1 << 62, _dropped_ms(stored))
        newest_ms = wall_ms_of(kept.stamp)
        if newest_ms <= self._sweep_at_ms:
            return
        for old, stored in list(self._operations.items()):
            if _dropped_ms(stored) < newest_ms:
                self._undo.append(partial(self._operations.__setitem__, old, stored))
                del self._operations[old]
        self._sweep_at_ms = min(map(_dropped_ms, self._operations.values()), default=0)

    def _is_damaged(self, key: RecordKey) -> bool:
        if key not in self._damaged:
            return False
        self._report([key])
        return True

    def _report(self, damaged: Iterable[RecordKey]) -> None:
        met = sorted(damaged)
        if met and self.on_damage is not None:
            self.on_damage(met)

    def _packed(self, key: RecordKey) -> tuple[bytes, int]:
        """The state of a record and its hash."""
        record = self._records[key]
        known = self._states.get(key)
        if known is None or known[0] is not record:
            state = codec.pack(record)
            known = self._states[key] = (record, state, row_hash(state))
        return known[1], known[2]

    def _bucket(self, record: Record) -> int:
        return bucket_of(self._scope_key(record.scope))

    def _scope_key(self, scope: Scope) -> ScopeKey:
        known = self._scope_keys.get(scope)
        if known is None:
            known = self._scope_keys[scope] = scope_key(scope)
        return known


def _dropped_ms(stored: StoredOperation) -> int:
    """When an operation key is no longer there: a day after it is no longer kept."""
    return wall_ms_of(stored.stamp) + (stored.kept_s + 86_400) * 1000


def _counts_before(kept: KeptOperation, known: StoredOperation) -> bool:
    came_ms, known_came_ms = wall_ms_of(kept.stamp), wall_ms_of(known.stamp)
    if came_ms > known_came_ms + known.kept_s * 1000:
        return True
    return kept.stamp < known.stamp and known_came_ms <= came_ms + kept.kept_s * 1000


def _origin(record: Record) -> MemoryOrigin:
    assert isinstance(record.origin, MemoryOrigin)
    return record.origin


def _creation(record: Record) -> tuple[int, int, int]:
    assert record.origin_stamp is not None
    return _origin(record).created_at_ms, record.origin_stamp.time, _origin(record).place


def _is_meant(record: Record, filters: ForgetFilters) -> bool:
    created_at_ms = _origin(record).created_at_ms
    return (
        (filters.source is None or value_of(record, "source") == filters.source)
        and (filters.event_type is None or value_of(record, "event_type") == filters.event_type)
        and (filters.tier is None or value_of(record, "tier", "hot") == filters.tier)
        and set(filters.tags or ()) <= set(value_of(record, "tags"))
        and (filters.after is None or created_at_ms >= parse_moment(filters.after))
        and (filters.before is None or created_at_ms <= parse_moment(filters.before))
    )
