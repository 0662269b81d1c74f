"""What /proc tells about processes: a pid alone says nothing, since the kernel uses it again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

STAT_STATE = 0  # fields of /proc/<pid>/stat, counted after the name in brackets
STAT_START_TIME = 19
STAT_USER_TIME = 11
STAT_SYSTEM_TIME = 12
STAT_RESIDENT_PAGES = 21


def started_ticks(pid: int) -> int:
    """When a process started, in clock ticks since the machine did; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[STAT_START_TIME]) if fields and fields[STAT_STATE] != "Z" else 0


def use_of(pid: int) -> tuple[float, int] | None:
    """The processor time that a process took, in seconds, and its resident memory in bytes."""
    fields = _stat(pid)
    if not fields or fields[STAT_STATE] == "Z":
        return None
    ticks = int(fields[STAT_USER_TIME]) + int(fields[STAT_SYSTEM_TIME])
    pages = int(fields[STAT_RESIDENT_PAGES])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE")


def command_line(pid: int) -> list[str]:
    """The arguments that a process was started with; [] if there is no such process."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def read_pid(path: Path) -> int | None:
    """The number in a pid file, None where there is none."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_running_with(pid: int, fragment: str) -> bool:
    """Whether `pid` is alive and one of its arguments contains `fragment`."""
    return bool(started_ticks(pid)) and any(fragment in part for part in command_line(pid))


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if the process has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
