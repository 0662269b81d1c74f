"""Watches a cluster start, and tells: which parts are up, and after how many seconds."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from memsync.local.home import Home
from memsync.local.ports import HOST, Ports

PROBE_TIMEOUT_S = 1.0
POLL_S = 0.1
HTTP_OK = 200


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A cluster that is up: where, with which key, and how to go on."""

    url: str
    key: str
    home: str
    seconds: float
    hint: str

    def __str__(self) -> str:
        return (
            f"memsync is ready after {self.seconds:.1f} s: {self.url}  key: {self.key}  "
            f"({self.hint})"
        )


class Reporter(Protocol):
    """Where progress is shown."""

    def ready(self, found: Ready) -> None:
        """Everything is up."""

    def line(self, text: str) -> None:
        """One line that stays."""

    def step(self, text: str) -> None:
        """A line on the way, which a brief reporter leaves out."""

    def waiting(self, text: str) -> None:
        """What is waited for now."""

    def done(self) -> None:
        """Nothing is waited for any more."""


class PlainReporter:
    """Lines on standard output, for files and pipes."""

    def __init__(self, *, is_brief: bool = False) -> None:
        self._is_brief = is_brief

    def ready(self, found: Ready) -> None:
        """Everything is up, in one line."""
        self.line(str(found))

    def step(self, text: str) -> None:
        """A line on the way."""
        if not self._is_brief:
            self.line(text)

    def line(self, text: str) -> None:
        """One line that stays."""
        try:
            print(text, flush=True)
        except OSError:
            _listen_to_nobody()

    def waiting(self, text: str) -> None:
        """Not shown: a file needs no spinner."""

    def done(self) -> None:
        """Nothing to clear."""


class TerminalReporter:
    """Lines with a spinner below them."""

    def __init__(self, *, is_brief: bool = False) -> None:
        from rich.console import Console  # 10 MB that only a terminal needs

        self._is_brief = is_brief
        self._console = Console(highlight=False, soft_wrap=True, markup=False)
        self._status: Any = None

    def ready(self, found: Ready) -> None:
        """Everything is up, in one line."""
        self.line(str(found))

    def step(self, text: str) -> None:
        """A line on the way."""
        if not self._is_brief:
            self.line(text)

    def line(self, text: str) -> None:
        """One line that stays, above the spinner."""
        try:
            self._console.print(text)
        except OSError:
            _listen_to_nobody()

    def waiting(self, text: str) -> None:
        """Show or change the spinner."""
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        self._status.update(text)

    def done(self) -> None:
        """Remove the spinner."""
        try:
            if self._status is not None:
                self._status.stop()
        except OSError:
            _listen_to_nobody()


class JsonReporter(PlainReporter):
    """One JSON document on standard output once everything is up; lines on standard error."""

    def ready(self, found: Ready) -> None:
        """The document; `hint` is for a person."""
        fields = {name: value for name, value in asdict(found).items() if name != "hint"}
        super().line(json.dumps(fields))

    def line(self, text: str) -> None:
        """One line that stays."""
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            _listen_to_nobody()


def reporter(*, is_brief: bool = False, as_json: bool = False) -> Reporter:
    """The right one for standard output."""
    if as_json:
        return JsonReporter(is_brief=is_brief)
    kind = TerminalReporter if sys.stdout.isatty() else PlainReporter
    return kind(is_brief=is_brief)


@dataclass(frozen=True)
class Part:
    """One thing that must be up: `is_up` is asked until it says yes."""

    name: str
    group: str
    is_up: Callable[[], bool]


def parts(ports: Ports) -> list[Part]:
    """Every part of the cluster, in the order in which they come up."""
    found = [
        Part(f"nats-{number}", "nats-servers", _listening(ports.nats(number)))
        for number in range(1, ports.servers + 1)
    ]
    found += [
        Part(f"peer-{number}", "peers", _answering(ports.peer(number)))
        for number in range(1, ports.peers + 1)
    ]
    if ports.gateways:
        found.append(Part("gateways", "gateways", _answering(ports.http)))
    return found


def wait(
    waited_for: list[Part],
    tell: Reporter,
    *,
    started_at: float,
    give_up_at: float,
    is_ending: Callable[[], bool],
) -> list[Part]:
    """Wait until every part is up or it is over (deadline, end); returns what is not up.

    Times are of `time.monotonic`.
    """
    groups = dict.fromkeys(part.group for part in waited_for)
    missing = list(waited_for)
    for group in groups:
        while left := [part for part in missing if part.group == group and not part.is_up()]:
            if is_ending() or time.monotonic() >= give_up_at:
                return missing
            tell.waiting("waiting for " + ", ".join(part.name for part in left))
            time.sleep(POLL_S)
        missing = [part for part in missing if part.group != group]
        tell.step(f"{group} ready after {time.monotonic() - started_at:.1f} s")
    return []


def describe(missing: list[Part], home: Home) -> list[str]:
    """One line for each part that is not up, with the place where it says why."""
    logs = {
        part.name: [home.log(f"gateway-{number}") for number in (1, 2)]
        if part.name == "gateways"
        else [home.log(part.name)]
        for part in missing
        if not part.is_up()
    }
    return [f"{name} is not ready: see {' and '.join(map(str, logs[name]))}" for name in logs]


def _listen_to_nobody() -> None:
    """Whoever read our output has gone (`scripts/up | head`): the cluster goes on without."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _listening(port: int) -> Callable[[], bool]:
    def is_up() -> bool:
        try:
            with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT_S):
                return True
        except OSError:
            return False

    return is_up


def _answering(port: int) -> Callable[[], bool]:
    def is_up() -> bool:
        connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == HTTP_OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return is_up
