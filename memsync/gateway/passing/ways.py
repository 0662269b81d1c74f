"""The ways to a peer: request-reply over the bus (on two connections), and the peer's HTTP port.

Foreign exceptions are translated here into `NotDeliveredError` and `NoAnswerError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import httpx
import nats.errors
from nats.aio.client import Client

from memsync import limits
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.bus_client import BusClient
from memsync.config import NatsSettings
from memsync.errors import Unavailable
from memsync.gateway import table
from memsync.gateway.passing.attempts import NoAnswerError, NotDeliveredError
from memsync.ports import Answer
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import context
from memsync.wire.proof import ids_proof
from memsync.wire.subjects import CellName

CONNECT_AGAIN_S = 0.5
HTTP_CONNECT_TIMEOUT_S = 0.25
APART_S_FIRST = 1.0
APART_S_MAX = 64.0
LEAVE_S_MAX = 1.0
LEAVE_LOOK_S = 0.02
_PASSED_BACK = ("memsync-", "x-ratelimit-", "retry-after", "idempotency-replayed")
_NOT_SENT = (
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.MaxPayloadError,
)


class BusWay:
    """Request-reply over one connection to the bus, kept up in the background by `run`. Who waits
    for an answer over a connection that breaks is told at once."""

    def __init__(
        self, name: str, cell: CellName, settings: NatsSettings, servers: Sequence[str]
    ) -> None:
        self.name = name
        self._cell = cell
        self._settings = settings
        self._servers = list(servers)
        self._client: Client | None = None
        self._asking = 0

    def is_open(self) -> bool:
        """Whether the connection is up."""
        return self._client is not None and self._client.is_connected

    async def ask(
        self, member: str, operation: str, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        """A peer's answer over the bus."""
        client = self._client
        if client is None:
            raise NotDeliveredError("no connection to the bus")
        subject = self._cell.peer(member, operation)
        self._asking += 1
        try:
            message = await client.request(subject, body, timeout=timeout_s, headers=headers)
        except _NOT_SENT as error:
            raise NotDeliveredError(type(error).__name__) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise NoAnswerError(type(error).__name__) from error
        finally:
            self._asking -= 1
        return _answer(message.headers or {}, message.data)

    def has_choice(self) -> bool:
        """Whether there is more than one server to go through."""
        return len(set(self._servers)) > 1

    def server(self) -> str | None:
        """The id of the server that it goes through; None while there is none."""
        return None if self._client is None else connection.server_of(self._client)

    async def leave(self) -> None:
        """Go on through the next server of the list, without losing what is asked right now."""
        client, self._client = self._client, None  # no new requests
        if client is None:
            return
        self._servers.append(self._servers.pop(0))
        until_s = asyncio.get_running_loop().time() + LEAVE_S_MAX
        while self._asking and asyncio.get_running_loop().time() < until_s:
            await pause(LEAVE_LOOK_S)
        await connection.close(client)  # `run` makes the next one

    async def run(
        self, client_name: str, beside: Callable[[Client], Coroutine[Any, Any, None]]
    ) -> None:
        """Keep a connection for ever, and run `beside` with each; ends when cancelled."""
        while is_going_on():
            client = BusClient()
            try:
                await connection.connect(
                    self._settings,
                    client_name,
                    client=client,
                    servers=self._servers,
                    disconnected=partial(connection.give_up_waiting, client),
                )
            except Unavailable as error:
                logger().warning("bus.not_reached", way=self.name, **describe(error))
                await pause(CONNECT_AGAIN_S)
                continue
            self._client = client
            logger().info("bus.connected", way=self.name, server=_address(client))
            try:
                async with asyncio.TaskGroup() as group:
                    other = group.create_task(beside(client))
                    await connection.watchdog(client)  # returns when the client is closed
                    other.cancel()
            finally:
                self._client = None
                await connection.close(client)


def _address(client: Client) -> str:
    """The server at the other end, without what its URL may hold of credentials."""
    url = client.connected_url
    return f"{url.hostname}:{url.port}" if url is not None else "unknown"


async def keep_apart(first: BusWay, second: BusWay) -> None:
    """Move the second way to another server whenever both go through the same one, as they do after
    a server died: a server that freezes must not take both. Ends when cancelled.

    Where no other server takes it, it tries again after a pause that doubles."""
    pause_s = APART_S_FIRST
    while is_going_on() and second.has_choice():
        await pause(pause_s)
        server = first.server()
        if server is None or server != second.server():
            pause_s = APART_S_FIRST
            continue
        logger().info("bus.left_server", way=second.name, again_s=2 * pause_s)
        await second.leave()
        pause_s = min(APART_S_MAX, 2 * pause_s)


class HttpWay:
    """The peers' own HTTP ports: the way when the bus is gone. `secret` is the cell's own, which
    proves to a peer that the ids of a write come from a gateway; "" where there is none."""

    name = "http"

    def __init__(
        self, urls: Mapping[str, str], client: httpx.AsyncClient, *, secret: str = ""
    ) -> None:
        self._secret = secret
        self._urls = {member: url.rstrip("/") for member, url in urls.items()}
        self._client = client

    def is_open(self) -> bool:
        """There is no connection that could be known to be down."""
        return True

    async def ask(
        self, member: str, operation: str, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        """A peer's answer over its own port."""
        if member not in self._urls:
            raise NotDeliveredError(f"the settings have no address of {member}")
        url = self._urls[member] + table.PASSING_PATH.format(operation=operation)
        proven = headers
        if proof := ids_proof(self._secret, operation, headers):
            proven = {**headers, context.IDS_PROOF: proof}
        raw = [(name.encode(), value.encode()) for name, value in proven.items()]
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, HTTP_CONNECT_TIMEOUT_S))
        try:
            response = await self._client.post(url, content=body, headers=raw, timeout=timeout)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotDeliveredError(type(error).__name__) from error
        except httpx.HTTPError as error:
            raise NoAnswerError(type(error).__name__) from error
        found = {
            name: value for name, value in response.headers.items() if name.startswith(_PASSED_BACK)
        }
        return Answer(response.status_code, found, response.content)


def http_client() -> httpx.AsyncClient:
    """A client for the peers' ports: no proxies, no redirects, enough connections."""
    return httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        limits=httpx.Limits(
            max_connections=limits.REQUESTS_IN_FLIGHT_MAX, max_keepalive_connections=64
        ),
    )


def _answer(headers: Mapping[str, str], body: bytes) -> Answer:
    status = headers.get(context.STATUS, "")
    if not status.isdigit():
        raise NoAnswerError("a reply without a status")
    passed = {name: value for name, value in headers.items() if name != context.STATUS}
    return Answer(int(status), passed, body)
