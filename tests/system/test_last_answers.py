"""No peer answers: the last good answer, in time and tagged; never what is known to be gone."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from tests.conditions import eventually, wait_until
from tests.system.callers import http_client
from tests.system.conftest import Cluster
from tests.system.test_bus_gone import servers_gone

PEERS = ("peer-1", "peer-2", "peer-3")
MARGIN_S = 0.5  # over a recall's budget of 0.5 s: two cores, and a test beside it
HEDGED_S = 1.0  # the bound for one frozen peer
QUESTION = {"query": "what does Ada drink?"}
TEA = "Ada drinks green tea"


@contextmanager
def frozen(cluster: Cluster, *names: str) -> Iterator[None]:
    """Freeze processes until the context ends."""
    pids = [cluster.pid(name) for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Asker:
    """A user with a connection to one gateway, which keeps that user's answers."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient, user: str, key: str) -> None:
        self.cluster = cluster
        self.client = client
        self.url = cluster.url
        self.headers = {"X-API-Key": key, "X-End-User-ID": user}

    async def add(self, text: str, url: str = "") -> int:
        """Store a memory, acknowledged by all."""
        answer = await self.client.post(
            (url or self.url) + "/memory/add",
            json={"text": text},
            headers={**self.headers, "Memsync-Ack": "all"},
        )
        assert answer.status_code == 201, answer.text
        found: int = answer.json()["id"]
        return found

    async def ask(self) -> dict[str, Any]:
        """The answer to the question, with how long it took."""
        began = time.monotonic()
        answer = await self.client.post(
            self.url + "/memory/query", json=QUESTION, headers=self.headers
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        found["took_s"] = time.monotonic() - began
        found["texts"] = [memory["text"] for memory in found["memories"]]
        return found

    async def ask_well(self) -> dict[str, Any]:
        """A good answer, once a peer gives one."""

        async def good() -> dict[str, Any] | None:
            found = await self.ask()
            return None if found["degraded"] else found

        found = await eventually(good, "a good answer", 20.0)
        assert found is not None
        return found

    async def wait_kept(self) -> None:
        """Wait until a good answer is kept: a gateway that hears a peer for the first time drops
        what it has."""

        async def hears_all() -> bool:
            text = (await self.client.get(self.url + "/metrics")).text
            return f"memsync_gateway_news_tellers {len(PEERS)}.0" in text

        await eventually(hears_all, "the gateway hears all peers", 20.0)
        await self.ask_well()

    async def wait_dropped(self) -> None:
        """Wait until nothing is kept for the question, long before it would be too old."""

        async def is_dropped() -> bool:
            with frozen(self.cluster, *PEERS):
                found = await self.ask()
            if found["freshness"]["source"] == "cache" and not found["memories"]:
                check_empty(found)
                return True
            return False

        await eventually(is_dropped, "the gateway hears of it")

    async def dropped(self) -> str:
        """How many answers this gateway has dropped, and why."""
        text = (await self.client.get(self.url + "/metrics")).text
        name = "memsync_gateway_last_answers_dropped_total"
        return " ".join(re.findall(rf'{name}\{{why=("\w+"\}} \S+)', text))


@asynccontextmanager
async def asker(cluster: Cluster, user: str, key: str = "") -> AsyncIterator[Asker]:
    async with http_client() as client:
        yield Asker(cluster, client, user, key or cluster.api_key)


def check_kept(found: dict[str, Any]) -> None:
    """It is the last good answer, in time, and says so."""
    assert found["texts"] == [TEA]
    assert found["degraded_components"] == ["cache", "replication"]
    assert found["freshness"]["source"] == "cache"
    assert 0 < found["freshness"]["age_ms"] < 60_000
    assert found["took_s"] < 0.5 + MARGIN_S


def check_empty(found: dict[str, Any]) -> None:
    """It is empty, in time, and says so."""
    assert found["texts"] == []
    assert found["degraded_components"] == ["search", "replication"]
    assert found["took_s"] < 0.5 + MARGIN_S


async def test_with_all_peers_frozen_the_last_good_answer_is_given(own_cluster: Cluster) -> None:
    """Frozen, then forgotten elsewhere, then with the bus dead as well: one cluster for all."""
    cluster = own_cluster
    async with asker(cluster, "ada") as ada, asker(cluster, "ada") as other:
        identifier = await ada.add(TEA)
        await ada.wait_kept()
        with frozen(cluster, *PEERS):
            for _ in range(3):
                check_kept(await ada.ask())
        await ada.ask_well()

        # Forgotten at a peer's own port: the gateways only hear of it.
        async def is_forgotten() -> bool:
            gone = await other.client.request(
                "DELETE",
                cluster.peer_url(2) + "/memory/forget",
                json={"memory_ids": [identifier]},
                headers=other.headers,
            )
            return gone.status_code == 200

        await eventually(is_forgotten, "it is forgotten", 20.0)

        await ada.wait_dropped()
        assert (await ada.ask_well())["texts"] == []

        # By the gateway's own caller, who does not wait for any news.
        second = await ada.add(TEA + "!")
        assert (await ada.ask_well())["texts"] == [TEA + "!"]
        gone = await ada.client.request(
            "DELETE",
            cluster.url + "/memory/forget",
            json={"memory_ids": [second]},
            headers=ada.headers,
        )
        assert gone.json() == [second]
        with frozen(cluster, *PEERS):
            check_empty(await ada.ask())
        await ada.ask_well()
        print("dropped:", await ada.dropped())


async def test_with_the_peers_frozen_and_the_bus_dead_it_is_given_too(
    own_cluster: Cluster,
) -> None:
    cluster = own_cluster
    async with asker(cluster, "ada") as ada:
        await ada.add(TEA)
        await ada.wait_kept()
        with servers_gone(cluster, (1, 2, 3)):

            async def answers_tagged() -> bool:
                return "replication" in (await ada.ask())["degraded_components"]

            await eventually(answers_tagged, "peers answer over HTTP, and say what they lack")
            found = await ada.ask()
            assert (found["texts"], found["freshness"]["source"]) == ([TEA], "peer")
            with frozen(cluster, *PEERS):
                check_kept(await ada.ask())


async def test_a_revoked_key_gets_nothing_of_it(own_cluster: Cluster) -> None:
    cluster = own_cluster
    async with http_client() as admin:
        made = await admin.post(
            cluster.peer_url(1) + "/org/api-keys",
            json={"name": "short-lived", "environment": "development"},
            headers={"X-API-Key": cluster.api_key, "Memsync-Ack": "all"},
        )
        assert made.status_code == 201, made.text
        async with asker(cluster, "ada", made.json()["key"]) as ada:
            await ada.add(TEA)
            await ada.wait_kept()
            with frozen(cluster, *PEERS):
                check_kept(await ada.ask())
            await ada.ask_well()

            async def is_revoked() -> bool:
                revoked = await admin.post(
                    cluster.peer_url(2) + f"/org/api-keys/{made.json()['id']}/revoke",
                    json={},
                    headers={"X-API-Key": cluster.api_key},
                )
                return revoked.status_code == 200

            await eventually(is_revoked, "it is revoked", 20.0)

            await ada.wait_dropped()
            print("dropped:", await ada.dropped())


@pytest.mark.parametrize("name", PEERS)
async def test_a_frozen_peer_is_overtaken_over_another_server(cluster: Cluster, name: str) -> None:
    """Some of these users prefer the frozen peer: a second one answers, soon, and as well."""
    users = [f"without-{name}-{number}" for number in range(6)]
    async with http_client() as client:
        askers = [Asker(cluster, client, user, cluster.api_key) for user in users]
        for one in askers:
            await one.add(TEA)
            await one.ask_well()
        slowest_s = 0.0
        with frozen(cluster, name):
            for one in askers:
                found = await one.ask()
                slowest_s = max(slowest_s, found["took_s"])
                assert found["took_s"] < HEDGED_S
                assert found["texts"] == [TEA]
                assert "search" not in found["degraded_components"]
    print(f"{name} frozen: the slowest of {len(users)} recalls took {slowest_s:.3f} s")
    wait_until(lambda: cluster.is_ready(cluster.url), "all is well again", 20.0)
