"""`scripts/faults`: what callers see of each fault: a cluster of its own is harmed under load.

For each fault: load runs for a second, the fault comes, lasts `--seconds`, is taken back, and then
every acknowledged add is looked for on every peer. An add is sent once, with a time-out of 15 s; so
the table shows what a caller without retries sees. Load and cluster share the machine.

How a fault is made: `kill` is SIGKILL (the keeper starts the process again after 0.1 s), `freeze`
is SIGSTOP until it is taken back, `gone` is SIGKILL with the keeper stopped, so that nobody starts
the process again until it is taken back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import nats.errors
import nats.js.errors
import uvloop
from rich.console import Console
from rich.table import Table

from tests.system.conftest import Cluster, running_cluster

WRITERS, READERS = 4, 2
PACE_S = 0.01
CALM_S = 1.0
TIMEOUT_S = 15.0
BACK_S_MAX = 60.0
USER = "faults"
NATS = ("nats-1", "nats-2", "nats-3")


class Fault(msgspec.Struct, frozen=True):
    """What is done, and to whom; `LEADER` stands for the server that leads stripe 0."""

    how: str
    targets: tuple[str, ...]


LEADER = "leader"
FAULTS = (
    Fault("kill", ("peer-2",)),
    Fault("kill", (LEADER,)),
    Fault("kill", ("gateway-1",)),
    Fault("freeze", ("peer-2",)),
    Fault("freeze", (LEADER,)),
    Fault("freeze", ("gateway-1",)),
    Fault("gone", ("peer-2",)),
    Fault("gone", ("peer-2", "peer-3")),
    Fault("gone", NATS[:2]),
    Fault("gone", NATS),
)


class Seen(msgspec.Struct):
    """What the load saw while one fault was there, and until all was well again. Seconds."""

    fault: str
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    broken: int = 0
    slowest_add_s: float = 0.0
    slowest_refusal_s: float = 0.0
    recalls: int = 0
    recalls_failed: int = 0
    recalls_degraded: int = 0
    slowest_recall_s: float = 0.0
    back_s: float = 0.0
    lost: int = 0


class Load:
    """Writers and readers that go on until they are cancelled."""

    def __init__(self, client: httpx.AsyncClient, cluster: Cluster) -> None:
        self._client = client
        self._cluster = cluster
        self._numbers = count()
        self.seen = Seen("")
        self.acknowledged: dict[int, str] = {}
        self.last_ack_at = 0.0

    async def write(self) -> None:
        """Add one memory after the other."""
        for number in self._numbers:
            body = {"text": f"fact {number} of the load", "client_ref": f"fact-{number}"}
            began = time.monotonic()
            answer = await self._post("/memory/add", body)
            seen, took = self.seen, time.monotonic() - began
            if answer is None:
                seen.broken += 1
            elif answer.status_code < 300:
                seen.acknowledged += 1
                seen.slowest_add_s = max(seen.slowest_add_s, took)
                self.acknowledged[answer.json()["id"]] = body["text"]
                self.last_ack_at = time.monotonic()
            else:
                seen.slowest_refusal_s = max(seen.slowest_refusal_s, took)
                is_definite = answer.json()["error"]["definite"]
                seen.refused += is_definite
                seen.unknown += not is_definite
            await asyncio.sleep(PACE_S)

    async def read(self) -> None:
        """Recall again and again."""
        while True:
            began = time.monotonic()
            answer = await self._post("/memory/query", {"query": "which fact of the load", "k": 3})
            seen = self.seen
            seen.slowest_recall_s = max(seen.slowest_recall_s, time.monotonic() - began)
            seen.recalls += 1
            if answer is None or answer.status_code != 200:
                seen.recalls_failed += 1
            elif answer.json()["degraded"]:
                seen.recalls_degraded += 1
            await asyncio.sleep(PACE_S)

    async def _post(self, path: str, body: dict[str, object]) -> httpx.Response | None:
        """The answer; None where the connection broke or nothing came in time."""
        try:
            return await self._client.post(
                self._cluster.url + path, json=body, headers=self._cluster.headers(USER)
            )
        except httpx.TransportError:
            return None


def send(cluster: Cluster, how: str, names: tuple[str, ...]) -> None:
    """Bring the fault about, to all targets at once."""
    for name in names if how == "gone" else ():
        os.kill(keeper(cluster, name), signal.SIGSTOP)
    for name in names:
        os.kill(cluster.pid(name), signal.SIGSTOP if how == "freeze" else signal.SIGKILL)


def take_back(cluster: Cluster, how: str, names: tuple[str, ...]) -> None:
    """End the fault; a process that was killed comes back by itself."""
    for name in names:
        if how == "freeze":
            os.kill(cluster.pid(name), signal.SIGCONT)
        elif how == "gone":
            os.kill(keeper(cluster, name), signal.SIGCONT)


def keeper(cluster: Cluster, name: str) -> int:
    """The process that would start it again."""
    return int((cluster.home / "run" / "keepers" / f"{name}.pid").read_text())


async def leader(cluster: Cluster) -> str:
    """The server that leads stripe 0."""
    known = json.loads((cluster.home / "node.creds").read_text())
    client = await nats.connect(
        [cluster.nats_url(number) for number in (1, 2, 3)],
        user=known["user"], password=known["password"], inbox_prefix=known["inbox_prefix"],
    )  # fmt: skip
    try:
        while True:  # there is none while one is being elected
            try:
                info = await client.jetstream().stream_info("MEMSYNC_LOCAL_CELL_0_0")
            except (nats.errors.Error, nats.js.errors.Error):
                await asyncio.sleep(0.1)
                continue
            if info.cluster is not None and info.cluster.leader:
                return info.cluster.leader
            await asyncio.sleep(0.1)
    finally:
        await client.close()


async def suffer(load: Load, cluster: Cluster, fault: Fault, *, seconds: float) -> Seen:
    """One fault under load, from a calm second before it until all is well again."""
    led_by = await leader(cluster)
    names = tuple(led_by if name == LEADER else name for name in fault.targets)
    shown = ", ".join(
        f"{name} (leads stripe 0)" if target == LEADER else name
        for name, target in zip(names, fault.targets, strict=True)
    )
    await asyncio.sleep(CALM_S)
    load.seen = seen = Seen(f"{fault.how} {shown}")
    send(cluster, fault.how, names)
    await asyncio.sleep(seconds)
    take_back(cluster, fault.how, names)
    began = time.monotonic()
    await back(load, cluster, began)
    seen.back_s = time.monotonic() - began
    return seen


async def back(load: Load, cluster: Cluster, since: float) -> None:
    """Wait until everything is ready and adds are acknowledged."""
    urls = [cluster.url, *(cluster.peer_url(number) for number in (1, 2, 3))]
    while time.monotonic() - since < BACK_S_MAX:
        are_ready = await asyncio.gather(*(asyncio.to_thread(cluster.is_ready, u) for u in urls))
        if all(are_ready) and load.last_ack_at > since:
            return
        await asyncio.sleep(0.05)
    raise SystemExit(f"{load.seen.fault}: not ready again after {BACK_S_MAX:.0f} s")


async def lost(client: httpx.AsyncClient, cluster: Cluster, expected: dict[int, str]) -> int:
    """How many acknowledged adds some peer does not have. A list shows one id of a memory that has
    several (two attempts of one add may each have fixed one), so what it lacks is asked by id."""
    missing: set[int] = set()
    for number in (1, 2, 3):
        url, found = cluster.peer_url(number), dict[int, str]()
        for offset in count(0, 100):
            items = (await _get(client, cluster, f"{url}/memory/list?limit=100&offset={offset}"))[
                "items"
            ]
            found |= {item["id"]: item["text"] for item in items}
            if not items:
                break
        for key, text in expected.items():
            if found.get(key) != text:
                memory = await _get(client, cluster, f"{url}/memory/{key}")
                missing |= set() if memory.get("text") == text else {key}
    return len(missing)


async def _get(client: httpx.AsyncClient, cluster: Cluster, url: str) -> dict[str, Any]:
    answer = await client.get(url, headers=cluster.headers(USER))
    body: dict[str, Any] = answer.json()
    return body


async def run(cluster: Cluster, *, seconds: float, only: str) -> list[Seen]:
    """The faults, one after the other."""
    limits = httpx.Limits(max_connections=WRITERS + READERS + 4)
    results = []
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:
        load = Load(client, cluster)
        for fault in (one for one in FAULTS if only in f"{one.how} {', '.join(one.targets)}"):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(load.write()) for _ in range(WRITERS)]
                tasks += [group.create_task(load.read()) for _ in range(READERS)]
                seen = await suffer(load, cluster, fault, seconds=seconds)
                for task in tasks:
                    task.cancel()
            seen.lost = await lost(client, cluster, load.acknowledged)
            print(f"{seen.fault}: done", file=sys.stderr)
            results.append(seen)
    return results


def rows(found: list[Seen]) -> Iterator[list[str]]:
    """The lines of the table."""
    for seen in found:
        yield [
            seen.fault,
            f"{seen.acknowledged} / {seen.refused} / {seen.unknown} / {seen.broken}",
            f"{seen.slowest_add_s:.2f}",
            f"{seen.slowest_refusal_s:.2f}",
            f"{seen.recalls} / {seen.recalls_failed} / {seen.recalls_degraded}",
            f"{seen.slowest_recall_s:.2f}",
            f"{seen.back_s:.1f}",
            str(seen.lost),
        ]


def table(found: list[Seen]) -> Table:
    """The figures for a person."""
    shown = Table(title=f"{WRITERS} writers and {READERS} readers through the gateways; seconds")
    shown.add_column("fault")
    for column in (
        "adds: acked / refused / unknown / broken", "slowest add", "slowest refusal",
        "recalls: all / failed / degraded", "slowest recall", "all ready after", "lost",
    ):  # fmt: skip
        shown.add_column(column, justify="right")
    for row in rows(found):
        shown.add_row(*row)
    return shown


def main() -> int:
    """The command line; exit code 1 if an acknowledged add was lost."""
    parser = argparse.ArgumentParser(
        prog="scripts/faults", description="Harm a cluster under load and show what callers see."
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each fault lasts")
    parser.add_argument("--only", default="", help="only faults whose name holds this text")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="memsync-faults-") as folder,
        running_cluster(Path(folder) / "home") as cluster,
    ):
        found = uvloop.run(run(cluster, seconds=options.seconds, only=options.only))
    if options.json:
        print(json.dumps([msgspec.to_builtins(seen) for seen in found], indent=1))
    else:
        Console(width=160).print(table(found))
    return 1 if any(seen.lost for seen in found) else 0


if __name__ == "__main__":
    sys.exit(main())
