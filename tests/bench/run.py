"""`scripts/bench`: adds and recalls per second, p50 and p95, beside a raw R3 publish and a raw
request-reply in the same run.

Everything runs on this machine, the load too, and machines are noisy: read the column of ratios
(times the raw operation's p50), not the milliseconds. A cluster of its own is started in a
temporary home.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from rich.console import Console
from rich.table import Table

from tests.system.conftest import Cluster, running_cluster

SCOPE_MEMORIES = 1_000
STREAM, SUBJECT, ECHO = "BENCH", "bench.publish", "bench.echo"
WORDS = [
    "harbour", "lamp", "garden", "winter", "train", "letter", "bridge", "market", "river", "coffee",
    "violin", "paper", "island", "window", "teacher", "mountain", "ticket", "blanket", "orchard",
]  # fmt: skip

Step = Callable[[int], Awaitable[None]]


class Figure(msgspec.Struct, frozen=True):
    """One line of the result; times in milliseconds. `beside` names the raw line to compare to."""

    name: str
    in_flight: int
    per_second: float
    p50_ms: float
    p95_ms: float
    beside: str


async def measure(name: str, step: Step, *, count: int, in_flight: int, beside: str) -> Figure:
    """Run `step` `count` times, `in_flight` at once."""
    times: list[float] = []
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            began = time.perf_counter()
            await step(number)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    took = time.perf_counter() - began
    times.sort()
    return Figure(
        name=name,
        in_flight=in_flight,
        per_second=round(count / took, 1),
        p50_ms=round(times[len(times) // 2] * 1e3, 3),
        p95_ms=round(times[int(len(times) * 0.95)] * 1e3, 3),
        beside=beside,
    )


def text_of(number: int) -> str:
    """A sentence of about a dozen words, the same for the same number."""
    picked = [WORDS[(number * 7 + i * i * 3 + i) % len(WORDS)] for i in range(12)]
    return f"Note {number}: " + " ".join(picked)


async def connect(cluster: Cluster, server: int, user: str) -> Client:
    """A connection to one server."""
    credentials = json.loads((cluster.home / f"{user}.creds").read_text())
    return await nats.connect(
        cluster.nats_url(server),
        user=credentials["user"],
        password=credentials["password"],
        inbox_prefix=credentials["inbox_prefix"],
    )


class Steps:
    """What is measured, each as one call."""

    def __init__(self, cluster: Cluster, http: httpx.AsyncClient, node: Client, client: Client):
        self._cluster = cluster
        self._http = http
        self._jetstream = node.jetstream()
        self._node = node
        self._client = client
        self._run = secrets.token_hex(4)
        self._payload = b"x" * 700
        self._headers = cluster.headers("bench")

    async def raw_publish(self, number: int) -> None:
        """One R3 publish with an id, fsynced on a majority."""
        headers = {"Nats-Msg-Id": f"{self._run}-{number}-{secrets.token_hex(4)}"}
        await self._jetstream.publish(SUBJECT, self._payload, headers=headers)

    async def raw_request(self, number: int) -> None:
        """One request to a responder on another server that only echoes."""
        await self._node.request(ECHO, self._payload, timeout=5)

    def _add(self, number: int) -> dict[str, object]:
        return {"text": f"{text_of(number)} {secrets.token_hex(3)}", "deduplicate": False}

    async def http_add(self, number: int) -> None:
        """An add through a gateway."""
        answer = await self._http.post(
            self._cluster.url + "/memory/add", json=self._add(number), headers=self._headers
        )
        assert answer.status_code == 201, answer.text

    async def nats_add(self, number: int) -> None:
        """An add by a NATS request to whichever peer takes it."""
        await self._ask("memory.add", self._add(number), "201")

    async def http_recall(self, number: int) -> None:
        """A recall through a gateway."""
        answer = await self._http.post(
            self._cluster.url + "/memory/query",
            json={"query": text_of(number)},
            headers=self._headers,
        )
        assert answer.status_code == 200, answer.text

    async def nats_recall(self, number: int) -> None:
        """A recall by a NATS request."""
        await self._ask("memory.query", {"query": text_of(number)}, "200")

    async def bulk(self, number: int) -> None:
        """Fifty memories in one request."""
        items = [{"text": text_of(number * 50 + i)} for i in range(50)]
        answer = await self._http.post(
            self._cluster.url + "/memory/bulk-add",
            json={"items": items, "deduplicate": False},
            headers=self._headers,
        )
        assert answer.json()["created"] == 50, answer.text

    async def _ask(self, operation: str, body: dict[str, object], status: str) -> None:
        reply = await self._client.request(
            f"memsync.v1.{operation}", json.dumps(body).encode(), timeout=5, headers=self._headers
        )
        assert (reply.headers or {}).get("Memsync-Status") == status, reply.data


async def run(cluster: Cluster, count: int) -> list[Figure]:
    """All figures, in the order of the table."""
    node, other = await connect(cluster, 1, "node"), await connect(cluster, 2, "node")
    client = await connect(cluster, 1, "client")

    async def echo(message: Msg) -> None:
        await other.publish(message.reply, message.data)

    await node.jetstream().add_stream(
        api.StreamConfig(
            name=STREAM,
            subjects=[SUBJECT],
            num_replicas=3,
            storage=api.StorageType.FILE,
            max_bytes=64 * 1024 * 1024,
        )
    )
    await other.subscribe(ECHO, cb=echo)
    await other.flush()
    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(timeout=30, limits=limits) as http:
        steps = Steps(cluster, http, node, client)
        figures = await _figures(steps, count)
    for connection in (client, other, node):
        await connection.close()
    return figures


async def _figures(steps: Steps, count: int) -> list[Figure]:
    figures = []
    for in_flight in (1, 16):
        raw, asked = f"raw R3 publish x{in_flight}", f"raw request-reply x{in_flight}"
        many = count * (4 if in_flight > 1 else 1)
        for name, step, beside in (
            (raw, steps.raw_publish, raw),
            ("add over NATS", steps.nats_add, raw),
            ("add over HTTP", steps.http_add, raw),
            (asked, steps.raw_request, asked),
        ):
            await measure(name, step, count=20, in_flight=in_flight, beside=beside)  # warm up
            figures.append(
                await measure(name, step, count=many, in_flight=in_flight, beside=beside)
            )
        for number in range(SCOPE_MEMORIES // 50 if in_flight == 1 else 0):
            await steps.bulk(number)
        for name, step in (
            ("recall over NATS", steps.nats_recall),
            ("recall over HTTP", steps.http_recall),
        ):
            await measure(name, step, count=20, in_flight=in_flight, beside=asked)
            figures.append(await measure(name, step, count=many, in_flight=in_flight, beside=asked))
    return figures


def table(figures: list[Figure]) -> Table:
    """The figures for a person."""
    raw = {figure.name: figure for figure in figures if figure.name == figure.beside}
    shown = Table(title=f"one machine, load and all; recalls in a scope of > {SCOPE_MEMORIES}")
    shown.add_column("operation")
    for column in ("in flight", "per second", "p50 ms", "p95 ms", "times raw p50"):
        shown.add_column(column, justify="right")
    for figure in figures:
        shown.add_row(
            figure.name,
            str(figure.in_flight),
            f"{figure.per_second:,.0f}",
            f"{figure.p50_ms:.2f}",
            f"{figure.p95_ms:.2f}",
            f"{figure.p50_ms / raw[figure.beside].p50_ms:.1f}",
        )
    return shown


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=500, help="operations per line, times 4 at 16")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    if options.count < 20:
        parser.error("--count: at least 20, or p95 means nothing")
    with (
        tempfile.TemporaryDirectory(prefix="memsync-bench-") as folder,
        running_cluster(Path(folder) / "home") as cluster,
    ):
        figures = uvloop.run(run(cluster, options.count))
    if options.json:
        print(json.dumps([msgspec.to_builtins(figure) for figure in figures], indent=1))
    else:
        Console().print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
