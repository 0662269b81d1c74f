"""How an operation reaches a cluster: over HTTP, or (bus.py) as a NATS request.

Both ways take the same bodies and headers and give the same `Reply`. A way tries once; whether to
try again is its caller's affair. What they raise: `NoClusterError` where the request was certainly
not taken (or was a read), `OutcomeUnknown` where a write may have happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from memsync import errors, limits
from memsync.cli.exits import NoClusterError
from memsync.cli.finding import Target
from memsync.local import home as homes
from memsync.wire import codec

TIMEOUT_S = limits.DEADLINE_S_DEFAULT + 5.0
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


class Reply(msgspec.Struct, frozen=True):
    """An answer: HTTP status, headers with names in lower case, JSON body."""

    status: int
    headers: dict[str, str]
    body: bytes

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
        """Send one operation; an answer of whatever status is a `Reply`."""
        ...

    async def close(self) -> None:
        """End it, in whatever state it is."""
        ...


async def ask(
    connection: Connection, operation: str, body: Body, headers: Mapping[str, str]
) -> Reply:
    """Send one operation; raises the error that an answer carries."""
    reply = await connection.call(operation, body, headers)
    if reply.status < 300:
        return reply
    raise errors.error_from_answer(reply.read(errors.ErrorAnswer))


def unanswered(operation: str, place: str, reason: str) -> Exception:
    """What to raise where a request was sent and no answer came."""
    if operation in READS:
        return NoClusterError(f"no answer from {place}: {reason}")
    return errors.OutcomeUnknown(f"no answer from {place}: {reason}; it may have happened")


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
            raise unanswered(operation, self._url, reason) from error
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
