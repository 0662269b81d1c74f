"""The client library against a real cluster, over NATS and HTTP, and while processes are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import pytest

import memsync
from memsync import errors
from memsync.client import Client, SyncClient
from memsync.wire.replies import AddSkipped, Memory
from tests.conditions import eventually
from tests.system.conftest import Cluster

WAYS = ("nats", "http")
ADDS = 300
WRITERS = 6
USER = "client-under-fire"


def where(cluster: Cluster, way: str) -> dict[str, Any]:
    """What `connect` is told of a cluster."""
    usual = {"api_key": cluster.api_key, "home": cluster.home}
    if way == "http":
        return usual | {"url": cluster.url}
    servers = [cluster.nats_url(number) for number in (1, 2, 3)]
    return usual | {"servers": servers, "credentials": cluster.home / "client.creds"}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Each of the ways."""
    return str(request.param)


def connect(cluster: Cluster, way: str, **more: Any) -> Client:
    """A client of this test's own."""
    return memsync.connect(**where(cluster, way), **more)


async def test_the_life_of_a_memory(cluster: Cluster, way: str) -> None:
    async with connect(cluster, way, end_user=f"client-life-{way}", project=None) as memory:
        made = await memory.add(
            "Ada drinks green tea", tags=["tea"], metadata={"n": None, "list": (1, 2)}
        )
        assert isinstance(made, Memory)
        assert made.metadata == {"n": None, "list": [1, 2]}
        again = await memory.add("Ada drinks green tea")
        assert isinstance(again, AddSkipped)
        assert again.memory_ids == [made.id]
        bulk = await memory.bulk_add(["The car is on level three", {"text": "x y", "tags": ["b"]}])
        assert (bulk.created, bulk.total) == (2, 2)
        answer = await memory.query("What does Ada drink?", k=1, filters={"tags": ["tea"]})
        assert [found.id for found in answer.memories] == [made.id]
        changed = await memory.update(made.id, importance=0.9, if_version=made.version)
        with pytest.raises(errors.VersionConflict) as caught:
            await memory.update(made.id, importance=0.1, if_version=made.version)
        assert caught.value.definite
        assert await memory.get(made.id) == changed
        assert (await memory.list(limit=1)).total == 3
        assert await memory.forget([made.id], reason="test") == [made.id]
        with pytest.raises(errors.NotFound):
            await memory.get(made.id)


async def test_a_repeat_with_the_same_key_is_one_write(cluster: Cluster, way: str) -> None:
    async with connect(cluster, way, end_user=f"client-keys-{way}") as memory:
        first = await memory.add("only once", idempotency_key="mine", deduplicate=False)
        again = await memory.add("only once", idempotency_key="mine", deduplicate=False)
        assert again == first
        with pytest.raises(errors.KeyReused):
            await memory.add("another", idempotency_key="mine")
        assert (await memory.list()).total == 1


async def test_what_was_written_here_is_read_there(cluster: Cluster, way: str) -> None:
    """Each read may land on another peer, also one of another process that is told how far."""
    user = f"client-reads-{way}"
    async with (
        connect(cluster, way, end_user=user, ack="log") as memory,
        connect(cluster, way, end_user=user) as other,
    ):
        for number in range(30):
            made = await memory.add(f"note number {number}")
            assert isinstance(made, Memory)
            assert (await memory.get(made.id)).text == made.text
            assert (await other.list(min_position=memory.position)).total == number + 1
        other.carry(memory.position)
        assert other.position == memory.position != ""


async def test_several_users_and_a_key_of_ones_own(cluster: Cluster, way: str) -> None:
    async with connect(cluster, way) as memory:
        with pytest.raises(errors.MissingEndUser):
            await memory.add("whose?")
        await memory.add("Zoë's", end_user=f"Zoë-{way}")
        assert (await memory.list(end_user=f"Zoë-{way}")).total == 1
        assert (await memory.list(end_user=f"Bo-{way}")).total == 0
        made = await memory.keys.create(name=way, scopes=["memory:read"])
        assert made.key is not None
        reader = where(cluster, way) | {"api_key": made.key}
        async with memsync.connect(**reader, end_user="client-keys") as restricted:
            with pytest.raises(errors.Forbidden):
                await restricted.add("not allowed")
            assert (await restricted.list()).total == 0
        assert (await memory.keys.revoke(made.id)).status == "revoked"


async def test_who_is_not_let_in_is_told_so(cluster: Cluster) -> None:
    wrong = cluster.nats_url(1).replace("nats://", "nats://client:wrong@")
    async with memsync.connect(servers=wrong, api_key="ms_dev_x", end_user="u") as memory:
        with pytest.raises(errors.Unauthenticated, match="user of the bus"):
            await memory.list()
    foreign = cluster.nats_url(1).replace("nats", "http")
    async with memsync.connect(url=foreign, api_key="ms_dev_x", end_user="u") as memory:
        with pytest.raises(errors.NoCluster):
            await memory.list(timeout_s=2.0)


def test_scripts_and_their_threads(cluster: Cluster, way: str) -> None:
    user = f"client-sync-{way}"
    with memsync.connect_sync(**where(cluster, way), end_user=user) as memory:

        def add(number: int) -> None:
            for place in range(5):
                memory.add(f"from thread {number}, {place}")

        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.list().total == 20
        assert memory.query("thread", k=3).memories
        with pytest.raises(errors.NotFound):
            memory.get(1)
    with pytest.raises(RuntimeError, match="not open"):
        memory.list()


class History(msgspec.Struct):
    """What the writers and the reader saw."""

    acknowledged: dict[int, str] = {}
    recalls: int = 0


async def write(memory: Client, numbers: Sequence[int], history: History) -> None:
    """Add one after the other, without a `client_ref`: the library's own keys must do."""
    for number in numbers:
        text = f"fact number {number} of the load"
        made = await memory.add(text, deduplicate=False)
        assert isinstance(made, Memory)
        history.acknowledged[made.id] = text
        assert (await memory.get(made.id)).text == text


async def read(memory: Client, history: History, stop: asyncio.Event) -> None:
    """Recall until told to stop."""
    while not stop.is_set():
        await memory.query("which fact number", k=3)
        history.recalls += 1


async def listed(memory: Client) -> list[Memory]:
    """Everything that is there."""
    found: list[Memory] = []
    while True:
        page = await memory.list(limit=100, offset=len(found))
        found += page.items
        if not page.items:
            return found


async def kill_in_turn(cluster: Cluster, names: Sequence[str], history: History) -> None:
    """Kill one process after the other, each after some more adds."""
    for number, name in enumerate(names, start=1):
        wanted = number * ADDS // (len(names) + 1)

        async def has_written(wanted: int = wanted) -> bool:
            return len(history.acknowledged) >= wanted

        await eventually(has_written, f"{wanted} adds before {name} is killed", 60)
        old = cluster.kill(name)
        await asyncio.to_thread(cluster.wait_reborn, name, old)


async def test_nothing_is_lost_or_doubled_whoever_is_killed(own_cluster: Cluster, way: str) -> None:
    history, stop = History(), asyncio.Event()
    names = {
        "nats": ("peer-1", "nats-1", "peer-2", "nats-2"),
        "http": ("gateway-1", "peer-1", "nats-1", "gateway-2"),
    }[way]
    async with connect(own_cluster, way, end_user=USER, timeout_s=25.0) as memory:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(read(memory, history, stop))
            killer = tasks.create_task(kill_in_turn(own_cluster, names, history))
            writers = [
                tasks.create_task(write(memory, range(first, ADDS, WRITERS), history))
                for first in range(WRITERS)
            ]
            await asyncio.gather(*writers, killer)
            stop.set()
            await reader
        found = await listed(memory)
    assert len(history.acknowledged) == ADDS
    assert history.recalls > 0
    assert sorted(memory.text for memory in found) == sorted(history.acknowledged.values())


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_frozen_process_costs_some_moments(own_cluster: Cluster, way: str) -> None:
    """The server or gateway that is in use, and a peer. With `retries` every call succeeds."""
    loop = asyncio.get_running_loop()
    async with connect(own_cluster, way, end_user="client-frozen", timeout_s=20.0) as memory:
        await memory.add("before")
        for name in ("nats-1", "peer-2") if way == "nats" else ("gateway-1", "gateway-2", "peer-2"):
            slowest_s = 0.0
            with frozen(own_cluster.pid(name)):
                for number in range(10):
                    started_s = loop.time()
                    await memory.add(f"while {name} is frozen, {number}")
                    await memory.query("what is frozen?")
                    slowest_s = max(slowest_s, loop.time() - started_s)
            print(f"{way}, {name} frozen: slowest add and recall {slowest_s:.2f} s")
            assert slowest_s < 5.0
        assert (await memory.list()).total == (21 if way == "nats" else 31)


async def test_a_bus_that_is_gone_and_comes_back(own_cluster: Cluster, way: str) -> None:
    """What is refused or unknown meanwhile is settled by a repeat with its key."""
    async with connect(own_cluster, way, end_user="client-no-bus") as memory:
        await memory.add("before")
        with ExitStack() as servers:
            for number in (1, 2, 3):
                servers.enter_context(frozen(own_cluster.pid(f"nats-{number}")))
            with pytest.raises(errors.Unavailable) as caught:
                await memory.add("meanwhile", idempotency_key="mine", timeout_s=4.0)
            print(f"{way}, no bus: {caught.value.code} {caught.value}")
        made = await memory.add("meanwhile", idempotency_key="mine", timeout_s=25.0)
        assert isinstance(made, Memory)
        assert (await memory.list(timeout_s=20.0)).total == 2


def test_a_script_is_told_when_its_cluster_is_gone(cluster: Cluster) -> None:
    nowhere = memsync.connect_sync(servers="nats://127.0.0.1:1", api_key="k", end_user="u")
    assert isinstance(nowhere, SyncClient)
    with nowhere as memory, pytest.raises(errors.NoCluster, match="no NATS server"):
        memory.list()
