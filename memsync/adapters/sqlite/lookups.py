"""Look-ups by key that many requests make at once, gathered: one statement and one turn of a thread
for all that wait.

Every add asks for its operation key and for its text, and a read of its own costs two turns of
threads: more than all else that it does in the store. What is asked while a look-up is under way
waits for it and is looked up after it, together. So each is looked up after it was asked, and sees
what was committed before that.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import msgspec

from memsync.adapters.sqlite import files
from memsync.adapters.sqlite import rows as row

Columns: TypeAlias = tuple[Any, ...]
Found: TypeAlias = dict[Columns, list[Columns]]  # what was wanted -> its rows, if it has any
Execute: TypeAlias = Callable[[str, Sequence[Any]], Iterable[Columns]]

WANTED_MAX = 256  # in one statement; three values each are far below SQLite's limit of 32,766
DUPLICATES_READ_MAX = 4  # the oldest may be damaged
_OPERATIONS = f"""
    WITH wanted (scope, key) AS (VALUES {{wanted}})
    SELECT {row.KEPT_COLUMNS} FROM wanted CROSS JOIN operations USING (scope, key)
"""
_RECORDS = """
    WITH wanted (key) AS (VALUES {wanted})
    SELECT wanted.key, records.key, hash, state FROM wanted CROSS JOIN records USING (key)
"""
_DUPLICATES = f"""
    WITH wanted (scope, text_hash, since_ms) AS (VALUES {{wanted}})
    SELECT wanted.scope, wanted.text_hash, wanted.since_ms, key, hash, state, stamp_time, place
    FROM wanted CROSS JOIN records WHERE records.row IN (
        SELECT row FROM records AS alike
        WHERE alike.scope = wanted.scope AND alike.text_hash = wanted.text_hash
        AND alike.gone = 0 AND alike.created_at_ms >= wanted.since_ms
        ORDER BY stamp_time, place LIMIT {DUPLICATES_READ_MAX}
    )
"""


class Gathered:
    """One kind of look-up. `query` has the place `{wanted}` for the rows of values that are looked
    for, `width` values each; those are also the first columns of what it gives."""

    def __init__(self, thread: Executor, execute: Execute, query: str, *, width: int) -> None:
        self._thread = thread
        self._execute = execute
        self._query = query
        self._width = width
        self._is_reading = False
        self._wanted: dict[Columns, None] = {}  # by those who wait for the next look-up
        self._next: asyncio.Future[Found] | None = None

    async def find(self, wanted: Sequence[Columns]) -> Found:
        """The rows of these, without the values that were looked for, and of what others wanted at
        the same time. Raises `sqlite3.Error`."""
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            if not self._is_reading:  # not yet: requests come in bursts, one turn of the loop each
                loop.call_soon(self._read_next, self._next)
        following = self._next
        self._wanted.update(dict.fromkeys(wanted))
        return await asyncio.shield(following)  # others wait for it too

    def _read_next(self, following: asyncio.Future[Found]) -> None:
        wanted, self._wanted, self._next = list(self._wanted), {}, None
        self._is_reading = True
        reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read, wanted)
        reading.add_done_callback(partial(self._give, following))

    def _give(self, waiting: asyncio.Future[Found], reading: asyncio.Future[Found]) -> None:
        self._is_reading = False
        if self._next is not None:
            self._read_next(self._next)
        if reading.cancelled():
            waiting.cancel()
        elif (error := reading.exception()) is not None:
            waiting.set_exception(error)
            waiting.exception()  # those who waited may all be gone: asyncio must not complain
        else:
            waiting.set_result(reading.result())

    def _read(self, wanted: Sequence[Columns]) -> Found:
        """On the thread."""
        found: Found = {}
        for first in range(0, len(wanted), WANTED_MAX):
            part = wanted[first : first + WANTED_MAX]
            # Of one of few lengths, so that the statement is one that was prepared before. What
            # fills it up equals nothing: a row that is wanted twice would be found twice.
            length = 1 << (len(part) - 1).bit_length()
            values = [value for one in part for value in one]
            values += [None] * (self._width * (length - len(part)))
            marks = f"({','.join('?' * self._width)})"
            query = self._query.format(wanted=",".join([marks] * length))
            for columns in self._execute(query, values):
                found.setdefault(columns[: self._width], []).append(columns[self._width :])
        return found


class LookUps(msgspec.Struct, frozen=True):
    """Operation keys by (scope, key), with the rest of `rows.KEPT_COLUMNS`; records by key, with
    key, hash and state; and memories that are not gone by (scope, text hash, created since), with
    these and what orders them."""

    operations: Gathered
    records: Gathered
    duplicates: Gathered


@asynccontextmanager
async def looking_up(uri: str) -> AsyncIterator[LookUps]:
    """Look-ups on a thread and a connection of their own, which are closed at the end."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-looking") as thread:
        connection = await loop.run_in_executor(thread, _connect, uri)
        try:
            yield LookUps(
                operations=Gathered(thread, connection.execute, _OPERATIONS, width=2),
                records=Gathered(thread, connection.execute, _RECORDS, width=1),
                duplicates=Gathered(thread, connection.execute, _DUPLICATES, width=3),
            )
        finally:
            await loop.run_in_executor(thread, connection.close)


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.text_factory = files.text_of
    connection.execute("PRAGMA query_only = 1")
    return connection
