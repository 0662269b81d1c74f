"""A NATS client that does next to nothing: requests, and a responder that echoes.

The load shares the machine with what it loads. One request costs the official client library about
five times as much processor time as this, which would be counted against the cluster. No
reconnects, no time-outs of its own (a block of requests has one), no TLS: for measuring only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import cast

MADE_S = 5.0
END = b"\r\n"
Answer = tuple[bytes, bytes]  # headers as they came, body


class BusError(Exception):
    """The server said no, or the connection is gone."""


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as they travel."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"NATS/1.0\r\n" + lines.encode() + END


class Bus(asyncio.Protocol):
    """One connection. `connect` makes it."""

    def __init__(self, login: bytes, inbox: str) -> None:
        self._login = login
        self._inbox = inbox.encode()
        self._numbers = itertools.count(1)
        self._asked: dict[bytes, asyncio.Future[Answer]] = {}
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None
        self.is_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Log in and hear the own inbox."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are not its children
        self._transport.write(self._login + b"SUB " + self._inbox + b".* 1\r\nPING\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits is told."""
        self._fail(BusError(f"connection lost: {error}"))

    def request(self, subject: bytes, headers: bytes, body: bytes) -> asyncio.Future[Answer]:
        """Ask; the answer is the first that comes. `headers` is a `header_block`, or nothing."""
        assert self._transport is not None
        token = b"%d" % next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[token] = future
        reply = self._inbox + b"." + token
        self._transport.write(_publish(subject, reply, headers, body))
        return future

    def echo(self, subject: bytes) -> None:
        """Send what comes on this subject back."""
        assert self._transport is not None
        self._transport.write(b"SUB " + subject + b" 2\r\n")

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take in what came; a part of a message is kept."""
        if self._rest:
            data = self._rest + data
        at = 0
        while (end := data.find(END, at)) >= 0:
            word = data[at : at + 4]
            if word in (b"HMSG", b"MSG "):
                fields = data[at:end].split()
                done = end + 2 + int(fields[-1]) + 2
                if done > len(data):
                    break
                self._heard(fields, data[end + 2 : done - 2])
                at = done
                continue
            self._told(word, data[at:end])
            at = end + 2
        self._rest = data[at:]

    def _heard(self, fields: Sequence[bytes], payload: bytes) -> None:
        if fields[2] == b"2":
            assert self._transport is not None
            self._transport.write(_publish(fields[3], b"", b"", payload))
            return
        size = int(fields[-2]) if fields[0] == b"HMSG" else 0
        future = self._asked.pop(fields[1].rpartition(b".")[2], None)
        if future is not None and not future.done():
            future.set_result((payload[:size], payload[size:]))

    def _told(self, word: bytes, line: bytes) -> None:
        if word == b"PING":
            assert self._transport is not None
            self._transport.write(b"PONG\r\n")
        elif word == b"PONG" and not self.is_up.done():
            self.is_up.set_result(None)
        elif word == b"-ERR":
            self._fail(BusError(line.decode()))

    def _fail(self, error: BusError) -> None:
        asked, self._asked = self._asked, {}
        for future in (self.is_up, *asked.values()):
            if not future.done():
                future.set_exception(error)
        self.is_up.cancelled() or self.is_up.exception()  # nobody need wait for it


def _publish(subject: bytes, reply: bytes, headers: bytes, body: bytes) -> bytes:
    to = subject + b" " + reply if reply else subject
    if headers:
        size = len(headers)
        return b"HPUB %b %d %d\r\n%b%b\r\n" % (to, size, size + len(body), headers, body)
    return b"PUB %b %d\r\n%b\r\n" % (to, len(body), body)


async def connect(host: str, port: int, credentials: Mapping[str, str]) -> Bus:
    """A connection to one server, logged in. `credentials`: user, password, inbox_prefix. Raises
    `BusError`, `OSError`, `TimeoutError`."""
    options = {
        "user": credentials["user"], "pass": credentials["password"], "verbose": False,
        "pedantic": False, "headers": True, "no_responders": True, "lang": "bench",
        "version": "1", "protocol": 1, "echo": True,
    }  # fmt: skip
    login = b"CONNECT " + json.dumps(options).encode() + END
    inbox = f"{credentials['inbox_prefix']}.{secrets.token_hex(6)}"
    async with asyncio.timeout(MADE_S):
        loop = asyncio.get_running_loop()
        _, bus = await loop.create_connection(lambda: Bus(login, inbox), host, port)
        await bus.is_up
    return bus
