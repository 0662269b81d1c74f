"""The face for scripts: threads, closing, Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

import memsync
from memsync import errors
from memsync.client import SyncClient
from tests.conditions import wait_until
from tests.fakes.backend import KEY
from tests.unit.cli.serving import ClusterBackend

USER = "ada"
TIMEOUT_S = 10.0
SCRIPT = """
import memsync, sys
with memsync.connect_sync(url=sys.argv[1], api_key=sys.argv[2], end_user="ada") as memory:
    try:
        memory.bulk_add(["one"])
    except KeyboardInterrupt:
        print("interrupted")
        raise SystemExit(7)
"""


def connect(url: str) -> SyncClient:
    """A client of the served fake."""
    return memsync.connect_sync(url=url, api_key=KEY, end_user=USER)


def test_every_method_is_there(url: str, backend: ClusterBackend) -> None:
    with connect(url) as memory:
        made: Any = memory.add("green tea")
        memory.bulk_add(["coffee"])
        assert memory.get(made.id).text == "green tea"
        assert memory.update(made.id, tags=["t"]).tags == ["t"]
        assert [one.id for one in memory.query("tea").memories] == [made.id]
        assert memory.list().total == 2
        bulk: Any = memory.list().items[0]
        related = memory.relate(made.id, bulk.id, "similar", confidence=0.5)
        assert (related.from_memory_id, related.confidence) == (made.id, 0.5)
        drawn = memory.graph(made.id, depth=1)
        assert (len(drawn.nodes), drawn.edges) == (2, [related])
        assert memory.explanation("q_1").candidates[0].memory_id == made.id
        assert memory.feedback(made.id, "positive", comment="good").signal == "positive"
        assert memory.forget(made.id) == [made.id]
        key = memory.keys.create(name="k")
        assert memory.keys.list().total == 1
        assert memory.keys.revoke(key.id).status == "revoked"
        memory.carry("1.0.3")
        assert memory.position == "0.0.1,1.0.3"
        with pytest.raises(errors.NotFound):
            memory.get(made.id)
    assert not [one for one in threading.enumerate() if one.name == "memsync-client"]
    with pytest.raises(RuntimeError, match="not open"):
        memory.list()


def test_threads_share_a_client(url: str, backend: ClusterBackend) -> None:
    with connect(url) as memory:
        threads = [
            threading.Thread(target=lambda n=n: [memory.add(f"{n} {i}") for i in range(10)])
            for n in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(backend.texts(USER)) == 50


def test_a_call_of_another_thread_ends_with_the_client(url: str, backend: ClusterBackend) -> None:
    found: list[errors.MemsyncError] = []

    def add() -> None:
        try:
            memory.bulk_add(["tea"], idempotency_key="k1")
        except errors.MemsyncError as error:
            found.append(error)

    backend.gate.clear()
    try:
        with connect(url) as memory:
            thread = threading.Thread(target=add)
            thread.start()
            wait_until(lambda: backend.in_flight == 1, "the bulk in flight", TIMEOUT_S)
        thread.join(TIMEOUT_S)
    finally:
        backend.gate.set()
    assert isinstance(found[0], errors.OutcomeUnknown)
    assert found[0].details == {"idempotency_key": "k1"}


def test_ctrl_c_ends_a_call_and_the_client(url: str, backend: ClusterBackend) -> None:
    backend.gate.clear()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, url, KEY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: backend.in_flight == 1, "the bulk in flight", TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        backend.gate.set()
        process.kill()
    assert (process.returncode, out, err) == (7, "interrupted\n", "")


def test_a_client_that_cannot_open_says_why(tmp_path: Any) -> None:
    broken = tmp_path / "broken.creds"
    broken.write_text("{")
    memory = memsync.connect_sync(
        servers="nats://127.0.0.1:1", api_key="k", end_user=USER, credentials=broken
    )
    with pytest.raises(errors.ConfigurationError, match="broken"), memory:
        pass
