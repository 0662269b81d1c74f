"""The short way of messages: the same as nats-py's, whatever comes and however it is cut."""

from __future__ import annotations

import asyncio
import itertools

import nats.errors
import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as some
from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync.adapters.jetstream import bus_client, connection
from memsync.adapters.jetstream.bus_client import BusClient

HEADERS = b"NATS/1.0\r\nX-API-Key: k\r\nX-End-User-ID:  J\xc3\xb6rg \r\n\r\n"


def hmsg(subject: str, sid: int, headers: bytes, body: bytes, reply: str = "") -> bytes:
    words = [subject, str(sid), *([reply] if reply else []), str(len(headers))]
    line = f"HMSG {' '.join(words)} {len(headers) + len(body)}\r\n"
    return line.encode() + headers + body + b"\r\n"


def msg(subject: str, sid: int, body: bytes, reply: str = "") -> bytes:
    words = [subject, str(sid), *([reply] if reply else []), str(len(body))]
    return f"MSG {' '.join(words)}\r\n".encode() + body + b"\r\n"


STREAM = b"".join(
    [
        msg("a", 1, b"one", "inbox.1"),
        hmsg("a", 1, HEADERS, b"two\r\nlines", "inbox.2"),
        b"+OK\r\n",
        hmsg("b", 2, HEADERS, b"for nats-py"),
        msg("a", 1, b""),
        hmsg("a", 1, b"NATS/1.0 503\r\n\r\n", b""),
        hmsg("a", 1, b"NATS/1.0\r\nOdd: \xff\r\n\r\n", b"not text"),
        b"PING\r\n",
        msg("a", 1, b"MSG a 1 3\r\nfoo\r\n"),
        msg("gone", 9, b"nobody's"),
        hmsg("a", 1, HEADERS, b"x" * 300),
        msg("b", 2, b"the last"),
    ]
)


async def taken(cuts: list[int]) -> list[tuple[int, str, str, bytes, dict[str, str] | None]]:
    """What arrives of STREAM where it is read in these pieces: subscription 1 is heard directly,
    subscription 2 is nats-py's."""
    client, all_heard = BusClient(), asyncio.Event()
    found = []

    def take(message: Msg) -> None:
        sid = 1 if message.subject == "a" else 2
        found.append((sid, message.subject, message.reply, message.data, message.headers))
        if len(found) == 9:
            all_heard.set()

    client._status = Client.CONNECTED
    client._flush_queue = asyncio.Queue()
    await client.hear("a", take)

    async def slow(message: Msg) -> None:
        take(message)

    await client.subscribe("b", cb=slow)
    edges = sorted({0, len(STREAM), *(cut % len(STREAM) for cut in cuts)})
    for begin, end in itertools.pairwise(edges):
        await client._ps.parse(STREAM[begin:end])
    assert b"PONG\r\n" in client._pending  # the other words of the protocol are heard, too
    async with asyncio.timeout(5):
        await all_heard.wait()
    for subscription in client._subs.values():
        assert subscription._wait_for_msgs_task is not None
        subscription._wait_for_msgs_task.cancel()
    return sorted(found, key=lambda one: one[0])  # each subscription's in the order they came


@given(some.lists(some.integers(0, len(STREAM)), max_size=12))
@example([STREAM.index(b"MSG a 1 3")])  # its line is read, and nothing yet of what looks like one
def test_what_is_cut_anywhere_arrives_whole(cuts: list[int]) -> None:
    named = {"X-API-Key": "k", "X-End-User-ID": "Jörg"}
    expected = [
        (1, "a", "inbox.1", b"one", None),
        (1, "a", "inbox.2", b"two\r\nlines", named),
        (2, "b", "", b"for nats-py", named),
        (1, "a", "", b"", None),
        (1, "a", "", b"", {"Status": "503"}),
        (1, "a", "", b"not text", {"Odd": "\ufffd"}),
        (1, "a", "", b"MSG a 1 3\r\nfoo\r\n", None),
        (1, "a", "", b"x" * 300, named),
        (2, "b", "", b"the last", None),
    ]
    assert asyncio.run(taken(cuts)) == sorted(expected, key=lambda one: one[0])


async def test_messages_of_one_subscription_keep_their_order() -> None:
    client, found = BusClient(), []
    client._status = Client.CONNECTED
    client._flush_queue = asyncio.Queue()
    await client.hear("a", lambda message: found.append(message.data))
    await client._ps.parse(b"".join(msg("a", 1, b"%d" % n) for n in range(50)))
    await asyncio.sleep(0)
    assert found == [b"%d" % n for n in range(50)]
    await client._ps.parse(b"")


async def test_a_taker_that_fails_is_reported_and_takes_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, found, reported = BusClient(), [], []
    client._status = Client.CONNECTED
    client._flush_queue = asyncio.Queue()

    def take(message: Msg) -> None:
        found.append(message.data)
        if message.data == b"bad":
            raise ValueError("a fault of ours")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    await client.hear("a", take)
    await client._ps.parse(msg("a", 1, b"bad") + msg("a", 1, b"good"))
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert found == [b"bad", b"good"]
    assert [str(error) for error in reported] == ["a fault of ours"]


@given(
    some.dictionaries(
        some.text("AZaz09-_.~", min_size=0, max_size=5),
        some.text(max_size=8).filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t)),
        max_size=5,
    )
)
def test_headers_are_written_and_read_as_nats_py_does(headers: dict[str, str]) -> None:
    sent = bus_client.header_block(headers)
    client = Client()

    async def theirs() -> tuple[bytes, dict[str, str] | None]:
        client._flush_queue = asyncio.Queue()
        await client._send_publish("a", "", b"", 0, headers)
        return client._pending[0], await client._process_headers(sent)

    command, read = asyncio.run(theirs())
    assert command.partition(b"\r\n")[2] == sent + b"\r\n"
    assert bus_client.plain_headers(sent) == (read or None)


@pytest.mark.parametrize(
    "raw",
    [
        b"NATS/1.0\r\nA:b\r\n\r\n",
        b"NATS/1.0\r\n A : b \r\n\r\n",
        b"NATS/1.0\r\nA b: c\r\nD:\te\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n: no name\r\nA: b: c\r\n\r\n",
        b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n",
        b"NATS/1.0\r\n\xc3\xb6: 1\r\nB: \xc2\xa0\xc3\xb6\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
    ],
)
async def test_odd_headers_are_read_as_nats_py_reads_them(raw: bytes) -> None:
    theirs = await Client()._process_headers(raw) or {}
    theirs.pop("", None)  # a name that is none: ours leave it out
    assert (bus_client.plain_headers(raw) or {}) == theirs


async def test_what_one_turn_of_the_loop_publishes_is_one_write_and_goes_before_a_ping() -> None:
    writes: list[bytes] = []

    class Socket:
        def write(self, data: bytes) -> None:
            writes.append(data)

    client = BusClient()
    client._transport, client._status = Socket(), Client.CONNECTED  # type: ignore[assignment]
    client._flush_queue = asyncio.Queue()
    await client.publish("a", b"one")
    await client.publish("b", b"two", reply="r", headers={"N": "v"})
    assert writes == []
    await asyncio.sleep(0)
    assert writes == [b"PUB a  3\r\none\r\nHPUB b r 18 21\r\nNATS/1.0\r\nN: v\r\n\r\ntwo\r\n"]
    await client.publish("c", b"")
    await client._send_ping()
    assert writes[1:] == [b"PUB c  0\r\n\r\n", b"PING\r\n"]
    client._status = Client.RECONNECTING
    client._pending.append(b"kept")
    client._write()
    assert len(writes) == 3
    assert client._pending == [b"kept"]


async def test_a_header_that_is_none_is_not_sent() -> None:
    with pytest.raises(nats.errors.BadHeaderError):
        bus_client.header_block({"A B": "c"})


class Server:
    """As much of a NATS server as a client needs to connect; keeps what is published."""

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"s","max_payload":1000,"headers":true}\r\n')
        try:
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
                elif line.startswith(b"PUB"):
                    self.published.append((await reader.readline()).strip())
        except ConnectionError:
            pass  # the client aborted it
        finally:
            writer.close()


async def test_what_is_published_while_a_socket_closes_is_not_sent_over_the_next() -> None:
    """A watermark or a question of before would be told late, in the place of a newer one."""
    server, client, has_returned = Server(), BusClient(), asyncio.Event()
    url = await server.start()

    async def returned() -> None:
        has_returned.set()

    await client.connect(
        servers=[url], pending_size=0, reconnect_time_wait=0, reconnected_cb=returned
    )
    try:
        await client.publish("mark", b"before")
        await client.flush()
        client._transport._io_writer.transport.abort()  # type: ignore[union-attr]
        assert client.is_connected  # the read loop does not know yet
        await client.publish("mark", b"while it closes")
        async with asyncio.timeout(5):
            await has_returned.wait()
        await client.publish("mark", b"after")
        await client.flush()
        assert server.published == [b"before", b"after"]
    finally:
        await client.close()
        await server.stop()


def test_a_socket_that_is_closed_already_ends_nobody_who_writes() -> None:
    """uvloop raises what nats-py does not expect; the watchdog ended its peer by it."""

    async def scenario() -> None:
        server, client = Server(), BusClient()
        url = await server.start()
        await client.connect(servers=[url], pending_size=0, reconnect_time_wait=0)
        assert client._reading_task is not None
        assert client._transport is not None
        client._reading_task.cancel()  # nobody notices that the socket closes
        writer = client._transport._io_writer  # type: ignore[attr-defined]
        writer.transport.abort()
        await writer.wait_closed()
        with pytest.raises(RuntimeError):  # what this is about
            writer.write(b"PING\r\n")
        await client.publish("mark", b"lost")
        with pytest.raises(nats.errors.TimeoutError):
            await client.rtt(timeout=0.05)  # type: ignore[arg-type]
        client._transport.writelines([b"lost"])
        async with asyncio.timeout(5):
            await connection.close(client)
            await server.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
