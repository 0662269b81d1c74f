"""A slow disk is slow for the process that is meant, while it is meant, where it can be had."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import slowness
from tests.chaos.network import CannotError
from tests.chaos.slowness import SlowDisk

WRITES = 12
# Answers each line with the median seconds of a write and its sync.
WRITER = f"""
import os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for _ in sys.stdin:
    took = []
    for place in range({WRITES}):
        began = time.monotonic()
        os.pwrite(file, os.urandom(4096), 4096 * place)
        os.fsync(file)
        took.append(time.monotonic() - began)
    print(sorted(took)[{WRITES} // 2], flush=True)
"""


class Writer:
    """A process that writes and syncs when it is asked to."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-c", WRITER, str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def takes_s(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[list[Writer]]:
    found = [Writer(tmp_path / name) for name in ("meant", "other")]
    yield found
    for writer in found:
        writer.end()


def test_it_is_slow_for_one_process_until_it_ends(writers: list[Writer], tmp_path: Path) -> None:
    meant, other = writers
    try:
        slow = SlowDisk(meant.process.pid, tmp_path)
        slow.start()
    except CannotError as error:
        pytest.skip(str(error))
    try:
        during_s, beside_s = meant.takes_s(), other.takes_s()
        measured_s = slow.takes_s(tmp_path)
    finally:
        slow.end()
    after_s = meant.takes_s()
    assert during_s > slowness.SLOW_S_MIN
    assert measured_s > slowness.SLOW_S_MIN  # so whoever looks sees it
    assert slow.takes_s(tmp_path) < slowness.SLOW_S_MIN  # and sees that it is over
    assert beside_s < during_s / 2
    assert after_s < during_s / 2


def test_where_it_cannot_be_had_it_says_so_and_leaves_nothing(
    writers: list[Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slowness, "GROUPS", tmp_path)
    (tmp_path / "blkio").mkdir()
    slow = SlowDisk(writers[0].process.pid, tmp_path) if _is_on_disk(tmp_path) else None
    if slow is None:
        pytest.skip("the folder for tests is not on a disk")
    (tmp_path / "blkio" / slowness.NAME).write_text("no folder can be made here")
    with pytest.raises(CannotError):
        slow.start()
    slow.end()
    assert (tmp_path / "blkio" / slowness.NAME).is_file()


def test_a_folder_that_is_on_no_disk_is_refused() -> None:
    with pytest.raises(CannotError, match="not on a disk"):
        SlowDisk(1, Path("/proc"))


def _is_on_disk(folder: Path) -> bool:
    try:
        SlowDisk(1, folder)
    except CannotError:
        return False
    return True
