"""A real bus for tests: nats-servers from the generated configuration, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from memsync.local import ports as port_numbers
from memsync.local.home import Home
from memsync.local.ports import Ports
from memsync.local.prepare import prepared

TOP = Path(__file__).parents[2]
END_TIMEOUT_S = 10.0


def free_ports(*, servers: int = 3, peers: int = 3) -> Ports:
    """Ports of a cluster that are all free at this moment, far from the default ones."""
    return port_numbers.choose_free(Ports(peers=peers, servers=servers))


@dataclass
class Bus:
    """Running nats-servers; `processes` may be killed and started again by number (from 1)."""

    home: Home
    ports: Ports
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def servers(self) -> list[str]:
        """The addresses of all servers."""
        return [
            f"nats://{port_numbers.HOST}:{self.ports.nats(number)}"
            for number in range(1, self.ports.servers + 1)
        ]

    def start(self, number: int) -> None:
        """Start one server; returns at once."""
        config = str(self.home.config(f"nats-{number}.conf"))
        self.processes[number] = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(TOP / "memsync" / "nodes" / "nats.py"),
                "--config",
                config,
            ],
            env=os.environ | {"MEMSYNC_HOME": str(self.home.path)},
            stdin=subprocess.DEVNULL,
        )

    def end(self, number: int, how: signal.Signals = signal.SIGTERM) -> None:
        """End one server and wait for it."""
        process = self.processes.pop(number)
        process.send_signal(how)
        process.wait(END_TIMEOUT_S)


@contextmanager
def running_bus(path: Path, *, servers: int = 3) -> Iterator[Bus]:
    """Start servers in a new home at `path`; they have ended when the context has."""
    bus = Bus(Home(path), free_ports(servers=servers))
    with prepared(bus.home, bus.ports):
        try:
            for number in range(1, servers + 1):
                bus.start(number)
            yield bus
        finally:
            for number in list(bus.processes):
                bus.end(number, signal.SIGKILL)
