"""The files of the store: opened, found damaged, moved aside. Nothing is ever deleted.

A damaged file is not mended but replaced: the other members have all that is in it. While the
process runs, damage is noted in a marker file beside the store and ends the process; the next start
moves the marked files into `damaged-<time>/` and opens an empty store, which the peer fills from
another. A file that cannot be opened as a store is moved at once.

Opening checks no more than what it reads. A check of every page takes as long as reading the file
(0.1 s for 100,000 memories in the page cache, many times that from a disk), at every start, though
a killed process cannot damage a file in WAL mode: only disks and people do, at any time. So the
scrub checks instead (`check`), whether or not the process was ended well; and what is read before
it gets there is read through the hashes of the rows and the form of the pages.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from memsync.adapters.sqlite import metrics, schema
from memsync.errors import ConfigurationError, StoreDamaged, Unavailable
from memsync.telemetry import logger

FILE = "store.sqlite"
MARKER = "store.damaged"
_BESIDE = ("", "-wal", "-shm", "-journal")
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_writing(folder: Path, cell: str) -> sqlite3.Connection:
    """The connection that writes, to a store of this version's schema that belongs to `cell`.

    Raises `ConfigurationError` for a store of another cell or of a later version, `Unavailable`
    where the disk is full, read-only or failing."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ConfigurationError(
            f"data_dir: {folder} cannot be a folder ({error.strerror})"
        ) from error
    try:
        if (folder / MARKER).exists():
            reason = (folder / MARKER).read_text(encoding="utf-8", errors="replace")
            set_aside(folder, reason.strip() or "marked as damaged")
        try:
            return _open(folder / FILE, cell)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            set_aside(folder, str(error))
        return _open(folder / FILE, cell)
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"store {folder / FILE}: {error}") from error


def _open(path: Path, cell: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    try:
        connection.text_factory = text_of
        connection.executescript(schema.SETTINGS)
        schema.migrate(connection)
        schema.read_small_tables(connection)
        _claim(connection, path.parent, cell)
    except BaseException:
        connection.close()
        raise
    return connection


def _claim(connection: sqlite3.Connection, folder: Path, cell: str) -> None:
    """A store belongs to the cell that first opened it. Rows of two cells in one store could never
    be told apart again."""
    if not cell:
        return
    connection.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('cell', ?)", (cell,))
    (owner,) = connection.execute("SELECT value FROM meta WHERE name = 'cell'").fetchone()
    if owner != cell:
        raise ConfigurationError(
            f"data_dir: {folder} holds data of the cell {owner}, this peer belongs to {cell}: "
            f"name another folder, or start it with the genesis file of that cell"
        )


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file is not what SQLite wrote."""
    code = getattr(error, "sqlite_errorcode", None)  # not set on errors of the module's own
    return code is not None and code & 0xFF in _DAMAGE


def mark_damaged(folder: Path, reason: str) -> StoreDamaged:
    """Leave word for the next start; returns the error that ends this process."""
    reason = " ".join(reason.split())  # SQLite may say it in several lines
    logger().critical("store.found_damaged", reason=reason)
    try:
        with (folder / MARKER).open("w", encoding="utf-8") as marker:
            marker.write(reason + "\n")
            marker.flush()
            os.fsync(marker.fileno())
        _sync_folder(folder)
    except OSError as error:
        logger().error("store.not_marked", reason=error.strerror)
    return StoreDamaged(
        f"the store in {folder} is damaged ({reason}): it is set aside at the next start and "
        "filled from the other members"
    )


def set_aside(folder: Path, reason: str) -> Path:
    """Move the files of a store out of the way; the marker goes last, so that a move that was cut
    short is finished by the next start."""
    name = f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    aside = folder / name
    for number in range(2, 1_000):
        if not aside.exists():
            break
        aside = folder / f"{name}-{number}"
    aside.mkdir(mode=0o700)
    for file in [*(folder / f"{FILE}{ending}" for ending in _BESIDE), folder / MARKER]:
        if file.exists():
            file.rename(aside / file.name)
    _sync_folder(aside)
    _sync_folder(folder)
    metrics.STORES_SET_ASIDE.inc()
    logger().critical("store.set_aside", reason=reason, folder=str(aside))
    return aside


def is_there(path: Path, opened: os.stat_result) -> bool:
    """Whether the store is still the file that was opened. What is written to one that was taken
    away is gone with the process."""
    try:
        return os.path.samestat(path.stat(), opened) and _wal(path).exists()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # the disk does not even say; that it is failing is told by other errors


def sync(path: Path) -> None:
    """Have the WAL on stable storage: what was committed lies in it, or was synced by its
    checkpoint."""
    descriptor = os.open(_wal(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoint(path: Path) -> None:
    """Write what lies in the WAL into the store's file, beside other commits. Left to itself the
    commit that fills the WAL does that and waits for two syncs: 40 ms on a busy disk, once in some
    hundred adds. Now it finds nearly nothing left to do. Where the disk is full or failing, that is
    for the commits to say: the WAL has it all. Raises `sqlite3.Error` for damage."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.Error as error:
        if is_damage(error):
            raise
    finally:
        connection.close()


def _wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def reading(path: Path) -> sqlite3.Connection:
    """A connection that only reads, in no transaction; the caller's thread closes it."""
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    connection.text_factory = text_of
    return connection


def text_of(data: bytes) -> str:
    """How every connection reads text. SQL's `replace` makes text of the bytes of a state that
    somebody alters by hand; sqlite3 by itself would fail the whole statement, and so whoever reads
    beside it, for ever. Read like this it is not what its hash says, and is set aside."""
    return data.decode("utf-8", "replace")


def check(path: Path) -> str | None:
    """Read every page and every index, on a connection of its own; what is wrong, None if
    nothing. 0.3 s for 100,000 memories in the page cache."""
    with closing(reading(path)) as connection:
        (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return None if said == "ok" else str(said)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
