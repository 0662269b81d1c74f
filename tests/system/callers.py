"""The same operation over each way that a caller has: a gateway, a peer's own port, NATS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import nats
from nats.aio.client import Client

from tests.system.conftest import Cluster

WAYS = ("gateway", "peer", "nats")
TIMEOUT_S = 15.0
_ROUTES = {
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


class Reply(msgspec.Struct, frozen=True):
    """What a caller is answered; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        """The JSON of the answer."""
        return json.loads(self.content)

    @property
    def code(self) -> str:
        """The error's code; "" where it is none."""
        body = self.body
        return str(body["error"]["code"]) if isinstance(body, dict) and "error" in body else ""

    def __str__(self) -> str:
        return f"{self.status} {self.content[:500]!r}"


class Way(Protocol):
    """How a request travels."""

    name: str

    async def call(self, operation: str, body: Any, headers: Mapping[str, str]) -> Reply:
        """Ask for an operation; a body that is bytes goes as it is."""
        ...


class HttpWay:
    """The routes of the API at one address."""

    def __init__(self, name: str, client: httpx.AsyncClient, url: str) -> None:
        self.name = name
        self.client = client
        self.url = url

    async def call(self, operation: str, body: Any, headers: Mapping[str, str]) -> Reply:
        method, path = _ROUTES[operation]
        fields = dict(body) if isinstance(body, dict) else {}
        for name in ("memory_id", "key_id", "query_id"):
            if "{" + name + "}" in path:
                path = path.replace("{" + name + "}", str(fields.pop(name)))
        params = None
        content: bytes | None = None
        if method == "GET":
            params = {name: str(value) for name, value in fields.items()}
        else:
            content = body if isinstance(body, bytes) else json.dumps(fields).encode()
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        answer = await self.client.request(
            method, self.url + path, params=params, content=content, headers=raw
        )
        return Reply(answer.status_code, dict(answer.headers), answer.content)


class NatsWay:
    """Requests on `memsync.v1.<operation>`."""

    name = "nats"

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, operation: str, body: Any, headers: Mapping[str, str]) -> Reply:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.client.request(
            "memsync.v1." + operation, content, timeout=TIMEOUT_S, headers=dict(headers)
        )
        found = {str(name).lower(): value for name, value in (answer.headers or {}).items()}
        return Reply(int(found["memsync-status"]), found, answer.data)


@asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    """A client without proxies; plain HTTP, so that it loads no certificates."""
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, verify=False) as client:
        yield client


def credentials(home: Path, user: str) -> dict[str, str]:
    """What the file of one user of the bus says."""
    found: dict[str, str] = json.loads((home / f"{user}.creds").read_text())
    return found


@asynccontextmanager
async def bus_client(
    cluster: Cluster, user: str, errors: list[str] | None = None, *, server: int = 1
) -> AsyncIterator[Client]:
    """A connection to the bus as one of its users; what the server refuses is added to `errors`."""
    known = credentials(cluster.home, user)

    async def note(error: Exception) -> None:
        if errors is not None:
            errors.append(str(error))

    client = await nats.connect(
        cluster.nats_url(server),
        user=known["user"],
        password=known["password"],
        inbox_prefix=known["inbox_prefix"],
        error_cb=note,
    )
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def way_to(cluster: Cluster, name: str) -> AsyncIterator[Way]:
    """One of `WAYS`, open."""
    if name == "nats":
        async with bus_client(cluster, "client") as connection:
            yield NatsWay(connection)
        return
    url = cluster.url if name == "gateway" else cluster.peer_url(2)
    async with http_client() as client:
        yield HttpWay(name, client, url)
