"""`ports.ExplanationStore` in a SQLite file of its own, beside the store: nothing in it is needed,
so a damaged one is thrown away, and nothing of the store depends on it.

One connection in one thread, which packs what it writes. The oldest go first, by age and by bytes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from memsync import limits
from memsync.adapters.sqlite.packing import packed, unpacked
from memsync.errors import Unavailable
from memsync.ids import ScopeKey
from memsync.ports.recall import Explained
from memsync.telemetry import describe, logger

T = TypeVar("T")
FILE = "explanations.sqlite"
_BESIDE = ("", "-wal", "-shm", "-journal")
ROW_BYTES = 150  # of a row on the disk beside its body, in both trees (measured: 149)
FREE_SHARE_MAX = 0.1
_AT_ONCE = 500  # rows that are taken out by one statement, at the most
_SCHEMA = """
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS explanations (
        number INTEGER PRIMARY KEY, query_id TEXT NOT NULL UNIQUE, scope BLOB NOT NULL,
        at_ms INTEGER NOT NULL, body BLOB NOT NULL
    );
"""
# synchronous = OFF: what a power cut takes of this file nobody misses. auto_vacuum only counts
# before anything is written, which journal_mode does.


class SqliteExplanations:
    """See `ports.ExplanationStore`. The file in `folder` is opened, or made, when it is first
    needed, and takes about `bytes_max`."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._path = folder / FILE
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explanations")
        self._db: sqlite3.Connection | None = None
        self._bytes = 0

    async def put(self, explained: Sequence[Explained], *, now_ms: int) -> int | None:
        """Keep these, in one transaction, and let go of what is too old or too much."""
        return await self._in_thread(lambda db: self._put(db, explained, now_ms))

    async def get(self, scope: ScopeKey, query_id: str, *, now_ms: int) -> bytes | None:
        """The body, for its own scope only."""
        oldest_ms = now_ms - limits.EXPLANATION_S * 1000
        found = await self._in_thread(
            lambda db: db.execute(
                "SELECT body FROM explanations WHERE query_id = ? AND scope = ? AND at_ms >= ?",
                (query_id, scope, oldest_ms),
            ).fetchone()
        )
        return None if found is None else unpacked(found[0])

    async def close(self) -> None:
        """Close the file; nothing can be done after."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _put(
        self, db: sqlite3.Connection, explained: Sequence[Explained], now_ms: int
    ) -> int | None:
        rows = [(one.query_id, one.scope, one.at_ms, packed(one.body)) for one in explained]
        with db:
            added = db.executemany(
                "INSERT OR IGNORE INTO explanations (query_id, scope, at_ms, body) "
                "VALUES (?, ?, ?, ?)",
                rows,
            ).rowcount
            self._bytes += sum(ROW_BYTES + len(body) for *_, body in rows)
        if added != len(rows):
            self._bytes = _bytes_in(db)
        while self._let_go(db, now_ms - limits.EXPLANATION_S * 1000):
            pass
        _shrink(db)
        oldest = db.execute("SELECT at_ms FROM explanations ORDER BY number LIMIT 1").fetchone()
        return None if oldest is None else int(oldest[0])

    def _let_go(self, db: sqlite3.Connection, oldest_ms: int) -> bool:
        """Take out some of the oldest; whether any had to go."""
        found = db.execute(
            "SELECT number, at_ms, length(body) FROM explanations ORDER BY number LIMIT ?",
            (_AT_ONCE,),
        ).fetchall()
        last, freed = None, 0
        for number, at_ms, size in found:
            if at_ms >= oldest_ms and self._bytes - freed <= self._bytes_max:
                break
            last, freed = number, freed + size + ROW_BYTES
        if last is None:
            return False
        with db:
            db.execute("DELETE FROM explanations WHERE number <= ?", (last,))
        self._bytes -= freed
        return True

    async def _in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: work(self._opened())
            )
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(
                error, sqlite3.OperationalError
            ):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._throw_away)
            raise Unavailable(f"explanations: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            db = sqlite3.connect(self._path)
            try:
                db.executescript(_SCHEMA)
                self._bytes = _bytes_in(db)
            except sqlite3.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def _throw_away(self) -> None:
        """Delete the file; on a disk that does not let it go it is tried again the next time."""
        try:
            self._close()
            for ending in _BESIDE:
                self._path.with_name(FILE + ending).unlink(missing_ok=True)
        except (sqlite3.Error, OSError) as error:
            logger().warning("explanations.not_thrown_away", file=FILE, **describe(error))
        else:
            logger().warning("explanations.thrown_away", file=FILE)

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _shrink(db: sqlite3.Connection) -> None:
    """Give free pages back to the disk where they are many; a few are soon written again."""
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if free > FREE_SHARE_MAX * pages:
        db.executescript("PRAGMA incremental_vacuum;")  # `execute` would free one page


def _bytes_in(db: sqlite3.Connection) -> int:
    (rows, bodies) = db.execute(
        "SELECT count(*), ifnull(sum(length(body)), 0) FROM explanations"
    ).fetchone()
    return int(rows) * ROW_BYTES + int(bodies)
