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


async def test_a_taken_port_is_named(served: Served) -> None:
    with pytest.raises(ConfigurationError, match=rf"http_port: cannot listen on .*:{served.port}"):
        listen(HOST, served.port)
