"""Settings that measured failures asked for (jetstream.md): a test each, so that none gets lost."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client

from memsync import limits
from memsync.adapters.jetstream import bus_client, connection
from memsync.adapters.jetstream.log import JetStreamLog
from memsync.adapters.jetstream.streams import JetStreamStreams
from memsync.config import NatsSettings
from memsync.local import nats as local_nats
from memsync.wire.subjects import CellName

CELL = CellName("local", "cell")
SETTINGS = NatsSettings(servers=["nats://127.0.0.1:1", "nats://127.0.0.1:2"])


class Recording(Client):
    """Connects nowhere and remembers with what."""

    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}

    async def connect(self, *args: Any, **options: Any) -> None:  # type: ignore[override]
        self.options = options


async def test_connections_are_made_as_the_findings_ask() -> None:
    client = Recording()
    await connection.connect(SETTINGS, "peer-1", client=client)
    found = client.options
    assert found["pending_size"] == 0  # else a publish is buffered in silence and sent later
    assert found["max_reconnect_attempts"] == -1  # else the client closes itself for good
    assert found["reconnect_time_wait"] <= 0.5
    assert found["connect_timeout"] <= 1
    assert found["ping_interval"] * found["max_outstanding_pings"] <= 10
    assert found["dont_randomize"] is True  # the preferred server first
    assert found["servers"] == SETTINGS.servers


async def test_a_connection_that_cannot_be_made_does_not_hang() -> None:
    """On a cluster nats-py tries for ever; the time is ours."""
    with pytest.raises(Exception, match="let peer-1 in"):
        async with asyncio.timeout(5):
            await connection.connect(SETTINGS, "peer-1", wait_s=0.3)


async def test_a_handshake_that_fails_leaves_no_socket_open() -> None:
    """A server that lets in, says nothing a client understands and keeps the line open, as one that
    is ending may do: each connection is closed before the next is tried."""
    numbers = itertools.count(1)
    open_now: set[int] = set()
    beside: list[int] = []
    tried_often = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        beside.append(len(open_now))
        open_now.add(number)
        if number == 1:  # let in, and lost
            writer.write(b'INFO {"server_id":"s","version":"2.15.1","max_payload":1048576}\r\n')
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            await writer.drain()
        else:
            writer.write(b"-ERR 'shutting down'\r\n")
            await reader.read()
        open_now.discard(number)
        writer.close()
        if number == 4:
            tried_often.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = NatsSettings(servers=[f"nats://127.0.0.1:{port}"])
    async with server:
        client = await connection.connect(settings, "peer-1")
        async with asyncio.timeout(10):
            await tried_often.wait()
        await connection.close(client)
    assert not any(beside)


async def test_a_close_that_takes_too_long_leaves_no_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """nats-py waits for its own tasks before it closes the socket: on a busy machine too long."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"s","version":"2.15.1","max_payload":1048576}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        try:
            await reader.read()
        except ConnectionError:
            pass  # aborted: as good an end as any
        ended.set()
        writer.close()

    class Slow(bus_client.BusClient):
        async def _flush_pending(self, force_flush: bool = False) -> None:
            if self.is_closed:
                await asyncio.Event().wait()
            await super()._flush_pending(force_flush)

    monkeypatch.setattr(connection, "CLOSE_TIMEOUT_S", 0.05)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = NatsSettings(servers=[f"nats://127.0.0.1:{port}"])
        client = await connection.connect(settings, "peer-1", client=Slow())
        await connection.close(client)
        async with asyncio.timeout(5):
            await ended.wait()


async def test_the_log_stream_is_made_as_the_findings_ask() -> None:
    made: list[Any] = []

    class Streams(JetStreamStreams):
        async def _add(self, config: Any) -> None:
            made.append(config)

    streams = Streams(Client(), CELL, replicas=3, stripe_bytes_max=1 << 24, identity="cell")
    await streams.create(1, 2)
    await streams.create_ids(7)
    stripe, ids = made
    assert stripe.name == "MEMSYNC_LOCAL_CELL_1_2"
    assert (stripe.retention.value, stripe.storage.value) == ("limits", "file")
    assert stripe.discard.value == "new"  # a full stripe refuses; it never drops what is unread
    assert stripe.num_replicas == ids.num_replicas == 3
    assert stripe.duplicate_window == limits.DUPLICATE_WINDOW_S
    assert stripe.max_age == limits.LOG_AGE_MAX_S
    assert stripe.allow_direct is True  # any surviving server answers reads
    assert stripe.republish.dest == CELL.tail_all(1)
    assert stripe.metadata == {"memsync.cell": "cell"}
    for never in ("deny_purge", "allow_rollup_hdrs", "allow_msg_ttl", "allow_msg_schedules"):
        assert not getattr(stripe, never, None), never
    assert stripe.max_msgs_per_subject in (None, -1, 0)
    assert ids.first_seq == 7


async def test_a_log_message_carries_its_id_and_its_condition_and_nothing_else() -> None:
    """`Nats-Expected-Last-Msg-Id` that does not hold stops a stream for good."""
    sent: list[dict[str, str]] = []

    class Publishing:
        async def publish(self, *args: Any, headers: dict[str, str], **more: Any) -> Any:
            sent.append(headers)
            return msgspec.defstruct("Ack", [("stream", str), ("seq", int)])(
                "MEMSYNC_LOCAL_CELL_0_0", 1
            )

    client = Client()
    client._max_payload = limits.NATS_PAYLOAD_BYTES_MAX
    log = JetStreamLog(client, CELL)
    log._jetstream = Publishing()  # type: ignore[assignment]
    await log.publish(0, "a", b"", timeout_s=1)
    await log.publish(0, "b", b"", record=b"r", after=3, timeout_s=1)  # type: ignore[arg-type]
    assert sent == [
        {"Nats-Msg-Id": "a"},
        {"Nats-Msg-Id": "b", "Nats-Expected-Last-Subject-Sequence": "3"},
    ]


def test_the_servers_are_configured_as_the_findings_ask() -> None:
    """The templates themselves, whatever is filled in."""
    server = (local_nats.TEMPLATES / "nats.conf.tmpl").read_text()
    cluster = (local_nats.TEMPLATES / "nats-cluster.conf.tmpl").read_text()
    assert "feature_flags { js_ack_fc_v2: false }" in server
    assert "sync_interval: always" in server
    assert "max_payload: 4MB" in server
    assert 'write_deadline: "5s"' in server
    assert 'ping_interval: "1s"' in cluster
    assert "ping_max: 2" in cluster
