"""A peer that can be told to do without leases, for `scripts/bench leases` only. The product has no
such switch, and must not have one: without leases a read may lack what was acknowledged.

    python -m tests.bench.without_leases --config FILE    in place of memsync.nodes.peer
    python -m tests.bench.without_leases --up             in place of memsync.local.up

It begins as the product is. After SIGUSR2 this peer asks for no lease and renews none, and answers
reads at once as if it were fresh; once no peer asks, none names another, and a write waits for its
coordinator and a majority only. After SIGUSR1 it is the product again.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from memsync.engine.cell.leases import Leases
from memsync.local import processes, up
from memsync.nodes import peer

WITH, WITHOUT = signal.SIGUSR1, signal.SIGUSR2


@contextmanager
def switchable() -> Iterator[None]:
    """The product, with leases or without, as the last of the two signals says."""
    may_ask, is_fresh = Leases._may_ask, Leases.is_fresh
    has_leases = True

    def switch(number: int, _: object) -> None:
        nonlocal has_leases
        has_leases = number == WITH

    def may_ask_if_with(self: Leases) -> bool:
        return has_leases and may_ask(self)

    def is_fresh_or_without(self: Leases) -> bool:
        return is_fresh(self) if has_leases else self._why_not() is None

    for number in (WITH, WITHOUT):
        signal.signal(number, switch)
    with (
        mock.patch.object(Leases, "_may_ask", may_ask_if_with),
        mock.patch.object(Leases, "is_fresh", is_fresh_or_without),
    ):
        yield


@contextmanager
def in_the_procfile() -> Iterator[None]:
    """Peers of a cluster that is started within are such peers."""
    load = processes.load

    def load_changed(
        cluster: processes.Cluster, environment: dict[str, str], chosen: Sequence[str]
    ) -> None:
        text = processes.PROCFILE.read_text(encoding="utf-8")
        changed = Path(environment["MEMSYNC_HOME"]) / "Procfile.without-leases"
        changed.write_text(
            text.replace("-m memsync.nodes.peer", "-m tests.bench.without_leases"),
            encoding="utf-8",
        )
        load(cluster, environment, chosen, changed)

    with mock.patch.object(processes, "load", load_changed):
        yield


def main(arguments: list[str]) -> int:
    """The process; returns the exit code."""
    if arguments == ["--up"]:
        with in_the_procfile():
            return up.main([])
    with switchable():
        return peer.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
