"""A running cluster whose model is changed for one behind an endpoint, which then goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec

from memsync import config
from memsync.config import EndpointSettings, PeerSettings
from memsync.local.settings import to_toml
from tests.conditions import wait_until
from tests.fakes.model_server import ModelServer, serving_in_thread
from tests.system.conftest import TOP, Cluster, running_cluster

USER = "ada"
TEXTS = ["The car is blue", "Green tea every morning", "A boat on the lake", "Two cats and a dog"]


def add(cluster: Cluster, text: str) -> dict[str, Any]:
    answer = httpx.post(
        cluster.url + "/memory/add",
        json={"text": text},
        headers=cluster.headers(USER),
        timeout=10,
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def recall(cluster: Cluster, query: str) -> dict[str, Any]:
    answer = httpx.post(
        cluster.url + "/memory/query",
        json={"query": query},
        headers=cluster.headers(USER),
        timeout=10,
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def models_of(cluster: Cluster, number: int) -> str:
    checks = httpx.get(cluster.peer_url(number) + "/status.json", timeout=5).json()["checks"]
    return str(checks["models"])


def use_endpoint(cluster: Cluster, server: ModelServer) -> None:
    """Give every peer the other model, and start them again one after the other."""
    for number in (1, 2, 3):
        path = cluster.home / "config" / f"peer-{number}.toml"
        endpoint = EndpointSettings(
            url=server.url, model="letters", dimensions=26, timeout_ms=400, key_variable="PATH"
        )
        settings = msgspec.structs.replace(
            config.load(path, PeerSettings), embedder="remote", endpoints={"remote": endpoint}
        )
        path.write_text(to_toml(settings))
        cluster.wait_reborn(f"peer-{number}", cluster.kill(f"peer-{number}"))
        cluster.wait_ready(60)
        if number == 1:
            wait_until(lambda: are_warned(cluster), "the others say that peer-1 differs", 30)


def are_warned(cluster: Cluster) -> bool:
    told = [models_of(cluster, number) for number in (2, 3)]
    return all("WARNING: peer-1 embeds with letters, this peer with" in one for one in told)


def is_caught_up(cluster: Cluster) -> bool:
    told = [models_of(cluster, number) for number in (1, 2, 3)]
    return all(
        "embedders remote (letters)" in one and "wait" not in one and "WARNING" not in one
        for one in told
    )


def test_a_model_is_changed_fails_and_comes_back(tmp_path: Path) -> None:
    with serving_in_thread() as server, running_cluster(tmp_path / "home") as cluster:
        before = [add(cluster, text) for text in TEXTS]
        use_endpoint(cluster, server)
        wait_until(lambda: set(TEXTS) <= set(server.asked), "all are embedded again", 60)
        wait_until(lambda: is_caught_up(cluster), "all peers have the vectors", 30)
        assert server.keys[0].startswith("Bearer ")
        for memory in before:
            now = httpx.get(
                f"{cluster.url}/memory/{memory['id']}", headers=cluster.headers(USER), timeout=10
            ).json()
            assert now == memory  # version and updated_at among all the rest
        answer = recall(cluster, "blue car")
        assert answer["degraded_components"] == []
        assert all("cosine" in found["scoring"] for found in answer["memories"])

        server.behaviour = "hangs"
        late = add(cluster, "A violin under the bed")
        for number in range(6):
            answer = recall(cluster, f"violin {number}")
            assert answer["memories"][0]["id"] == late["id"]
            assert answer["degraded_components"] == ["embedding"]
            assert answer["sla_met"]
        wait_until(
            lambda: any("remote left alone" in models_of(cluster, n) for n in (1, 2, 3)),
            "a breaker is open",
        )
        shown = subprocess.run(
            [sys.executable, "-m", "memsync", "status", "--json"],
            env=cluster.environment, cwd=TOP, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "remote left alone for 1 organisations" in shown.stdout
        metrics = [httpx.get(cluster.peer_url(n) + "/metrics", timeout=5).text for n in (1, 2, 3)]
        opened = 'memsync_breaker_state{provider="remote",state="open"} 1.0'
        assert any(opened in text for text in metrics)

        server.behaviour = "well"
        wait_until(lambda: late["text"] in server.asked[-64:], "the vector follows", 60)
        wait_until(lambda: is_caught_up(cluster), "all peers have it", 60)
