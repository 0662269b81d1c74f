"""kill -9 under load: nothing acknowledged is lost, no recall fails, nobody has to act."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import httpx
import msgspec
import nats
import pytest

from memsync.gateway.passing.routing import rendezvous
from tests.conditions import eventually
from tests.system.conftest import Cluster

WRITERS = 16
ADDS = 2_000
USER = "killed-under-load"
SLOWEST_ADD_S = 1.5
FOUND_WITHIN_S = 10.0


class History(msgspec.Struct):
    """What the writers and readers saw."""

    acknowledged: dict[int, str] = {}
    recalls: int = 0


def write(cluster: Cluster, numbers: Sequence[int], history: History) -> float:
    """Add one after the other over one connection, in a thread of its own, as agents do: a pool of
    httpx that 16 writers share keeps single adds waiting longer than the cluster does. Returns how
    long the slowest took, in seconds."""
    slowest_s = 0.0
    connection = HTTPConnection("127.0.0.1", cluster.gateway_port, timeout=30.0)
    headers = cluster.headers(USER) | {"Content-Type": "application/json"}
    with closing(connection):
        for number in numbers:
            body = {"text": f"fact number {number} of the load", "client_ref": f"fact-{number}"}
            started = time.monotonic()
            connection.request("POST", "/memory/add", msgspec.json.encode(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            slowest_s = max(slowest_s, time.monotonic() - started)
            assert answer.status == 201, content
            history.acknowledged[msgspec.json.decode(content)["id"]] = body["text"]
    return slowest_s


async def read(
    client: httpx.AsyncClient, cluster: Cluster, history: History, stop: asyncio.Event
) -> None:
    """Recall until told to stop. Every answer must be a 200 of the usual shape; from the first
    memory on each must have been searched for, and find something: a gateway that heard of no peer
    would say 200, too."""
    while not stop.is_set():
        has_memories = bool(history.acknowledged)
        answer = await client.post(
            cluster.url + "/memory/query",
            json={"query": "which fact number", "k": 3},
            headers=cluster.headers(USER),
        )
        assert answer.status_code == 200, answer.text
        assert {"memories", "degraded", "degraded_components", "freshness"} <= answer.json().keys()
        if has_memories:
            assert "search" not in answer.json()["degraded_components"], answer.text
            assert answer.json()["memories"], answer.text
            history.recalls += 1


async def leader_of_a_stripe(cluster: Cluster) -> str:
    """The name of a server that leads one of the stripes."""
    credentials = json.loads((cluster.home / "node.creds").read_text())
    client = await nats.connect(
        cluster.nats_url(1),
        user=credentials["user"],
        password=credentials["password"],
        inbox_prefix=credentials["inbox_prefix"],
    )
    try:

        async def leader() -> str | None:
            info = await client.jetstream().stream_info("MEMSYNC_LOCAL_CELL_0_0")
            assert info.cluster is not None
            return info.cluster.leader

        return await eventually(leader, "stripe 0 has a leader") or ""
    finally:
        await client.close()


async def is_everything_found(
    client: httpx.AsyncClient, url: str, cluster: Cluster, expected: dict[int, str]
) -> bool:
    """Whether a peer lists every acknowledged memory with its text; one that two attempts made is
    listed under the smaller of its ids and is found under both."""
    found: dict[int, str] = {}
    offset = 0
    while True:
        answer = await client.get(
            f"{url}/memory/list?limit=100&offset={offset}", headers=cluster.headers(USER)
        )
        if answer.status_code != 200:
            return False
        items = answer.json()["items"]
        found |= {item["id"]: item["text"] for item in items}
        offset += len(items)
        if not items:
            break
    for identifier, text in expected.items():
        if found.get(identifier) != text:
            answer = await client.get(f"{url}/memory/{identifier}", headers=cluster.headers(USER))
            if answer.status_code != 200 or answer.json()["text"] != text:
                return False
    return True


async def test_nothing_acknowledged_is_lost_when_a_peer_and_a_server_are_killed(
    own_cluster: Cluster,
) -> None:
    """The peer is the one that gateways prefer for this user, so the recalls, too, must move on."""
    cluster, history, stop = own_cluster, History(), asyncio.Event()
    server = await leader_of_a_stripe(cluster)
    peer = rendezvous(["peer-1", "peer-2", "peer-3"], cluster.api_key, "", USER)[0]
    async with httpx.AsyncClient(timeout=30.0) as client:
        with ThreadPoolExecutor(WRITERS) as pool:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read(client, cluster, history, stop))
                writers = [
                    asyncio.get_running_loop().run_in_executor(pool, write, cluster, share, history)
                    for share in (range(first, ADDS, WRITERS) for first in range(WRITERS))
                ]

                async def has_written(count: int) -> bool:
                    return len(history.acknowledged) >= count

                await eventually(lambda: has_written(ADDS // 4), "a quarter is written", 60)
                old_peer = cluster.kill(peer)
                before_the_kill = history.recalls
                await eventually(lambda: has_written(ADDS // 2), "half is written", 60)
                old_server = cluster.kill(server)
                slowest_s = max(await asyncio.gather(*writers))
                stop.set()
        assert len(history.acknowledged) == ADDS
        assert 0 < before_the_kill < history.recalls
        cluster.wait_reborn(peer, old_peer)
        cluster.wait_reborn(server, old_server)
        cluster.wait_ready()
        for number in (1, 2, 3):
            url = cluster.peer_url(number)
            await eventually(
                lambda url=url: is_everything_found(client, url, cluster, history.acknowledged),
                f"all {ADDS} adds on peer-{number}",
                FOUND_WITHIN_S,
            )
    print(f"slowest add {slowest_s:.3f} s, {history.recalls} recalls")
    assert slowest_s < SLOWEST_ADD_S


@pytest.mark.parametrize("name", ["nats-1", "peer-1", "gateway-1"])
async def test_who_is_killed_comes_back_and_catches_up(cluster: Cluster, name: str) -> None:
    """kill -9 of each kind of process; what was added meanwhile is on every peer afterwards."""
    headers = cluster.headers(f"reborn-{name}")
    old = cluster.kill(name)
    async with httpx.AsyncClient(timeout=30.0) as client:

        async def is_added() -> bool:
            try:
                answer = await client.post(
                    cluster.url + "/memory/add",
                    json={"text": f"while {name} was away", "client_ref": name},
                    headers=headers,
                )
            except httpx.TransportError:
                return False  # a connection to the killed gateway; client_ref makes a repeat safe
            return answer.status_code in (200, 201)

        await eventually(is_added, f"an add while {name} is away", 5.0)
        cluster.wait_reborn(name, old)
        cluster.wait_ready()
        for number in (1, 2, 3):
            url = cluster.peer_url(number)

            async def has_it(url: str = url) -> bool:
                page = await client.get(url + "/memory/list", headers=headers)
                return bool(page.status_code == 200 and page.json()["total"] == 1)

            await eventually(has_it, f"the add on peer-{number}", 10.0)
