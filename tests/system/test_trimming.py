"""Several times what the log holds is written and nothing is refused: real servers, real peers,
stripes of the smallest size that the settings take."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from nats.aio.client import Client

from memsync.gateway.passing.routing import rendezvous
from memsync.local.home import Home
from memsync.local.prepare import prepared
from memsync.local.settings import STRIPE_BYTES_MIN
from tests.conditions import eventually
from tests.system.callers import bus_client, http_client
from tests.system.conftest import Cluster, running_cluster
from tests.system.local_bus import free_ports

WRITERS = 8
METADATA_BYTES = 12_000  # of each of the items of a bulk add
ITEMS = 40
HOLDS = 3 * STRIPE_BYTES_MIN
TIMES = 4
FOUND_WITHIN_S = 60.0


@pytest.fixture
def small_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose stripes are small from the beginning."""
    home = Home(tmp_path / "home")
    with prepared(home, free_ports()):
        for number in (1, 2, 3):
            path = home.config(f"peer-{number}.toml")
            size = f"stripe_bytes_max = {STRIPE_BYTES_MIN}"
            path.write_text(re.sub(r"stripe_bytes_max = \d+", size, path.read_text()))
    with running_cluster(home.path) as running:
        yield running


async def stripe_states(client: Client) -> list[dict[str, Any]]:
    """What the streams hold."""
    found = []
    for stripe in range(3):
        request = f"$JS.API.STREAM.INFO.MEMSYNC_LOCAL_CELL_{stripe}_0"
        reply = json.loads((await client.request(request, b"{}", timeout=5)).data)
        assert reply["config"]["max_bytes"] == STRIPE_BYTES_MIN
        found.append(reply["state"])
    return found


def user_of(cluster: Cluster, writer: int) -> str:
    """An end user for a writer; the gateways prefer each peer for as many writers as the others,
    give or take one. A peer publishes on its own stripe first, and every stripe is to be filled."""
    peers = ["peer-1", "peer-2", "peer-3"]
    names = (f"writer-{writer}-{number}" for number in count())
    preferred = peers[writer % len(peers)]
    return next(n for n in names if rendezvous(peers, cluster.api_key, "", n)[0] == preferred)


class Writing:
    """Bulk adds from many at once until enough bytes were given."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient, bytes_wanted: int) -> None:
        self._cluster = cluster
        self._client = client
        self._wanted = bytes_wanted
        self.users = [user_of(cluster, writer) for writer in range(WRITERS)]
        self.given = 0
        self.refused: list[str] = []
        self.slowest_s = 0.0
        self.last_ids: dict[int, int] = {}

    async def write(self, writer: int) -> None:
        while self.given < self._wanted:
            filler = secrets.token_hex(METADATA_BYTES // 2)
            items = [
                {"text": secrets.token_hex(8), "metadata": {"filler": filler}} for _ in range(ITEMS)
            ]
            answer = await self._client.post(
                self._cluster.url + "/memory/bulk-add",
                json={"items": items},
                headers=self._cluster.headers(self.users[writer]),
                timeout=30,
            )
            self.slowest_s = max(self.slowest_s, answer.elapsed.total_seconds())
            if answer.status_code != 200:
                self.refused.append(answer.text[:300])
                continue
            self.given += ITEMS * METADATA_BYTES
            self.last_ids[writer] = answer.json()["results"][0]["memory_ids"][0]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for writer in range(WRITERS):
                tasks.create_task(self.write(writer))


async def is_found(client: httpx.AsyncClient, cluster: Cluster, writing: Writing) -> bool:
    """Whether every peer has the last of what each writer wrote."""
    for number in (1, 2, 3):
        for writer, identifier in writing.last_ids.items():
            url = f"{cluster.peer_url(number)}/memory/{identifier}"
            user = writing.users[writer]
            headers = cluster.headers(user, **{"Memsync-Consistency": "local"})
            answer = await client.get(url, headers=headers)
            if answer.status_code != 200:
                return False
    return True


async def test_what_the_log_holds_is_written_several_times_without_a_refusal(
    small_cluster: Cluster,
) -> None:
    cluster = small_cluster
    async with bus_client(cluster, "node") as bus, http_client() as client:
        writing = Writing(cluster, client, TIMES * HOLDS)
        await writing.run()
        states = await stripe_states(bus)
        assert writing.refused == []
        assert all(state["first_seq"] > 1 for state in states)
        assert all(state["bytes"] <= STRIPE_BYTES_MIN for state in states)
        assert all(state.get("num_deleted", 0) == 0 for state in states)
        await eventually(
            lambda: is_found(client, cluster, writing), "all peers have all", FOUND_WITHIN_S
        )
        print(f"{writing.given >> 20} MiB, slowest bulk add {writing.slowest_s:.2f} s")


async def test_a_frozen_member_does_not_stop_writes_and_takes_rows(small_cluster: Cluster) -> None:
    """What it has not read is gone from the log when it thaws: it takes rows of a peer."""
    cluster = small_cluster
    async with bus_client(cluster, "node") as bus, http_client() as client:
        pid = cluster.pid("peer-3")
        os.kill(pid, signal.SIGSTOP)
        try:
            writing = Writing(cluster, client, 2 * HOLDS)
            await writing.run()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert all(state["first_seq"] > 1 for state in await stripe_states(bus))
        assert writing.refused == []
        await eventually(
            lambda: is_found(client, cluster, writing), "all peers have all", FOUND_WITHIN_S
        )
        print(f"{writing.given >> 20} MiB, slowest bulk add {writing.slowest_s:.2f} s")
