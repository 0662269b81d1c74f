"""A peer that was frozen and thaws never answers as fresh what is stale."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from nats.aio.client import Client

from memsync.gateway.passing.routing import rendezvous
from memsync.wire import context, genesis
from memsync.wire.subjects import CellName
from tests.conditions import eventually
from tests.system.callers import bus_client
from tests.system.conftest import Cluster

ROUNDS = 3
MEMBERS = ("peer-1", "peer-2", "peer-3")
BODIES: dict[str, tuple[str, str, dict[str, object]]] = {  # what is read: operation, path, body
    "list": ("memory.list", "GET /memory/list", {}),
    "get": ("memory.get", "GET /memory/{id}", {"memory_id": 0}),
    "query": (
        "memory.query",
        "POST /memory/query",
        {"query": "frozen weather", "k": 50, "computation_tier": "high"},
    ),
}
Found = tuple[bytes, bool]  # an answer's body, and whether it says that it may be stale
Read = Callable[[], Awaitable[Found]]


class Frozen:
    """The peer that is stopped, which is the one that the gateways prefer for this end user."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        self.name = rendezvous(MEMBERS, cluster.api_key, "", user)[0]
        self.cluster = cluster
        self.url = cluster.peer_url(int(self.name.removeprefix("peer-")))
        self.headers = cluster.headers(user)
        self._pid = cluster.pid(self.name)
        document = genesis.read(cluster.home / "genesis.json")
        self._cell = CellName(region=document.region, cell=document.cell)

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def over_http(self, http: httpx.AsyncClient, what: str, identifier: int) -> Read:
        """Reads at the peer's own port."""
        _, route, body = BODIES[what]
        method, path = route.split()

        async def read() -> Found:
            answer = await http.request(
                method,
                self.url + path.format(id=identifier),
                headers=self.headers,
                json=body if method == "POST" else None,
            )
            assert answer.status_code == 200, answer.text
            return answer.content, "memsync-degraded" in answer.headers

        return read

    def over_the_bus(self, bus: Client, what: str, identifier: int) -> Read:
        """Reads on the peer's own subject, as the gateways do."""
        operation, _, body = BODIES[what]
        given = json.dumps(body | ({"memory_id": identifier} if what == "get" else {})).encode()
        subject = self._cell.peer(self.name, operation)

        async def read() -> Found:
            answer = await bus.request(subject, given, timeout=30, headers=dict(self.headers))
            assert answer.headers is not None
            assert answer.headers[context.STATUS] == "200", answer.data
            return answer.data, context.DEGRADED in answer.headers

        return read


async def at_gateway(
    http: httpx.AsyncClient, frozen: Frozen, method: str, path: str, body: dict[str, object]
) -> Any:
    answer = await http.request(
        method, frozen.cluster.url + path, json=body, headers=frozen.headers
    )
    assert answer.status_code < 300, answer.text
    return answer.json()


@pytest.mark.parametrize("way", ["http", "bus"])
@pytest.mark.parametrize("what", list(BODIES))
async def test_a_thawed_peer_is_never_stale_and_untagged(
    cluster: Cluster, what: str, way: str
) -> None:
    """Freeze the preferred peer, write through another, thaw it, and read from it at once: the
    requests that wait in its socket are the first things that it sees. Writes go on meanwhile: the
    lease that it held is over after a moment."""
    frozen = Frozen(cluster, f"thawed-{what}-{way}")
    async with httpx.AsyncClient(timeout=30.0) as http, bus_client(cluster, "node") as bus:
        added = await at_gateway(http, frozen, "POST", "/memory/add", {"text": "frozen weather"})
        path = f"/memory/{added['id']}"
        on_way = frozen.over_http(http, what, added["id"])
        if way == "bus":
            on_way = frozen.over_the_bus(bus, what, added["id"])

        async def is_fresh(marker: bytes) -> bool:
            body, is_tagged = await on_way()
            return marker in body and not is_tagged

        for number in range(ROUNDS):
            before, marker = f"round-{number - 1}".encode(), f"round-{number}"
            await eventually(
                lambda seen=before if number else b"frozen": is_fresh(seen), "fresh again"
            )
            frozen.stop()
            try:
                early = [asyncio.create_task(on_way()) for _ in range(3)]
                await at_gateway(http, frozen, "PATCH", path, {"tags": [marker]})
                late = [asyncio.create_task(on_way()) for _ in range(3)]
            finally:
                frozen.go_on()
            for body, is_tagged in await asyncio.gather(*late):
                assert marker.encode() in body or is_tagged, body
            await asyncio.gather(*early)
