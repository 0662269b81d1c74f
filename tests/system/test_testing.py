"""`memsync.testing`: a throwaway cluster, with pytest and without, gone without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import memsync.testing
from memsync.local import process_table
from memsync.local.home import Home
from tests.conditions import wait_until
from tests.system.local_bus import TOP

ENDED_WITHIN_S = 30.0

THEIR_TESTS = """
import os

async def remembers(memory):
    made = await memory.add("the boiler is serviced in October")
    answer = await memory.query("when is the boiler serviced?", k=1)
    assert [one.id for one in answer.memories] == [made.id]

def test_over_http(memsync_cluster):
    import asyncio
    async def run():
        async with memsync_cluster.connect(end_user="http") as memory:
            await remembers(memory)
    asyncio.run(run())

def test_over_nats(memsync_cluster):
    import asyncio
    async def run():
        async with memsync_cluster.connect(
            servers=memsync_cluster.nats_url, end_user="nats"
        ) as memory:
            await remembers(memory)
    asyncio.run(run())

def test_it_is_the_same_cluster(memsync_cluster):
    with memsync_cluster.connect_sync(end_user="http") as memory:
        assert memory.list().total == 1
    assert memsync_cluster.credentials.is_file()
    with open(os.environ["SEEN"], "w") as file:
        file.write(str(memsync_cluster.home))
"""
THEIR_SCRIPT = """
import sys
import memsync.testing
assert "pytest" not in sys.modules
with memsync.testing.cluster() as cluster:
    print(cluster.home, flush=True)
    sys.stdin.read()
"""


def environment(**more: str) -> dict[str, str]:
    """That of another project; a cluster of its owner's is set, and must not be used."""
    return os.environ | {"PYTHONPATH": str(TOP), "MEMSYNC_URL": "http://127.0.0.1:1", **more}


def pids_in(home: Home) -> list[int]:
    """The processes that live in a home."""
    found = [process_table.read_pid(path) for path in home.pid_files()]
    return [pid for pid in found if pid and process_table.started_ticks(pid)]


def test_the_fixture_in_another_project(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(THEIR_TESTS)
    seen = tmp_path / "seen"
    # The entry point is in the wheel (test_wheel.py); a checkout names the plugin.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "memsync.testing.plugin"]
    ended = subprocess.run(
        [*command, "-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error", "test_theirs.py"],
        cwd=tmp_path,
        env=environment(SEEN=str(seen)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 passed" in ended.stdout
    assert not Path(seen.read_text()).parent.exists()


def test_a_context_leaves_nothing_behind() -> None:
    with memsync.testing.cluster() as cluster, memsync.testing.cluster() as other:
        assert cluster.url != other.url
        with cluster.connect_sync(end_user="ada") as memory:
            memory.add("only here")
        with other.connect_sync(end_user="ada") as memory:
            assert memory.list().total == 0
        pids = pids_in(Home(cluster.home)) + pids_in(Home(other.home))
        assert len(pids) == 8  # two processes and their keepers, twice
    assert not any(map(process_table.started_ticks, pids))
    assert not cluster.home.parent.exists()


def test_it_ends_by_itself_when_its_user_is_killed(tmp_path: Path) -> None:
    user = subprocess.Popen(
        [sys.executable, "-c", THEIR_SCRIPT],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert user.stdout
        assert user.stdin
        home = Home(Path(user.stdout.readline().decode().strip()))
        pids = pids_in(home)
        assert len(pids) == 4
    finally:
        user.kill()
        user.communicate(timeout=ENDED_WITHIN_S)
    wait_until(
        lambda: not any(map(process_table.started_ticks, pids)), "all have ended", ENDED_WITHIN_S
    )


def test_a_cluster_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSYNC_NATS_SERVER", "/bin/true")
    with pytest.raises(RuntimeError, match="/bin/true: is not a nats-server"):
        memsync.testing.cluster().__enter__()
