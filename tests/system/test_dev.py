"""`memsync dev` with the real processes: ready soon, found by itself, back after a crash, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from memsync.local import process_table
from memsync.local.home import Home, is_locked
from memsync.local.ports import HOST, Ports, choose_free
from tests.conditions import wait_until
from tests.system.local_bus import TOP

READY_WITHIN_S = 3.0  # what is promised; alone it takes 0.5 to 0.8 s
STARTED_WITHIN_S = 30.0
ENDED_WITHIN_S = 15.0
DEV = Ports(peers=1, servers=1, gateways=0)


@dataclass
class Person:
    """Somebody with an empty home folder, who types `memsync ...`; nothing is set."""

    folder: Path
    ports: Ports = field(default_factory=lambda: choose_free(DEV))
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Home:
        """Where `memsync dev` puts its data without being told."""
        return Home(self.folder / ".memsync")

    @property
    def environment(self) -> dict[str, str]:
        """An ordinary one."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MEMSYNC_")}
        return kept | {"HOME": str(self.folder), "PYTHONPATH": str(TOP)}

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """A command's output, standard error included; it must end with `code`."""
        ended = subprocess.run(
            [sys.executable, "-m", "memsync", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert ended.returncode == code, ended.stdout
        assert "Traceback" not in ended.stdout
        return ended.stdout

    def start(self, *arguments: str, **more: object) -> subprocess.Popen[bytes]:
        """Start `memsync dev`; returns when it says that it is ready."""
        offset = ("--port-offset", str(self.ports.offset))
        with open(self.folder / "output", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "memsync", "dev", *offset, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                **({"stdin": subprocess.DEVNULL} | more),  # type: ignore[call-overload]
            )
        self.started.append(process)
        wait_until(
            lambda: process.poll() is not None or " is ready " in self.said(),
            "the cluster is ready",
            STARTED_WITHIN_S,
        )
        assert process.poll() is None, self.said()
        return process

    def said(self) -> str:
        """What `memsync dev` printed so far."""
        return (self.folder / "output").read_text()

    def is_ready(self) -> bool:
        """Whether /ready says 200."""
        try:
            answer = httpx.get(f"http://{HOST}:{self.ports.http}/ready", timeout=2.0)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def pid(self, name: str) -> int | None:
        """The id of a process that lives."""
        found = process_table.read_pid(self.home.pid_file(name))
        return found if found and process_table.started_ticks(found) else None


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    """Somebody with an empty folder; what they started is ended after the test."""
    someone = Person(tmp_path)
    yield someone
    someone.run("dev", "--stop")
    for process in someone.started:
        process.wait(ENDED_WITHIN_S)


def test_one_line_says_that_it_is_ready_and_commands_find_it(person: Person) -> None:
    process = person.start()
    [line] = person.said().splitlines()
    assert float(line.split()[4]) < READY_WITHIN_S
    assert f"http://{HOST}:{person.ports.http}  key: {person.home.key}  (stop: Ctrl-C)" in line

    identifier = person.run("add", "Ada keeps bees behind the house").strip()
    assert identifier in person.run("recall", "what does Ada keep?")
    report = json.loads(person.run("status", "--json"))
    assert report["ready"] is True
    assert report["gateways"] == []
    assert [(peer["name"], peer["lag_entries"]) for peer in report["peers"]] == [("peer-1", 0)]
    assert [stripe["leader"] for stripe in report["stripes"]] == ["nats-1"] * 3

    process.send_signal(signal.SIGINT)
    assert process.wait(ENDED_WITHIN_S) == 0
    assert not is_locked(person.home)
    assert not person.home.pid_files()
    person.start()
    assert identifier in person.run("recall", "what does Ada keep?")


@pytest.mark.parametrize("name", ["peer-1", "nats-1"])
def test_what_crashes_comes_back(person: Person, name: str) -> None:
    process = person.start()
    identifier = person.run("add", "the spare key is under the third pot").strip()
    killed = person.pid(name)
    assert killed
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: person.pid(name) not in (None, killed), f"{name} is started again")
    wait_until(person.is_ready, "it is ready again", STARTED_WITHIN_S)
    assert identifier in person.run("recall", "where is the spare key?")
    person.run("add", "and it works on")
    assert f"{name} ended (signal 9); it is started again" in person.said()
    assert process.poll() is None


def test_a_second_one_in_the_same_home_says_so(person: Person) -> None:
    process = person.start()
    said = person.run("dev", "--fresh", code=2)
    assert f"a cluster already runs here (pid {process.pid})" in said
    assert "memsync dev --stop" in said
    assert process.poll() is None
    assert f"memsync has ended in {person.home.path}" in person.run("dev", "--stop")
    assert process.wait(ENDED_WITHIN_S) == 0
    assert f"nothing runs in {person.home.path}" in person.run("dev", "--stop")


def test_a_port_that_is_taken_is_named(person: Person) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, person.ports.http))
        taken.listen()
        offset = str(person.ports.offset)
        said = person.run("dev", code=2, MEMSYNC_PORT_OFFSET=offset)
    assert f"port {person.ports.http} (peer-1) is taken by " in said
    assert f"(pid {os.getpid()})" in said


def test_what_a_killed_one_left_can_be_ended(person: Person) -> None:
    process = person.start()
    pids = [person.pid("peer-1"), person.pid("nats-1")]
    process.kill()
    process.wait(ENDED_WITHIN_S)
    assert "already runs" in person.run("dev", code=2)
    person.run("dev", "--stop")
    assert [person.pid("peer-1"), person.pid("nats-1")] == [None, None]
    assert not any(process_table.started_ticks(pid) for pid in pids if pid)


def test_it_can_end_with_whoever_holds_its_standard_input(person: Person) -> None:
    process = person.start("--end-with-stdin", stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.close()
    assert process.wait(ENDED_WITHIN_S) == 0
    assert not person.home.pid_files()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(person: Person, number: signal.Signals) -> None:
    process = person.start()
    process.send_signal(number)
    assert process.wait(ENDED_WITHIN_S) == 0
    assert person.said().splitlines()[-1] == "memsync has ended"
