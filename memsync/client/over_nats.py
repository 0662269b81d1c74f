"""A way to a cluster as NATS requests on `memsync.v1.<operation>`: no gateway is needed.

One way is one connection, kept up in the background by `run`: it tries the servers in turn, its own
first, and goes to the next when a connection broke or its server froze. Whoever waits for an answer
over a connection that breaks is told at once. Foreign exceptions are translated here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client

from memsync import errors
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.bus_client import BusClient
from memsync.client.answers import Reply
from memsync.client.asking import NoAnswerError, NotDeliveredError, Request
from memsync.client.finding import START, Target
from memsync.tasks import is_going_on
from memsync.wire import context, subjects

CONNECT_TIMEOUT_S = 3.0
CONNECT_AGAIN_S = 0.25
PORT = 4222
_NOT_SENT = (
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
)


# What nats-py makes of a greeting that is not of NATS, or not of a version that it knows.
_NOT_NATS = (ValueError, TypeError, AttributeError, KeyError)


class NatsWay:
    """A `Way` over one connection; `first` is the number of the server that it prefers."""

    def __init__(self, target: Target, first: int) -> None:
        self.failed_at_s = 0.0
        self._target = target
        servers = target.nats_servers
        first %= len(servers)
        self._servers = [*servers[first:], *servers[:first]]
        self._options = [_options(target, server) for server in self._servers]
        self._connected: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    def is_open(self) -> bool:
        """Whether the connection is up."""
        future = self._connected
        return future.done() and future.exception() is None and future.result().is_connected

    async def ask(self, request: Request, timeout_s: float, sent: Callable[[], None]) -> Reply:
        """See `Way`."""
        until_s = asyncio.get_running_loop().time() + timeout_s
        connected = self._connected
        await asyncio.wait([connected], timeout=timeout_s)  # does not cancel what others wait for
        if not connected.done():
            raise NotDeliveredError(f"no connection to {self._target.name} in {timeout_s:.1f} s")
        client = connected.result()
        sent()
        try:
            message = await client.request(
                subjects.CLIENT_PREFIX + request.operation,
                request.body,
                timeout=max(0.001, until_s - asyncio.get_running_loop().time()),
                headers=dict(request.headers),
            )
        except nats.errors.NoRespondersError as error:
            raise NotDeliveredError(f"no memsync peer listens at {self._target.name}") from error
        except nats.errors.MaxPayloadError as error:
            raise errors.PayloadTooLarge("larger than the NATS server takes") from error
        except _NOT_SENT as error:
            raise NotDeliveredError(f"{self._target.name}: {error}") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            reason = type(error).__name__
            raise NoAnswerError(f"no answer from {self._target.name}: {reason}") from error
        return self._reply(request, message.headers or {}, message.data)

    def _reply(self, request: Request, headers: dict[str, str], body: bytes) -> Reply:
        found = {str(name).lower(): value for name, value in headers.items()}
        status = found.get(context.STATUS.lower(), "")
        if not status.isdecimal():
            raise errors.NoCluster(f"whoever answers at {self._target.name} is not memsync")
        return Reply(int(status), found, body, request.operation)

    async def run(self) -> None:
        """Keep the connection up for ever; ends when cancelled."""
        while is_going_on():
            try:
                client, closed = await self._connect()
            except (NotDeliveredError, errors.Unauthenticated) as error:
                self._tell(error)
                await asyncio.sleep(CONNECT_AGAIN_S)
                continue
            self._connected.set_result(client)
            try:
                await _wait_closed(client, closed)
            finally:
                self._connected = asyncio.get_running_loop().create_future()
                await connection.close(client)
                connection.give_up_waiting(client)

    async def close(self) -> None:
        """The end of `run` has closed the connection."""

    def _tell(self, error: Exception) -> None:
        """Whoever waits for a connection learns why there is none; the next one waits anew."""
        told, self._connected = self._connected, asyncio.get_running_loop().create_future()
        told.set_exception(error)
        told.exception()  # perhaps nobody waits: asyncio must not complain of that

    async def _connect(self) -> tuple[Client, asyncio.Event]:
        """A connection to the first server that lets us in; raises if none does."""
        failures: list[str] = []
        refused: Exception | None = None
        for server, options in zip(self._servers, self._options, strict=True):
            client, closed = BusClient(), asyncio.Event()
            try:
                await _open(client, closed, server, options)
                return client, closed
            except (nats.errors.Error, OSError, TimeoutError, *_NOT_NATS) as error:
                if "authorization violation" in str(error).lower():
                    refused = error
                is_odd = isinstance(error, _NOT_NATS)
                failures.append("not a NATS server" if is_odd else _reason(error))
        if refused is not None:
            raise errors.Unauthenticated(
                f"{self._target.name} refuses this user of the bus; give user and password as "
                "nats://user:password@host:port"
            ) from refused
        raise NotDeliveredError(
            f"no NATS server answers at {self._target.name} ({'; '.join(failures)}): {START}"
        )


async def _open(
    client: Client, closed: asyncio.Event, server: str, options: dict[str, Any]
) -> None:
    async def note_closed() -> None:
        closed.set()

    parts = urlsplit(server)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.connect(
                servers=[f"{parts.scheme}://{host}:{parts.port or PORT}"],
                name="memsync-client",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_TIMEOUT_S),
                pending_size=0,
                error_cb=_be_quiet,
                closed_cb=note_closed,
                **options,
            )
    finally:
        if not client.is_connected:
            await connection.close(client)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _be_quiet(error: Exception) -> None:
    """What goes wrong is raised where it matters; nats-py would also log it."""


async def _wait_closed(client: Client, closed: asyncio.Event) -> None:
    """Wait until the connection has ended, which it is made to when its server is silent."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(connection.watchdog(client))
        closing = group.create_task(closed.wait())
        await asyncio.wait({watching, closing}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        closing.cancel()


def _options(target: Target, server: str) -> dict[str, Any]:
    """User and password: those of the address, else of the credentials file."""
    parts = urlsplit(server)
    if parts.username is None:
        return dict(connection.read_credentials(str(target.credentials or "")))
    user = unquote(parts.username)
    # Where a user of type client may hear answers, by the convention of memsync's accounts.
    return {
        "user": user,
        "password": unquote(parts.password or ""),
        "inbox_prefix": f"_INBOX_{user}",
    }


def ways_to(target: Target, count: int) -> Sequence[NatsWay]:
    """So many connections, to different servers as far as there are."""
    return [NatsWay(target, first) for first in range(count)]
