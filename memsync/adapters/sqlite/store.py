"""`ports.Store` on SQLite: the writer thread, and readers that never wait for it (WAL)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiosqlite
import msgspec

from memsync import limits
from memsync.adapters.sqlite import schema
from memsync.adapters.sqlite.writer import Writer, stamp_parts
from memsync.core.records import Record, value_of
from memsync.errors import ConfigurationError, InvariantBroken, Unavailable
from memsync.ids import OperationKey, Position, RecordKey, ScopeKey
from memsync.ports import Change, LoggedFrame, StoredOperation
from memsync.wire import codec
from memsync.wire.operations import ItemOutcome, Stamp
from memsync.wire.requests import ForgetFilters, parse_moment

T = TypeVar("T")
FILE = "store.sqlite"
_VISIBLE = "kind = 'memory' AND scope = ? AND gone = 0 AND ifnull(expires_at_ms, ?) >= ?"


class SqliteStore:
    """See `ports.Store`. Made by `open_store`."""

    def __init__(
        self, writer: Writer, thread: ThreadPoolExecutor, readers: list[aiosqlite.Connection]
    ) -> None:
        self._writer = writer
        self._thread = thread
        self._readers = readers
        self._next_reader = 0
        self.incarnation = writer.incarnation

    @property
    def highest_block(self) -> int:
        """The highest id block in anything that was applied here."""
        return self._writer.highest_block

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Join a batch in one transaction on the writer thread."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._writer.apply, frames, ends)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"store: {error}") from error
        except (sqlite3.Error, msgspec.DecodeError, OverflowError) as error:
            raise InvariantBroken(f"store: {type(error).__name__}: {error}") from error

    async def positions(self) -> dict[tuple[int, int], int]:
        """(stripe, generation) -> the last applied sequence."""
        rows = await self._rows("SELECT stripe, generation, sequence FROM positions", ())
        return {(stripe, generation): sequence for stripe, generation, sequence in rows}

    async def digests(self) -> dict[int, int]:
        """Bucket -> the sum of its rows' hashes, modulo 2^64."""
        rows = await self._rows("SELECT bucket, sum FROM buckets", ())
        return {bucket: total & ((1 << 64) - 1) for bucket, total in rows}

    async def record(self, key: RecordKey) -> Record | None:
        """One record, visible or not."""
        rows = await self._rows("SELECT state FROM records WHERE key = ?", (key,))
        return codec.unpack(rows[0][0], Record) if rows else None

    async def records(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Record]:
        """Those of `keys` that exist."""
        marks = ",".join("?" * len(keys))
        found = await self._records(f"SELECT state FROM records WHERE key IN ({marks})", keys)
        return {record.key: record for record in found}

    async def records_by_id(self, identifiers: Sequence[int]) -> dict[int, Record]:
        """Those ids that resolve."""
        wanted = msgspec.json.encode(list(identifiers)).decode()
        rows = await self._rows(
            "SELECT ids.id, records.state FROM json_each(?) AS wanted "
            "JOIN ids ON ids.id = wanted.value JOIN records ON records.key = ids.key",
            (wanted,),
        )
        return {identifier: codec.unpack(state, Record) for identifier, state in rows}

    async def duplicate(self, scope: ScopeKey, text_hash: bytes, since_ms: int) -> Record | None:
        """The oldest memory with this text since then that is not gone."""
        found = await self._records(
            "SELECT state FROM records WHERE scope = ? AND text_hash = ? AND gone = 0 "
            "AND created_at_ms >= ? ORDER BY stamp_time, place LIMIT 1",
            (scope, text_hash, since_ms),
        )
        return found[0] if found else None

    async def page(
        self, scope: ScopeKey, *, now_ms: int, limit: int, offset: int
    ) -> tuple[list[Record], int]:
        """Visible memories, newest first, with their number, from one snapshot."""
        rows = await self._rows(
            f"SELECT (SELECT count(*) FROM records WHERE {_VISIBLE}), state FROM records "
            f"WHERE {_VISIBLE} ORDER BY created_at_ms DESC, stamp_time DESC, place DESC "
            "LIMIT ? OFFSET ?",
            (scope, now_ms + 1, now_ms + 1) * 2 + (limit, offset),
        )
        if rows:
            return [codec.unpack(state, Record) for _, state in rows], rows[0][0]
        counted = await self._rows(
            f"SELECT count(*) FROM records WHERE {_VISIBLE}", (scope, now_ms + 1, now_ms + 1)
        )
        return [], counted[0][0]

    async def matching(
        self, scope: ScopeKey, filters: ForgetFilters, *, now_ms: int, limit: int
    ) -> list[Record]:
        """Visible memories that the filters mean, oldest first."""
        after = None if filters.after is None else parse_moment(filters.after)
        before = None if filters.before is None else parse_moment(filters.before)
        found = await self._records(
            f"SELECT state FROM records WHERE {_VISIBLE} "
            "AND created_at_ms >= ifnull(?, created_at_ms) "
            "AND created_at_ms <= ifnull(?, created_at_ms) "
            "ORDER BY created_at_ms, stamp_time, place",
            (scope, now_ms + 1, now_ms + 1, after, before),
        )
        return [record for record in found if _is_meant(record, filters)][:limit]

    async def memories(self, scope: ScopeKey) -> list[Record]:
        """Every memory of a scope that is not gone, in the order of creation. They may be many, so
        they are decoded beside the event loop."""
        rows = await self._rows(
            "SELECT state FROM records WHERE kind = 'memory' AND scope = ? AND gone = 0 "
            "ORDER BY created_at_ms, stamp_time, place",
            (scope,),
        )
        return await asyncio.to_thread(_decoded, rows)

    async def newest_scopes(self, *, scopes_max: int, memories_max: int) -> list[ScopeKey]:
        """The scopes written to last, as far as the bounds allow."""
        rows = await self._rows(
            "SELECT scope, sum(count(*)) OVER (ORDER BY max(created_at_ms) DESC, scope) AS so_far "
            "FROM records WHERE kind = 'memory' AND gone = 0 GROUP BY scope "
            "ORDER BY max(created_at_ms) DESC, scope LIMIT ?",
            (scopes_max,),
        )
        return [ScopeKey(scope) for scope, so_far in rows if so_far <= memories_max]

    async def of_kind(self, kind: str) -> list[Record]:
        """Every record of a small kind."""
        return await self._records(
            "SELECT state FROM records WHERE kind <> 'memory' AND kind = ?", (kind,)
        )

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        """What is kept of a write."""
        rows = await self._rows(
            "SELECT request_hash, stamp, kept_s, outcome FROM operations "
            "WHERE scope = ? AND key = ?",
            (scope, key),
        )
        if not rows:
            return None
        request_hash, ordered, kept_s, outcome = rows[0]
        return StoredOperation(
            request_hash=request_hash,
            stamp=Stamp(*stamp_parts(ordered)),
            kept_s=kept_s,
            outcome=codec.unpack(outcome, list[ItemOutcome]),
        )

    async def _records(self, query: str, parameters: Sequence[Any]) -> list[Record]:
        return _decoded(await self._rows(query, parameters))

    async def _rows(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One statement, one snapshot, one hop; the readers take turns."""
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        reader = self._readers[self._next_reader]
        try:
            return list(await reader.execute_fetchall(query, parameters))  # type: ignore[arg-type]
        except sqlite3.Error as error:
            raise Unavailable(f"store: {error}") from error


@asynccontextmanager
async def open_store(folder: Path) -> AsyncIterator[SqliteStore]:
    """Open (or make) the store in `folder`; closed at the end, with everything written out."""
    path = folder / FILE
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
    readers: list[aiosqlite.Connection] = []
    connection: sqlite3.Connection | None = None
    try:
        connection = await loop.run_in_executor(thread, _open_writing, path)
        writer = await loop.run_in_executor(thread, Writer, connection)
        for _ in range(limits.STORE_READERS):
            reader = await aiosqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
            readers.append(reader)
            await reader.execute("PRAGMA query_only = 1")
        yield SqliteStore(writer, thread, readers)
    finally:
        for reader in readers:
            await reader.close()
        if connection is not None:
            await loop.run_in_executor(thread, connection.close)
        thread.shutdown()


def _open_writing(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigurationError(
            f"data_dir: {path.parent} cannot be a folder ({error.strerror})"
        ) from error
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    try:
        connection.executescript(schema.SETTINGS)
        schema.migrate(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise Unavailable(f"store {path}: {error}") from error
    return connection


def _decoded(rows: Sequence[tuple[Any, ...]]) -> list[Record]:
    return [codec.unpack(row[0], Record) for row in rows]


def _is_meant(record: Record, filters: ForgetFilters) -> bool:
    """The filters that no column answers. `tags`: all of them."""
    if filters.source is not None and value_of(record, "source") != filters.source:
        return False
    if filters.event_type is not None and value_of(record, "event_type") != filters.event_type:
        return False
    if filters.tier is not None and value_of(record, "tier", "hot") != filters.tier:
        return False
    return set(filters.tags or ()) <= set(value_of(record, "tags", []))
