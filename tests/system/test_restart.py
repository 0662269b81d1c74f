"""The whole cluster ends, in order or by kill -9 of everything: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from memsync.local import home as homes
from memsync.local import process_table
from memsync.local.home import Home
from tests.conditions import eventually, wait_until
from tests.system.callers import http_client
from tests.system.conftest import READY_S, TOP, Cluster
from tests.system.local_bus import free_ports

USER = "restarted"
WRITERS = 8
ENDED_WITHIN_S = 60.0


class History(msgspec.Struct):
    """client_ref -> id of what was acknowledged, and what nobody knows the end of."""

    acknowledged: dict[str, int] = {}
    unknown: set[str] = set()

    def ids(self) -> list[int]:
        return list(self.acknowledged.values())


class Place:
    """A home in which clusters are started one after the other, on the same ports."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path / "home")
        self.offset = free_ports().offset
        self.outputs = path
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("MEMSYNC_")},
            "MEMSYNC_HOME": str(self.home.path),
            "MEMSYNC_PORT_OFFSET": str(self.offset),
        }

    def up(self) -> Cluster:
        """Start the cluster, until it says that it is ready."""
        output = self.outputs / f"up-{len(self.started)}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "memsync.local.up"],
                cwd=TOP,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)

        def is_up() -> bool:
            assert process.poll() is None, output.read_text()
            return b"memsync is ready after" in output.read_bytes()

        wait_until(is_up, "the cluster is ready", READY_S)
        key = self.home.key.read_text().strip()
        return Cluster(self.home.path, self.offset, key, self.environment)

    def down(self) -> None:
        """End it as scripts/down does."""
        answer = subprocess.run(
            [sys.executable, "-m", "memsync.local.down"],
            cwd=TOP,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert answer.returncode == 0, answer.stderr
        for process in self.started:
            process.wait(ENDED_WITHIN_S)

    def kill_everything(self) -> None:
        """kill -9 of all eight, their keepers and the one who started them, at once."""
        files = [*self.home.pid_files(), *self.home.keeper_pid_files()]
        pids = {process_table.read_pid(path) for path in files} | {self.started[-1].pid}
        assert len(pids) >= 8 + 7 + 1
        for pid in pids:
            if pid:
                process_table.send(pid, signal.SIGKILL)
        self.started[-1].wait(ENDED_WITHIN_S)
        wait_until(lambda: not homes.is_locked(self.home), "everything is dead", ENDED_WITHIN_S)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place of its own; what runs there is ended after the test."""
    chosen = Place(tmp_path)
    yield chosen
    chosen.down()


async def write(
    cluster: Cluster, url: str, name: str, history: History, stop: asyncio.Event
) -> None:
    """Write one memory after the other until the cluster is no more."""
    async with http_client() as client:
        number = 0
        while not stop.is_set():
            ref = f"{name} {number}"
            number += 1
            try:
                answer = await client.post(
                    url + "/memory/add",
                    json={"text": f"text of {ref}", "client_ref": ref},
                    headers=cluster.headers(USER),
                )
            except httpx.TransportError:
                history.unknown.add(ref)  # its connection broke while it waited, or never was
                return
            if answer.status_code == 201:
                history.acknowledged[ref] = answer.json()["id"]
            elif not answer.json()["error"]["definite"]:
                history.unknown.add(ref)


async def write_until(cluster: Cluster, place: Place, end: str, history: History) -> None:
    """Write over all ways; in the middle of it the cluster ends."""
    stop = asyncio.Event()
    before = len(history.acknowledged)
    urls = [cluster.url, *(cluster.peer_url(n) for n in (1, 2, 3))]
    async with asyncio.TaskGroup() as tasks:
        for number in range(WRITERS):
            url, name = urls[number % len(urls)], f"{end} {number}"
            tasks.create_task(write(cluster, url, name, history, stop))

        async def has_written() -> bool:
            return len(history.acknowledged) >= before + 200

        await eventually(has_written, "200 memories", 30.0)
        await asyncio.to_thread(getattr(place, end))
        stop.set()


async def listed(client: httpx.AsyncClient, cluster: Cluster, url: str) -> dict[int, str]:
    """id -> text of everything that the user has at a peer."""
    found: dict[int, str] = {}
    while True:
        page = await client.get(
            f"{url}/memory/list?limit=100&offset={len(found)}", headers=cluster.headers(USER)
        )
        assert page.status_code == 200
        if not page.json()["items"]:
            return found
        found |= {item["id"]: item["text"] for item in page.json()["items"]}


async def check(cluster: Cluster, history: History) -> None:
    """Everything acknowledged is on every peer; a repeat of what is unknown settles it."""
    async with http_client() as client:
        expected = {i: f"text of {ref}" for ref, i in history.acknowledged.items()}
        assert len(expected) == len(history.acknowledged), "an id was given twice"
        for number in (1, 2, 3):
            url = cluster.peer_url(number)

            async def has_all(url: str = url) -> bool:
                found = await listed(client, cluster, url)
                return expected.items() <= found.items()

            await eventually(has_all, f"all that was acknowledged, on peer-{number}")
        for ref in sorted(history.unknown):
            body = {"text": f"text of {ref}", "client_ref": ref}
            answer = await client.post(
                cluster.url + "/memory/add", json=body, headers=cluster.headers(USER)
            )
            told = answer.json()
            assert answer.status_code in (200, 201), told
            history.acknowledged[ref] = told["id"] if "id" in told else told["memory_ids"][0]
        history.unknown.clear()
        assert len(set(history.ids())) == len(history.ids()), "an id was given twice"


async def test_everything_acknowledged_outlives_the_cluster(place: Place) -> None:
    history = History()
    cluster = await asyncio.to_thread(place.up)
    await write_until(cluster, place, "down", history)
    after_down = set(history.ids())

    cluster = await asyncio.to_thread(place.up)
    await check(cluster, history)
    await write_until(cluster, place, "kill_everything", history)
    assert len(after_down) + 200 <= len(history.acknowledged)
    earlier = max(history.ids())

    cluster = await asyncio.to_thread(place.up)
    await check(cluster, history)
    async with http_client() as client:
        for number, url in enumerate((cluster.url, cluster.peer_url(1), cluster.peer_url(3))):
            answer = await client.post(
                url + "/memory/add", json={"text": f"new {number}"}, headers=cluster.headers(USER)
            )
            assert answer.status_code == 201
            assert answer.json()["id"] > earlier, "an id of a block of an earlier life"
        ref, known = next(iter(history.acknowledged.items()))
        again = await client.post(
            cluster.url + "/memory/add",
            json={"text": "said again", "client_ref": ref},
            headers=cluster.headers(USER),
        )
        assert (again.json()["reason"], again.json()["memory_ids"]) == ("already_ingested", [known])
