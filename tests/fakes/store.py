"""`ports.Store` in memory: the same joins as the real one, over plain dictionaries and slow
loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memsync.core.memories import is_visible
from memsync.core.records import Record, join_operation, value_of
from memsync.core.stamps import wall_ms_of
from memsync.ids import OperationKey, Position, RecordKey, ScopeKey, scope_key
from memsync.ports import Change, LoggedFrame, StoredOperation
from memsync.wire.operations import MemoryOrigin, Write
from memsync.wire.requests import ForgetFilters, parse_moment


class MemoryStore:
    """Nothing is durable; each call is atomic because nothing in it waits."""

    def __init__(self, incarnation: int = 1) -> None:
        self.incarnation = incarnation
        self._records: dict[RecordKey, Record] = {}
        self._positions: dict[tuple[int, int], int] = {}
        self._operations: dict[tuple[ScopeKey, OperationKey], StoredOperation] = {}

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Join into copies first: a broken invariant leaves everything as it was."""
        writes = [write for logged in frames for write in logged.frame.writes]
        after: dict[RecordKey, Record] = {}
        for write in writes:
            for operation in write.operations:
                key = operation.record
                known = after.get(key, self._records.get(key))
                after[key] = join_operation(known, operation, write.stamp)
        changes = [Change(self._records.get(key), record) for key, record in after.items()]
        self._records |= after
        for write in writes:
            self._keep_operation(write)
        for end in ends.values():
            place = (end.stripe, end.generation)
            self._positions[place] = max(self._positions.get(place, 0), end.sequence)
        return changes

    async def positions(self) -> dict[tuple[int, int], int]:
        """(stripe, generation) -> the last applied sequence."""
        return dict(self._positions)

    async def record(self, key: RecordKey) -> Record | None:
        """One record, visible or not."""
        return self._records.get(key)

    async def records(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Record]:
        """Those of `keys` that exist."""
        return {key: self._records[key] for key in keys if key in self._records}

    async def records_by_id(self, identifiers: Sequence[int]) -> dict[int, Record]:
        """Those ids that resolve; the smaller key has an id that two records claim."""
        found = {}
        for identifier in identifiers:
            holders = [r for r in self._records.values() if identifier in r.ids]
            if holders:
                found[identifier] = min(holders, key=lambda record: record.key)
        return found

    async def duplicate(self, scope: ScopeKey, text_hash: bytes, since_ms: int) -> Record | None:
        """The oldest memory with this text since then that is not forgotten or purged."""
        for record in await self.memories(scope):
            origin = _origin(record)
            if origin.text_hash == text_hash and origin.created_at_ms >= since_ms:
                return record
        return None

    async def page(
        self, scope: ScopeKey, *, now_ms: int, limit: int, offset: int
    ) -> tuple[list[Record], int]:
        """Visible memories, newest first, and how many there are in all."""
        visible = [r for r in await self.memories(scope) if is_visible(r, now_ms)][::-1]
        return visible[offset : offset + limit], len(visible)

    async def matching(
        self, scope: ScopeKey, filters: ForgetFilters, *, now_ms: int, limit: int
    ) -> list[Record]:
        """Visible memories that the filters mean, oldest first."""
        visible = [r for r in await self.memories(scope) if is_visible(r, now_ms)]
        return [record for record in visible if _is_meant(record, filters)][:limit]

    async def memories(self, scope: ScopeKey) -> list[Record]:
        """Every memory of a scope that is not forgotten or purged, in the order of its creation."""
        held = [
            record
            for record in self._records.values()
            if record.kind == "memory"
            and scope_key(record.scope) == scope
            and is_visible(record, 0)
        ]
        return sorted(held, key=_creation)

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
        return [r for r in self._records.values() if kind != "memory" and r.kind == kind]

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        """What is kept of the write with this key."""
        return self._operations.get((scope, key))

    def _keep_operation(self, write: Write) -> None:
        """The first write with a key counts, until it is no longer kept."""
        place = (scope_key(write.scope), write.key)
        known = self._operations.get(place)
        if known is None or _counts_before(write, known):
            self._operations[place] = StoredOperation(
                write.request_hash, write.stamp, write.kept_s, list(write.outcome)
            )
        newest_ms = wall_ms_of(write.stamp)
        for old, stored in list(self._operations.items()):
            if wall_ms_of(stored.stamp) + (stored.kept_s + 86_400) * 1000 < newest_ms:
                del self._operations[old]


def _counts_before(write: Write, known: StoredOperation) -> bool:
    came_ms, known_came_ms = wall_ms_of(write.stamp), wall_ms_of(known.stamp)
    if came_ms > known_came_ms + known.kept_s * 1000:
        return True
    return write.stamp < known.stamp and known_came_ms <= came_ms + write.kept_s * 1000


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
