"""A bus to hold the contracts against: three real nats-servers, or the one in memory.

Every member reaches the real one over a `Line`, which a test can cut. Each `Bed` has a cell of its
own, so that tests share the servers and nothing else; only the stream of ids is one for all.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import msgspec
import nats.errors
from nats.aio.client import Client

from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.log import JetStreamLog
from memsync.adapters.jetstream.marks import JetStreamMarks
from memsync.adapters.jetstream.peers import JetStreamPeers
from memsync.adapters.jetstream.streams import JetStreamStreams
from memsync.config import NatsSettings
from memsync.errors import Unavailable, VersionConflict
from memsync.ids import RecordKey
from memsync.local.ports import HOST
from memsync.ports import Log, Marks, Peers, Streams
from memsync.wire import subjects
from memsync.wire.subjects import CellName
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.system.local_bus import Bus

STRIPE_BYTES_MAX = 64 << 20
SMALL_BYTES_MAX = 64 << 10
TIMEOUT_S = 2.0  # of a publish that is expected to work, on a busy machine
WHOLE_S = 30.0
PROBE_S = 0.3
READ_BYTES = 1 << 16
# A client that hears of other servers goes there when its line is cut. As long as the original.
ADVERTISED, HIDDEN = b'"connect_urls"', b'"hidden__urls"'
_cells = itertools.count(1)


class Member(msgspec.Struct, frozen=True):
    """The bus as one member of a cell reaches it."""

    log: Log
    marks: Marks
    streams: Streams
    peers: Peers


class Bed(Protocol):
    """A cell without streams. What is not of a port is done behind the members' backs."""

    async def member(self, name: str = "peer-1") -> Member:
        """Connect a member."""
        ...

    async def cut(self, name: str = "peer-1") -> None:
        """End the member's connection; it gets no new one."""
        ...

    async def restore(self, name: str = "peer-1") -> None:
        """Let the member connect again, and wait until it has."""
        ...

    async def erase(self, stripe: int, generation: int, sequence: int) -> None:
        """Take one message out of a stream."""
        ...

    async def purge(self, stripe: int, generation: int) -> None:
        """Empty a stream."""
        ...

    async def lose(self, stripe: int, generation: int) -> None:
        """Delete a stream."""
        ...


class MemoryBed:
    """A `Bed` on tests/fakes/bus.py."""

    def __init__(self, stripe_bytes_max: int) -> None:
        self.bus = MemoryBus(stripe_bytes_max=stripe_bytes_max)

    async def member(self, name: str = "peer-1") -> Member:
        """Connect a member."""
        peer = self.bus.peer(name)
        return Member(peer, peer.marks(), peer, peer.peers())

    async def cut(self, name: str = "peer-1") -> None:
        """End the member's connection."""
        self.bus.cut_off.add(name)

    async def restore(self, name: str = "peer-1") -> None:
        """Let the member connect again."""
        self.bus.cut_off.discard(name)

    async def erase(self, stripe: int, generation: int, sequence: int) -> None:
        """Take one message out of a stream."""
        self.bus.erase(stripe, sequence)

    async def purge(self, stripe: int, generation: int) -> None:
        """Empty a stream."""
        self.bus.purge(stripe)

    async def lose(self, stripe: int, generation: int) -> None:
        """Delete a stream."""
        self.bus.lose(stripe)


class Line:
    """A TCP connection to the first server that takes it, which can be cut in between."""

    def __init__(self, servers: list[str]) -> None:
        self._servers = [server.rpartition(":")[2] for server in servers]
        self._writers: set[asyncio.StreamWriter] = set()
        self._carried: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_cut = False
        self._is_silent = False
        self.url = ""

    async def open(self) -> None:
        """Listen, at `url`."""
        self._server = await asyncio.start_server(self._carry, HOST, 0)
        self.url = f"nats://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Both ends lose their connection; new ones end at once."""
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """What is sent from now on gets lost, and nobody is told: a cable is out. Connections are
        taken, and hear nothing."""
        self._is_silent = True

    def mend(self) -> None:
        """Take connections again."""
        self._is_cut = self._is_silent = False

    async def close(self) -> None:
        """End for good."""
        assert self._server is not None
        self.cut()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._carried)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carried.add(task)
        far = None if self._is_cut else await self._far_end()
        try:
            if far is not None:
                ends = {writer, far[1]}
                self._writers |= ends
                await asyncio.gather(self._pump(reader, far[1]), self._pump(far[0], writer))
                self._writers -= ends
        finally:
            writer.close()
            self._carried.discard(task)

    async def _far_end(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self._servers:
            try:
                return await asyncio.open_connection(HOST, int(port))
            except OSError:
                continue
        return None

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(READ_BYTES):
                if not self._is_silent:
                    sink.write(data.replace(ADVERTISED, HIDDEN))
                    await sink.drain()
        except OSError:
            pass  # cut
        finally:
            sink.close()


class RealBed:
    """A `Bed` on real servers."""

    def __init__(self, bus: Bus, admin: Client, stack: AsyncExitStack, stripe_bytes: int) -> None:
        self.bus = bus
        self.cell = CellName("local", f"cell{next(_cells)}")
        self.admin = admin
        self.clients: dict[str, Client] = {}
        self.lines: dict[str, Line] = {}
        self._stack = stack
        self._stripe_bytes = stripe_bytes

    async def connect(self, name: str) -> Client:
        """A member's connection, over a line of its own."""
        line = self.lines[name] = Line(self.bus.servers)
        await line.open()
        self._stack.push_async_callback(line.close)
        settings = msgspec.structs.replace(settings_of(self.bus), servers=[line.url])
        client = self.clients[name] = await connection.connect(settings, name)
        self._stack.push_async_callback(connection.close, client)
        return client

    async def member(self, name: str = "peer-1") -> Member:
        """Connect a member."""
        client = await self.connect(name)
        streams = JetStreamStreams(
            client,
            self.cell,
            replicas=3,
            stripe_bytes_max=self._stripe_bytes,
            identity="cell",
        )
        return Member(
            JetStreamLog(client, self.cell),
            JetStreamMarks(client, self.cell, name),
            streams,
            JetStreamPeers(client, self.cell, name),
        )

    async def cut(self, name: str = "peer-1") -> None:
        """End the member's connection, and wait until it knows."""
        self.lines[name].cut()

        async def knows() -> bool:
            return not self.clients[name].is_connected

        await eventually(knows, f"{name} has lost its connection")

    async def restore(self, name: str = "peer-1") -> None:
        """Let the member connect again, and wait until it has."""
        self.lines[name].mend()

        async def is_back() -> bool:
            return self.clients[name].is_connected

        await eventually(is_back, f"{name} is back")

    async def ask(self, request: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request to the admin API of JetStream; fails the test when it is refused."""
        reply = await self.admin.request(f"$JS.API.{request}", json.dumps(body).encode(), timeout=5)
        answer: dict[str, Any] = json.loads(reply.data)
        assert "error" not in answer, answer
        return answer

    async def erase(self, stripe: int, generation: int, sequence: int) -> None:
        """Take one message out of a stream, on every server."""
        stream = self.cell.stream(stripe, generation)
        await self.ask(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})

    async def purge(self, stripe: int, generation: int) -> None:
        """Empty a stream."""
        await self.ask(f"STREAM.PURGE.{self.cell.stream(stripe, generation)}", {})

    async def lose(self, stripe: int, generation: int) -> None:
        """Delete a stream."""
        await self.ask(f"STREAM.DELETE.{self.cell.stream(stripe, generation)}", {})


def settings_of(bus: Bus, user: str = "node") -> NatsSettings:
    """How a user reaches the servers."""
    return NatsSettings(
        servers=bus.servers,
        credentials=str(bus.home.credentials(user)),
        system_credentials=str(bus.home.credentials("system")),
    )


@asynccontextmanager
async def connected(
    bus: Bus, user: str = "node", *, server: str | None = None
) -> AsyncIterator[Client]:
    """A connection of a user to this server, else to whichever takes it."""
    settings = settings_of(bus, user)
    if server is not None:
        settings = msgspec.structs.replace(settings, servers=[server])

    async def attempt() -> Client | None:
        try:
            return await connection.connect(settings, f"test-{user}")
        except Unavailable:
            return None  # none listens yet

    client = await eventually(attempt, "a server takes connections", WHOLE_S)
    assert client is not None
    try:
        yield client
    finally:
        await connection.close(client)


@asynccontextmanager
async def real_bed(bus: Bus, *, stripe_bytes_max: int = STRIPE_BYTES_MAX) -> AsyncIterator[RealBed]:
    """A new cell on the servers; its streams are deleted at the end, if anybody can."""
    async with connected(bus) as admin, AsyncExitStack() as stack:
        bed = RealBed(bus, admin, stack, stripe_bytes_max)
        yield bed
        if len(bus.processes) == len(bus.servers):
            await _delete_streams(bed)


async def _delete_streams(bed: RealBed) -> None:
    names = await bed.ask("STREAM.NAMES", {})
    ours = re.compile(rf"MEMSYNC_LOCAL_{bed.cell.cell.upper()}_\d+_\d+|{subjects.IDS_STREAM}")
    for name in names.get("streams") or []:
        if ours.fullmatch(name):
            await bed.ask(f"STREAM.DELETE.{name}", {})


async def make_whole(bus: Bus) -> None:
    """Start the servers that a test has killed, and wait until they make streams again."""
    for number in range(1, bus.ports.servers + 1):
        if number not in bus.processes:
            bus.start(number)
    for server in bus.servers:  # each must be heard by whoever leads
        async with connected(bus, server=server) as client:
            await eventually(partial(_can_make, client), f"{server} is in", WHOLE_S)


async def _can_make(client: Client) -> bool:
    """Whether a stream with three replicas can be made, takes a message and can be deleted. A new
    one each time: it is the making that needs all servers."""
    name = f"PROBE{next(_cells)}"
    config = {"name": name, "subjects": [name], "num_replicas": 3, "storage": "file"}
    requests = [
        (f"$JS.API.STREAM.CREATE.{name}", json.dumps(config).encode()),
        (name, b""),
        (f"$JS.API.STREAM.DELETE.{name}", b""),
    ]
    try:
        for subject, body in requests:
            reply = await client.request(subject, body, timeout=PROBE_S)
            if "error" in json.loads(reply.data):
                return False
    except (nats.errors.Error, TimeoutError):
        return False  # no leader yet
    return True


def kill(bus: Bus, name: str) -> None:
    """kill -9 of the server with this name."""
    bus.end(int(name.removeprefix("nats-")), signal.SIGKILL)


async def wait_heard(log: Log, stripe: int) -> None:
    """Wait until a stream that was just made hears what is published to it: the interest has to
    spread over the servers. What is published here is refused and leaves nothing."""

    async def is_heard() -> bool:
        try:
            await log.publish(
                stripe, "probe", b"", record=RecordKey(b"probe"), after=999, timeout_s=1.0
            )
        except VersionConflict:
            return True
        except Unavailable:
            return False
        raise AssertionError("a probe was stored")

    await eventually(is_heard, f"stripe {stripe} is heard")
