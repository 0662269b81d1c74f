"""What is done to the streams of a running cluster, and what it does about it by itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from nats.aio.client import Client

from memsync import ids
from memsync.wire import genesis, subjects
from tests.conditions import eventually
from tests.system.callers import bus_client, http_client
from tests.system.conftest import TOP, Cluster

STREAMS = [f"MEMSYNC_LOCAL_CELL_{stripe}_0" for stripe in range(3)]
WRITERS = 6
_loads = itertools.count(1)


async def ask(client: Client, request: str, body: object = None) -> dict[str, Any]:
    """A request to the admin API of JetStream."""
    data = json.dumps({} if body is None else body).encode()
    reply = await client.request(f"$JS.API.{request}", data, timeout=5)
    found: dict[str, Any] = json.loads(reply.data)
    return found


class Load:
    """Adds without pause; `refused` are definite refusals, `given` the ids of what was added."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient) -> None:
        self._cluster = cluster
        self._client = client
        self._name = f"load-{next(_loads)}"
        self.given: list[int] = []
        self.refused: list[str] = []

    async def write(self, writer: int, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            answer = await self._client.post(
                self._cluster.url + "/memory/add",
                json={"text": f"writer {writer} number {number}"},
                headers=self._cluster.headers(f"{self._name}-{writer}"),
            )
            if answer.status_code == 201:
                self.given.append(answer.json()["id"])
            else:
                self.refused.append(answer.text)

    async def grows(self, by: int) -> None:
        """Wait for more of it."""
        start = len(self.given)

        async def has_grown() -> bool:
            return len(self.given) >= start + by

        await eventually(has_grown, f"{by} more adds", 20)


@asynccontextmanager
async def load_on(cluster: Cluster) -> AsyncIterator[Load]:
    """A cluster under load until the end of the block."""
    async with http_client() as client:
        load, stop = Load(cluster, client), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for writer in range(WRITERS):
                tasks.create_task(load.write(writer, stop))
            try:
                await load.grows(50)
                yield load
            finally:
                stop.set()


async def leaders(client: Client) -> list[str | None]:
    """Who leads the stripes; None where nobody says."""
    found = []
    for stream in STREAMS:
        try:
            answer = await ask(client, f"STREAM.INFO.{stream}")
        except TimeoutError:
            answer = {}
        found.append((answer.get("cluster") or {}).get("leader"))
    return found


async def spread(client: Client) -> None:
    """Wait until three servers lead the three stripes."""

    async def are_three() -> bool:
        return len({leader for leader in await leaders(client) if leader}) == 3

    await eventually(are_three, "the leaders are on three servers", 40)


async def lose(client: Client) -> None:
    assert "error" not in await ask(client, f"STREAM.DELETE.{subjects.IDS_STREAM}")


async def roll_back(client: Client) -> None:
    """Made again by hand, from the beginning."""
    await lose(client)
    config = {"name": subjects.IDS_STREAM, "subjects": [subjects.IDS_SUBJECT], "num_replicas": 3}
    answer = await ask(client, f"STREAM.CREATE.{subjects.IDS_STREAM}", config)
    assert "error" not in answer, answer


@pytest.mark.parametrize("harm", [lose, roll_back])
async def test_ids_lost_or_rolled_back_under_load(
    cluster: Cluster, harm: Callable[[Client], Awaitable[None]]
) -> None:
    """No id comes twice, writes go on; whoever needs a new block gets one above all others."""
    async with bus_client(cluster, "node") as client, load_on(cluster) as load:
        info = await ask(client, f"STREAM.INFO.{subjects.IDS_STREAM}")
        before = info["state"]["last_seq"]
        await harm(client)
        await load.grows(100)

        async def is_back() -> bool:
            try:
                found = await ask(client, f"STREAM.INFO.{subjects.IDS_STREAM}")
            except TimeoutError:
                return False  # a stream that is being made has no leader, and nobody else answers
            return "error" not in found and found["state"]["last_seq"] > before

        await eventually(is_back, "the stream of ids is back above all it gave", 20)
        await load.grows(100)
        old = cluster.kill("peer-2")  # it needs a new block, and so does what it coordinates
        await asyncio.to_thread(cluster.wait_reborn, "peer-2", old)
        await asyncio.to_thread(cluster.wait_ready)
        await load.grows(50)
    assert len(set(load.given)) == len(load.given)
    assert load.refused == []
    assert min(map(ids.block_of, load.given)) > 0


async def test_leaders_are_spread_again_after_a_kill_and_then_left_alone(cluster: Cluster) -> None:
    async with bus_client(cluster, "node") as client:
        await spread(client)
        first = await leaders(client)
        assert first[0] is not None
        old = cluster.kill(first[0])
        await asyncio.to_thread(cluster.wait_reborn, first[0], old)
    async with bus_client(cluster, "node") as client:
        await spread(client)
        settled = await leaders(client)
        await asyncio.to_thread(cluster.wait_ready)
        moved = await moves(cluster)
        async with load_on(cluster) as load:
            await load.grows(200)
        assert await leaders(client) == settled
        assert await moves(cluster) == moved


async def moves(cluster: Cluster) -> float:
    """How often any peer has moved a leader."""
    total = 0.0
    async with http_client() as client:
        for number in (1, 2, 3):
            text = (await client.get(cluster.peer_url(number) + "/metrics")).text
            line = next(x for x in text.splitlines() if x.startswith("memsync_leaders_moved_total"))
            total += float(line.split()[-1])
    return total


def test_a_peer_of_another_cell_with_this_name_ends_and_says_what_to_do(cluster: Cluster) -> None:
    """Same bus, same names, another genesis file: it reads and writes nothing."""
    home = cluster.home
    document, _ = genesis.found(
        cell="cell", region="local", members=["peer-1"], environment="development", founded_at_ms=1
    )
    place = home.parent / "stranger"
    place.mkdir(exist_ok=True)
    genesis.write(place / "genesis.json", document)
    lines = (home / "config" / "peer-1.toml").read_text()
    for old, new in (
        (str(home / "genesis.json"), str(place / "genesis.json")),
        (str(home / "data" / "peer-1"), str(place / "data")),
        (f"http_port = {8081 + cluster.offset}", f"http_port = {8089 + cluster.offset}"),
        (str(home / "logs"), ""),
    ):
        assert old in lines, (old, lines)
        lines = lines.replace(old, new)
    (place / "peer-1.toml").write_text(lines)
    ended = subprocess.run(
        [sys.executable, "-m", "memsync.nodes.peer", "--config", str(place / "peer-1.toml")],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
    )
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("peer: the streams of cell cell on this bus belong to another cell")
    assert "give this cell another name" in last
    cluster.wait_ready()
