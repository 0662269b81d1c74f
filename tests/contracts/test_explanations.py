"""Explanations on a peer's disk: for their scope, for their time, while they fit."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from memsync.adapters.sqlite.explanations import FILE, SqliteExplanations
from memsync.errors import Unavailable
from memsync.ids import ScopeKey
from memsync.ports.recall import Explained, ExplanationStore
from tests.fakes.explanations import MemoryExplanations

MINE, HIS = ScopeKey(b"m" * 16), ScopeKey(b"h" * 16)
NOW_MS = 1_780_000_000_000


MANY, FEW = 1 << 30, 20_000  # bytes


@pytest.fixture(params=["sqlite", "memory"])
async def making(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[int], ExplanationStore]]:
    """Makes a store of so many bytes."""
    made = []

    def make(bytes_max: int) -> ExplanationStore:
        if request.param == "memory":
            return MemoryExplanations(bytes_max)
        made.append(SqliteExplanations(tmp_path, bytes_max))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
def kept(making: Callable[[int], ExplanationStore]) -> ExplanationStore:
    return making(MANY)


def one(number: int, *, scope: ScopeKey = MINE, at_ms: int = NOW_MS, size: int = 10) -> Explained:
    """Its body is chance: nothing packs it into less."""
    return Explained(f"q{number}", scope, at_ms, random.Random(number).randbytes(size))


async def there(kept: ExplanationStore, last: int, *, now_ms: int = NOW_MS) -> list[int]:
    return [n for n in range(last) if await kept.get(MINE, f"q{n}", now_ms=now_ms) is not None]


async def test_what_is_put_is_there_for_its_scope(kept: ExplanationStore) -> None:
    await kept.put([one(1), one(2, scope=HIS)], now_ms=NOW_MS)
    assert await kept.get(MINE, "q1", now_ms=NOW_MS) == one(1).body
    assert await kept.get(HIS, "q1", now_ms=NOW_MS) is None
    assert await kept.get(HIS, "q2", now_ms=NOW_MS) == one(2).body
    assert await kept.get(MINE, "q3", now_ms=NOW_MS) is None
    await kept.put([one(1, size=99)], now_ms=NOW_MS)
    assert await kept.get(MINE, "q1", now_ms=NOW_MS) == one(1).body


async def test_what_is_old_is_not_told_and_goes(kept: ExplanationStore) -> None:
    week_ms = 7 * 86_400_000
    await kept.put([one(n, at_ms=NOW_MS + n) for n in range(4)], now_ms=NOW_MS)
    assert await there(kept, 4, now_ms=NOW_MS + week_ms) == [0, 1, 2, 3]
    assert await there(kept, 4, now_ms=NOW_MS + week_ms + 2) == [2, 3]
    await kept.put([one(4, at_ms=NOW_MS + week_ms)], now_ms=NOW_MS + week_ms + 3)
    assert await there(kept, 5) == [3, 4]
    assert await kept.put([], now_ms=NOW_MS + 2 * week_ms + 1) is None
    assert await there(kept, 5) == []


async def test_it_is_told_how_old_the_oldest_is(kept: ExplanationStore) -> None:
    assert await kept.put([], now_ms=NOW_MS) is None
    assert await kept.put([one(n, at_ms=NOW_MS + n) for n in range(4)], now_ms=NOW_MS) == NOW_MS
    later_ms = NOW_MS + 7 * 86_400_000 + 2
    assert await kept.put([one(4, at_ms=later_ms)], now_ms=later_ms) == NOW_MS + 2


async def test_the_oldest_go_where_they_do_not_fit(
    making: Callable[[int], ExplanationStore],
) -> None:
    kept = making(FEW)
    for first in range(0, 60, 3):
        oldest_ms = await kept.put(
            [one(n, size=1_850, at_ms=NOW_MS + n) for n in range(first, first + 3)], now_ms=NOW_MS
        )
        left = await there(kept, first + 3)
        assert left == list(range(left[0], first + 3))  # the newest, without a gap
        assert oldest_ms == NOW_MS + left[0]
    assert 9 <= len(left) <= 10
    await kept.put([one(n, size=18_000) for n in (60, 61)], now_ms=NOW_MS)
    assert await there(kept, 62) == [61]


async def test_they_outlive_the_process(tmp_path: Path) -> None:
    first = SqliteExplanations(tmp_path, FEW)
    await first.put([one(n, size=1_850) for n in range(9)], now_ms=NOW_MS)
    await first.close()
    second = SqliteExplanations(tmp_path, FEW)
    assert await there(second, 9) == list(range(9))
    await second.put([one(n, size=1_850) for n in range(9, 12)], now_ms=NOW_MS)
    left = await there(second, 12)
    assert left == list(range(left[0], 12))
    assert left[0] in (2, 3)
    await second.close()


async def test_a_setting_that_was_lowered_frees_the_disk(tmp_path: Path) -> None:
    def size() -> int:
        return sum(file.stat().st_size for file in tmp_path.iterdir())

    wide = SqliteExplanations(tmp_path, MANY)
    for first in range(0, 1_000, 100):
        await wide.put([one(n, size=1_850) for n in range(first, first + 100)], now_ms=NOW_MS)
    await wide.close()
    before = await asyncio.to_thread(size)
    assert before > 1_000 * 2_000
    narrow = SqliteExplanations(tmp_path, FEW)
    await narrow.put([one(1_000, size=1_850)], now_ms=NOW_MS)
    assert len(await there(narrow, 1_001)) in (9, 10)
    await narrow.close()
    assert await asyncio.to_thread(size) < before / 10


async def test_the_file_takes_what_it_may(tmp_path: Path) -> None:
    """Rows count with what they take beside their bodies."""
    may = 1_000_000
    kept = SqliteExplanations(tmp_path, may)
    rows = [
        Explained(f"q_{n:024x}.peer-1", ScopeKey(n.to_bytes(16)), NOW_MS, one(n, size=340).body)
        for n in range(5_000)
    ]
    for first in range(0, 5_000, 500):
        await kept.put(rows[first : first + 500], now_ms=NOW_MS)
    await kept.close()
    taken = await asyncio.to_thread((tmp_path / FILE).stat)
    assert 0.8 * may < taken.st_size < 1.2 * may


def write_beside(path: Path, bodies: dict[int, bytes]) -> None:
    """Put these into the file as they are."""
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany(
            "INSERT INTO explanations (query_id, scope, at_ms, body) VALUES (?, ?, ?, ?)",
            [(f"q{number}", MINE, NOW_MS, body) for number, body in bodies.items()],
        )


async def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    kept = SqliteExplanations(tmp_path, MANY)
    await kept.put([one(1)], now_ms=NOW_MS)
    await kept.close()
    bodies = {2: b'{"k": 5}', 3: b"\x02later", 4: b"\x01no zlib"}
    await asyncio.to_thread(write_beside, tmp_path / FILE, bodies)
    again = SqliteExplanations(tmp_path, MANY)
    assert await again.get(MINE, "q2", now_ms=NOW_MS) == b'{"k": 5}'
    assert await there(again, 5) == [1, 2]  # of what cannot be read nothing is told
    await again.close()


async def test_a_damaged_file_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 500)
    kept = SqliteExplanations(tmp_path, MANY)
    with pytest.raises(Unavailable):
        await kept.put([one(1)], now_ms=NOW_MS)
    await kept.put([one(1)], now_ms=NOW_MS)
    assert await there(kept, 2) == [1]
    await kept.close()


async def test_a_damaged_file_that_the_disk_does_not_let_go(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 500)
    stuck = tmp_path / (FILE + "-shm")
    await asyncio.to_thread(stuck.mkdir)  # no unlink takes a folder away
    kept = SqliteExplanations(tmp_path, MANY)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await kept.put([one(1)], now_ms=NOW_MS)
    await asyncio.to_thread(stuck.rmdir)
    await kept.put([one(1)], now_ms=NOW_MS)
    assert await there(kept, 2) == [1]
    await kept.close()


async def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    kept = SqliteExplanations(tmp_path / "nowhere", MANY)
    with pytest.raises(Unavailable):
        await kept.get(MINE, "q1", now_ms=NOW_MS)
    await asyncio.to_thread((tmp_path / "nowhere").mkdir)
    assert await kept.get(MINE, "q1", now_ms=NOW_MS) is None
    await kept.close()
