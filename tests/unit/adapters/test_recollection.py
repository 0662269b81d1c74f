"""What outlives a process and not a power cut: one small file in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memsync import homes
from memsync.adapters.recollection import SharedMemory
from memsync.ids import Position

HERE = [Position(0, 0, 7), Position(1, 2, 9)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    homes.memory_of(tmp_path).unlink(missing_ok=True)


def kept(folder: Path, incarnation: int = 5) -> list[Position] | None:
    memory = SharedMemory(folder, incarnation)
    try:
        return memory.recall()
    finally:
        memory.close()


def test_the_next_process_knows_what_the_last_one_had(folder: Path) -> None:
    memory = SharedMemory(folder, 5)
    assert memory.recall() is None
    for sequence in range(3):
        memory.keep([*HERE, Position(2, 0, sequence)])
    memory.close()
    assert kept(folder) == [*HERE, Position(2, 0, 2)]


def test_fewer_positions_leave_nothing_of_the_longer_ones(folder: Path) -> None:
    memory = SharedMemory(folder, 5)
    memory.keep([Position(stripe, 1 << 40, 1 << 40) for stripe in range(3)])
    memory.keep(HERE[:1])
    assert memory.recall() == HERE[:1]
    memory.close()


def test_another_store_knows_nothing(folder: Path, tmp_path: Path) -> None:
    memory = SharedMemory(folder, 5)
    memory.keep(HERE)
    memory.close()
    assert kept(folder, incarnation=6) is None
    assert kept(tmp_path / "other") is None
    homes.memory_of(tmp_path / "other").unlink()


@pytest.mark.parametrize("at", [4, 30])
def test_a_harmed_file_says_nothing(folder: Path, at: int) -> None:
    memory = SharedMemory(folder, 5)
    memory.keep(HERE)
    memory.close()
    path = homes.memory_of(folder)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    assert kept(folder) is None


def test_without_a_place_for_it_nothing_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "MEMORY", folder / "missing")
    memory = SharedMemory(folder, 5)
    memory.keep(HERE)
    assert memory.recall() is None
    memory.close()
