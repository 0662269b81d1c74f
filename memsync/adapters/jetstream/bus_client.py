"""nats-py's client with its holes closed, and with a short way for what comes and goes thousands of
times a second.

nats-py takes each message through four regular expressions, a queue and a task of its
subscription, and each publish through a queue and a task that writes. Here a message is cut out of
what was read by its own lengths and handed to its taker in the next turn of the loop (`hear`), and
all that is published in one turn is written at once. Whatever else comes (the other words of the
protocol, headers that are not plain, other subscriptions) goes the way of nats-py, so its checks
and its errors stay. Uses private attributes of nats-py, whose version is pinned for it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import CRLF_SIZE, Parser

from memsync.tasks import is_going_on
from memsync.telemetry import logger

Taker = Callable[[Msg], None]
_VERSION = b"NATS/1.0\r\n"
_END = b"\r\n\r\n"
_OVER_TCP = ("nats", "tls")
_BLANKS = " \t\r\n\x0b\x0c"
_NAMES_KEPT = 1_024  # of headers; callers may send any
_NAME_CHARS = frozenset(
    "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)


class BusClient(Client):
    """nats-py's client, with five holes closed (it is pinned for this). Headers that cannot be
    read ended its read loop, so that one odd message of any caller took the connection down. Its
    endless search for a server could lose the request to end (see `memsync.tasks`). A handshake
    that failed left its socket open until it was collected. What was published while a socket
    closed was sent after the next connect, however late that was. And a socket that closes: see
    `_Socket`."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _MessageParser(self)
        self._takers: dict[int, Taker] = {}
        self._tokens = itertools.count(1)
        self._will_write = False

    async def _connect_to_server(self, s: Any) -> None:
        if not is_going_on():
            raise asyncio.CancelledError
        # What was to go over a connection that broke is not sent over the next one: by then others
        # may have heard newer watermarks, and who waits for an answer to the rest has asked again
        # or given up. (nats-py subscribes again by itself.)
        self._pending, self._pending_data_size = [], 0
        if self._transport is None and s.uri.scheme in _OVER_TCP:
            self._transport = _Socket()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            raise

    async def _process_headers(self, headers: Any) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError, ValueError) as error:
            logger().warning("headers.unreadable", error=type(error).__name__)
            return None

    # Hearing

    async def hear(self, subject: str, take: Taker, *, queue: str = "") -> Subscription:
        """Subscribe: `take` is called with each message, in their order, from the event loop; what
        it raises is the loop's to report."""

        async def late(message: Msg) -> None:  # for one that comes before this has returned
            take(message)

        subscription = await self.subscribe(subject, queue=queue, cb=late)
        self._takers[subscription._id] = take
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._takers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def deliver(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, raw: bytes
    ) -> bool:
        """Hand over a message, `raw` being its headers; False where its subscription has no
        taker."""
        take = self._takers.get(sid)
        if take is None:
            return False
        headers = None
        if raw and (headers := plain_headers(raw)) is None:
            headers = await self._process_headers(raw)
        message = Msg(self, subject.decode(), reply.decode(), data, headers, None, False, sid)
        asyncio.get_running_loop().call_soon(take, message)
        return True

    # Asking

    async def _init_request_sub(self) -> None:
        prefix = bytes(self._inbox_prefix) + b"." + bytes(self._nuid.next()) + b"."
        self._resp_map, self._resp_sub_prefix = {}, bytearray(prefix)
        await self.hear(prefix.decode() + "*", self._take_reply)

    def _take_reply(self, message: Msg) -> None:
        future = self._resp_map.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)

    async def _request_new_style(
        self,
        subject: str,
        payload: bytes,
        timeout: float = 1,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        assert self._resp_sub_prefix is not None
        loop = asyncio.get_running_loop()
        token = f"{next(self._tokens):x}"
        self._resp_map[token] = future = loop.create_future()
        alarm = loop.call_later(timeout, _time_is_up, future)
        try:
            inbox = self._resp_sub_prefix.decode() + token
            await self.publish(subject, payload, reply=inbox, headers=headers)
            found: Msg = await future
            return found
        finally:
            alarm.cancel()
            self._resp_map.pop(token, None)

    # Sending

    async def _send_publish(
        self,
        subject: str,
        reply: str,
        payload: bytes,
        payload_size: int,
        headers: dict[str, Any] | None,
    ) -> None:
        if not subject:
            raise nats.errors.BadSubjectError
        if headers is None:
            command = f"PUB {subject} {reply} {payload_size}\r\n".encode()
        else:
            block = header_block(headers)
            size = len(block)
            line = f"HPUB {subject} {reply} {size} {size + payload_size}\r\n"
            command = line.encode() + block
        self._pending += (command, payload, b"\r\n")
        self._pending_data_size += len(command) + payload_size + CRLF_SIZE
        if not self._will_write:
            self._write_soon()

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        self._write_soon()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        self._write()  # what was published before a `flush` goes before its ping
        await super()._send_ping(future)

    def _write_soon(self) -> None:
        """Write once in this turn of the loop all that is to be sent by then."""
        if not self._will_write:
            self._will_write = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """Without a connection nothing is written; the next one begins with nothing to be sent."""
        self._will_write = False
        if not self.is_connected or self._transport is None or not self._pending:
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        self._transport.write(b"".join(pending))


class _Socket(TcpTransport):
    """nats-py's own, but what is written once it closes is lost, as with the loop of asyncio; the
    read loop hears of the end soon. uvloop raises `RuntimeError` there, which nats-py lets pass:
    it ended whoever was writing, even a reconnect for good, or the peer's process by its
    watchdog."""

    def __bool__(self) -> bool:
        return True  # else nats-py makes another in its place before it connects

    def write(self, payload: bytes) -> None:
        """Send, or lose."""
        if not self._is_closing():
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: Iterable[bytes]) -> None:
        """Send, or lose."""
        if not self._is_closing():
            super().writelines(payload)  # type: ignore[no-untyped-call]

    def _is_closing(self) -> bool:
        return self._io_writer is None or self._io_writer.transport.is_closing()


class _MessageParser(Parser):
    """Takes messages by their lengths, and leaves all other lines to nats-py's parser, one by one:
    so messages of a subscription keep their order, however they are cut."""

    nc: BusClient

    def __init__(self, nc: BusClient) -> None:
        super().__init__(nc)
        self._parts: list[bytes] = []  # of what has begun to come
        self._missing = 0  # bytes of a message; 0 where it is a line whose end is not known

    def reset(self) -> None:
        """Forget what has begun to come: the connection is another."""
        super().reset()
        self._parts, self._missing = [], 0

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read. Raises `ProtocolError`."""
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data, self._parts, self._missing = b"".join(self._parts), [], 0
        at, size = 0, len(data)
        while (end := data.find(b"\r\n", at)) >= 0:
            begin = end + CRLF_SIZE
            line = _message_line(data[at:end])
            if line is None:
                await super().parse(data[at:begin])
                at = begin
                continue
            subject, sid, reply, header_bytes, total_bytes = line
            until = begin + total_bytes
            if until + CRLF_SIZE > size:
                self._missing = until + CRLF_SIZE - size
                break
            raw, body = data[begin : begin + header_bytes], data[begin + header_bytes : until]
            at = until + CRLF_SIZE
            if not await self.nc.deliver(sid, subject, reply, body, raw):
                await self.nc._process_msg(sid, subject, reply, body, raw)
        if at < size:
            self._parts = [data[at:]]


def _message_line(line: bytes) -> tuple[bytes, int, bytes, int, int] | None:
    """Subject, subscription, reply, bytes of headers and of everything: of `MSG <subject> <sid>
    [reply] <all>` or `HMSG <subject> <sid> [reply] <headers> <all>`; None for another line."""
    words = line.split()
    if not words:
        return None
    if words[0] == b"HMSG":
        numbers = 2
    elif words[0] == b"MSG":
        numbers = 1
    else:
        return None
    replies = len(words) - 3 - numbers
    if replies not in (0, 1):
        return None
    try:
        header_bytes = int(words[-2]) if numbers == 2 else 0
        return words[1], int(words[2]), words[3] if replies else b"", header_bytes, int(words[-1])
    except ValueError:
        return None  # nats-py says what is wrong with it


def plain_headers(raw: bytes) -> dict[str, str] | None:
    """The headers of a message, by name, as nats-py reads them; None where they hold a status of
    the server, or anything that is not plain text, which is for nats-py to judge."""
    if not (raw.startswith(_VERSION) and raw.endswith(_END)):
        return None
    try:
        text = raw[len(_VERSION) : -len(_END)].decode()
    except UnicodeDecodeError:
        return None
    found = {}
    for line in text.split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and (name := _name_read(name)):
            found[name] = value.strip(_BLANKS)
    return found or None


@lru_cache(_NAMES_KEPT)
def _name_read(name: str) -> str:
    """A header's name; "" for what is none, and is passed over."""
    name = name.strip(_BLANKS)
    return name if name.isascii() and name.split() == [name] else ""


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent, as nats-py makes them; raises `BadHeaderError`."""
    lines = ["NATS/1.0\r\n"]
    for name, value in headers.items():
        known = _name_sent(name)
        if known:
            value = value.strip()
            if "\r" in value or "\n" in value:
                value = value.replace("\r", " ").replace("\n", " ")
            lines.append(f"{known}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode()


@lru_cache(_NAMES_KEPT)
def _name_sent(name: str) -> str:
    """A header's name as it is sent; "" for none, which is not sent."""
    name = name.strip()
    if not _NAME_CHARS.issuperset(name):
        raise nats.errors.BadHeaderError(name)
    return name


def _time_is_up(future: asyncio.Future[Msg]) -> None:
    if not future.done():
        future.set_exception(nats.errors.TimeoutError())


async def hear(client: Client, subject: str, take: Taker, *, queue: str = "") -> Subscription:
    """`BusClient.hear` for a client that may be nats-py's own."""
    if isinstance(client, BusClient):
        return await client.hear(subject, take, queue=queue)

    async def taken(message: Msg) -> None:
        take(message)

    return await client.subscribe(subject, queue=queue, cb=taken)
