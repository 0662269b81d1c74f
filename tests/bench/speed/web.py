"""An HTTP/1.1 client that does next to nothing: one request at a time over a kept connection.

httpx takes 1.5 ms of processor time for a request, more than a gateway. For measuring only: no
redirects, no chunked answers, no time-outs of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

Answer = tuple[int, bytes]  # status, body
HEAD_END = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length: "


class WebError(Exception):
    """The connection is gone, or the answer is of a kind that this does not read."""


def request_head(path: str, headers: Mapping[str, str]) -> bytes:
    """What a POST begins with, all but the length of its body."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{lines}"
    ).encode()


class Connection(asyncio.Protocol):
    """One connection. `connect` makes it."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are not its children

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits is told."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(WebError(f"connection lost: {error}"))

    def request(self, head: bytes, body: bytes) -> asyncio.Future[Answer]:
        """Ask; only one request at a time. `head` is a `request_head`."""
        assert self._transport is not None
        assert self._waiting is None or self._waiting.done()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        return self._waiting

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take in what came; an answer is there once its body is."""
        self._data = data = self._data + data
        head_end = data.find(HEAD_END)
        if head_end < 0 or self._waiting is None or self._waiting.done():
            return
        head = data[: head_end + 2].lower()
        at = head.find(LENGTH)
        if at < 0:
            self._waiting.set_exception(WebError("an answer without a length"))
            return
        begin = at + len(LENGTH)
        end = head_end + len(HEAD_END) + int(head[begin : head.index(b"\r\n", begin)])
        if len(data) >= end:
            self._data = data[end:]
            self._waiting.set_result((int(head[9:12]), data[head_end + len(HEAD_END) : end]))


async def connect(host: str, port: int) -> Connection:
    """A connection. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, host, port)
    return connection
