"""What the client's tests share: a served fake cluster, and an environment without any other."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.unit.cli.serving import ClusterBackend, serving


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of ours is set, and neither the folder nor the user's home has a cluster."""
    for name in [*os.environ]:
        if name.startswith("MEMSYNC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def backend() -> ClusterBackend:
    """What stands behind the served cluster."""
    return ClusterBackend()


@pytest.fixture
def url(backend: ClusterBackend) -> Iterator[str]:
    """Its address. It writes no log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with serving(backend) as address:
        yield address
