"""No bus, or too little of it: recalls go on, writes are refused honestly, and all is well again.

The servers' keepers are frozen first, so that the servers stay away until the test lets them back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
import pytest

from memsync.local.ports import is_free
from tests.conditions import eventually, wait_until
from tests.system.callers import http_client
from tests.system.conftest import Cluster

USER = "without-a-bus"
DEADLINE_S = 2.0
MARGIN_S = 0.7  # over the deadline: two cores, and everything of the cluster is looking for the bus
DEGRADED_WITHIN_S = 6.0  # a second of silence and a look at the log, on a machine that is busy
READY_AGAIN_S = 15.0
WRITERS = 6
VICTIM = "cinnamon 0"
REFUSALS = {"NO_QUORUM", "NO_STRIPE_LEADER", "OVERLOADED", "OUTCOME_UNKNOWN"}


class History(msgspec.Struct):
    """What became of the writes: text -> id of those that were acknowledged."""

    acknowledged: dict[str, int] = {}
    unknown: set[str] = set()
    refused: set[str] = set()
    slowest_s: float = 0.0


@contextmanager
def servers_gone(cluster: Cluster, numbers: Sequence[int]) -> Iterator[None]:
    """Kill servers; they stay away until the context ends."""
    keepers = [
        int((cluster.home / "run" / "keepers" / f"nats-{number}.pid").read_text())
        for number in numbers
    ]
    try:
        for keeper in keepers:
            os.kill(keeper, signal.SIGSTOP)
        for number in numbers:
            cluster.kill(f"nats-{number}")
        for number in numbers:
            port = 4221 + number + cluster.offset
            wait_until(lambda port=port: is_free(port), f"nats-{number} is gone")
        yield
    finally:
        for keeper in keepers:
            os.kill(keeper, signal.SIGCONT)


async def write(
    client: httpx.AsyncClient, cluster: Cluster, url: str, text: str, history: History
) -> int:
    """One add with a deadline; notes what is known of it and returns the status."""
    headers = cluster.headers(USER, **{"Memsync-Deadline-Ms": str(int(DEADLINE_S * 1000))})
    began = time.monotonic()
    answer = await client.post(url + "/memory/add", json={"text": text}, headers=headers)
    history.slowest_s = max(history.slowest_s, time.monotonic() - began)
    body = answer.json()
    if answer.status_code == 201:
        history.acknowledged[text] = body["id"]
        return answer.status_code
    assert answer.status_code == 503, answer.text
    error = body["error"]
    assert error["code"] in REFUSALS, body
    assert error["definite"] is (error["code"] != "OUTCOME_UNKNOWN"), body
    (history.refused if error["definite"] else history.unknown).add(text)
    return answer.status_code


async def keep_writing(
    client: httpx.AsyncClient,
    cluster: Cluster,
    url: str,
    name: str,
    history: History,
    stop: asyncio.Event,
) -> None:
    """Write until told to stop."""
    number = 0
    while not stop.is_set():
        await write(client, cluster, url, f"{name} wrote {number}", history)
        number += 1


async def recall(client: httpx.AsyncClient, cluster: Cluster, url: str) -> dict[str, Any]:
    """A recall's answer, which there always is."""
    answer = await client.post(
        url + "/memory/query",
        json={"query": "which cinnamon is there?", "k": 50},
        headers=cluster.headers(USER),
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def check_reads(
    client: httpx.AsyncClient, cluster: Cluster, url: str, before: dict[str, int]
) -> None:
    """get and list answer, and everything that was acknowledged before is there."""
    for text, memory_id in before.items():
        got = await client.get(f"{url}/memory/{memory_id}", headers=cluster.headers(USER))
        assert (got.status_code, got.json()["text"]) == (200, text)
    page = await client.get(url + "/memory/list?limit=100", headers=cluster.headers(USER))
    assert page.status_code == 200
    assert page.json()["total"] >= len(before)


async def wait_recalls(
    client: httpx.AsyncClient,
    cluster: Cluster,
    url: str,
    before: dict[str, int],
    *,
    served_by: str = "",
    is_degraded: bool,
) -> None:
    """Recalls find what was there before; with `is_degraded` they say soon what they lack."""

    async def is_as_it_should_be() -> bool:
        try:
            async with http_client() as fresh:  # a new connection: who accepts it may change
                health = await fresh.get(url + "/healthz")
                if served_by not in ("", health.headers["x-served-by"]):
                    return False
                found = await recall(fresh, cluster, url)
        except httpx.TransportError:
            return False  # it is just being started
        texts = {memory["text"] for memory in found["memories"]}
        lacks = "replication" in found["degraded_components"]
        assert found["degraded"] or not lacks
        return texts >= before.keys() and (lacks or not is_degraded)

    what = f"recalls at {url} {served_by}"
    await eventually(is_as_it_should_be, what, 15.0 if served_by else DEGRADED_WITHIN_S)
    await check_reads(client, cluster, url, before)


async def check_writes_refused(
    client: httpx.AsyncClient, cluster: Cluster, url: str, before: dict[str, int], history: History
) -> None:
    """Every other kind of write is refused as well, in time."""
    memory_id, bulk = before[VICTIM], f"bulk at {url}"
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/memory/bulk-add", {"items": [{"text": bulk}]}),
        ("PATCH", f"/memory/{memory_id}", {"source": "changed"}),
        ("DELETE", "/memory/forget", {"memory_ids": [memory_id]}),
        ("POST", "/org/api-keys", {}),
    ]
    headers = cluster.headers(USER, **{"Memsync-Deadline-Ms": "1000"})

    async def check(method: str, path: str, body: Any) -> None:
        began = time.monotonic()
        answer = await client.request(method, url + path, json=body, headers=headers)
        assert time.monotonic() - began < 1.0 + MARGIN_S, path
        assert answer.status_code == 503, (path, answer.text)
        error = answer.json()["error"]
        assert error["code"] in REFUSALS
        if path == "/memory/bulk-add":
            (history.refused if error["definite"] else history.unknown).add(bulk)
        if path == "/memory/forget" and not error["definite"]:
            history.unknown.add(VICTIM)  # it may come to be forgotten
            history.acknowledged.pop(VICTIM, None)

    await asyncio.gather(*(check(*request) for request in requests))


async def everything_of(
    client: httpx.AsyncClient, cluster: Cluster, url: str
) -> dict[str, list[int]]:
    """text -> ids, all that the user has at a peer."""
    found: dict[str, list[int]] = {}
    offset = 0
    while True:
        page = await client.get(
            f"{url}/memory/list?limit=100&offset={offset}", headers=cluster.headers(USER)
        )
        assert page.status_code == 200
        for item in page.json()["items"]:
            found.setdefault(item["text"], []).append(item["id"])
        offset += len(page.json()["items"])
        if not page.json()["items"]:
            return found


async def check_history(client: httpx.AsyncClient, cluster: Cluster, history: History) -> None:
    """Every peer has all that was acknowledged, and nothing that was refused for sure."""
    for number in (1, 2, 3):
        url = cluster.peer_url(number)

        async def has_all(url: str = url) -> bool:
            found = await everything_of(client, cluster, url)
            return all(found.get(text) == [i] for text, i in history.acknowledged.items())

        await eventually(has_all, f"all acknowledged on peer-{number}")
        found = await everything_of(client, cluster, url)
        assert not history.refused & found.keys(), f"refused, and yet on peer-{number}"
        assert found.keys() <= history.acknowledged.keys() | history.unknown


@pytest.mark.parametrize("dead", [(1, 2, 3), (1, 2)], ids=["all three", "two of three"])
async def test_without_a_bus_recalls_go_on_and_writes_are_refused(
    own_cluster: Cluster, dead: tuple[int, ...]
) -> None:
    cluster, history, stop = own_cluster, History(), asyncio.Event()
    peers = [cluster.peer_url(number) for number in (1, 2, 3)]
    is_all = len(dead) == 3
    async with http_client() as client:
        for number in range(5):
            assert await write(client, cluster, cluster.url, f"cinnamon {number}", history) == 201
        before = dict(history.acknowledged)
        writers: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:
            for number, url in enumerate((cluster.url, *peers, cluster.url, cluster.url)):
                name = f"writer {number}"
                writers.append(
                    tasks.create_task(keep_writing(client, cluster, url, name, history, stop))
                )

            async def has_written() -> bool:
                return len(history.acknowledged) >= 40

            await eventually(has_written, "writers write")
            with servers_gone(cluster, dead):
                for url in (*peers, cluster.url):
                    await wait_recalls(client, cluster, url, before, is_degraded=is_all)

                async def has_refused() -> bool:
                    return len(history.refused | history.unknown) >= WRITERS

                await eventually(has_refused, "every writer is refused")
                stop.set()
                await asyncio.gather(*writers)  # a connection to a killed gateway would break
                acknowledged = set(history.acknowledged)
                await check_without_bus(client, cluster, before, history, is_all=is_all)
                assert history.acknowledged.keys() <= acknowledged, "a write without a quorum"
        came_back = time.monotonic()
        await asyncio.to_thread(cluster.wait_ready, READY_AGAIN_S)
        took_s = time.monotonic() - came_back
        for url in (cluster.url, *peers):
            status = await write(client, cluster, url, f"after at {url}", history)
            assert status == 201
        await check_history(client, cluster, history)
    print(
        f"ready again after {took_s:.1f} s; slowest write {history.slowest_s:.2f} s; "
        f"{len(history.acknowledged)} acknowledged, {len(history.refused)} refused, "
        f"{len(history.unknown)} unknown"
    )
    assert took_s < READY_AGAIN_S
    assert history.slowest_s < DEADLINE_S + MARGIN_S


async def check_without_bus(
    client: httpx.AsyncClient,
    cluster: Cluster,
    before: dict[str, int],
    history: History,
    *,
    is_all: bool,
) -> None:
    """What is tried while the servers are away; a gateway and a peer are started meanwhile."""
    peers = [cluster.peer_url(number) for number in (1, 2, 3)]

    async def refuses(url: str) -> None:
        assert await write(client, cluster, url, f"refused at {url}", history) == 503
        await check_writes_refused(client, cluster, url, before, history)

    await asyncio.gather(*(refuses(url) for url in (cluster.url, *peers)))
    for url in (cluster.url, *peers):
        ready = await client.get(url + "/ready")
        checks = ready.json()["checks"]
        if is_all:
            assert ready.status_code == 503
            assert checks["bus"].startswith("failed: ")
        assert (await client.get(url + "/health")).status_code == 200
    for name, url in (("gateway-1", cluster.url), ("peer-1", cluster.peer_url(1))):
        old = cluster.kill(name)
        await asyncio.to_thread(cluster.wait_reborn, name, old)
        # With one server left the peers can still ask each other whether anything is missing.
        await wait_recalls(client, cluster, url, before, served_by=name, is_degraded=is_all)
        assert await write(client, cluster, url, f"refused by the new {name}", history) == 503
