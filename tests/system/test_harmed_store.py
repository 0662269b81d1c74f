"""A peer's process whose store is harmed: it ends with one line, and its next start goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from memsync.wire import genesis
from tests.conditions import wait_until
from tests.system.local_bus import TOP, free_ports
from tests.system.test_bad_bus import ENDED_WITHIN_S, STARTED_WITHIN_S, Solo

PAGE_BYTES = 4_096


@pytest.fixture
def solo(tmp_path: Path) -> Solo:
    """A founded peer that was never started, and no bus."""
    ports = free_ports(servers=1, peers=1)
    document, key = genesis.found(
        cell="cell", region="local", members=["peer-1"], environment="development", founded_at_ms=1
    )
    genesis.write(tmp_path / "genesis.json", document)
    return Solo(tmp_path, ports.nats(1), ports.peer(1), key)


@contextmanager
def started(solo: Solo) -> Iterator[subprocess.Popen[str]]:
    """The peer's process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "memsync.nodes.peer", "--config", str(solo.settings())],
        cwd=TOP,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=ENDED_WITHIN_S)


def is_listing(solo: Solo) -> bool:
    """Whether the peer reads its store for a caller."""
    try:
        answer = httpx.get(solo.url + "/memory/list", headers=solo.headers, timeout=5.0)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def run_a_while(solo: Solo) -> None:
    """Start the peer and end it in good order, so that its file has everything."""
    with started(solo) as process:
        wait_until(lambda: is_listing(solo), "the peer lists", STARTED_WITHIN_S)
        process.terminate()
        assert process.wait(ENDED_WITHIN_S) == 0


def test_a_store_that_is_damaged_under_way_is_set_aside_by_the_next_start(solo: Solo) -> None:
    run_a_while(solo)
    store = solo.path / "data" / "store.sqlite"
    with started(solo) as process:
        wait_until(lambda: is_up(solo), "the peer answers", STARTED_WITHIN_S)
        with store.open("r+b") as file:
            file.seek(PAGE_BYTES)
            file.write(bytes(store.stat().st_size - PAGE_BYTES))

        def has_ended() -> bool:
            is_listing(solo)
            return process.poll() is not None

        wait_until(has_ended, "the process ends", ENDED_WITHIN_S)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.returncode == 1
        assert said.startswith("peer: the store in ")
        assert "is damaged (" in said  # by whichever read met it first
        assert len(said.splitlines()) == 1
        assert said.count("\n") == 1
    assert (solo.path / "data" / "store.damaged").exists()
    run_a_while(solo)
    (aside,) = (solo.path / "data").glob("damaged-*")
    assert (aside / "store.sqlite").exists()
    assert not (solo.path / "data" / "store.damaged").exists()
    assert "store.set_aside" in (solo.path / "logs" / "peer-1.log").read_text()


def is_up(solo: Solo) -> bool:
    """Whether the process answers."""
    try:
        return httpx.get(solo.url + "/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_store_of_another_cell_is_refused_by_name(solo: Solo) -> None:
    run_a_while(solo)
    document, _ = genesis.found(
        cell="other", region="local", members=["peer-1"], environment="development", founded_at_ms=1
    )
    (solo.path / "genesis.json").unlink()
    genesis.write(solo.path / "genesis.json", document)
    before = shutil.copytree(solo.path / "data", solo.path / "before") / "store.sqlite"
    with started(solo) as process:
        assert process.wait(ENDED_WITHIN_S) == 2
        assert process.stderr is not None
        assert "data_dir: " in (said := process.stderr.read())
        assert "name another folder" in said
    assert (solo.path / "data" / "store.sqlite").read_bytes() == before.read_bytes()
