"""What the log of a running cluster cannot give comes from another peer, under load and by
itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest

from tests.conditions import eventually
from tests.system.callers import bus_client, http_client
from tests.system.conftest import Cluster, running_cluster
from tests.system.test_streams_lost import STREAMS, ask, load_on

ROWS = 5_000
PART = 50
PAGE_BYTES = 4_096
PEERS = ("peer-1", "peer-2", "peer-3")
SAME_WITHIN_S = 40.0
FOUND_WITHIN_S = 60.0  # a pass of the scrub begins every 30 s


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the tests here: each leaves it whole."""
    with running_cluster(tmp_path_factory.mktemp("harmed") / "home") as running:
        yield running


def store_of(cluster: Cluster, name: str) -> Path:
    return cluster.home / "data" / name / "store.sqlite"


def read(cluster: Cluster, name: str, query: str) -> list[tuple[object, ...]]:
    """Rows of a peer's store, read beside it; [] while there is none."""
    try:
        path = store_of(cluster, name)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def log_of(cluster: Cluster, name: str) -> str:
    return (cluster.home / "logs" / f"{name}.log").read_text()


async def wait_same(cluster: Cluster, given: Sequence[int]) -> None:
    """Every peer has these ids, and the same rows as the others."""

    async def are_same() -> bool:
        sums = [
            read(cluster, name, "SELECT * FROM buckets WHERE sum != 0 ORDER BY bucket")
            for name in PEERS
        ]
        return bool(sums[0]) and sums.count(sums[0]) == len(PEERS)

    await eventually(are_same, "all peers have the same rows", SAME_WITHIN_S)
    for name in PEERS:
        held = {identifier for (identifier,) in read(cluster, name, "SELECT id FROM ids")}
        assert set(given) <= held, f"{name} lost what was acknowledged"


@asynccontextmanager
async def kept_down(cluster: Cluster, name: str) -> AsyncIterator[None]:
    """A peer that was killed and is not started again before the end of the block."""
    keeper = int((cluster.home / "run" / "keepers" / f"{name}.pid").read_text())
    os.kill(keeper, signal.SIGSTOP)
    old = cluster.kill(name)
    try:
        yield
    finally:
        os.kill(keeper, signal.SIGCONT)
    await asyncio.to_thread(cluster.wait_reborn, name, old)


async def add_many(cluster: Cluster, client: httpx.AsyncClient, count: int, what: str) -> list[int]:
    """Bulks of memories; their ids."""
    given: list[int] = []
    for first in range(0, count, PART):
        items = [{"text": f"{what} number {n}"} for n in range(first, first + PART)]
        answer = await client.post(
            cluster.url + "/memory/bulk-add",
            json={"items": items},
            headers=cluster.headers(f"user-{first % 500}"),
        )
        assert answer.status_code == 200, answer.text
        given += [result["memory_ids"][0] for result in answer.json()["results"]]
    return given


async def test_an_empty_peer_joins_under_load_though_the_log_was_trimmed(harmed: Cluster) -> None:
    async with http_client() as client:
        given = await add_many(harmed, client, ROWS, "older memory")
    async with bus_client(harmed, "node") as bus, load_on(harmed) as load:
        for stream in STREAMS:
            assert "error" not in await ask(bus, f"STREAM.PURGE.{stream}")
        store_of(harmed, "peer-3").parent.rename(harmed.home / "data" / "lost")
        old = harmed.kill("peer-3")
        await asyncio.to_thread(harmed.wait_reborn, "peer-3", old)
        await load.grows(50)
        await asyncio.to_thread(harmed.wait_ready)
        await load.grows(50)
    assert load.refused == []
    await wait_same(harmed, given + load.given)
    assert "rows.copied" in log_of(harmed, "peer-3")


async def test_a_file_that_is_damaged_under_load_is_set_aside_and_filled_again(
    harmed: Cluster,
) -> None:
    """Zeros over most pages of a running peer's file: found by whichever read meets them first, be
    it the scrub's, since SQLite may have the pages that are asked for in its cache."""
    async with http_client() as client:
        given = await add_many(harmed, client, 4 * PART, "memory before the damage")
    path, old = store_of(harmed, "peer-2"), harmed.pid("peer-2")
    async with load_on(harmed) as load:
        await load.grows(20)
        with path.open("r+b") as file:
            file.seek(PAGE_BYTES)
            file.write(bytes(path.stat().st_size - PAGE_BYTES))
        await asyncio.to_thread(harmed.wait_reborn, "peer-2", old, FOUND_WITHIN_S)
        await load.grows(50)
        await asyncio.to_thread(harmed.wait_ready)
        await load.grows(20)
    assert load.refused == []
    await wait_same(harmed, given + load.given)
    assert "store.set_aside" in log_of(harmed, "peer-2")
    (aside,) = path.parent.glob("damaged-*")
    assert (aside / path.name).exists()


async def test_a_message_that_is_deleted_from_the_log_is_made_up_for(harmed: Cluster) -> None:
    async with bus_client(harmed, "node") as bus, http_client() as client:
        async with kept_down(harmed, "peer-2"):
            given = await add_many(harmed, client, 8 * PART, "newer memory")
            for stream in STREAMS:
                state = (await ask(bus, f"STREAM.INFO.{stream}"))["state"]
                await ask(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": state["last_seq"] - 1})
        await asyncio.to_thread(harmed.wait_ready)
    await wait_same(harmed, given)
    assert "no server has" in log_of(harmed, "peer-2")
    for name in PEERS:
        assert "hole.voided" not in log_of(harmed, name)


async def test_a_stream_that_is_deleted_under_load_loses_nothing_acknowledged(
    harmed: Cluster,
) -> None:
    """The stream comes back as the next generation while one peer is away, which never read the end
    of the old one: it gets that from the others."""
    async with bus_client(harmed, "node") as bus, load_on(harmed) as load:
        async with kept_down(harmed, "peer-2"):
            await load.grows(100)
            answer = await ask(bus, f"STREAM.DELETE.{STREAMS[0]}")
            assert answer.get("success"), answer

            async def is_remade() -> bool:
                names = await ask(bus, "STREAM.NAMES")
                return "MEMSYNC_LOCAL_CELL_0_1" in names["streams"]

            await eventually(is_remade, "the stripe is made again", 20)
            await load.grows(100)
        await asyncio.to_thread(harmed.wait_ready)
        await load.grows(50)
    await wait_same(harmed, load.given)
