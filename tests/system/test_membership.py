"""A fourth peer on real processes: it joins, counts, is replaced by a namesake, and is removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from memsync import config
from memsync.local.settings import to_toml
from tests.conditions import wait_until
from tests.system.conftest import TOP, Cluster

NAME = "peer-4"
ENDED_WITHIN_S = 15.0
ASKED_WITHIN_S = 5.0  # each member tells of all twice a second


class Started(msgspec.Struct, frozen=True):
    """A peer that no keeper keeps."""

    process: subprocess.Popen[bytes]
    url: str
    output: Path

    def exit_code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def wait_ended(self) -> str:
        """Wait until it has ended for good; what it said last."""
        wait_until(lambda: self.exit_code() is not None, "the peer ended", ENDED_WITHIN_S)
        assert self.exit_code() == 2, self.output.read_text()
        return self.output.read_text().splitlines()[-1]

    def checks(self) -> dict[str, str]:
        """What /ready says; nothing while it does not answer."""
        try:
            found: dict[str, str] = httpx.get(self.url + "/ready", timeout=2.0).json()["checks"]
        except httpx.HTTPError:
            return {}
        return found


class Machine:
    """Another machine, so to say: starts peers named peer-4, each with a data folder of its own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self.started: list[Started] = []

    def start(self, data: str) -> Started:
        """Start one on the data folder `data`."""
        number = len(self.started)
        port = 8080 + self._cluster.offset + 40 + number
        first = config.load(self._cluster.home / "config" / "peer-1.toml", config.PeerSettings)
        settings = msgspec.structs.replace(
            first, name=NAME, data_dir=str(self._folder / data), http_port=port, log_dir=""
        )
        path, output = self._folder / f"{number}.toml", self._folder / f"{number}.out"
        path.write_text(to_toml(settings))
        with output.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "memsync.nodes.peer", "--config", str(path)],
                cwd=TOP,
                env=self._cluster.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.started.append(Started(process, f"http://127.0.0.1:{port}", output))
        return self.started[-1]

    def end(self) -> None:
        """End what still runs."""
        for one in self.started:
            if one.exit_code() is None:
                one.process.kill()
                one.process.wait(5)


@pytest.fixture
def machine(own_cluster: Cluster, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(own_cluster, tmp_path)
    yield found
    found.end()


def memsync(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of the command line."""
    return subprocess.run(
        [sys.executable, "-m", "memsync", *arguments],
        cwd=TOP,
        env=cluster.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def add(cluster: Cluster, text: str) -> httpx.Response:
    """A write through the gateways."""
    return httpx.post(
        cluster.url + "/memory/add",
        json={"text": text},
        headers=cluster.headers("ada"),
        timeout=15.0,
    )


def has_answered(peer: Started) -> bool:
    """Whether gateways have sent requests to it."""
    return 'memsync_operations_total{operation="memory.query"' in (
        httpx.get(peer.url + "/metrics", timeout=2.0).text
    )


def test_a_fourth_peer_joins_counts_is_replaced_and_leaves(
    own_cluster: Cluster, machine: Machine
) -> None:
    cluster = own_cluster
    assert add(cluster, "before it came").status_code == 201
    new = machine.start("one")
    waits = wait_until(lambda: new.checks().get("membership"), "it runs and says what it waits for")
    assert waits == (
        "failed: peer-4 is not a member of cell cell yet: run `memsync cluster join peer-4`"
    )
    joined = memsync(cluster, "cluster", "join", NAME)
    assert joined.returncode == 0, joined.stderr
    assert "of 4 members alive, 3 are needed for writes" in joined.stdout
    wait_until(lambda: cluster.is_ready(new.url), "it is ready", 20.0)

    # It counts: with one of the others frozen three of four go on.
    frozen = cluster.pid("peer-1")
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert add(cluster, "three of four").status_code == 201
    finally:
        os.kill(frozen, signal.SIGCONT)

    # The gateways ask it, without a restart: soon, as they hear of it from the members.
    def is_asked() -> bool:
        for number in range(24):
            headers = cluster.headers(f"user-{number}")
            httpx.post(cluster.url + "/memory/query", json={"query": "tea"}, headers=headers)
        return has_answered(new)

    wait_until(is_asked, "the gateways ask it", ASKED_WITHIN_S)

    # Of two processes of one name the later start stays, also where the earlier one was frozen.
    second = machine.start("two")
    assert "another process named peer-4 with a later start" in new.wait_ended()
    wait_until(lambda: cluster.is_ready(second.url), "the second is ready", 20.0)
    second.process.send_signal(signal.SIGSTOP)
    third = machine.start("three")
    wait_until(lambda: cluster.is_ready(third.url), "the third is ready", 20.0)
    second.process.send_signal(signal.SIGCONT)
    assert "another process named peer-4 with a later start" in second.wait_ended()

    left = memsync(cluster, "cluster", "remove", NAME, "--yes", "--json")
    assert left.returncode == 0, left.stderr
    told = json.loads(left.stdout)
    assert [one["name"] for one in told["members"]] == ["peer-1", "peer-2", "peer-3"]
    assert third.wait_ended().startswith("peer: peer-4 was removed from cell cell.")
    assert "memsync cluster join peer-4" in machine.start("three").wait_ended()
    assert add(cluster, "without it").status_code == 201

    # Joined again, it stays, though its own store still says that it was removed.
    assert memsync(cluster, "cluster", "join", NAME).returncode == 0
    back = machine.start("three")
    wait_until(lambda: cluster.is_ready(back.url), "it is back", 20.0)
    assert back.exit_code() is None
