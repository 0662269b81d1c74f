"""What was recalled before a cluster ended is known after its next start, as are explanations."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.conditions import wait_until
from tests.system.conftest import Cluster, running_cluster


def post(cluster: Cluster, path: str, body: object) -> httpx.Response:
    return httpx.post(cluster.url + path, json=body, headers=cluster.headers("ada"), timeout=10.0)


def test_uses_and_explanations_outlive_a_restart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    asked = {"query": "what does Ada drink", "k": 1}
    with running_cluster(home) as cluster:
        texts = ["Ada drinks green tea", "The boiler leaks", "The train to Graz is late"]
        items = [{"text": text} for text in texts]
        assert post(cluster, "/memory/bulk-add", {"items": items}).json()["created"] == 3
        answers = [post(cluster, "/memory/query", {**asked, "session_id": f"s{n}"}).json()
                   for n in range(3)]  # fmt: skip
        [memory] = answers[0]["memories"]
        assert memory["text"] == texts[0]
        assert "usage" not in memory["scoring"]
        before = httpx.get(f"{cluster.url}/memory/{memory['id']}", headers=cluster.headers("ada"))
    with running_cluster(home) as cluster:

        def usage() -> float:
            answer = post(cluster, "/memory/query", asked).json()
            found = [one for one in answer["memories"] if one["id"] == memory["id"]]
            return float(found[0]["scoring"].get("usage", 0.0)) if found else 0.0

        assert round(wait_until(usage, "the uses are known", 20.0), 4) == 0.2773  # ln(4) / 5
        headers = cluster.headers("ada")
        after = httpx.get(f"{cluster.url}/memory/{memory['id']}", headers=headers)
        assert after.json() == before.json()
        told = httpx.get(
            f"{cluster.url}/memory/explanations/{answers[0]['query_id']}", headers=headers
        )
        assert told.json()["candidates"][0]["memory_id"] == memory["id"]
