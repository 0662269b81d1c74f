"""A slow disk for one process: the kernel lets it write so many times a second and no more.

By a control group of its own, in which the block device below its data has a limit of writes
(`blkio` of version 1, `io.max` of version 2). What it syncs then takes as long as on a disk that is
worn or shared; what others write is as fast as before. It needs root and a real block device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.network import CannotError

GROUPS = Path("/sys/fs/cgroup")
NAME = f"memsync-chaos-{os.getpid()}"
WRITES_A_SECOND = 20  # 1.2 ms for a write and its sync became 148 ms
SLOW_S_MIN = 1 / (2 * WRITES_A_SECOND)
MEASURED = 4  # writes, of which the median counts
WRITER = f"""
import os, sys, time
open(sys.argv[2], "w").write(str(os.getpid()))
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
took = []
for place in range({MEASURED}):
    began = time.monotonic()
    os.pwrite(file, os.urandom(4096), 4096 * place)
    os.fsync(file)
    took.append(time.monotonic() - began)
print(sorted(took)[{MEASURED} // 2])
"""


class SlowDisk:
    """One process made slow; `start` and `end` once each. Raises `CannotError`."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._pid = pid
        self._device = _device_of(folder)
        self._group: Path | None = None
        self._from: Path | None = None

    def start(self) -> None:
        """From now on its writes take long."""
        parent, limit, text = _limit(self._device)
        self._from = parent / _own_group(self._pid)
        group = parent / NAME
        try:
            group.mkdir(exist_ok=True)
            self._group = group
            (group / limit).write_text(text)
            (group / "cgroup.procs").write_text(str(self._pid))
        except OSError as error:
            self.end()
            raise CannotError(f"no control group may slow a disk here: {error}") from error

    def takes_s(self, folder: Path) -> float:
        """What a write and its sync take in this folder by the side of the process: of another one
        that enters its group."""
        if self._group is None:
            return 0.0
        probe = folder / "probe"
        command = [sys.executable, "-c", WRITER, str(probe), str(self._group / "cgroup.procs")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            probe.unlink(missing_ok=True)
        return float(done.stdout) if done.returncode == 0 else 0.0

    def end(self) -> None:
        """Its writes are as fast as ever. A process that has ended has left its group."""
        if self._group is None or self._from is None:
            return
        try:
            (self._from / "cgroup.procs").write_text(str(self._pid))
        except OSError:
            pass  # it has ended
        for pid in _pids(self._group):  # whom its keeper has started meanwhile
            (self._from / "cgroup.procs").write_text(pid)
        self._group.rmdir()
        self._group = None


def _limit(device: str) -> tuple[Path, str, str]:
    """Below which group, the name of the limit, and what to write into it."""
    if (GROUPS / "blkio").is_dir():
        return GROUPS / "blkio", "blkio.throttle.write_iops_device", f"{device} {WRITES_A_SECOND}"
    if "io" in _read(GROUPS / "cgroup.subtree_control").split():
        return GROUPS, "io.max", f"{device} wiops={WRITES_A_SECOND}"
    raise CannotError("no control group may slow a disk here: there is neither blkio nor io")


def _own_group(pid: int) -> str:
    """The group of a process, as it stands below the controller's folder."""
    found = ""
    for line in _read(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if "blkio" in controllers.split(",") or (not controllers and not found):
            found = path
    return found.lstrip("/")


def _device_of(folder: Path) -> str:
    """The disk that a folder lies on, as "major:minor"; a partition's limit is its disk's."""
    number = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not block.exists():
        raise CannotError(f"{folder} is not on a disk")
    disk = block.resolve().parent if (block / "partition").exists() else block
    return _read(disk / "dev").strip()


def _pids(group: Path) -> list[str]:
    return _read(group / "cgroup.procs").split()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
