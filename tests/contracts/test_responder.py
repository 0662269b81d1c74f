"""Requests over the bus: what `Responder` promises, on real servers.

Callers come as the client user, gateways as the node user, and the odd one over a raw socket.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync import limits
from memsync.adapters.jetstream.responder import Responder
from memsync.local import secrets
from memsync.local.ports import HOST
from memsync.ports import Answer
from memsync.wire import context
from memsync.wire.subjects import CLIENT_PREFIX
from tests.conditions import eventually
from tests.contracts.buses import RealBed, connected
from tests.system.local_bus import Bus

ANSWERED_S = 5.0
REFUSED_S = 0.3
ODD_HEADERS = [
    b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"\r\n\r\n",
    b"NATS/1.0\r\nname: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n: no name\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 abc def\r\n\r\n",
    b"NATS/1.0\r\nname: one\r\n  folded\r\n\r\n",
    b"\xff\xff\xff\xff",
    b"",
]


class Asked(msgspec.Struct, frozen=True):
    """One call of the backend."""

    operation: str
    headers: dict[str, str]
    body: bytes


class Backend:
    """Answers what it was asked, as soon as its gate is open."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Asked] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer 200 with the body that was sent."""
        self.asked.append(Asked(operation, dict(headers), body))
        await self.gate.wait()
        return Answer(200, {"answered-by": self.name}, body)

    def checks(self) -> dict[str, str]:
        """Not asked for over the bus."""
        return {}

    def is_recalling(self) -> bool:
        """Not asked for over the bus."""
        return True


class Running(msgspec.Struct, frozen=True):
    """A peer's responder that answers."""

    responder: Responder
    backend: Backend
    client: Client
    task: asyncio.Task[None]


@asynccontextmanager
async def running(real: RealBed, name: str = "peer-1") -> AsyncIterator[Running]:
    """A responder, from when it hears to the end of the block."""
    client = await real.connect(name)
    backend = Backend(name)
    responder = Responder(client, real.cell, name, backend)
    task = asyncio.create_task(responder.run())
    subject = real.cell.peer(name, "hello")

    async def answers() -> bool:
        try:
            await real.admin.request(subject, b"", timeout=REFUSED_S)
        except (nats.errors.Error, TimeoutError):
            return False
        return True

    await eventually(answers, f"{name} hears its own subject")
    backend.asked.clear()
    try:
        yield Running(responder, backend, client, task)
    finally:
        backend.gate.set()
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def peer(real: RealBed) -> AsyncIterator[Running]:
    """The only responder there is."""
    async with running(real) as found:
        yield found


@pytest.fixture
async def caller(bus: Bus, peer: Running) -> AsyncIterator[Client]:
    """A caller of the API, whom the peer hears."""
    async with connected(bus, "client") as client:
        await wait_answered(client, "hello")
        peer.backend.asked.clear()
        yield client


async def wait_answered(client: Client, operation: str) -> Msg:
    """Ask until somebody answers; who has answered once is heard by whoever asks here."""

    async def answered() -> Msg | None:
        try:
            return await client.request(CLIENT_PREFIX + operation, b"", timeout=REFUSED_S)
        except (nats.errors.Error, TimeoutError):
            return None

    found = await eventually(answered, f"{operation} is answered")
    assert found is not None
    return found


async def ask(
    client: Client, subject: str, body: bytes = b"{}", headers: dict[str, str] | None = None
) -> Msg:
    """One request."""
    return await client.request(subject, body, timeout=ANSWERED_S, headers=headers)


def status_of(message: Msg) -> str:
    return (message.headers or {})[context.STATUS]


async def test_callers_are_answered_by_any_peer(caller: Client, peer: Running) -> None:
    answer = await ask(caller, "memsync.v1.memory.add", b'{"text": "x"}', {"X-API-Key": "key"})
    assert status_of(answer) == "200"
    assert (answer.headers or {})["answered-by"] == "peer-1"
    assert answer.data == b'{"text": "x"}'
    assert peer.backend.asked == [Asked("memory.add", {"X-API-Key": "key"}, b'{"text": "x"}')]


async def test_gateways_are_answered_on_the_peers_own_subject(real: RealBed, peer: Running) -> None:
    subject = real.cell.peer("peer-1", "memory.query")
    answer = await ask(real.admin, subject, b"body", {context.IDS: "1-2", "X-API-Key": "key"})
    assert status_of(answer) == "200"
    assert peer.backend.asked == [
        Asked("memory.query", {context.IDS: "1-2", "X-API-Key": "key"}, b"body")
    ]


@pytest.mark.parametrize("name", ["Memsync-Ids", "memsync-ids", "MEMSYNC-IDS", "mEMSYNC-iDS"])
async def test_callers_cannot_fix_ids(caller: Client, peer: Running, name: str) -> None:
    answer = await ask(caller, "memsync.v1.memory.add", b"", {name: "1-2", "Memsync-Ack": "all"})
    assert status_of(answer) == "200"
    assert [each.headers for each in peer.backend.asked] == [{"Memsync-Ack": "all"}]


async def test_a_caller_is_answered_by_one_of_many_peers(real: RealBed, caller: Client) -> None:
    async with running(real, "peer-2") as second:
        asked: list[str] = []

        async def both() -> bool:
            answer = await ask(caller, "memsync.v1.memory.query")
            asked.append((answer.headers or {})["answered-by"])
            return {*asked} == {"peer-1", "peer-2"}

        await eventually(both, "both peers answer callers")
        assert len(second.backend.asked) == asked.count("peer-2")
        await ask(real.admin, real.cell.peer("peer-2", "only.second"))
        assert second.backend.asked[-1].operation == "only.second"


async def test_requests_are_answered_side_by_side(caller: Client, peer: Running) -> None:
    peer.backend.gate.clear()
    tasks = [
        asyncio.create_task(ask(caller, "memsync.v1.memory.query", b"%d" % n)) for n in range(50)
    ]
    await eventually(lambda: _has_asked(peer, 50), "all are under way at once")
    peer.backend.gate.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.data for answer in answers] == [b"%d" % n for n in range(50)]


async def _has_asked(peer: Running, count: int) -> bool:
    return len(peer.backend.asked) >= count


async def test_who_comes_when_too_many_are_in_flight_is_told_at_once(
    real: RealBed, caller: Client, peer: Running
) -> None:
    peer.backend.gate.clear()
    most = limits.REQUESTS_IN_FLIGHT_MAX
    tasks = [
        asyncio.create_task(
            caller.request("memsync.v1.memory.query", b"%d" % n, timeout=10 * ANSWERED_S)
        )
        for n in range(most)
    ]
    await eventually(lambda: _has_asked(peer, most), "all that may be are under way")
    for client, subject in (
        (caller, "memsync.v1.memory.query"),
        (real.admin, real.cell.peer("peer-1", "memory.query")),
    ):
        started = time.monotonic()
        answer = await ask(client, subject)
        assert time.monotonic() - started < REFUSED_S
        assert status_of(answer) == "503"
        error = json.loads(answer.data)["error"]
        assert (error["code"], error["definite"]) == ("OVERLOADED", True)
    assert len(peer.backend.asked) == most
    peer.backend.gate.set()
    assert {status_of(answer) for answer in await asyncio.gather(*tasks)} == {"200"}
    assert status_of(await ask(caller, "memsync.v1.memory.query")) == "200"


async def test_nothing_is_answered_where_it_would_be_stored_or_obeyed(
    real: RealBed, peer: Running
) -> None:
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    targets = [real.cell.log(0), real.cell.mark("x"), "memsync.v1.again", "$JS.API.INFO", "fine"]
    for target in targets:
        await real.admin.subscribe(target, cb=hear)
    for target in targets:
        await real.admin.publish("memsync.v1.memory.query", b"", reply=target)
    await real.admin.publish("memsync.v1.memory.query", b"")  # nobody waits for this one

    async def is_answered() -> bool:
        return "fine" in heard

    await eventually(is_answered, "the last one is answered")
    assert heard == ["fine"]
    assert len(peer.backend.asked) == 1


class Raw:
    """The client user over a bare socket, free of what a library thinks is well-formed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def publish(self, subject: str, reply: str, headers: bytes, body: bytes) -> None:
        """HPUB with these very bytes."""
        sizes = f"{len(headers)} {len(headers) + len(body)}"
        self._writer.write(f"HPUB {subject} {reply} {sizes}\r\n".encode() + headers + body)
        self._writer.write(b"\r\n")

    async def settle(self) -> list[bytes]:
        """Wait until the server has taken all; what it said meanwhile."""
        self._writer.write(b"PING\r\n")
        await self._writer.drain()
        said: list[bytes] = []
        async with asyncio.timeout(ANSWERED_S):
            while (line := await self._reader.readline()) not in (b"PONG\r\n", b""):
                said.append(line)
        return said


@asynccontextmanager
async def raw_client(bus: Bus) -> AsyncIterator[Raw]:
    """Connected and let in."""
    known = secrets.credentials(bus.home, "client")
    reader, writer = await asyncio.open_connection(HOST, bus.ports.nats(1))
    try:
        await reader.readline()  # INFO
        options = {
            "user": known.user,
            "pass": known.password,
            "headers": True,
            "verbose": False,
            "pedantic": False,
            "protocol": 1,
            "lang": "raw",
            "version": "1",
        }
        writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        yield Raw(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("headers", ODD_HEADERS)
async def test_headers_that_cannot_be_read_make_nobody_deaf(
    bus: Bus, caller: Client, peer: Running, headers: bytes
) -> None:
    """Whatever becomes of the odd request itself, the connection lives and the next is answered."""
    for _ in range(3):
        async with raw_client(bus) as raw:
            await raw.settle()
            raw.publish("memsync.v1.memory.query", "_INBOX_client.odd", headers, b"{}")
            await raw.settle()
        answer = await ask(caller, "memsync.v1.memory.query", b"after")
        assert (status_of(answer), answer.data) == ("200", b"after")
    assert peer.client.stats["reconnects"] == 0
    assert peer.client.is_connected
    assert not peer.task.done()


async def test_a_peer_that_stops_listening_answers_what_is_in_flight(
    real: RealBed, caller: Client, peer: Running
) -> None:
    peer.backend.gate.clear()
    own = real.cell.peer("peer-1", "memory.query")
    in_flight = [
        asyncio.create_task(ask(caller, "memsync.v1.memory.query", b"caller's")),
        asyncio.create_task(ask(real.admin, own, b"gateway's")),
    ]
    await eventually(lambda: _has_asked(peer, 2), "both are in flight")
    await peer.responder.stop_listening()

    async def is_deaf() -> bool:
        try:
            for client, subject in ((caller, "memsync.v1.late"), (real.admin, own)):
                await client.request(subject, b"late", timeout=REFUSED_S)
        except nats.errors.NoRespondersError:
            return True
        except nats.errors.TimeoutError:
            return False  # the servers do not all know yet
        return False

    await eventually(is_deaf, "nobody hears new requests")
    taken = len(peer.backend.asked)
    for client, subject in ((caller, "memsync.v1.late"), (real.admin, own)):
        with pytest.raises(nats.errors.NoRespondersError):
            await client.request(subject, b"late", timeout=REFUSED_S)
    assert len(peer.backend.asked) == taken
    peer.backend.gate.set()
    assert [answer.data for answer in await asyncio.gather(*in_flight)] == [
        b"caller's",
        b"gateway's",
    ]


async def test_listening_goes_on_after_a_reconnect(
    real: RealBed, caller: Client, peer: Running
) -> None:
    await real.cut("peer-1")
    with pytest.raises(nats.errors.NoRespondersError):
        await ask(caller, "memsync.v1.memory.query")
    await real.restore("peer-1")
    assert status_of(await wait_answered(caller, "memory.query")) == "200"


async def test_the_end_of_the_run_ends_what_is_in_flight(caller: Client, peer: Running) -> None:
    peer.backend.gate.clear()
    request = asyncio.create_task(caller.request("memsync.v1.memory.query", b"", timeout=REFUSED_S))
    await eventually(lambda: _has_asked(peer, 1), "it is in flight")
    peer.task.cancel()
    await asyncio.wait([peer.task])
    assert peer.task.cancelled()
    with pytest.raises(nats.errors.TimeoutError):
        await request
