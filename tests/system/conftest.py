"""Real clusters for system tests: three servers, three peers, two gateways, in an own home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.conditions import wait_until
from tests.faults_of_ours import faults_of_ours
from tests.system.local_bus import free_ports

READY_S = 60.0
UP = ("memsync.local.up",)
TOP = Path(__file__).resolve().parents[2]


class Cluster(msgspec.Struct, frozen=True):
    """A running cluster, as its users and its saboteurs see it."""

    home: Path
    offset: int
    api_key: str
    environment: dict[str, str]

    @property
    def gateway_port(self) -> int:
        """Where the gateways listen."""
        return 8080 + self.offset

    @property
    def url(self) -> str:
        """Where the gateways listen."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def peer_url(self, number: int) -> str:
        """A peer's own port."""
        return f"http://127.0.0.1:{8080 + number + self.offset}"

    def nats_url(self, number: int) -> str:
        """A NATS server."""
        return f"nats://127.0.0.1:{4221 + number + self.offset}"

    def pid(self, name: str) -> int:
        """The process itself, not its keeper."""
        return int((self.home / "run" / f"{name}.pid").read_text())

    def kill(self, name: str) -> int:
        """kill -9; returns the pid that it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_reborn(self, name: str, old_pid: int, timeout_s: float = 20.0) -> None:
        """Wait until the keeper has started it again."""

        def reborn() -> bool:
            try:
                return self.pid(name) != old_pid
            except (FileNotFoundError, ValueError):
                return False

        wait_until(reborn, f"{name} started again", timeout_s)

    def is_ready(self, url: str) -> bool:
        """Whether /ready says 200."""
        try:
            return httpx.get(url + "/ready", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until the gateways and every peer are ready."""
        for url in [self.url, *(self.peer_url(n) for n in (1, 2, 3))]:
            wait_until(lambda url=url: self.is_ready(url), f"{url} ready", timeout_s)

    def headers(self, end_user: str, **more: str) -> dict[str, str]:
        """Headers of a request for this user."""
        return {"X-API-Key": self.api_key, "X-End-User-ID": end_user, **more}


@contextmanager
def running_cluster(home: Path, *, up: Sequence[str] = UP, embedder: str = "") -> Iterator[Cluster]:
    """Start a cluster with `memsync.local.up`, or with another module and its arguments; end it,
    and see that it ended well, and that whatever was done to it, no process failed by a fault of
    ours. `embedder` is that of its peers, "" the default."""
    offset = free_ports().offset
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MEMSYNC_")},
        "MEMSYNC_HOME": str(home),
        "MEMSYNC_PORT_OFFSET": str(offset),
        "MEMSYNC_EMBEDDER": embedder,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(TOP), os.environ.get("PYTHONPATH")))),
    }
    output = home.parent / f"{home.name}.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *up],
            env=environment,
            cwd=TOP,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:

        def is_up() -> bool:
            assert process.poll() is None, output.read_text()
            return b"memsync is ready after" in output.read_bytes()

        wait_until(is_up, f"cluster ready\n{output.read_text()}", READY_S)
        yield Cluster(home, offset, (home / "dev.key").read_text().strip(), environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert process.returncode == 0, output.read_text()
    faults = faults_of_ours(home / "logs")
    assert not faults, "\n".join(
        line.replace("\\n", "\n") for lines in faults.values() for line in lines
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests that do not harm it."""
    with running_cluster(tmp_path_factory.mktemp("cluster") / "home") as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of the test's own, to be harmed."""
    with running_cluster(tmp_path / "home") as running:
        yield running
