"""What happens to the file of a store: synced, full, read-only, damaged, lost, rolled back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memsync import ids, limits
from memsync.adapters.sqlite import files, schema
from memsync.adapters.sqlite.store import SqliteStore, open_store
from memsync.errors import ConfigurationError, StoreDamaged, Unavailable
from memsync.ids import RecordKey
from memsync.wire import codec
from memsync.wire.operations import Content, Create
from tests.contracts.stores import SCOPE, apply, frame, memory, on_writer
from tests.fakes.memories import held
from tests.fakes.store import MemoryStore

PAGE_BYTES = 4_096


def big(number: int) -> Create:
    """A memory that fills more than a page."""
    return memory(number, content=codec.seal(Content(text="x" * 8_000)))


async def filled(store: SqliteStore, *, memories: int = 60) -> None:
    """Put memories in, in many pages, and the pages into the file."""
    await apply(store, *(frame(n, big(n)) for n in range(memories)))
    await on_writer(store, lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())


def overwrite(path: Path, *, first_page: int = 0, pages: int | None = None) -> None:
    """Zeros over pages of a file."""
    count = path.stat().st_size // PAGE_BYTES - first_page if pages is None else pages
    with path.open("r+b") as file:
        file.seek(first_page * PAGE_BYTES)
        file.write(bytes(count * PAGE_BYTES))


def aside(folder: Path) -> list[Path]:
    """The folders into which damaged stores were moved."""
    return sorted(folder.glob("damaged-*"))


def fill(folder: Path) -> Path:
    """Take all the room there is; returns the file that has it."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(PAGE_BYTES)):
            pass
    return filler


async def apply_until_unavailable(store: SqliteStore) -> int:
    """Apply from the second frame on; returns the last one that was taken."""
    for number in range(2, 100):
        try:
            await apply(store, frame(number, big(number)), first=number)
        except Unavailable as error:
            if not re.search("full|I/O", error.message):
                raise
            return number - 1
    raise AssertionError("the disk was never full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; only root can have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "memsync-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_sync_puts_the_log_of_the_store_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    async with open_store(tmp_path) as store:
        await apply(store, frame(1, memory(1)))
        monkeypatch.setattr(os, "fsync", seen)
        assert await store.sync() == {(0, 0): 1}
        assert synced == ["store.sqlite-wal"]


async def test_sync_brings_what_was_committed_into_the_file_itself(tmp_path: Path) -> None:
    """So that no commit has to do it and wait for the disk."""

    def rows_of_file() -> int:
        copy = shutil.copy(tmp_path / files.FILE, tmp_path / "alone.sqlite")  # without the WAL
        with contextlib.closing(sqlite3.connect(copy)) as alone:
            (rows,) = alone.execute("SELECT count(*) FROM records").fetchone()
        return int(rows)

    async with open_store(tmp_path) as store:
        await filled(store)
        await apply(store, frame(61, memory(61)), first=61)
        assert rows_of_file() == 60
        await store.sync()
        assert rows_of_file() == 61
        await apply(store, frame(62, memory(62)), first=62)  # and commits go on


async def test_a_reader_of_an_older_state_keeps_nobody_from_a_sync(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await filled(store)
        with contextlib.closing(sqlite3.connect(tmp_path / files.FILE)) as reading:
            reading.execute("BEGIN")
            assert reading.execute("SELECT count(*) FROM records").fetchone() == (60,)
            await apply(store, frame(61, memory(61)), first=61)
            assert await store.sync() == {(0, 0): 61}
            assert reading.execute("SELECT count(*) FROM records").fetchone() == (60,)


async def test_what_was_synced_once_in_vain_is_never_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    async with open_store(tmp_path) as store:
        await apply(store, frame(1, memory(1)))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(Unavailable, match="Input/output error"):
                await store.sync()
        with pytest.raises(Unavailable, match="Input/output error"):
            await store.sync()


async def test_a_copy_of_the_synced_files_has_the_synced_positions(tmp_path: Path) -> None:
    async with open_store(tmp_path / "one") as store:
        await apply(store, frame(1, memory(1)))
        synced = await store.sync()
        shutil.copytree(tmp_path / "one", tmp_path / "two")
    async with open_store(tmp_path / "two") as copy:
        assert await copy.positions() == synced
        assert await copy.record(memory(1).record)


async def test_a_power_cut_takes_what_was_not_synced_from_the_store_in_memory() -> None:
    store = MemoryStore()
    await apply(store, frame(1, memory(1)))
    await store.sync()
    digests, before = await store.digests(), await store.record(memory(1).record)
    tier = memory(1, tags=["late"])
    await apply(store, frame(2, tier, memory(2)), first=2)
    copy = store.copy()
    store.damage(memory(2).record)
    await store.set_aside([memory(2).record])
    store.crash(lose_unsynced=True)
    assert await store.positions() == {(0, 0): 1}
    assert await store.digests() == digests
    assert await store.record(memory(1).record) == before
    assert await store.records_by_id([1_001, 1_002]) == {1_001: before}
    assert await store.operation(ids.scope_key(SCOPE), frame(2).writes[0].key) is None
    assert await store.lacking() == []
    assert store.highest_block == 1
    store.restore(copy)
    assert await store.positions() == {(0, 0): 2}
    assert len(await store.records_by_id([1_001, 1_002])) == 2
    store.crash(lose_unsynced=True)
    assert await store.positions() == {(0, 0): 2}


async def test_a_process_that_ends_loses_nothing_of_the_store_in_memory() -> None:
    store = MemoryStore()
    await apply(store, frame(1, memory(1)))
    store.crash(lose_unsynced=False)
    assert await store.positions() == {(0, 0): 1}


async def test_a_full_disk_is_said_and_waited_out(small_disk: Path) -> None:
    async with open_store(small_disk) as store:
        await apply(store, frame(1, memory(1)))
        filler = fill(small_disk)
        reached = await apply_until_unavailable(store)
        assert await store.positions() == {(0, 0): reached}
        assert await store.record(memory(1).record)
        filler.unlink()
        following = reached + 1
        await apply(store, frame(following, memory(following)), first=following)
        assert await store.positions() == {(0, 0): following}
        assert await store.recount() == []


async def test_a_full_disk_is_no_damage_at_the_start(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(Unavailable, match="store"):
        async with open_store(small_disk):
            pass
    assert not aside(small_disk)


async def test_a_disk_that_became_read_only_is_said_and_waited_out(small_disk: Path) -> None:
    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(small_disk)], check=True)

    # Open files keep their right to write on a file system: so it is read-only at the start.
    async with open_store(small_disk) as store:
        await apply(store, frame(1, memory(1)))
    remount("ro")
    with pytest.raises(Unavailable, match=r"readonly|unable to open"):
        async with open_store(small_disk):
            pass
    remount("rw")
    async with open_store(small_disk) as store:
        assert await store.positions() == {(0, 0): 1}
    assert not aside(small_disk)


async def test_a_store_that_is_made_read_only_takes_no_batch_until_it_is_not(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        await on_writer(store, lambda db: db.execute("PRAGMA query_only = 1"))
        with pytest.raises(Unavailable, match="readonly"):
            await apply(store, frame(1, memory(1)))
        await on_writer(store, lambda db: db.execute("PRAGMA query_only = 0"))
        await apply(store, frame(1, memory(1)))
        assert not (tmp_path / files.MARKER).exists()


@pytest.mark.parametrize("harm", ["no database", "zeros", "zeros from the second page on"])
async def test_a_file_that_is_no_store_is_set_aside_at_the_start(tmp_path: Path, harm: str) -> None:
    async with open_store(tmp_path, cell="cell") as store:
        incarnation = store.incarnation
        await filled(store)
    path = tmp_path / files.FILE
    if harm == "no database":
        path.write_bytes(b"this is somebody's letter" * 1_000)
    else:
        overwrite(path, first_page=0 if harm == "zeros" else 1)
    harmed = path.read_bytes()
    async with open_store(tmp_path, cell="cell") as store:
        assert await store.positions() == {}
        assert store.incarnation != incarnation
        await apply(store, frame(1, memory(1)))
    (folder,) = aside(tmp_path)
    assert (folder / files.FILE).read_bytes() == harmed


async def test_damage_at_run_time_ends_the_process_and_is_set_aside_by_the_next(
    tmp_path: Path,
) -> None:
    async with open_store(tmp_path) as store:
        await filled(store)
    async with open_store(tmp_path) as store:
        watching = asyncio.create_task(store.watch())
        overwrite(tmp_path / files.FILE, first_page=12)
        with pytest.raises(StoreDamaged, match="malformed"):
            await held(store, ids.scope_key(SCOPE))
        with pytest.raises(StoreDamaged, match="filled from the other members"):
            await watching
        with pytest.raises(StoreDamaged):
            await apply(store, *(frame(n, big(n)) for n in range(60)), first=100)
    assert "malformed" in (tmp_path / files.MARKER).read_text()
    async with open_store(tmp_path) as store:
        assert await store.positions() == {}
    (folder,) = aside(tmp_path)
    assert {file.name for file in folder.iterdir()} >= {files.FILE, files.MARKER}
    assert not (tmp_path / files.MARKER).exists()
    async with open_store(tmp_path):
        assert aside(tmp_path) == [folder]


async def test_the_writer_finds_damage_too(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await filled(store)
    async with open_store(tmp_path) as store:
        overwrite(tmp_path / files.FILE, first_page=12)
        with pytest.raises(StoreDamaged):
            await apply(store, *(frame(n, big(n)) for n in range(60)), first=100)
        with pytest.raises(StoreDamaged):
            await store.watch()


async def found_by_scrub(store: SqliteStore, *, rows_max: int = 100) -> list[RecordKey]:
    """The keys of the rows that a scrub finds damaged."""
    return [key async for part in store.scrub(rows_max=rows_max) for key in part.damaged]


async def test_the_scrub_finds_what_no_read_would(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, *(frame(n, memory(n)) for n in range(60)))
        assert await found_by_scrub(store) == []
        # An index that has lost an entry, as when one page of many was not written.
        await on_writer(store, _lose_index_entry)
        assert await store.records([memory(n).record for n in range(60)])
    async with open_store(tmp_path) as store:
        with pytest.raises(StoreDamaged, match="missing from index"):
            await found_by_scrub(store)
    assert (tmp_path / files.MARKER).exists()


async def test_a_check_of_the_file_rests_many_times_as_long_as_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, *(frame(n, memory(n)) for n in range(60)))
        assert await found_by_scrub(store) == []  # checked, and nothing was wrong
        await on_writer(store, _lose_index_entry)
        monkeypatch.setattr(limits, "FILE_CHECK_REST", 1e9)
        assert await found_by_scrub(store) == []
        monkeypatch.setattr(limits, "FILE_CHECK_REST", 0)
        with pytest.raises(StoreDamaged, match="missing from index"):
            await found_by_scrub(store)


ALTERATIONS = (
    "state = zeroblob(length(state))",
    "state = replace(state, 'memory', 'lie')",  # makes text of it
    "hash = hash + 1",
    "hash = 'text'",
    "kind = CAST(kind AS BLOB)",
    "kind = 'organisation'",
    "scope = zeroblob(16)",
    "created_at_ms = NULL",
    "created_at_ms = created_at_ms + 0.5",
    "stamp_time = stamp_time - 1",
    "place = 7",
    "expires_at_ms = 1",
    "gone = 1",
    "text_hash = NULL",
    "key = zeroblob(16)",
    "key = 'text'",
    "row = -row, gone = 1",
    "row = -9223372036854775808, gone = 1",
    "row = 9223372036854775807, gone = 1",
)


@pytest.mark.parametrize("alteration", ALTERATIONS)
async def test_the_scrub_finds_every_column_altered_in_rows_that_it_has_seen_sound(
    tmp_path: Path, alteration: str
) -> None:
    """What is remembered of a part that was sound must not hide anything."""
    altered = f"UPDATE records SET {alteration} WHERE key = ? RETURNING key"
    async with open_store(tmp_path) as store:
        await apply(store, *(frame(n, memory(n)) for n in range(30)))
        for _ in range(2):
            assert await found_by_scrub(store, rows_max=8) == []
        key = memory(17).record
        ((now,),) = await on_writer(store, lambda db: db.execute(altered, (key,)).fetchall())
        assert await found_by_scrub(store, rows_max=8) == [now]
        await store.set_aside([now])
        assert await found_by_scrub(store, rows_max=8) == []
        lacking = await store.lacking()
        assert key in lacking
        assert all(isinstance(one, bytes) for one in lacking)  # what others can be asked for


async def test_a_scrub_ends_however_fast_rows_are_added(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, *(frame(n, memory(n)) for n in range(10)))
        looked_at, added = 0, 10
        async for part in store.scrub(rows_max=4):
            looked_at += part.rows
            more = range(added, added + 8)
            added += 8
            await apply(store, *(frame(n, memory(n)) for n in more), first=more[0] + 1)
            assert added < 100
        assert looked_at == 10


def _lose_index_entry(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA writable_schema = 1")
    (made,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'records_of_text'").fetchone()
    change = "UPDATE sqlite_master SET sql = ? WHERE name = 'records_of_text'"
    db.execute(change, (made + " AND created_at_ms > 1790000010000",))
    db.execute("PRAGMA writable_schema = RESET")
    db.execute("REINDEX records_of_text")
    db.execute("PRAGMA writable_schema = 1")
    db.execute(change, (made,))
    db.execute("PRAGMA writable_schema = RESET")


async def test_a_file_that_is_taken_away_is_found_when_it_is_synced(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, frame(1, memory(1)))
        await store.sync()
        for ending in ("", "-wal", "-shm"):
            (tmp_path / f"{files.FILE}{ending}").unlink()
        with pytest.raises(StoreDamaged, match="taken away"):
            await store.sync()
    async with open_store(tmp_path) as store:
        assert await store.positions() == {}


async def test_a_lost_file_is_an_empty_store(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        incarnation = store.incarnation
        await apply(store, frame(1, memory(1)))
    (tmp_path / files.FILE).unlink()
    async with open_store(tmp_path) as store:
        assert await store.positions() == {}
        assert store.incarnation != incarnation
    assert not aside(tmp_path)


async def test_a_store_without_its_wal_is_an_older_one(tmp_path: Path) -> None:
    source, target = tmp_path / "one", tmp_path / "two"
    async with open_store(source) as store:
        await filled(store, memories=3)
        await apply(store, frame(9, memory(9)), first=4)
        target.mkdir()
        shutil.copy(source / files.FILE, target / files.FILE)
        incarnation = store.incarnation
    async with open_store(target) as store:
        assert await store.positions() == {(0, 0): 3}
        assert await store.record(memory(9).record) is None
        assert await store.recount() == []
        assert store.incarnation == incarnation
    assert not aside(target)


async def test_a_rolled_back_store_takes_what_it_lost_again(tmp_path: Path) -> None:
    source, older = tmp_path / "one", tmp_path / "two"
    async with open_store(source) as store:
        await apply(store, frame(1, memory(1)))
    shutil.copytree(source, older)
    async with open_store(source) as store:
        await apply(store, frame(2, memory(2)), first=2)
        digests = await store.digests()
    shutil.rmtree(source)
    shutil.copytree(older, source)
    async with open_store(source) as store:
        assert await store.positions() == {(0, 0): 1}
        await apply(store, frame(2, memory(2)), first=2)
        assert await store.digests() == digests


async def test_a_store_of_another_cell_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with open_store(tmp_path, cell="ours") as store:
        await apply(store, frame(1, memory(1)))
    with pytest.raises(ConfigurationError, match=r"data of the cell ours.*genesis"):
        async with open_store(tmp_path, cell="theirs"):
            pass
    async with open_store(tmp_path, cell="ours") as store:
        assert await store.positions() == {(0, 0): 1}
    assert not aside(tmp_path)


async def test_a_move_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, frame(1, memory(1)))
    files.mark_damaged(tmp_path, "as a test says")
    halfway = tmp_path / "damaged-before"
    halfway.mkdir()
    (tmp_path / files.FILE).rename(halfway / files.FILE)
    (tmp_path / f"{files.FILE}-wal").write_bytes(b"left")
    async with open_store(tmp_path) as store:
        assert await store.positions() == {}
    assert len(aside(tmp_path)) == 2
    assert not (tmp_path / files.MARKER).exists()


async def test_an_operation_key_that_cannot_be_read_gives_the_store_up(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await apply(store, frame(1, memory(1)))
        await on_writer(store, lambda db: db.execute("UPDATE operations SET outcome = x'c1'"))
        with pytest.raises(StoreDamaged, match="operation key"):
            await store.operation(ids.scope_key(SCOPE), frame(1).writes[0].key)


async def test_a_store_of_the_first_schema_is_brought_up(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / files.FILE)
    db.executescript(f"{schema.SCRIPTS[0]} PRAGMA user_version = 1;")
    db.close()
    async with open_store(tmp_path, cell="cell") as store:
        await apply(store, frame(1, memory(1)))
        assert await store.lacking() == []


async def test_the_store_in_memory_refuses_what_a_failing_disk_would() -> None:
    store = MemoryStore()
    store.fault = Unavailable("store: disk I/O error")
    with pytest.raises(Unavailable, match="I/O"):
        await apply(store, frame(1, memory(1)))
    with pytest.raises(Unavailable, match="I/O"):
        await store.sync()
    assert await store.positions() == {}
    store.fault = None
    await apply(store, frame(1, memory(1)))
