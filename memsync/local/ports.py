"""Which ports a local cluster uses, and whether they are free.

Every port is shifted by one offset (`MEMSYNC_PORT_OFFSET`), so that clusters run side by side. All
of them are tested before anything is started: a clash is then one clear line instead of a process
that dies again and again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memsync.errors import ConfigurationError
from memsync.homes import HOST as HOST
from memsync.homes import HTTP_PORT as HTTP_PORT
from memsync.homes import OFFSET_MAX as OFFSET_MAX
from memsync.homes import OFFSET_VARIABLE as OFFSET_VARIABLE
from memsync.homes import SIZE_MAX as SIZE_MAX
from memsync.homes import offset_from as offset_from

NATS_PORT = 4_222
ROUTE_PORT = 6_222
LISTENING = "0A"  # the state TCP_LISTEN in /proc/net/tcp


@dataclass(frozen=True)
class Ports:
    """The ports of one local cluster."""

    offset: int = 0
    peers: int = 3
    servers: int = 3

    @property
    def http(self) -> int:
        """The port that the gateways share."""
        return HTTP_PORT + self.offset

    def peer(self, number: int) -> int:
        """The own HTTP port of peer `number` (from 1)."""
        return HTTP_PORT + number + self.offset

    def nats(self, number: int) -> int:
        """The client port of nats-server `number` (from 1)."""
        return NATS_PORT + number - 1 + self.offset

    def route(self, number: int) -> int:
        """The port at which nats-server `number` (from 1) takes routes from the others."""
        return ROUTE_PORT + number - 1 + self.offset

    def named(self) -> Iterator[tuple[str, int]]:
        """Every port with the name of what will listen there."""
        for number in range(1, self.servers + 1):
            yield f"nats-{number}", self.nats(number)
            if self.servers > 1:
                yield f"nats-{number} (routes)", self.route(number)
        for number in range(1, self.peers + 1):
            yield f"peer-{number}", self.peer(number)
        yield "gateways", self.http


def check_free(ports: Ports) -> None:
    """Raise `ConfigurationError` that names every port that is taken, and by whom if known."""
    clashes = [
        f"port {port} ({name}) is taken by {holder(port)}"
        for name, port in ports.named()
        if not is_free(port)
    ]
    if clashes:
        raise ConfigurationError(
            "; ".join(clashes) + f". End it, or choose other ports with {OFFSET_VARIABLE}=100"
        )


def is_free(port: int) -> bool:
    """Whether one can listen on this port of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: connections that a former start left in TIME_WAIT are no clash.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """Who listens on `port`: "name (pid 1)", or "another process" where /proc does not tell."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
    targets = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*") if targets else ():
        if _has_open(process, targets):
            return f"{_name(process)} (pid {process.name})"
    return "another process"


def _listening_inodes(table: str, port: int) -> Iterator[str]:
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return
    for fields in map(str.split, lines):
        if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _has_open(process: Path, targets: set[str]) -> bool:
    try:
        return any(os.readlink(link) in targets for link in (process / "fd").iterdir())
    except OSError:  # it has ended, or it is another user's
        return False


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
