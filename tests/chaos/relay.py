"""A TCP relay in front of every port of the cluster, for machines that allow no network namespaces.

All processes are on loopback and reach each other through it. For each connection it finds out
which process called, and so from which "machine" to which it goes; what goes from one to another
can be held back, in one direction or in both, or made late. Nothing is lost on the way, as TCP
would send it again: `loss` makes that share of the pieces as late as a repeated packet. So it is
second best: a cut here is a silence, in which connections can still be opened.

    python -m tests.chaos.relay FOLDER 4222=1 ...     port=machine, for each port to relay

It prints the port that stands for each, as JSON, and then takes one JSON line for each change:
{"held": [[1, 2]], "slow": 3, "delay_s": 0.04, "jitter_s": 0.02, "loss": 0.0}
It answers each line with what the last change has met: {"held": [[1, 2]], "late": 17}, pairs of
which something was held back, and how many pieces were late. {} changes nothing and only asks.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
CLIENT = 9
CHUNK_BYTES = 64 * 1024
RESENT_S = 0.2  # Linux waits at least so long before it sends a packet again
ESTABLISHED = "01"  # the state in /proc/net/tcp


class Links:
    """What is held back and what is slow, for every direction between two machines."""

    def __init__(self) -> None:
        self._held: set[tuple[int, int]] = set()
        self._slow = 0
        self._delay_s = self._jitter_s = self._loss = 0.0
        self._changed = asyncio.Event()
        self._chance = random.Random()
        self._met: set[tuple[int, int]] = set()
        self._late = 0

    def met(self) -> dict[str, Any]:
        """What was held back and late since the last change."""
        return {"held": sorted(self._met), "late": self._late}

    def change(self, told: dict[str, Any]) -> None:
        """From now on it is like this."""
        self._met.clear()
        self._late = 0
        self._held = {(source, target) for source, target in told["held"]}
        self._slow = told["slow"]
        self._delay_s, self._jitter_s = told["delay_s"], told["jitter_s"]
        self._loss = told["loss"]
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_open(self, source: int, target: int) -> None:
        """Wait while this direction is held back."""
        while (source, target) in self._held:
            self._met.add((source, target))
            await self._changed.wait()

    def late_s(self, source: int, target: int) -> float:
        """How late the next piece arrives."""
        if source == target or self._slow not in (source, target):
            return 0.0
        late_s = self._delay_s + self._chance.uniform(-self._jitter_s, self._jitter_s)
        if self._chance.random() < self._loss:
            late_s += RESENT_S
        self._late += 1
        return max(0.0, late_s)


class Direction:
    """One direction of a connection: what is read now is written when it is due."""

    def __init__(self, links: Links, source: int, target: int) -> None:
        self._links = links
        self._pair = source, target
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the reading side ends; then the writing side is ended."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(reader))
            group.create_task(self._write(writer))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        piece = b" "
        while piece:
            piece = await _received(reader)
            due = time.monotonic() + self._links.late_s(*self._pair)
            await self._pieces.put((due, piece))

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await self._pieces.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._links.wait_open(*self._pair)
            if not piece:
                writer.close()
                return
            if writer.transport.is_closing():
                continue  # the other side is gone: what still comes goes nowhere
            try:
                writer.write(piece)
                await writer.drain()
            except OSError:
                writer.close()


async def _received(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(CHUNK_BYTES)
    except OSError:
        return b""


class Relay:
    """Listens for every port, and passes on."""

    def __init__(self, folder: Path, links: Links) -> None:
        self._folder = folder
        self._links = links

    async def listen(self, port: int, machine: int) -> int:
        """The port that stands for `port`, which is on `machine`."""

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._pass_on(reader, writer, port, machine)

        server = await asyncio.start_server(accepted, HOST, 0)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, target: int
    ) -> None:
        source = await asyncio.to_thread(self._machine, writer.get_extra_info("peername")[1])
        try:
            await self._links.wait_open(source, target)
            await self._links.wait_open(target, source)
            there, back = await asyncio.open_connection(HOST, port)
        except OSError:
            writer.transport.abort()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(Direction(self._links, source, target).run(reader, back))
            group.create_task(Direction(self._links, target, source).run(there, writer))

    def _machine(self, port: int) -> int:
        """Where the process lives that holds the connection from this port."""
        inode = _inode_of(port)
        for path in self._folder.glob("run/*.pid"):
            try:
                links = Path(f"/proc/{int(path.read_text())}/fd").iterdir()
                if any(str(fd.readlink()) == f"socket:[{inode}]" for fd in links):
                    return machine_of(path.stem)
            except (OSError, ValueError):
                continue  # it has ended meanwhile
        return CLIENT


def machine_of(name: str) -> int:
    """Server and peer i are on machine i, the rest is with the callers."""
    kind, _, number = name.partition("-")
    return int(number) if kind in ("nats", "peer") else CLIENT


def _inode_of(port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == ESTABLISHED and int(fields[1].rpartition(":")[2], 16) == port:
            return fields[9]
    return ""


async def serve(folder: Path, ports: dict[int, int]) -> None:
    """Relay until standard input ends: whoever started us is gone."""
    links = Links()
    relay = Relay(folder, links)
    made = {port: await relay.listen(port, machine) for port, machine in ports.items()}
    print(json.dumps(made), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(links.met()), flush=True)
        if told := json.loads(line):
            links.change(told)
    os._exit(0)  # with all its connections, as a cable that is cut


def main() -> None:
    """The command line."""
    pairs = (text.split("=") for text in sys.argv[2:])
    asyncio.run(serve(Path(sys.argv[1]), {int(port): int(machine) for port, machine in pairs}))


if __name__ == "__main__":
    main()
