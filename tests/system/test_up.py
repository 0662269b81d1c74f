"""`scripts/up` and `scripts/down` with the real processes: ready, killed, back, ended."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from memsync.local import process_table
from memsync.local.home import Home
from memsync.local.ports import HOST, Ports
from tests.conditions import wait_until
from tests.system.local_bus import TOP, free_ports

READY_WITHIN_S = 30.0  # alone it takes 3 to 6 s
BACK_WITHIN_S = 40.0  # all eight at once: an election on the bus alone takes up to 9 s
ENDED_WITHIN_S = 10.0
EVERYBODY = (
    *(f"nats-{number}" for number in (1, 2, 3)),
    *(f"peer-{number}" for number in (1, 2, 3)),
    *(f"gateway-{number}" for number in (1, 2)),
)


@dataclass
class Place:
    """Where a cluster of this test lives."""

    home: Home
    ports: Ports

    @property
    def environment(self) -> dict[str, str]:
        """What scripts/up and scripts/down read."""
        return os.environ | {
            "MEMSYNC_HOME": str(self.home.path),
            "MEMSYNC_PORT_OFFSET": str(self.ports.offset),
        }

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run up or down to its end."""
        return subprocess.run(
            [sys.executable, "-m", f"memsync.local.{module}", *arguments],
            cwd=TOP,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def start(self, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the cluster; returns when it says that it is ready."""
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "memsync.local.up", *arguments],
                cwd=TOP,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        wait_until(
            lambda: process.poll() is not None or "memsync is ready after " in output.read_text(),
            "the cluster is ready",
            READY_WITHIN_S,
        )
        assert process.poll() is None, output.read_text()
        return process

    def pids(self) -> dict[str, int]:
        """The ids of all eight, as far as they live."""
        found = {name: process_table.read_pid(self.home.pid_file(name)) for name in EVERYBODY}
        return {
            name: pid for name, pid in found.items() if pid and process_table.started_ticks(pid)
        }

    def are_ready(self) -> bool:
        """Whether every peer and the gateways say that they are ready."""
        ports = [self.ports.http, *(self.ports.peer(number) for number in (1, 2, 3))]
        return all(status(port, "/ready") == 200 for port in ports)


def status(port: int, path: str) -> int | None:
    """The HTTP status that a port answers with, None if it does not."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place of its own; what runs there is ended after the test."""
    chosen = Place(Home(tmp_path / "home"), free_ports())
    yield chosen
    assert chosen.run("down").returncode == 0


def test_the_life_of_a_local_cluster(place: Place, tmp_path: Path) -> None:
    first = place.start(tmp_path / "first")
    said = (tmp_path / "first").read_text().splitlines()[-1]
    assert f"http://127.0.0.1:{place.ports.http}  key: {place.home.key}" in said
    # One gateway has said so; the other looks at the peers once a second.
    wait_until(place.are_ready, "the other gateway says it too", 5.0)
    assert sorted(place.pids()) == sorted(EVERYBODY)

    second = place.run("up")
    assert second.returncode == 2
    assert f"a cluster already runs here (pid {first.pid})" in second.stderr
    fresh = place.run("up", "--fresh")
    assert fresh.returncode == 2
    assert place.home.genesis.exists()

    before = place.pids()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(place.pids().items() - before.items()) == 8, "all eight return")
    wait_until(place.are_ready, "all are ready again", BACK_WITHIN_S)

    began = time.monotonic()
    first.send_signal(signal.SIGINT)
    assert first.wait(ENDED_WITHIN_S) == 0
    assert time.monotonic() - began < ENDED_WITHIN_S
    assert place.pids() == {}

    key = place.home.key.read_text()
    again = place.start(tmp_path / "again")
    assert place.home.key.read_text() == key
    down = place.run("down", "--purge")
    assert (down.returncode, again.wait(ENDED_WITHIN_S)) == (0, 0)
    assert not place.home.path.exists()


def test_a_wrong_configuration_ends_the_start(place: Place) -> None:
    place.home.config("gateway-1.toml").parent.mkdir(parents=True)
    place.home.lock.touch()
    place.home.config("gateway-1.toml").write_text("name = 7\n")
    answer = place.run("up")
    assert answer.returncode == 2
    assert "gateway-1.toml: name: " in answer.stderr


def test_a_signal_while_the_processes_are_being_started_ends_them_all(place: Place) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        starting = subprocess.Popen(
            [sys.executable, "-m", "memsync.local.up"],
            cwd=TOP,
            env=place.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: place.pids(), "the first process lives", READY_WITHIN_S)
        starting.send_signal(number)
        assert starting.wait(ENDED_WITHIN_S) == 0
        assert place.pids() == {}
