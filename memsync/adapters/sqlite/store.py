"""`ports.Store` on SQLite: the writer thread, and readers that never wait for it (WAL)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import aiosqlite
import msgspec

from memsync import limits, tasks
from memsync.adapters.sqlite import files, metrics, scrubbing
from memsync.adapters.sqlite import rows as row
from memsync.adapters.sqlite.lookups import Columns, Found, Gathered, LookUps, looking_up
from memsync.adapters.sqlite.writer import COUNTED, Writer, wrong_sums
from memsync.core.recall.vectors import REGISTER_MARK, lacks_vector, marks_of
from memsync.core.records import Record, value_of
from memsync.errors import InvariantBroken, StoreDamaged, Unavailable
from memsync.ids import OperationKey, Position, RecordKey, ScopeKey
from memsync.ports import Change, LoggedFrame, Scrubbed, StoredOperation
from memsync.telemetry import logger
from memsync.wire.exchange import KeptOperation, Row
from memsync.wire.requests import ForgetFilters, parse_moment

P = ParamSpec("P")
T = TypeVar("T")
KEYS_AT_ONCE = 1_024  # of one page of rows, at the most
LAST_ROWS = 4_096  # the newest, which tell what is in use; about 20 ms
TAKEN_AWAY = "its file was taken away"
_ROW = "key, hash, state"  # what `_sound` takes
_VISIBLE = "kind = 'memory' AND scope = ? AND gone = 0 AND ifnull(expires_at_ms, ?) >= ?"


class SqliteStore:
    """See `ports.Store`. Made by `open_store`."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        thread: ThreadPoolExecutor,
        readers: list[aiosqlite.Connection],
        looking: LookUps,
    ) -> None:
        self._path = path
        self._opened = path.stat()
        self._unsynced: str | None = None  # why nothing can be synced any more
        self._damage: asyncio.Future[StoreDamaged] = asyncio.get_running_loop().create_future()
        self._writer = writer
        self._thread = thread
        self._readers = readers
        self._next_reader = 0
        self._looking = looking
        self._scrubbing = scrubbing.Scrubbing(path)
        self.incarnation = writer.incarnation
        self.on_damage: Callable[[Sequence[RecordKey]], None] | None = None

    @property
    def highest_block(self) -> int:
        """The highest id block in anything that was applied here."""
        return self._writer.highest_block

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Join a batch in one transaction on the writer thread."""
        return await self._write(self._writer.apply, frames, ends)

    async def join(
        self,
        rows: Sequence[Row],
        operations: Sequence[KeptOperation],
        positions: Sequence[Position],
        highest_block: int = 0,
    ) -> list[Change]:
        """Join another peer's rows in one transaction on the writer thread."""
        return await self._write(self._writer.join, rows, operations, positions, highest_block)

    async def positions(self) -> dict[tuple[int, int], int]:
        """(stripe, generation) -> the last applied sequence."""
        rows = await self._rows("SELECT stripe, generation, sequence FROM positions", ())
        return {(stripe, generation): sequence for stripe, generation, sequence in rows}

    async def sync(self) -> dict[tuple[int, int], int]:
        """Sync the WAL file, beside other commits. The first failure is final: what the system
        dropped then, later calls would not notice."""
        positions = await self.positions()
        if not files.is_there(self._path, self._opened):
            raise self._note_damage(TAKEN_AWAY)
        try:
            if self._unsynced is None:
                await asyncio.to_thread(files.sync, self._path)
        except OSError as error:
            self._unsynced = error.strerror
        if self._unsynced is not None:
            raise Unavailable(f"store: not synced ({self._unsynced})")
        await self._beside(files.checkpoint, self._path)
        return positions

    async def rows_after(self, after: RecordKey, *, bytes_max: int) -> tuple[list[Row], bool]:
        """Rows above a key. The lengths come first, so that no more is read than is given."""
        while True:
            sizes = await self._rows(
                "SELECT key, length(state) FROM records WHERE key > ? ORDER BY key LIMIT ?",
                (after, KEYS_AT_ONCE),
            )
            if not sizes:
                return [], True
            taken = _within(sizes, bytes_max)
            last = RecordKey(sizes[taken - 1][0])
            found = await self._sound(
                f"SELECT {_ROW} FROM records WHERE key > ? AND key <= ? ORDER BY key",
                (after, last),
            )
            is_end = taken == len(sizes) < KEYS_AT_ONCE
            if found or is_end:
                return found, is_end
            after = last

    async def rows(self, keys: Sequence[RecordKey]) -> list[Row]:
        """Those of `keys` that exist and are sound."""
        marks = ",".join("?" * len(keys))
        return await self._sound(f"SELECT {_ROW} FROM records WHERE key IN ({marks})", keys)

    async def operations_after(
        self, scope: ScopeKey, key: OperationKey, *, limit: int
    ) -> tuple[list[KeptOperation], bool]:
        """Operation keys above (scope, key)."""
        found = await self._rows(
            f"SELECT {row.KEPT_COLUMNS} FROM operations WHERE (scope, key) > (?, ?) "
            "ORDER BY scope, key LIMIT ?",
            (scope, key, limit + 1),
        )
        return self._kept(found[:limit]), len(found) <= limit

    async def digests(self) -> dict[int, int]:
        """Bucket -> the sum of its rows' hashes, modulo 2^64."""
        rows = await self._rows("SELECT bucket, sum FROM buckets", ())
        return {bucket: total & row.MASK for bucket, total in rows}

    async def hashes(self, buckets: Sequence[int]) -> dict[RecordKey, int]:
        """Every row of these buckets with its stored hash."""
        found = await self._rows("SELECT scope, key, hash FROM records", ())
        return await asyncio.to_thread(row.hashes_in, found, set(buckets))

    async def scrub(self, *, rows_max: int) -> AsyncIterator[Scrubbed]:
        """Compare all rows with what was written, beside the event loop; then check the pages and
        the indexes of the file, if that is due."""
        below = scrubbing.ABOVE_ALL
        while found := await self._beside(self._scrubbing.part, below, rows_max):
            below, part = found
            yield part
        wrong = await self._beside(self._scrubbing.check)
        if wrong is not None:
            raise self._note_damage(wrong)

    async def watch(self) -> None:
        """Raise `StoreDamaged` once the file is found damaged, by whichever call."""
        raise await asyncio.shield(self._damage)

    async def set_aside(self, keys: Sequence[RecordKey]) -> None:
        """Take damaged rows out, on the writer thread, where each is looked at once more."""
        await self._write(self._writer.set_aside, keys)

    async def take_out(self, keys: Sequence[RecordKey]) -> list[Record]:
        """Set rows aside whatever they are, on the writer thread."""
        return await self._write(self._writer.take_out, keys)

    async def lacking(self) -> list[RecordKey]:
        """Rows that were set aside and have not come back."""
        return [key for (key,) in await self._rows("SELECT key FROM lacking ORDER BY key", ())]

    async def recount(self) -> list[int]:
        """Add the rows' hashes up again. Only where a sum is wrong the writer does it too."""
        rows = await self._rows(f"{COUNTED} UNION ALL SELECT bucket, sum, NULL FROM buckets", ())
        if not wrong_sums(rows) and not self._writer.has_suspects:
            return []
        return await self._write(self._writer.recount)

    async def settle(self, keys: Sequence[RecordKey]) -> None:
        """These rows are not lacking."""
        await self._write(self._writer.settle, keys)

    async def record(self, key: RecordKey) -> Record | None:
        """One record, visible or not."""
        rows = await self._looked_up(self._looking.records, [(key,)])
        found, damaged = _decoded(rows.get((key,), ()))
        self._report(damaged)
        return found[0] if found else None

    async def records(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Record]:
        """Those of `keys` that exist."""
        marks = ",".join("?" * len(keys))
        found = await self._records(f"SELECT {_ROW} FROM records WHERE key IN ({marks})", keys)
        return {record.key: record for record in found}

    async def records_by_id(self, identifiers: Sequence[int]) -> dict[int, Record]:
        """Those ids that resolve."""
        wanted = msgspec.json.encode(list(identifiers)).decode()
        rows = await self._rows(
            "SELECT ids.id, records.key, hash, state FROM json_each(?) AS wanted "
            "JOIN ids ON ids.id = wanted.value JOIN records ON records.key = ids.key",
            (wanted,),
        )
        found, damaged = _decoded(columns[1:] for columns in rows)
        self._report(damaged)
        by_key = {record.key: record for record in found}
        return {identifier: by_key[key] for identifier, key, _, _ in rows if key in by_key}

    async def duplicates(
        self, texts: Sequence[tuple[ScopeKey, bytes]], since_ms: int
    ) -> dict[tuple[ScopeKey, bytes], Record]:
        """The oldest memory with each of these texts since then that is not gone."""
        wanted = [(*text, since_ms) for text in texts]
        rows = await self._looked_up(self._looking.duplicates, wanted)
        oldest: dict[tuple[ScopeKey, bytes], Record] = {}
        for text in texts:
            alike = sorted(rows.get((*text, since_ms), ()), key=lambda columns: columns[3:])
            found, damaged = _decoded(columns[:3] for columns in alike)
            self._report(damaged)
            if found:
                oldest[text] = found[0]
        return oldest

    async def page(
        self, scope: ScopeKey, *, now_ms: int, limit: int, offset: int
    ) -> tuple[list[Record], int]:
        """Visible memories, newest first, with their number, from one snapshot."""
        rows = await self._rows(
            f"SELECT (SELECT count(*) FROM records WHERE {_VISIBLE}), {_ROW} FROM records "
            f"WHERE {_VISIBLE} ORDER BY created_at_ms DESC, stamp_time DESC, place DESC "
            "LIMIT ? OFFSET ?",
            (scope, now_ms + 1, now_ms + 1) * 2 + (limit, offset),
        )
        if rows:
            found, damaged = _decoded(columns[1:] for columns in rows)
            self._report(damaged)
            return found, rows[0][0]
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
            f"SELECT {_ROW} FROM records WHERE {_VISIBLE} "
            "AND created_at_ms >= ifnull(?, created_at_ms) "
            "AND created_at_ms <= ifnull(?, created_at_ms) "
            "ORDER BY created_at_ms, stamp_time, place",
            (scope, now_ms + 1, now_ms + 1, after, before),
        )
        return [record for record in found if _is_meant(record, filters)][:limit]

    async def memories(self, scope: ScopeKey) -> AsyncIterator[list[Record]]:
        """Every memory of a scope that is not gone, in the order of creation, page by page. More
        than a few are decoded beside the event loop."""
        after: tuple[Any, ...] = (-(1 << 63), 0, 0, b"")
        while True:
            rows = await self._rows(
                f"SELECT created_at_ms, stamp_time, place, {_ROW} FROM records "
                "WHERE kind = 'memory' AND scope = ? AND gone = 0 "
                "AND (created_at_ms, stamp_time, place, key) > (?, ?, ?, ?) "
                "ORDER BY created_at_ms, stamp_time, place, key LIMIT ?",
                (scope, *after, limits.LOAD_PAGE_ROWS),
            )
            read = [columns[3:] for columns in rows]
            found, damaged = await tasks.beside(_decoded, read, rows=len(rows))
            self._report(damaged)
            if found:
                yield found
            if len(rows) < limits.LOAD_PAGE_ROWS:
                return
            after = rows[-1][:4]

    async def vectorless(
        self, after: RecordKey, *, model: str, dimensions: int, rows_max: int
    ) -> tuple[list[RecordKey], RecordKey | None]:
        """Memories that lack a vector. SQLite passes over what carries the vector's mark and no
        register of that name, without anything of it being decoded here."""
        numbers, nothing = marks_of(model, dimensions)
        rows = await self._rows(
            "SELECT key, hash, CASE WHEN kind = 'memory' AND gone = 0 AND ((instr(state, ?) = 0 "
            "AND instr(state, ?) = 0) OR instr(state, ?) > 0) THEN state END FROM records "
            "WHERE key > ? ORDER BY key LIMIT ?",
            (numbers, nothing, REGISTER_MARK, after, rows_max),
        )
        suspects = [columns for columns in rows if columns[-1] is not None]
        found, damaged = await asyncio.to_thread(_decoded, suspects)
        self._report(damaged)
        lacking = [record.key for record in found if lacks_vector(record, model, dimensions)]
        return lacking, rows[-1][0] if len(rows) == rows_max else None

    async def newest_scopes(self, *, scopes_max: int, memories_max: int) -> list[ScopeKey]:
        """The scopes written to last, as far as the bounds allow, among the last rows that came: a
        large store is not read for it."""
        rows = await self._rows(
            "WITH latest AS (SELECT scope, max(created_at_ms) AS at FROM (SELECT scope, "
            "created_at_ms FROM records WHERE kind = 'memory' AND gone = 0 "
            "ORDER BY row DESC LIMIT ?) GROUP BY scope ORDER BY at DESC, scope LIMIT ?) "
            "SELECT scope, (SELECT count(*) FROM (SELECT 1 FROM records WHERE kind = 'memory' "
            "AND scope = latest.scope AND gone = 0 LIMIT ?)) FROM latest ORDER BY at DESC, scope",
            (LAST_ROWS, scopes_max, memories_max + 1),
        )
        totals = accumulate(memories for _, memories in rows)
        return [
            ScopeKey(scope)
            for (scope, _), so_far in zip(rows, totals, strict=True)
            if so_far <= memories_max
        ]

    async def of_kind(self, kind: str) -> list[Record]:
        """Every record of a small kind."""
        return await self._records(
            f"SELECT {_ROW} FROM records WHERE kind <> 'memory' AND kind = ?", (kind,)
        )

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        """What is kept of a write."""
        rows = await self._looked_up(self._looking.operations, [(scope, key)])
        if (scope, key) not in rows:
            return None
        (kept,) = self._kept([(scope, key, *columns) for columns in rows[scope, key]])
        return StoredOperation(kept.request_hash, kept.stamp, kept.kept_s, kept.outcome)

    def _kept(self, rows: Sequence[tuple[Any, ...]]) -> list[KeptOperation]:
        """Operation keys have no hash and no way to come back one by one: where one cannot be read,
        the whole store is given up."""
        try:
            return [row.kept_operation(columns) for columns in rows]
        except (msgspec.DecodeError, TypeError) as error:
            raise self._note_damage(f"an operation key cannot be read: {error}") from error

    async def _write(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do it on the writer thread, and say which rows were found damaged there."""
        call = partial(work, *arguments, **options)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except sqlite3.OperationalError as error:
            raise self._translated(error) from error
        except (sqlite3.Error, msgspec.DecodeError, OverflowError) as error:
            if isinstance(error, sqlite3.Error) and files.is_damage(error):
                raise self._translated(error) from error
            raise InvariantBroken(f"store: {type(error).__name__}: {error}") from error
        finally:
            self._report(self._writer.take_met())

    async def _beside(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do it in a thread, with a connection of its own."""
        try:
            return await asyncio.to_thread(work, *arguments, **options)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _report(self, damaged: Sequence[RecordKey]) -> None:
        if not damaged:
            return
        metrics.ROWS_DAMAGED.inc(len(damaged))
        logger().error("rows.found_damaged", rows=len(damaged), first=damaged[0].hex())
        if self.on_damage is not None:
            self.on_damage(damaged)

    async def _records(self, query: str, parameters: Sequence[Any]) -> list[Record]:
        found, damaged = _decoded(await self._rows(query, parameters))
        self._report(damaged)
        return found

    async def _sound(self, query: str, parameters: Sequence[Any]) -> list[Row]:
        found = await self._rows(query, parameters)
        sound = await asyncio.to_thread(
            lambda: [
                Row(key, hashed & row.MASK, state)
                for key, hashed, state in found
                if row.is_hashed(hashed, state)
            ]
        )
        given = {each.key for each in sound}
        self._report([key for key, _, _ in found if key not in given])
        return sound

    async def _rows(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One statement, one snapshot, one hop; the readers take turns."""
        self._next_reader = (self._next_reader + 1) % len(self._readers)
        reader = self._readers[self._next_reader]
        try:
            return list(await reader.execute_fetchall(query, parameters))  # type: ignore[arg-type]
        except sqlite3.Error as error:
            raise self._translated(error) from error

    async def _looked_up(self, kind: Gathered, wanted: Sequence[Columns]) -> Found:
        try:
            return await kind.find(wanted)
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> Unavailable:
        """Full, read-only and failing disks may get better; damage does not."""
        if not files.is_there(self._path, self._opened):
            return self._note_damage(TAKEN_AWAY)
        if files.is_damage(error):
            return self._note_damage(str(error))
        return Unavailable(f"store: {error}")

    def _note_damage(self, reason: str) -> StoreDamaged:
        if not self._damage.done():
            self._damage.set_result(files.mark_damaged(self._path.parent, reason))
        return self._damage.result()


@asynccontextmanager
async def open_store(folder: Path, *, cell: str = "") -> AsyncIterator[SqliteStore]:
    """Open (or make) the store in `folder`, which belongs to `cell` from then on; closed at the
    end, with everything written out. A damaged one is set aside; see `files.open_writing` for the
    errors."""
    path = folder / files.FILE
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
    readers: list[aiosqlite.Connection] = []
    writer: Writer | None = None
    try:
        writer = await loop.run_in_executor(thread, _open_writer, folder, cell)
        uri = f"file:{quote(str(path))}?mode=ro"
        for _ in range(limits.STORE_READERS):
            reader = await aiosqlite.connect(uri, uri=True)
            readers.append(reader)
            reader.text_factory = files.text_of
            await reader.execute("PRAGMA query_only = 1")
        async with looking_up(uri) as looking:
            yield SqliteStore(path, writer, thread, readers, looking)
    finally:
        for reader in readers:
            await reader.close()
        if writer is not None:
            await loop.run_in_executor(thread, writer.close)
        thread.shutdown()


def _open_writer(folder: Path, cell: str) -> Writer:
    connection = files.open_writing(folder, cell)
    try:
        return Writer(connection)
    except sqlite3.Error as error:
        connection.close()
        raise Unavailable(f"store {folder / files.FILE}: {error}") from error


def _within(sizes: Sequence[tuple[RecordKey, int]], bytes_max: int) -> int:
    """How many of these rows fit, one at least."""
    total = 0
    for taken, (_, size) in enumerate(sizes):
        total += size
        if taken and total > bytes_max:
            return taken
    return len(sizes)


def _decoded(rows: Iterable[tuple[Any, ...]]) -> tuple[list[Record], list[RecordKey]]:
    """The records of rows (`_ROW`), and the keys of those that are damaged."""
    found: list[Record] = []
    damaged: list[RecordKey] = []
    for key, hashed, state in rows:
        record = row.sound_record(hashed, state)
        if record is None:
            damaged.append(key)
        else:
            found.append(record)
    return found, damaged


def _is_meant(record: Record, filters: ForgetFilters) -> bool:
    """The filters that no column answers. `tags`: all of them."""
    if filters.source is not None and value_of(record, "source") != filters.source:
        return False
    if filters.event_type is not None and value_of(record, "event_type") != filters.event_type:
        return False
    if filters.tier is not None and value_of(record, "tier", "hot") != filters.tier:
        return False
    return set(filters.tags or ()) <= set(value_of(record, "tags", []))
