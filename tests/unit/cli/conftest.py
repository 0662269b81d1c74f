"""What the tests of the command line share: a served fake cluster, and a way to run a command."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from memsync.cli import main
from tests.fakes.backend import KEY
from tests.unit.cli.serving import ClusterBackend, serving

USER = "ada"


class Ended(msgspec.Struct, frozen=True):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """One command line."""
        self._capsys.readouterr()
        with io.TextIOWrapper(io.BytesIO(stdin)) as stream:
            self._monkeypatch.setattr(sys, "stdin", stream)
            code = main.run(list(arguments))
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        assert "\x1b" not in out + err
        return Ended(code, out, err)


@pytest.fixture(autouse=True)
def quiet() -> None:
    """What is served in this process writes no log where the command writes its result."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of ours is set, and neither the folder nor the user's home has a cluster."""
    for name in [*os.environ]:
        if name.startswith("MEMSYNC_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def backend() -> ClusterBackend:
    """What stands behind the served cluster."""
    return ClusterBackend()


@pytest.fixture
def url(backend: ClusterBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A served cluster that the environment names."""
    with serving(backend) as address:
        monkeypatch.setenv("MEMSYNC_URL", address)
        monkeypatch.setenv("MEMSYNC_API_KEY", KEY)
        monkeypatch.setenv("MEMSYNC_END_USER", USER)
        yield address


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs commands."""
    return Shell(capsys, monkeypatch)
