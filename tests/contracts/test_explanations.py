"""Explanations on a peer's disk: for their scope, for their time, while they fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memsync import limits
from memsync.adapters.sqlite.explanations import FILE, SqliteExplanations
from memsync.errors import Unavailable
from memsync.ids import ScopeKey
from memsync.ports.recall import Explained, ExplanationStore
from tests.fakes.explanations import MemoryExplanations

MINE, HIS = ScopeKey(b"m" * 16), ScopeKey(b"h" * 16)
NOW_MS = 1_780_000_000_000


@pytest.fixture(params=["sqlite", "memory"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ExplanationStore]:
    if request.param == "memory":
        yield MemoryExplanations()
        return
    made = SqliteExplanations(tmp_path)
    yield made
    await made.close()


def one(number: int, *, scope: ScopeKey = MINE, at_ms: int = NOW_MS, size: int = 10) -> Explained:
    return Explained(f"q{number}", scope, at_ms, b"%04d" % number + b"x" * size)


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
    week_ms = limits.EXPLANATION_S * 1_000
    await kept.put([one(n, at_ms=NOW_MS + n) for n in range(4)], now_ms=NOW_MS)
    assert await there(kept, 4, now_ms=NOW_MS + week_ms + 2) == [2, 3]
    await kept.put([one(4, at_ms=NOW_MS + week_ms)], now_ms=NOW_MS + week_ms + 3)
    assert await there(kept, 5) == [3, 4]


async def test_the_oldest_go_where_they_do_not_fit(
    kept: ExplanationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXPLANATIONS_BYTES_MAX", 1_000)
    for first in range(0, 30, 3):
        await kept.put([one(n, size=96) for n in range(first, first + 3)], now_ms=NOW_MS)
    assert await there(kept, 30) == list(range(20, 30))
    await kept.put([one(n, size=996) for n in (30, 31)], now_ms=NOW_MS)
    assert await there(kept, 32) == [31]


async def test_they_outlive_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EXPLANATIONS_BYTES_MAX", 1_000)
    first = SqliteExplanations(tmp_path)
    await first.put([one(n, size=96) for n in range(9)], now_ms=NOW_MS)
    await first.close()
    second = SqliteExplanations(tmp_path)
    assert await there(second, 9) == list(range(9))
    await second.put([one(n, size=96) for n in range(9, 12)], now_ms=NOW_MS)
    assert await there(second, 12) == list(range(2, 12))
    await second.close()


async def test_a_damaged_file_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 500)
    kept = SqliteExplanations(tmp_path)
    with pytest.raises(Unavailable):
        await kept.put([one(1)], now_ms=NOW_MS)
    await kept.put([one(1)], now_ms=NOW_MS)
    assert await there(kept, 2) == [1]
    await kept.close()


async def test_a_damaged_file_that_the_disk_does_not_let_go(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database" * 500)
    stuck = tmp_path / (FILE + "-shm")
    await asyncio.to_thread(stuck.mkdir)  # no unlink takes a folder away
    kept = SqliteExplanations(tmp_path)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await kept.put([one(1)], now_ms=NOW_MS)
    await asyncio.to_thread(stuck.rmdir)
    await kept.put([one(1)], now_ms=NOW_MS)
    assert await there(kept, 2) == [1]
    await kept.close()


async def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    kept = SqliteExplanations(tmp_path / "nowhere")
    with pytest.raises(Unavailable):
        await kept.get(MINE, "q1", now_ms=NOW_MS)
    await asyncio.to_thread((tmp_path / "nowhere").mkdir)
    assert await kept.get(MINE, "q1", now_ms=NOW_MS) is None
    await kept.close()
