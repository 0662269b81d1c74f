"""The keeper with real processes: who dies returns, who is wrong stays down, none is left over."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from memsync.local import process_table
from tests.conditions import wait_until

KEEPER = Path(__file__).parents[2] / "memsync" / "nodes" / "keeper.py"
HOST = "127.0.0.1"
ENDED_WITHIN_S = 10.0
RESIDENT_KB_MAX = 14_000  # measured: 9,900; this is no more than an alarm for a heavy import
STAY = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
]
# Answers every connection on the inherited socket with the name it was given.
SERVE = """
import os, socket, sys
listening = socket.socket(fileno=int(os.environ["MEMSYNC_LISTEN_FD"]))
while True:
    connection, _ = listening.accept()
    connection.sendall(sys.argv[1].encode())
    connection.close()
"""


@dataclass
class Kept:
    """A keeper that runs, and where it writes."""

    home: Path
    process: subprocess.Popen[bytes]
    output: Path

    def pid(self, name: str) -> int:
        """The id of a living child; waits until there is one."""
        return wait_until(lambda: self._pid(name), f"{name} runs")

    def said(self) -> str:
        """What the keeper wrote to standard error so far."""
        return self.output.read_text()

    def has_ended(self) -> int:
        """Wait for the keeper's end; returns its exit code."""
        return self.process.wait(ENDED_WITHIN_S)

    def _pid(self, name: str) -> int | None:
        pid = process_table.read_pid(self.home / "run" / f"{name}.pid")
        return pid if pid and process_table.started_ticks(pid) else None


Start = Callable[..., Kept]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts keepers; what is left of them is killed after the test."""
    started: list[Kept] = []

    def start_one(*arguments: str) -> Kept:
        output = tmp_path / f"stderr-{len(started)}"
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), *arguments],
                env=os.environ | {"MEMSYNC_HOME": str(tmp_path)},
                stdin=subprocess.DEVNULL,
                stderr=file,
            )
        started.append(Kept(tmp_path, process, output))
        return started[-1]

    yield start_one
    for kept in started:
        kept.process.kill()  # its children go with it
        kept.process.wait(ENDED_WITHIN_S)


def is_gone(pid: int) -> bool:
    """Whether the process has ended (whoever has to collect it may not have done so yet)."""
    return not process_table.started_ticks(pid)


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def ask(port: int) -> str:
    """Who answers on the shared socket."""
    with socket.create_connection((HOST, port), timeout=ENDED_WITHIN_S) as connection:
        return connection.recv(100).decode()


def test_a_killed_process_returns(start: Start) -> None:
    kept = start("--name", "one", "--", *STAY)
    first = kept.pid("one")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: kept.pid("one") != first, "one returns under a new id")
    assert kept.said() == "keeper: one ended (signal 9); it is started again in 0.1 s\n"
    assert process_table.read_pid(kept.home / "run/keepers/one.pid") == kept.process.pid


def test_the_pause_doubles_while_a_process_keeps_dying(start: Start) -> None:
    kept = start("--name", "one", "--", "/bin/sh", "-c", "exit 3")
    wait_until(lambda: len(kept.said().splitlines()) >= 3, "three ends")
    pauses = re.findall(r"exit code 3\); it is started again in (\S+) s", kept.said())
    assert pauses[:3] == ["0.1", "0.2", "0.4"]


def test_a_wrong_configuration_is_not_tried_again(start: Start, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    kept = start("--name", "one", "--", "/bin/sh", "-c", f"echo run >>{runs}; exit 2")
    assert kept.has_ended() == 2
    assert runs.read_text() == "run\n"
    assert "one ended (exit code 2: wrong configuration); it is not started again" in kept.said()
    assert not list((tmp_path / "run").rglob("*.pid"))


def test_a_wrong_configuration_of_one_leaves_the_other_running(start: Start) -> None:
    command = "test {name} = good || exit 2; exec sleep 600"
    kept = start("--name", "good", "--name", "bad", "--", "/bin/sh", "-c", command)
    wait_until(lambda: "bad ended (exit code 2" in kept.said(), "bad is given up")
    assert kept.process.poll() is None
    assert kept.pid("good")
    kept.process.terminate()
    assert kept.has_ended() == 0


def test_a_command_that_does_not_exist_is_a_wrong_configuration(start: Start) -> None:
    kept = start("--name", "one", "--", "/nowhere/at/all")
    assert kept.has_ended() == 2
    assert "/nowhere/at/all cannot be started (No such file or directory)" in kept.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_children_end_with_the_keeper(start: Start, number: signal.Signals) -> None:
    kept = start("--name", "one", "--name", "two", "--", *STAY)
    children = [kept.pid("one"), kept.pid("two")]
    kept.process.send_signal(number)
    assert kept.has_ended() == 0
    assert all(map(is_gone, children))
    assert not list((kept.home / "run").rglob("*.pid"))


def test_a_child_that_does_not_end_is_killed_after_the_grace(start: Start) -> None:
    kept = start("--grace-s", "0.3", "--name", "one", "--", *STUBBORN)
    child = kept.pid("one")
    wait_until(lambda: ignores_terminate(child), "the child ignores SIGTERM")
    kept.process.terminate()
    assert kept.has_ended() == 0
    assert is_gone(child)
    assert "one did not end within 0.3 s; it is killed" in kept.said()


def ignores_terminate(pid: int) -> bool:
    """Whether the process has come to where it ignores SIGTERM."""
    found = re.search(r"^SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_the_children_do_not_outlive_a_killed_keeper(start: Start) -> None:
    kept = start("--name", "one", "--name", "two", "--", *STUBBORN)
    children = [kept.pid("one"), kept.pid("two")]
    for child in children:
        wait_until(lambda child=child: ignores_terminate(child), "the child is up")
    kept.process.kill()
    wait_until(lambda: all(map(is_gone, children)), "both have ended")


def test_the_shared_socket_outlives_its_children(start: Start) -> None:
    port = free_port()
    serve = [sys.executable, "-I", "-S", "-c", SERVE, "{name}"]
    kept = start("--listen", f"{HOST}:{port}", "--name", "one", "--name", "two", "--", *serve)
    first = [kept.pid("one"), kept.pid("two")]
    wait_until(lambda: {ask(port) for _ in range(20)} == {"one", "two"}, "both answer")

    os.kill(first[0], signal.SIGSTOP)  # a frozen one takes no connection once it has its last
    wait_until(lambda: [ask_or_none(port) for _ in range(5)] == ["two"] * 5, "two answers alone")

    for pid in first:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, first)), "both have ended")
    assert ask(port) in {"one", "two"}  # the connection waited in the keeper's socket


def ask_or_none(port: int) -> str | None:
    """As `ask`, None where the one who took the connection never answers."""
    try:
        with socket.create_connection((HOST, port), timeout=0.5) as connection:
            return connection.recv(100).decode()
    except TimeoutError:
        return None


def test_a_taken_port_is_named(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        address = f"{HOST}:{taken.getsockname()[1]}"
        kept = start("--listen", address, "--name", "one", "--", *STAY)
        assert kept.has_ended() == 2
        assert f"--listen {address}: " in kept.said()
        assert "Address already in use" in kept.said()


@pytest.mark.parametrize(
    "arguments",
    [[], ["--name", "one"], ["--name"], ["--what", "x", "--name", "one", "--", "true"]],
)
def test_wrong_arguments_show_the_usage(start: Start, arguments: list[str]) -> None:
    kept = start(*arguments)
    assert kept.has_ended() == 2
    assert "usage: keeper.py" in kept.said()


def test_a_keeper_is_small(start: Start) -> None:
    kept = start("--name", "one", "--", *STAY)
    kept.pid("one")
    status = Path(f"/proc/{kept.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
    assert found
    assert int(found[1]) < RESIDENT_KB_MAX
