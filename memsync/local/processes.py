"""Runs the Procfile through honcho: in the foreground, quiet, and ended in order.

What is ours on top of honcho: it says nothing but what the processes write to standard error; a
keeper that was killed is started again; a process that was given up (exit code 2) ends the others
only while the cluster is still starting; and the bus is the last to go, so that the peers can say
good-bye.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import honcho.environ
import honcho.manager
from honcho.printer import Message

from memsync.local.ports import Ports

PROCFILE = Path(__file__).with_name("Procfile")
PACKAGE_FOLDER = Path(__file__).parents[2]  # what holds `memsync`: a checkout, or site-packages
KILL_WAIT_S = 20  # honcho's own 5 s are less than a peer may need; the keepers kill after 10 s
BUS_WAIT_S = 6.0  # how long nats-servers wait for the others at the end
POLL_S = 0.02
REBORN_MIN_S = 10.0  # a keeper that lived shorter is not started again
EXIT_CONFIGURATION = 2
BUS = "nats-"


class Output:
    """honcho's printer: what the processes wrote, with their names; not what honcho does."""

    width = 0  # honcho sets it; our names are short enough not to need it

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line

    def write(self, message: Message) -> None:
        """Print the lines of one message."""
        if message.name == honcho.manager.SYSTEM_PRINTER_NAME:
            return
        data = message.data
        text = data.decode(errors="replace") if isinstance(data, bytes) else str(data)
        for line in text.splitlines():
            self._write_line(f"{message.name} | {line}")


class Cluster(honcho.manager.Manager):  # type: ignore[misc]  # honcho is not typed
    """The processes of the Procfile.

    `loop` (honcho's) starts them and returns when all have ended; it must be called on the main
    thread, since it takes SIGINT and SIGTERM. `on_started` is called once all were started.
    """

    def __init__(self, write_line: Callable[[str], None], on_started: Callable[[], None]) -> None:
        super().__init__(Output(write_line))
        self.is_ready = False
        self._write_line = write_line
        self._on_started = on_started
        self._terminating: bool = False
        self._started_at: dict[str, float] = {}
        self._given_up: set[str] = set()

    @property
    def is_ending(self) -> bool:
        """Whether the processes were asked to end."""
        return self._terminating

    @property
    def was_asked_to_end(self) -> bool:
        """Whether a signal to us began the end, and not the death of a process."""
        return self.returncode in {known["rc"] for known in honcho.manager.SIGNALS.values()}

    def terminate(self) -> None:
        """Ask all processes to end, the bus after the others. Returns at once."""
        if self._terminating:
            return
        self._terminating = True
        threading.Thread(target=self._end_in_order, name="end", daemon=True).start()

    def _start(self) -> None:
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(signal.SIGHUP, _as_terminate)  # the terminal was closed
        honcho.manager.KILL_WAIT = KILL_WAIT_S
        gc.freeze()  # fewer pages to copy in honcho's forked watchers
        super()._start()
        now = time.monotonic()
        self._started_at = dict.fromkeys(self._processes, now)
        self._on_started()

    def _any_stopped(self) -> bool:
        """honcho asks this in every round of its loop and ends everything when it is true."""
        stopped = [name for name in self._processes if self._code(name) is not None]
        if self.is_ending or not self.is_ready:
            return bool(stopped)
        for name in stopped:
            self._start_again(name)
        return len(self._given_up) == len(self._processes)

    def _start_again(self, name: str) -> None:
        if name in self._given_up:
            return
        code = self._code(name)
        lived_s = time.monotonic() - self._started_at[name]
        if code == EXIT_CONFIGURATION or lived_s < REBORN_MIN_S:
            self._given_up.add(name)
            self._write_line(f"{name} | stays down (exit code {code}); the others go on")
            return
        self._write_line(f"{name} | its keeper ended ({code}) and is started again")
        entry = self._processes[name]
        entry.pop("returncode")
        entry.pop("pid")
        self.returncode = None
        self._started_at[name] = time.monotonic()
        context = honcho.manager.multiprocessing
        entry["process"] = context.Process(
            name=name, target=entry["obj"].run, args=(self.events, True)
        )
        entry["process"].start()

    def _end_in_order(self) -> None:
        names = list(self._processes)
        self._end([name for name in names if not name.startswith(BUS)])
        self._end([name for name in names if name.startswith(BUS)])

    def _end(self, names: list[str]) -> None:
        """Ask each process to end, also one whose pid is not known yet: a signal may come while
        they are being started. Returns when all have ended, or after `BUS_WAIT_S`."""
        asked: set[int] = set()
        give_up_at = time.monotonic() + BUS_WAIT_S
        while (left := [n for n in names if self._code(n) is None]) and (
            time.monotonic() < give_up_at
        ):
            for name in left:
                pid = self._processes[name].get("pid")
                if pid is not None and pid not in asked:
                    self._procmgr.terminate(pid)
                    asked.add(pid)
            time.sleep(POLL_S)

    def _code(self, name: str) -> int | None:
        code: int | None = self._processes[name].get("returncode")
        return code


def names(ports: Ports) -> list[str]:
    """The names of a cluster's processes in the Procfile, the bus first."""
    servers = [f"{BUS}{number}" for number in range(1, ports.servers + 1)]
    peers = [f"peer-{number}" for number in range(1, ports.peers + 1)]
    return [*servers, *peers, *(["gateways"] if ports.gateways else [])]


def load(
    cluster: Cluster, environment: dict[str, str], chosen: Sequence[str], procfile: Path = PROCFILE
) -> None:
    """Add these processes of a Procfile, to be run in the folder that holds the package."""
    parsed: Any = honcho.environ.parse_procfile(procfile.read_text(encoding="utf-8"))
    for name in chosen:
        cluster.add_process(name, parsed.processes[name], env=environment, cwd=str(PACKAGE_FOLDER))


def environment_for(home: Path, offset: int) -> dict[str, str]:
    """What the commands of the Procfile read."""
    return os.environ | {
        "MEMSYNC_HOME": str(home),
        "MEMSYNC_PORT_OFFSET": str(offset),
        "MEMSYNC_PYTHON": sys.executable,
        "PYTHONUNBUFFERED": "1",
    }


def _as_terminate(_number: int, _frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
