"""A server of models over HTTP on loopback that can go wrong in every way that one can think of.

It speaks just enough of HTTP/1.1 to be a real partner of a real client. Its embeddings count
letters; its chat model answers with `lines`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tests.fakes.recall_bench import letters

DRIP_S = 0.02
HUGE_BYTES = 1 << 30
FAULTS = (
    "hangs", "500", "429", "401", "404", "302", "closes", "truncates", "garbage", "not json",
    "another shape", "wrong dimensions", "wrong count", "wrong indexes", "nan", "infinite", "null",
    "strings", "drips", "drips header", "huge", "huge header", "compressed", "empty",
)  # fmt: skip


class ModelServer:
    """`behaviour` is "well" or one of FAULTS, and may be set at any time; `asked` are the texts of
    all requests, `keys` their Authorization headers."""

    def __init__(self, behaviour: str = "well", dimensions: int = 26) -> None:
        self.behaviour = behaviour
        self.dimensions = dimensions
        self.lines: list[str] = []
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.keys: list[str] = []
        self.port = 0
        self._connections: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Up to the version, as a setting has it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> asyncio.Server:
        """Listen on a free port, or on the one that it had."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                path, headers, body = request
                self.paths.append(path)
                self.keys.append(headers.get("authorization", ""))
                if self.behaviour == "hangs":
                    self._note(path, json.loads(body))
                    await reader.read(1)  # until the client has gone
                    return
                if not await self._answer(path, json.loads(body), writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as it may
        finally:
            self._connections.discard(task)
            writer.close()

    async def wait_idle(self) -> None:
        """Wait until all clients have gone."""
        while self._connections:
            await asyncio.wait(self._connections)

    async def _answer(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may go on after this."""
        texts = self._note(path, body)
        if path.endswith("/embeddings"):
            good = self._embeddings(texts)
        else:
            said = {"role": "assistant", "content": "\n".join(self.lines)}
            good = {"choices": [{"message": said}]}
        match self.behaviour:
            case "closes":
                return False
            case "truncates":
                writer.write(_head(200, 5_000) + json.dumps(good).encode()[:20])
                return False
            case "garbage":
                writer.write(b"\x00\xff\r\n\r\n" * 10)
                return False
            case "drips" | "drips header":
                await self._drip(good, writer)
            case "huge" | "huge header":
                await self._pour(writer)
            case "500" | "429" | "401" | "404" | "302" as status:
                error = b'{"error": {"message": "no"}}'
                writer.write(_head(int(status), len(error)) + error)
            case _:
                payload = self._payload(good)
                more = "Content-Encoding: gzip\r\n" if self.behaviour == "compressed" else ""
                writer.write(_head(200, len(payload), more) + payload)
        await writer.drain()
        return True

    def _note(self, path: str, body: dict[str, Any]) -> list[str]:
        """The texts of a request."""
        texts: list[str] = body.get("input") or [body["messages"][-1]["content"]]
        self.asked += texts
        return texts

    def _payload(self, good: dict[str, Any]) -> bytes:
        """The body, right or wrong."""
        data = good.get("data", [{"embedding": []}])
        match self.behaviour:
            case "not json" | "compressed":
                return b"\x1f\x8b" + b"I would rather not" * 3
            case "empty":
                return b""
            case "another shape":
                return b'{"vectors": [[1, 2]]}'
            case "wrong dimensions":
                data[0]["embedding"] = data[0]["embedding"][:-1]
            case "wrong count":
                good["data"] = [*data, *data]
            case "wrong indexes":
                data[0]["index"] = 7
            case "nan" | "infinite":
                value = "NaN" if self.behaviour == "nan" else "1e999"
                return json.dumps(good).replace("0.0", value).encode()
            case "null":
                data[0]["embedding"][0] = None
            case "strings":
                data[0]["embedding"][0] = "0.5"
        return json.dumps(good).encode()

    def _embeddings(self, texts: list[str]) -> dict[str, Any]:
        vectors = letters(texts)[:, : self.dimensions].tolist()
        found = [
            {"object": "embedding", "index": number, "embedding": vector}
            for number, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": found[::-1], "model": "letters"}

    async def _drip(self, good: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Byte after byte, so that something always arrives."""
        payload = json.dumps(good).encode() * 50
        head = _head(200, len(payload))
        if self.behaviour == "drips":
            writer.write(head)
        for byte in head + payload if self.behaviour == "drips header" else payload:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(DRIP_S)

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        """More than anybody should read."""
        if self.behaviour == "huge":
            writer.write(_head(200, HUGE_BYTES))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(HUGE_BYTES >> 16):
            writer.write(b"[" * (1 << 16))
            await writer.drain()


async def _read_request(
    reader: asyncio.StreamReader,
) -> tuple[str, dict[str, str], bytes] | None:
    """Path, headers in lower case and body; None at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return None
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return first.split(" ")[1], headers, body


def _head(status: int, length: int, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\n"
        f"Location: http://127.0.0.1:1/\r\n{more}Content-Length: {length}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def serving(behaviour: str = "well", **options: Any) -> AsyncIterator[ModelServer]:
    """A server on this event loop; whoever is its client must have gone when the block ends."""
    made = ModelServer(behaviour, **options)
    server = await made.start()
    try:
        yield made
    finally:
        server.close()
        async with asyncio.timeout(5):
            await made.wait_idle()


@contextmanager
def serving_in_thread(behaviour: str = "well", **options: Any) -> Iterator[ModelServer]:
    """A server for other processes, on an event loop of its own; they must have gone when the
    block ends."""
    made = ModelServer(behaviour, **options)
    loop = asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    async def live() -> None:
        server = await made.start()
        started.set()
        await stop.wait()
        server.close()
        async with asyncio.timeout(5):
            await made.wait_idle()

    thread = threading.Thread(target=loop.run_until_complete, args=[live()], daemon=True)
    thread.start()
    try:
        assert started.wait(10)
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
