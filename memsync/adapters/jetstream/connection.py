"""Connections to the bus, with the options that its failure modes ask for.

`pending_size=0` makes a publish fail at once while there is no connection (the default buffers it
in silence and sends it later); reconnects never give up; the watchdog aborts a transport whose
server froze (nats.py #671: without it a reconnect can hang for minutes).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError

from memsync import limits
from memsync.adapters.jetstream.bus_client import BusClient
from memsync.config import NatsSettings
from memsync.errors import ConfigurationError, Unavailable
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger

CONNECT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
# Headers count towards the server's max_payload, which nats-py does not know: a message above it
# makes the server close the connection for good.
HEADER_BYTES_MAX = 4_096


def read_credentials(path: str, field: str = "nats.credentials") -> dict[str, str]:
    """The options of `nats.connect` that a credentials file stands for; {} for no file. Raises
    `ConfigurationError` that names `field`."""
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        options = {name: found[name] for name in ("user", "password")}
        if found.get("inbox_prefix"):
            options["inbox_prefix"] = found["inbox_prefix"]
        if not all(isinstance(value, str) for value in options.values()):
            raise TypeError("not strings")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{field}: {path} is not a readable file with user and password"
        ) from error
    return options


def cell_secret(settings: NatsSettings) -> str:
    """What only the processes of the cell know: the password of their own user of the bus; "" where
    it has no accounts."""
    return read_credentials(settings.credentials).get("password", "")


async def connect(
    settings: NatsSettings,
    name: str,
    *,
    client: Client | None = None,
    servers: Sequence[str] | None = None,
    credentials: str | None = None,
    wait_s: float | None = CONNECT_TIMEOUT_S,
    reconnected: Callable[[], None] | None = None,
    disconnected: Callable[[], None] | None = None,
) -> Client:
    """A connection, to the first of `servers` that answers; raises `Unavailable` after `wait_s`
    (None: tries for ever).

    Wrong credentials end in the same error: nats-py tries for ever on a cluster, so its last error
    is put into the message. `credentials` names another file than the settings' own; `client` is
    one that others already hold; `reconnected` is called after each time that the connection came
    back, `disconnected` when it has broken.
    """
    client = client or BusClient()
    options = read_credentials(settings.credentials if credentials is None else credentials)

    async def note(error: Exception) -> None:
        logger().warning("bus.connection_failed", connection=name, **describe(error))

    async def returned() -> None:
        logger().info("bus.returned", connection=name, server=_address(client))
        if reconnected is not None:
            reconnected()

    async def broken() -> None:
        if disconnected is not None:
            disconnected()

    try:
        async with asyncio.timeout(wait_s):
            await client.connect(
                servers=list(servers or settings.servers),
                name=name,
                dont_randomize=True,
                pending_size=0,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]
                connect_timeout=1,
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=note,
                reconnected_cb=returned,
                disconnected_cb=broken,
                **options,  # type: ignore[arg-type]
            )
    except (TimeoutError, NatsError, OSError) as error:
        reason = client.last_error or error
        await close(client)
        asked = ", ".join(address_of(server) for server in servers or settings.servers)
        raise Unavailable(
            f"no NATS server of {asked} let {name} in within {wait_s} s: "
            f"{type(reason).__name__} {reason}"
        ) from error
    return client


def address_of(server: str) -> str:
    """Host and port of a server's URL, without what it may hold of credentials."""
    return server.rpartition("@")[2].rpartition("/")[2]


def server_of(client: Client) -> str | None:
    """The id of the server at the other end; None while there is none. The address does not tell:
    a server has several, and tells those of the others. A private attribute, as below."""
    return client._server_info.get("server_id") if client.is_connected else None


async def close(client: Client) -> None:
    """End a connection in whatever state it is. Its socket is closed also where nats-py does not
    come to that: in time, because of an error, or because it has begun to close by itself."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.close()
    except (TimeoutError, NatsError, OSError) as error:
        logger().info("bus.close_failed", **describe(error))
    finally:
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None and not writer.transport.is_closing():
            writer.transport.abort()


def give_up_waiting(client: Client) -> None:
    """End the requests that wait for answers over a connection that is gone: they would wait until
    their deadlines.

    Uses a private attribute of nats-py, whose version is pinned for it.
    """
    for future in list(client._resp_map.values()):
        if not future.done():
            future.set_exception(StaleConnectionError())


async def watchdog(client: Client) -> None:
    """Abort the transport of a connection that no longer answers, until the client is closed.

    Uses a private attribute of nats-py, whose version is pinned for it.
    """
    while is_going_on() and not client.is_closed:
        await pause(limits.NATS_WATCHDOG_S)
        if client.is_connected:
            try:
                await client.rtt(timeout=limits.NATS_RTT_TIMEOUT_S)  # type: ignore[arg-type]
                continue
            except (NatsError, OSError, TimeoutError, AttributeError):
                pass  # no answer: abort below
        elif not client.is_reconnecting:
            continue
        _abort(client)


def _abort(client: Client) -> None:
    writer = getattr(client._transport, "_io_writer", None)
    if writer is None:
        return
    if client.is_connected or writer.transport.is_closing():
        logger().warning("bus.connection_aborted", server=_address(client))
        writer.transport.abort()


def _address(client: Client) -> str:
    server = client.connected_url
    return address_of(server.netloc) if server else ""
