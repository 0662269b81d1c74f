"""The app on a real loopback port: what only shows on a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import pytest

from memsync import limits
from memsync.errors import ConfigurationError
from memsync.gateway.app import build_app
from memsync.gateway.server import listen, serve
from memsync.ports import Answer
from tests.conditions import eventually
from tests.fakes.backend import KEY, MemoryBackend

HOST = "127.0.0.1"


class Slow(MemoryBackend):
    """A backend that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()
        self.may_go = asyncio.Event()

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        self.arrived.set()
        await self.may_go.wait()
        return await super().call(operation, headers, body)


class Served:
    """A server that runs, and raw connections to it."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.backend = backend
        self.stop = asyncio.Event()
        self._socket = listen(HOST, 0)
        self.port: int = self._socket.getsockname()[1]

    async def run(self) -> None:
        """Serve until stopped."""
        app = build_app(self.backend, name="test-1")
        await serve(app, sockets=[self._socket], stop=self.stop)

    async def send(self, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
        """One raw request on a connection of its own; (status, headers, body)."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            for part in parts:
                writer.write(part)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            return (
                int(head[0].split()[1]),
                headers,
                await reader.readexactly(int(headers["content-length"])),
            )
        finally:
            writer.close()

    async def is_open(self) -> bool:
        """Whether connections are taken."""
        return not await self.is_closed()

    async def is_closed(self) -> bool:
        """Whether new connections are refused."""
        try:
            await self.send(request("GET /healthz"))
        except (ConnectionError, asyncio.IncompleteReadError):
            return True
        return False


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    found = Served(Slow())
    async with asyncio.TaskGroup() as group:
        group.create_task(found.run())
        yield found
        found.stop.set()


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A raw request."""
    lines = [line + " HTTP/1.1", "Host: x", f"X-API-Key: {KEY}", "X-End-User-ID: anna", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_what_is_not_http_gets_an_error_of_ours(served: Served) -> None:
    status, headers, body = await served.send(b"NONSENSE\r\n\r\n")
    assert status == 400
    assert headers["content-type"] == "application/json"
    found = json.loads(body)
    assert found["error"]["code"] == "INVALID_REQUEST"
    assert found["request_id"] == headers["x-request-id"]


async def test_too_much_is_refused_before_it_is_sent(served: Served) -> None:
    size = f"Content-Length: {limits.BODY_BYTES_MAX + 1}"
    status, headers, body = await served.send(
        request("POST /memory/add", size, "Expect: 100-continue")
    )
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body)["error"]["code"] == "PAYLOAD_TOO_LARGE"


async def test_too_much_in_chunks_is_refused(served: Served) -> None:
    chunk = b"186a0\r\n" + bytes(100_000) + b"\r\n"
    status, _, body = await served.send(
        request("POST /memory/add", "Transfer-Encoding: chunked"), *[chunk] * 11, b"0\r\n\r\n"
    )
    assert status == 413
    assert json.loads(body)["error"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize("user", ["a/b", "a%2Fb"])
async def test_a_slash_in_the_user_arrives_raw(user: str, served: Served) -> None:
    assert isinstance(served.backend, Slow)
    served.backend.may_go.set()
    status, _, _ = await served.send(request(f"GET /v1/memory/default/{user}/list"))
    assert status == 200
    assert json.loads(served.backend.calls[0].body)["user_id"] == "a/b"


async def test_a_body_on_delete_arrives(served: Served) -> None:
    assert isinstance(served.backend, Slow)
    served.backend.may_go.set()
    body = b'{"memory_ids":[1]}'
    raw = request("DELETE /memory/forget", f"Content-Length: {len(body)}", body=body)
    assert (await served.send(raw))[2] == b"[]"


async def test_a_request_in_flight_is_finished_and_no_new_one_is_taken() -> None:
    backend = Slow()
    served = Served(backend)
    async with asyncio.TaskGroup() as group:
        group.create_task(served.run())
        body = b'{"text":"tea"}'
        raw = request("POST /memory/add", f"Content-Length: {len(body)}", body=body)
        answer = group.create_task(served.send(raw))
        await backend.arrived.wait()
        served.stop.set()
        await eventually(served.is_closed, "no new connections are taken")
        assert not answer.done()
        backend.may_go.set()
    assert answer.result()[0] == 201


async def test_a_connection_is_closed_by_an_answer_that_says_so() -> None:
    """A server that ends: a request on an open connection is answered, and hears that it was the
    last one there. To close without a word could cross the request."""
    backend = Slow()
    backend.may_go.set()
    served = Served(backend)
    async with asyncio.TaskGroup() as group:
        group.create_task(served.run())
        await eventually(served.is_open, "connections are taken")
        reader, writer = await asyncio.open_connection(HOST, served.port)
        for is_last in (False, True):
            writer.write(request("GET /memory/list"))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length: ")[1].split("\r\n")[0])
            await reader.readexactly(length)
            assert head.startswith("http/1.1 200")
            assert ("connection: close" in head) is is_last
            served.stop.set()
            await asyncio.sleep(0)
        assert await reader.read() == b""
        writer.close()


async def test_requests_in_a_row_are_answered_in_a_row(served: Served) -> None:
    """Also those that are sent before the one before is answered, and one without a body."""
    assert isinstance(served.backend, Slow)
    served.backend.may_go.set()
    reader, writer = await asyncio.open_connection(HOST, served.port)
    listed, alive = request("GET /memory/list"), request("HEAD /healthz")
    writer.write(listed + alive + request("GET /healthz") + listed)
    bodies = []
    for has_body in (True, False, True, True):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        assert head[0] == "http/1.1 200 ok"
        assert "connection" not in headers
        assert headers["x-served-by"] == "test-1"
        assert headers["date"].endswith("gmt")
        bodies.append(await reader.readexactly(int(headers["content-length"]) * has_body))
    assert bodies[0] == bodies[3] != bodies[2] != b""
    writer.close()


async def test_a_caller_of_old_is_told_that_the_connection_ends(served: Served) -> None:
    reader, writer = await asyncio.open_connection(HOST, served.port)
    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
    answer = await reader.read()  # to its end
    assert b"\r\nconnection: close\r\n" in answer
    writer.close()


class Odd(MemoryBackend):
    """A backend whose answers have a header that no caller may be given."""

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return Answer(200, {"Memsync-Position": "1\r\nset-cookie: a=b"}, b"{}")


async def test_a_header_with_a_line_end_is_not_sent() -> None:
    served = Served(Odd())
    async with asyncio.TaskGroup() as group:
        group.create_task(served.run())
        reader, writer = await asyncio.open_connection(HOST, served.port)
        writer.write(request("GET /memory/list"))
        assert await reader.read() == b""  # the connection ends
        writer.close()
        served.stop.set()


class Large(MemoryBackend):
    """A backend whose answers do not fit into the buffers of a socket together."""

    BODY = b"x" * 1_000_000

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return Answer(200, {}, self.BODY)


async def test_a_caller_who_reads_slowly_gets_all_of_it() -> None:
    served = Served(Large())
    async with asyncio.TaskGroup() as group:
        group.create_task(served.run())
        reader, writer = await asyncio.open_connection(HOST, served.port, limit=1_000)
        writer.write(request("GET /memory/list") * 8)
        for _ in range(8):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert await reader.readexactly(len(Large.BODY)) == Large.BODY
        writer.close()
        served.stop.set()


async def test_a_taken_port_is_named(served: Served) -> None:
    with pytest.raises(ConfigurationError, match=rf"http_port: cannot listen on .*:{served.port}"):
        listen(HOST, served.port)
