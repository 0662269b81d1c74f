"""A message that nobody of ours wrote, in the log of a running cluster, and the way out of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from tests.conditions import wait_until
from tests.system.callers import bus_client
from tests.system.conftest import Cluster

SUBJECT = "memsync.log.local.cell.1.f"


def stopped(cluster: Cluster, number: int) -> str:
    """What a peer says of its store; "" where it is well or does not answer."""
    try:
        checks: dict[str, str] = httpx.get(cluster.peer_url(number) + "/ready").json()["checks"]
    except httpx.HTTPError:
        return ""
    return checks["store"] if checks["store"].startswith("failed") else ""


def recall(cluster: Cluster, url: str) -> dict[str, Any]:
    answer = httpx.post(
        url + "/memory/query", json={"query": "what tea?"}, headers=cluster.headers("ada")
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def publish(cluster: Cluster) -> int:
    """Put garbage into the log, as whoever has a peer's password can; its sequence."""
    async with bus_client(cluster, "node") as client:
        ack = await client.jetstream().publish(SUBJECT, b"\xffnobody's")
        return ack.seq


def test_peers_stop_say_why_recall_and_go_on_when_a_person_says_so(own_cluster: Cluster) -> None:
    cluster = own_cluster
    added = httpx.post(
        cluster.url + "/memory/add",
        json={"text": "Ada drinks green tea"},
        headers=cluster.headers("ada", **{"Memsync-Ack": "all"}),
    )
    assert added.status_code == 201, added.text
    place = f"1.0.{asyncio.run(publish(cluster))}"
    pids = {number: cluster.pid(f"peer-{number}") for number in (1, 2, 3)}
    check_stopped(cluster, place)
    assert {number: cluster.pid(f"peer-{number}") for number in (1, 2, 3)} == pids
    for number, pid in pids.items():  # after a restart they say the same
        cluster.kill(f"peer-{number}")
        cluster.wait_reborn(f"peer-{number}", pid)
    check_stopped(cluster, place)
    for number in (1, 2, 3):
        settings = cluster.home / "config" / f"peer-{number}.toml"
        lines = settings.read_text().replace("void_positions = []", f'void_positions = ["{place}"]')
        assert place in lines
        settings.write_text(lines)
        old = cluster.kill(f"peer-{number}")
        cluster.wait_reborn(f"peer-{number}", old)
    cluster.wait_ready()
    again = httpx.post(
        cluster.url + "/memory/add",
        json={"text": "Ada drinks coffee, too"},
        headers=cluster.headers("ada"),
    )
    assert again.status_code == 201, again.text
    assert len(recall(cluster, cluster.url)["memories"]) == 2


def check_stopped(cluster: Cluster, place: str) -> None:
    """Every peer names the message, refuses writes for certain, and recalls, tagged."""
    for number in (1, 2, 3):
        said = wait_until(
            lambda number=number: stopped(cluster, number), f"peer-{number} says why", 20
        )
        assert f'void_positions = ["{place}"]' in said
        url = cluster.peer_url(number)
        found = recall(cluster, url)
        assert [memory["text"] for memory in found["memories"]] == ["Ada drinks green tea"]
        assert "replication" in found["degraded_components"]
        refused = httpx.post(
            url + "/memory/add", json={"text": "x"}, headers=cluster.headers("ada"), timeout=15
        )
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["definite"] is True
        metrics = httpx.get(url + "/metrics").text
        assert "memsync_applier_broken 1.0" in metrics
