"""A way to a cluster over HTTP: a gateway's address, or a peer's own port.

One way is one pool of connections, so two of them reach two gateways where these share a socket.
Foreign exceptions are translated here.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import httpx

from memsync import homes
from memsync.client.answers import Reply
from memsync.client.asking import NoAnswerError, NotDeliveredError, Request
from memsync.client.finding import Target, starter
from memsync.errors import ConfigurationError
from memsync.wire import codec

CONNECT_TIMEOUT_S = 3.0
ROUTES = {
    "memory.add": ("POST", "/memory/add"),
    "memory.bulk_add": ("POST", "/memory/bulk-add"),
    "memory.query": ("POST", "/memory/query"),
    "memory.get": ("GET", "/memory/{memory_id}"),
    "memory.update": ("PATCH", "/memory/{memory_id}"),
    "memory.forget": ("DELETE", "/memory/forget"),
    "memory.list": ("GET", "/memory/list"),
    "memory.relate": ("POST", "/memory/{memory_id}/relations"),
    "memory.feedback": ("POST", "/memory/{memory_id}/feedback"),
    "memory.explanation": ("GET", "/memory/explanations/{query_id}"),
    "memory.graph": ("GET", "/memory/graph"),
    "keys.create": ("POST", "/org/api-keys"),
    "keys.list": ("GET", "/org/api-keys"),
    "keys.revoke": ("POST", "/org/api-keys/{key_id}/revoke"),
    "org.get": ("GET", "/org"),
    "org.update": ("PATCH", "/org"),
    "cluster.members": ("GET", "/admin/cluster"),
    "cluster.join": ("POST", "/admin/cluster/join"),
    "cluster.remove": ("POST", "/admin/cluster/remove"),
}
IN_PATH = ("memory_id", "key_id", "query_id")


class HttpWay:
    """A `Way` over one pool of connections."""

    def __init__(self, target: Target) -> None:
        assert target.url is not None
        self.failed_at_s = 0.0
        self._url = target.url
        self._home = target.home if target.is_homes_own else None
        _check(target.url)
        is_plain = target.is_local and target.url.startswith("http:")
        self._client = httpx.AsyncClient(
            trust_env=not target.is_local,  # no proxy between two processes of one machine
            verify=not is_plain,  # certificates are slow to load, and not needed
        )

    def is_open(self) -> bool:
        """There is no connection that could be known to be down."""
        return True

    async def ask(self, request: Request, timeout_s: float, sent: Callable[[], None]) -> Reply:
        """See `Way`."""
        method, path = ROUTES[request.operation]
        names = [name for name in IN_PATH if f"{{{name}}}" in path]
        in_path = {name: quote(str(request.fields[name]), safe="") for name in names}
        rest = {name: value for name, value in request.fields.items() if name not in in_path}
        body = codec.to_json(rest) if in_path else request.body
        raw = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        if self._client.is_closed:
            raise NotDeliveredError("this client was closed")
        sent()
        try:
            response = await self._client.request(
                method,
                self._url + path.format(**in_path),
                params=rest if method == "GET" else None,
                content=None if method == "GET" else body,
                headers=raw,
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotDeliveredError(self._nobody(error)) from error
        except httpx.InvalidURL as error:
            raise codec.invalid("body", f"cannot be sent as a URL: {error}") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise NoAnswerError(f"no answer from {self._url}: {reason}") from error
        headers = dict(response.headers)
        return Reply(response.status_code, headers, response.content, request.operation)

    async def close(self) -> None:
        """End all connections."""
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
        return f"the cluster in {self._home.path} does not run: start it with {starter(self._home)}"


def _check(url: str) -> None:
    """Raise `ConfigurationError` for an address that httpx cannot use."""
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"url: {url[:200]!r} cannot be asked ({error})") from error
