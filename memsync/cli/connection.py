"""How an operation reaches a cluster: over HTTP, or (bus.py) as a NATS request.

Both ways take the same bodies and headers and give the same `Reply`. A way tries once; `ask` tries
again where an answer was lost, because its gateway, peer or NATS server died.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from memsync import errors, limits
from memsync.cli.exits import NoClusterError
from memsync.cli.finding import Target
from memsync.local import home as homes
from memsync.wire import codec

TIMEOUT_S = limits.DEADLINE_S_DEFAULT + 2.0
GIVE_UP_S = 2 * limits.DEADLINE_S_DEFAULT
ATTEMPTS_MAX = 6
AGAIN_S = 0.1
CONNECT_TIMEOUT_S = 3.0
ROUTES = {
    "memory.add": ("POST", "/memory/add"),
    "memory.bulk_add": ("POST", "/memory/bulk-add"),
    "memory.query": ("POST", "/memory/query"),
    "memory.get": ("GET", "/memory/{memory_id}"),
    "memory.update": ("PATCH", "/memory/{memory_id}"),
    "memory.forget": ("DELETE", "/memory/forget"),
    "memory.list": ("GET", "/memory/list"),
    "keys.create": ("POST", "/org/api-keys"),
    "keys.list": ("GET", "/org/api-keys"),
    "keys.revoke": ("POST", "/org/api-keys/{key_id}/revoke"),
}
READS = frozenset({"memory.query", "memory.get", "memory.list", "keys.list"})
IN_PATH = ("memory_id", "key_id")

Body = Mapping[str, Any]
T = TypeVar("T")


class NoAnswerError(Exception):
    """The request was sent and no answer came. The message: who was asked, and what happened."""


class Reply(msgspec.Struct, frozen=True):
    """An answer: HTTP status, headers with names in lower case, JSON body.

    `is_repeat` says that an earlier attempt may have been taken, too.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    is_repeat: bool = False

    def read(self, kind: type[T]) -> T:
        """The body as `kind`; raises `NoClusterError` where it is something else."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NoClusterError(
                f"the answer (status {self.status}) is not of the memsync API: {error}"
            ) from error


class Connection(Protocol):
    """A way to a cluster."""

    async def call(self, operation: str, body: Body, headers: Mapping[str, str]) -> Reply:
        """Send one operation once; an answer of whatever status is a `Reply`.

        Raises `NoClusterError` where it was certainly not taken, `NoAnswerError` where it may have
        been.
        """
        ...

    async def close(self) -> None:
        """End it, in whatever state it is."""
        ...


async def ask(
    connection: Connection, operation: str, body: Body, headers: Mapping[str, str]
) -> Reply:
    """Send one operation, again where its answer was lost; raises the error that an answer carries.

    To send it again is safe, as every write carries a key. Raises `NoClusterError` where the
    request was certainly not taken (or was a read), `OutcomeUnknown` where a write may have
    happened.
    """
    give_up_s = time.monotonic() + GIVE_UP_S
    lost: NoAnswerError | None = None
    for attempt in range(ATTEMPTS_MAX):
        try:
            reply = await connection.call(operation, body, headers)
            return _checked(msgspec.structs.replace(reply, is_repeat=lost is not None))
        except NoAnswerError as error:
            lost = error
        except NoClusterError:
            if lost is None:
                raise
        if time.monotonic() > give_up_s:
            break
        await asyncio.sleep(AGAIN_S * attempt)
    if operation in READS:
        raise NoClusterError(f"no answer from {lost}")
    raise errors.OutcomeUnknown(f"no answer from {lost}; it may have happened")


def _checked(reply: Reply) -> Reply:
    if reply.status < 300:
        return reply
    raise errors.error_from_answer(reply.read(errors.ErrorAnswer))


class HttpConnection:
    """The HTTP API of a gateway, or of a peer's own port."""

    def __init__(self, target: Target, url: str) -> None:
        self._url = url
        self._home = target.home if target.is_homes_own else None
        self._client = httpx.AsyncClient(
            trust_env=not target.is_local,  # no proxy between two processes of one machine
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )

    async def call(self, operation: str, body: Body, headers: Mapping[str, str]) -> Reply:
        """See `Connection`."""
        method, path = ROUTES[operation]
        url = self._url + path.format(**{name: body.get(name) for name in IN_PATH})
        fields = {name: value for name, value in body.items() if name not in IN_PATH}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        content = None if method == "GET" else codec.to_json(fields)
        query = fields if method == "GET" else None
        try:
            response = await self._client.request(
                method, url, params=query, content=content, headers=raw
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoClusterError(self._nobody(error)) from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise NoAnswerError(f"{self._url}: {reason}") from error
        return Reply(response.status_code, dict(response.headers), response.content)

    async def close(self) -> None:
        """See `Connection`."""
        await self._client.aclose()

    def _nobody(self, error: Exception) -> str:
        if self._home is None:
            reason = str(error) or type(error).__name__
            return f"no cluster answers at {self._url} ({reason}): is the address right?"
        if homes.is_locked(self._home):
            return (
                f"the cluster in {self._home.path} does not answer at {self._url}: it is starting "
                f"or its gateways are down; see {self._home.logs}"
            )
        return f"the cluster in {self._home.path} does not run: start it with scripts/up"
