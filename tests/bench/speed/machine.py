"""What processes use, and what the machine was doing meanwhile: read from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOLEN_MAX = 0.02
OTHERS_MAX = 0.15
SPREAD_MAX = 1.5
Usage = Callable[[], Mapping[str, float]]  # processor seconds used so far, by name of process


def cpu_seconds(pid: int) -> float:
    """What the threads of a process have used; 0 for one that is not there. Nanoseconds where the
    kernel counts them, since blocks are short and its ticks are 10 ms."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    except OSError:
        return _ticks(pid)
    return total / 1e9


def _ticks(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def used(pids: Mapping[str, int]) -> dict[str, float]:
    """The same of several, by name."""
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def resident_bytes(pid: int) -> int:
    """The resident memory of a process now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has no memory")


def folder_bytes(folders: Iterable[Path]) -> int:
    """The sizes of all files below."""
    files = (file for folder in folders for file in folder.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine did beside. `stolen` is the share of its processor time that others of its
    host took, `others` how many cores processes took that are not measured (None where that is not
    known); `spread` how many times the least the largest block of a raw operation took."""

    load: list[float]  # average at the begin and at the end
    stolen: float
    others: float | None
    spread: float

    @property
    def reasons(self) -> list[str]:
        """Why the figures are not those of a quiet machine; empty if they are."""
        found = []
        if self.stolen > STOLEN_MAX:
            found.append(f"{100 * self.stolen:.0f} % of the processor time was stolen")
        if self.others is not None and self.others > OTHERS_MAX:
            found.append(f"other processes took {self.others:.2f} cores")
        if self.spread > SPREAD_MAX:
            found.append(f"the slowest block of a raw operation took {self.spread:.1f} times the")
            found[-1] += " fastest"
        return found


class Watch:
    """Looks at the machine from now on. `usage` is of the processes that are measured; without it
    nobody can tell what others take."""

    def __init__(self, usage: Usage | None = None) -> None:
        self._usage = usage
        self._load = os.getloadavg()[0]
        self._began = self._look()

    def _look(self) -> tuple[float, float, float, float]:
        with open("/proc/stat") as file:
            ticks = [int(field) for field in file.readline().split()[1:]]
        user, nice, system, _, _, irq, soft, stolen = ticks[:8]
        busy_s = (user + nice + system + irq + soft) / TICKS_PER_S
        measured = self._usage() if self._usage is not None else {}
        ours_s = sum(measured.values()) + time.process_time()
        return time.monotonic(), busy_s, stolen / TICKS_PER_S, ours_s

    def noise(self, spread: float = 1.0) -> Noise:
        """What was there beside since the begin."""
        now = self._look()
        took_s, busy_s, stolen_s, ours_s = (b - a for a, b in zip(self._began, now, strict=True))
        others = None if self._usage is None else max(0.0, busy_s - ours_s) / took_s
        return Noise(
            load=[round(self._load, 2), round(os.getloadavg()[0], 2)],
            stolen=round(stolen_s / took_s / (os.cpu_count() or 1), 3),
            others=None if others is None else round(others, 3),
            spread=round(spread, 2),
        )
