"""What the logs of a cluster tell of faults inside memsync: whatever is done to it, none."""

from __future__ import annotations

from pathlib import Path

TOLD_BY = ("process.failed", "request.failed", "Exception in ASGI application")


def faults_of_ours(logs: Path) -> dict[str, list[str]]:
    """Process -> the lines of its log, with tracebacks, by which it or a request of it failed.
    `logs` is the folder of all log files."""
    found: dict[str, list[str]] = {}
    for log in sorted(logs.glob("*.log*")):
        text = log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if any(told in line for told in TOLD_BY)]
        if lines:
            found.setdefault(log.name.partition(".")[0], []).extend(lines)
    return found
