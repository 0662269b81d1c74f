"""How a local cluster begins and ends, with stand-ins for its processes (they only stay)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from memsync.local import home as homes
from memsync.local import process_table
from memsync.local.home import Home
from tests.conditions import wait_until
from tests.system.local_bus import TOP, free_ports

ENDED_WITHIN_S = 15.0
# Says when it ends. Its last argument is the home, as every real process has it in its arguments.
STAND_IN = """
import os, signal, sys, time
def end(*_):
    with open(sys.argv[2], "a") as file:
        file.write(sys.argv[1] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
with open(sys.argv[2] + "." + sys.argv[1], "w"):
    pass
time.sleep(600)
"""
NAMES = ("nats-1", "peer-1", "peer-2")


@dataclass
class Running:
    """A cluster of stand-ins."""

    home: Home
    owner: subprocess.Popen[bytes]
    output: Path
    ends: Path

    def said(self) -> str:
        """What it printed so far."""
        return self.output.read_text()

    def is_up(self) -> bool:
        """Whether every stand-in is ready to be ended."""
        return all(Path(f"{self.ends}.{name}").exists() for name in NAMES)

    def pid(self, name: str) -> int:
        """The id of a living process; waits until there is one."""
        return self._living(self.home.pid_file(name))

    def keeper(self, name: str) -> int:
        """The id of a living keeper; waits until there is one."""
        return self._living(self.home.path / "run" / "keepers" / f"{name}.pid")

    def down(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/down on it."""
        return subprocess.run(
            [sys.executable, "-m", "memsync.local.down", *arguments],
            cwd=TOP,
            env=os.environ | {"MEMSYNC_HOME": str(self.home.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def _living(self, path: Path) -> int:
        def living() -> int | None:
            pid = process_table.read_pid(path)
            return pid if pid and process_table.started_ticks(pid) else None

        return wait_until(living, f"{path.stem} runs")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A cluster of one nats-server and two peers, all of them stand-ins."""
    yield from started(tmp_path, lambda name: "exec")


@pytest.fixture
def running_with_a_wrong_peer(tmp_path: Path) -> Iterator[Running]:
    """The same, but peer-2 refuses its configuration as soon as it is started again."""
    once = tmp_path / "once"
    yield from started(
        tmp_path,
        lambda name: (
            f"test -e {once} && exit 2; touch {once}; exec" if name == "peer-2" else "exec"
        ),
    )


def started(path: Path, before: Callable[[str], str]) -> Iterator[Running]:
    """Start stand-ins, each with a shell command in front of it."""
    (path / "stand_in.py").write_text(STAND_IN)
    procfile = path / "Procfile"
    keeper = "exec $MEMSYNC_PYTHON -I -S memsync/nodes/keeper.py --name"
    stand_in = f"$MEMSYNC_PYTHON -I -S {path}/stand_in.py {{name}} {path}/ends $0"
    lines = [
        f"{name}: {keeper} {name} -- /bin/sh -c '{before(name)} {stand_in}' \"$MEMSYNC_HOME\""
        for name in NAMES
    ]
    procfile.write_text("\n".join(lines) + "\n")
    output = path / "output"
    with open(output, "wb") as file:
        owner = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.system.stand_in_cluster",
                str(procfile),
                str(free_ports().offset),
            ],
            cwd=TOP,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    cluster = Running(Home(path / "home"), owner, output, path / "ends")
    try:
        wait_until(cluster.is_up, "all stand-ins are up")
        yield cluster
    finally:
        cluster.down()
        owner.wait(ENDED_WITHIN_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_of_it_the_bus_last(running: Running, number: signal.Signals) -> None:
    running.owner.send_signal(number)
    assert running.owner.wait(ENDED_WITHIN_S) == 0
    ends = running.ends.read_text().split()
    assert sorted(ends) == sorted(NAMES)
    assert ends[-1] == "nats-1"
    assert running.said() == "ready\n"
    assert not homes.is_locked(running.home)


def test_down_ends_it_and_may_be_called_again(running: Running) -> None:
    first, second = running.down(), running.down()
    assert (first.returncode, first.stdout) == (0, f"memsync has ended in {running.home.path}\n")
    assert (second.returncode, second.stdout) == (0, f"nothing runs in {running.home.path}\n")
    assert running.owner.wait(ENDED_WITHIN_S) == 0


def test_down_finds_what_a_killed_owner_left(running: Running) -> None:
    pids = [running.pid(name) for name in NAMES]
    running.owner.kill()
    running.owner.wait(ENDED_WITHIN_S)
    assert homes.is_locked(running.home)  # a second start is refused
    answer = running.down("--purge")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert not any(map(process_table.started_ticks, pids))
    assert not running.home.path.exists()


def test_a_killed_keeper_is_started_again(running: Running) -> None:
    keeper, child = running.keeper("peer-1"), running.pid("peer-1")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: running.keeper("peer-1") != keeper, "the keeper returns")
    wait_until(lambda: running.pid("peer-1") != child, "its process returns")
    assert "peer-1 | its keeper ended (-9) and is started again" in running.said()
    assert running.down().returncode == 0
    assert running.owner.wait(ENDED_WITHIN_S) == 0


def test_a_wrong_configuration_later_on_ends_nobody_else(
    running_with_a_wrong_peer: Running,
) -> None:
    running = running_with_a_wrong_peer
    others = [running.pid("peer-1"), running.pid("nats-1")]
    os.kill(running.pid("peer-2"), signal.SIGKILL)
    given_up = "peer-2 | stays down (exit code 2); the others go on"
    wait_until(lambda: given_up in running.said(), "peer-2 is given up")
    assert [running.pid("peer-1"), running.pid("nats-1")] == others
    assert running.said().count("stays down") == 1


def test_down_leaves_a_stranger_with_an_old_id_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    homes.make(home)
    stranger = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    try:
        home.pid_file("peer-1").write_text(f"{stranger.pid}\n")
        answer = subprocess.run(
            [sys.executable, "-m", "memsync.local.down"],
            cwd=TOP,
            env=os.environ | {"MEMSYNC_HOME": str(home.path)},
            check=False,
        )
        assert answer.returncode == 0
        assert stranger.poll() is None
        assert not home.pid_file("peer-1").exists()
    finally:
        stranger.kill()
        stranger.wait(ENDED_WITHIN_S)


@pytest.mark.parametrize("module", ["up", "down"])
@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--what"], 2), (["x"], 2)])
def test_the_command_lines_explain_themselves(
    tmp_path: Path, module: str, arguments: list[str], code: int
) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", f"memsync.local.{module}", *arguments],
        cwd=TOP,
        env=os.environ | {"MEMSYNC_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == code
    assert f"usage: scripts/{module}" in answer.stdout + answer.stderr
    assert not (tmp_path / "home").exists()


def test_a_folder_of_somebody_else_is_not_purged(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    answer = subprocess.run(
        [sys.executable, "-m", "memsync.local.down", "--purge"],
        cwd=TOP,
        env=os.environ | {"MEMSYNC_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert "is no home of a cluster" in answer.stderr
    assert (tmp_path / "precious").exists()
