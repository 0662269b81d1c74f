"""Which ports a local cluster uses, and whether they are free.

Every port is shifted by one offset (`MEMSYNC_PORT_OFFSET`), so that clusters run side by side. All
of them are tested before anything is started: a clash is then one clear line instead of a process
that dies again and again.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
FREE_TRIES = 100
FREE_OFFSET_MIN = 10_000
FREE_OFFSET_STEP = 20  # more than a cluster takes, so that two cannot overlap by half
FREE_OFFSETS = 600  # up to port 30,080: below those that the kernel gives to outgoing connections
LISTENING = "0A"  # the state TCP_LISTEN in /proc/net/tcp


@dataclass(frozen=True)
class Ports:
    """The ports of one local cluster."""

    offset: int = 0
    peers: int = 3
    servers: int = 3
    gateways: int = 2

    @property
    def http(self) -> int:
        """The port for callers: that of the gateways, or without any that of peer-1."""
        return HTTP_PORT + self.offset

    def peer(self, number: int) -> int:
        """The own HTTP port of peer `number` (from 1); after that of the gateways, if any."""
        return self.http + number - (0 if self.gateways else 1)

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
        if self.gateways:
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


def choose_free(chosen: Ports) -> Ports:
    """The same cluster at an offset whose ports are all free now, far from the default ones.

    Raises `ConfigurationError` where none of many is free.
    """
    for _ in range(FREE_TRIES):
        offset = FREE_OFFSET_MIN + FREE_OFFSET_STEP * secrets.randbelow(FREE_OFFSETS)
        found = replace(chosen, offset=offset)
        if all(is_free(port) for _, port in found.named()):
            return found
    raise ConfigurationError(f"no free ports at {FREE_TRIES} offsets from {FREE_OFFSET_MIN} on")


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
