"""A peer's SQLite file from outside: damaged by hand, and read after the run."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import msgspec

from memsync.core.feedback import SIGNALS
from memsync.core.records import Record, elements_of, row_hash
from memsync.core.relations import RELATIONS
from memsync.wire import codec
from tests.chaos.driver import FILLERS
from tests.chaos.history import Attached, Digest

BUSY_S = 5.0
PAGE_BYTES = 4_096
PAGES_ZEROED = 4
SIDE_FILES = ("-wal", "-shm")
SIGNED = 1 << 63


def checkpoint(path: Path) -> None:
    """Put everything into the one file; only while no process has it open."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copy(path: Path, to: Path) -> None:
    """A copy as of one moment, also while a process writes."""
    with closing(_reading(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def delete(path: Path) -> None:
    """Remove the store; only while no process has it open."""
    for file in (path, *(path.with_name(path.name + end) for end in SIDE_FILES)):
        file.unlink(missing_ok=True)


def put_back(path: Path, old: Path) -> None:
    """Put an older copy in its place; only while no process has it open."""
    delete(path)
    shutil.copyfile(old, path)


def applied(path: Path) -> int:
    """How many frames the store has, over all generations of all stripes; only while no process has
    it open."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection:
        [(total,)] = connection.execute("SELECT coalesce(sum(sequence), 0) FROM positions")
    return int(total)


def zero(path: Path, chance: random.Random) -> list[int]:
    """Zeros over some pages that had others; only while no process has it open. Returns which
    pages, from 0."""
    checkpoint(path)
    with path.open("r+b") as file:
        content = file.read()
        pages = [
            page
            for page in range(len(content) // PAGE_BYTES)
            if any(content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
        ]
        chosen = sorted(chance.sample(pages, min(PAGES_ZEROED, len(pages))))
        for page in chosen:
            file.seek(page * PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))
    return chosen


def alter_row(path: Path, chance: random.Random) -> bytes | None:
    """Change the text in one row and nothing else, also while a process has the store open; returns
    the row's key, None where there is no memory yet."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as connection, connection:
        rows = connection.execute(
            "SELECT key, state FROM records WHERE kind = 'memory' AND gone = 0 "
            "ORDER BY row DESC LIMIT 200"
        ).fetchall()
        for key, state in chance.sample(rows, len(rows)):
            for filler in map(str.encode, FILLERS):
                if filler in state:
                    altered = state.replace(filler, filler.upper())
                    connection.execute("UPDATE records SET state = ? WHERE key = ?", (altered, key))
                    return bytes(key)
    return None


def is_row_whole(path: Path, key: bytes) -> bool:
    """Whether the row is there and has the hash that is stored with it."""
    try:
        with closing(_reading(path)) as connection:
            rows = connection.execute(
                "SELECT hash, state FROM records WHERE key = ?", (key,)
            ).fetchall()
    except sqlite3.Error:
        return False
    return bool(rows) and _signed(row_hash(rows[0][1])) == rows[0][0]


def digest(path: Path, peer: str, at: float) -> Digest:
    """The store as it is now, in one snapshot."""
    try:
        with closing(_reading(path)) as connection:
            connection.execute("BEGIN")
            positions = connection.execute("SELECT stripe, generation, sequence FROM positions")
            found = {f"{stripe}.{generation}": end for stripe, generation, end in positions}
            sums = connection.execute("SELECT bucket, sum FROM buckets WHERE sum <> 0").fetchall()
            rows = connection.execute("SELECT hash, state FROM records")
            damaged = sum(_signed(row_hash(state)) != stored for stored, state in rows)
    except sqlite3.Error as error:
        return Digest(at=at, peer=peer, problem=f"{peer}: {error}")
    shown = {str(bucket): total for bucket, total in sums}
    return Digest(at=at, peer=peer, positions=found, sums=shown, damaged=damaged)


def attached(path: Path, peer: str, at: float) -> Attached:
    """The value of every signal and relation that the store holds."""
    try:
        with closing(_reading(path)) as connection:
            rows = connection.execute("SELECT state FROM records WHERE kind = 'memory'")
            records = [codec.unpack(state, Record) for (state,) in rows]
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        return Attached(at=at, peer=peer, problem=f"{peer}: {error}")
    return Attached(at=at, peer=peer, values=[one for found in records for one in _values(found)])


def _values(record: Record) -> Iterator[str]:
    for signal in elements_of(record, SIGNALS).values():
        yield codec.open_as(signal.comment, str)
    for relation in elements_of(record, RELATIONS).values():
        yield codec.open_as(relation.metadata, dict)["v"]


def _reading(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path))}?mode=ro"
    return sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None)


def _signed(number: int) -> int:
    return number - 2 * SIGNED if number >= SIGNED else number
