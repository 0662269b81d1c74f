"""Machines, cables and disks without a cluster, for the tests of them: run it with namespaces of
its own (`network.unshared`), and it does what it is told.

    python -m tests.chaos.rehearsal

One JSON line in, ["drop", [[1, 2]]] or the like, is one JSON line out: what came of it, or
{"error": why}.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import disks
from tests.chaos.network import CannotError, Machines
from tests.chaos.probes import Pair


def _pairs(named: list[list[int]]) -> list[Pair]:
    return [(source, target) for source, target in named]


class Rehearsal:
    """What can be done; each public name is a word that may be told."""

    def __init__(self) -> None:
        self._machines = Machines()

    def says(self) -> str:
        """What this machine has."""
        return self._machines.says

    def drop(self, pairs: list[list[int]]) -> None:
        """Cut."""
        self._machines.drop(_pairs(pairs))

    def pass_again(self, pairs: list[list[int]]) -> None:
        """Take it back."""
        self._machines.pass_again(_pairs(pairs))

    def unplug(self, machine: int) -> None:
        """Pull the cable."""
        self._machines.unplug(machine)

    def plug(self, machine: int) -> None:
        """Put it in again."""
        self._machines.plug(machine)

    def slow(self, machine: int, delay_ms: int, jitter_ms: int, loss: float) -> str:
        """Make it slow, or lossy."""
        return self._machines.slow(machine, delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss)

    def slow_no_more(self) -> None:
        """Take it back."""
        self._machines.slow_no_more()

    def why_not_open(self, pairs: list[list[int]]) -> str:
        """See `Network`."""
        return self._machines.why_not_open(_pairs(pairs))

    def why_not_cut(self, pairs: list[list[int]]) -> str:
        """See `Network`."""
        return self._machines.why_not_cut(_pairs(pairs))

    def why_not_slow(self, machine: int, least_ms: int, is_lossy: bool) -> str:
        """See `Network`."""
        return self._machines.why_not_slow(machine, least_ms=least_ms, is_lossy=is_lossy)

    def flights(self, pairs: list[list[int]], count: int, within_s: float) -> list[list[float]]:
        """How long the datagrams of each pair took that arrived."""
        found = self._machines.probes.flights(_pairs(pairs), count=count, within_s=within_s)
        return [found[pair] for pair in _pairs(pairs)]

    def mount(self, folder: str) -> None:
        """A small disk."""
        disks.mount(Path(folder))

    def unmount(self, folder: str) -> None:
        """Take it away."""
        disks.unmount(Path(folder))

    def fill(self, folder: str) -> None:
        """Leave no room."""
        disks.fill(Path(folder))

    def make_room(self, folder: str) -> None:
        """Take it back."""
        disks.make_room(Path(folder))

    def is_full(self, folder: str) -> bool:
        """Whether it takes nothing more."""
        return disks.is_full(Path(folder))

    def write(self, path: str, size_bytes: int) -> int:
        """Write a file; how much of it is there then."""
        try:
            Path(path).write_bytes(bytes(size_bytes))
        except OSError:
            pass  # it is full: what is there says so
        return Path(path).stat().st_size


def main() -> int:
    """Ends with its standard input."""
    rehearsal = Rehearsal()
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        do: Callable[..., Any] = getattr(rehearsal, word)
        try:
            came: Any = {"came": do(*arguments)}
        except (CannotError, OSError, subprocess.CalledProcessError) as error:
            came = {"error": str(error)}
        print(json.dumps(came), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
