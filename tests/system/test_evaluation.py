"""`scripts/eval` on our own conversations against a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conditions import wait_until
from tests.system.conftest import READY_S, TOP, Cluster

OWN = TOP / "tests" / "data" / "conversations.json"
COMMAND = [sys.executable, "-m", "tests.bench.evaluation"]
ENDED_S = 60.0


def evaluated(cluster: Cluster, *options: str) -> Any:
    """What the evaluation prints as JSON."""
    ended = subprocess.run(
        [
            *COMMAND,
            str(OWN),
            "--json",
            "--url",
            cluster.url,
            "--api-key",
            cluster.api_key,
            *options,
        ],
        cwd=TOP,
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDED_S,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def test_what_it_finds_is_exact_and_the_same_twice(cluster: Cluster, tmp_path: Path) -> None:
    picture = tmp_path / "chart.png"
    first = evaluated(cluster, "--k", "8,1", "--plot", str(picture))
    assert (first["conversations"], first["turns"], first["created"]) == (2, 11, 11)
    assert (first["without_evidence"], first["unknown_labels"], first["degraded"]) == (1, 2, 0)
    assert [(row["name"], row["questions"]) for row in first["categories"]] == [
        ("multi-hop", 1), ("temporal", 1), ("open-domain", 1), ("single-hop", 3),
        ("adversarial", 1),
    ]  # fmt: skip
    assert first["overall"]["questions"] == 7
    # Eight memories are all that the longer conversation has; plain questions find theirs at once.
    assert {row["recall"]["8"] for row in first["categories"]} == {1.0}
    assert first["categories"][3]["mrr"] >= 0.7
    assert 0 < first["latency_ms"]["p50"] <= first["latency_ms"]["p95"]
    assert picture.read_bytes().startswith(b"\x89PNG")

    again = evaluated(cluster, "--k", "1,8")
    assert [again[name] for name in ("categories", "overall", "turns")] == [
        first[name] for name in ("categories", "overall", "turns")
    ]


@pytest.mark.parametrize("way", ["http", "nats"])
def test_an_import_makes_each_conversation_a_user(cluster: Cluster, way: str) -> None:
    options = ["--nats-url", cluster.nats_url(1)] if way == "nats" else []
    command = [Path(sys.executable).with_name("memsync"), "import", str(OWN), "--json", *options]
    for created, skipped in ((11, 0), (0, 11)):
        ended = subprocess.run(
            [*command, "--user-prefix", f"{way}-"],
            env=cluster.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=ENDED_S,
        )
        summary = json.loads(ended.stdout)
        assert (summary["created"], summary["skipped"]) == (created, skipped)
    listed = httpx.get(cluster.url + "/memory/list", headers=cluster.headers(f"{way}-allotment"))
    found = sorted(listed.json()["items"], key=lambda memory: memory["occurred_at"])
    assert [memory["metadata"]["dia_id"] for memory in found] == ["D1:1", "D1:2", "D1:3"]
    assert {memory["session_id"] for memory in found} == {"allotment/session_1"}
    assert found[1]["occurred_at"] == "2024-09-21T16:45:00.001+00:00"


def test_an_interruption_leaves_no_cluster_behind(tmp_path: Path) -> None:
    endless = tmp_path / "endless.json"
    conversation = json.loads(OWN.read_bytes())[1]
    endless.write_text(json.dumps(conversation | {"qa": conversation["qa"] * 50_000}))
    process = subprocess.Popen(
        [*COMMAND, str(endless)],
        cwd=TOP,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def is_ready() -> bool:
        assert process.poll() is None, process.communicate()
        outputs = [path.read_text() for path in tmp_path.glob("memsync-eval-*/home.out")]
        return any("memsync is ready after" in output for output in outputs)

    wait_until(is_ready, "a cluster of its own", READY_S)
    pids = [int(path.read_text()) for path in tmp_path.glob("memsync-eval-*/home/run/*.pid")]
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=ENDED_S)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert pids
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "processes ended")
