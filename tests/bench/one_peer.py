"""The smallest cluster for a measurement: `memsync dev` as processes of its own, and a caller."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import httpx
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client.parser import text_string_to_metric_families

from memsync.local.home import Home
from memsync.local.ports import HOST, Ports
from tests.bench.corpus import Corpus
from tests.conditions import wait_until
from tests.system.local_bus import TOP

ECHO = "bench.echo"
READY_S = 60.0
ENDED_S = 60.0
RETRY_S = 0.01
REQUEST_S = 10.0
STEP = 7_919  # questions are about memories that lie far apart
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Timing:
    """How long requests took: as the caller saw it, and as the peer says."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        self.own_s: list[float] = []

    def add(self, other: Timing) -> None:
        """Take other requests in, too."""
        self.times_s += other.times_s
        self.own_s += other.own_s

    def at(self, share: float) -> float:
        """The time that this share of the requests did not exceed."""
        return sorted(self.times_s)[int(share * (len(self.times_s) - 1))]

    def own(self, share: float) -> float:
        """As `at`, of the peer's own times."""
        return sorted(self.own_s)[int(share * (len(self.own_s) - 1))]


class OnePeer:
    """`memsync dev` in a home."""

    def __init__(self, home: Home, ports: Ports) -> None:
        self._home = home
        self._ports = ports
        self.idle_mb = 0.0  # resident, of a peer with an empty store

    @contextmanager
    def running(self, *, wait: bool = True) -> Iterator[None]:
        """Start it, and end it; waits for it to be ready only where `wait`."""
        kept = {name: value for name, value in os.environ.items() if name[:8] != "MEMSYNC_"}
        offset = ("--port-offset", str(self._ports.offset))
        command = [sys.executable, "-m", "memsync", "dev", "--home", str(self._home.path), *offset]
        process = subprocess.Popen(
            command,
            cwd=TOP,
            env={**kept, "PYTHONPATH": str(TOP)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None,
        )
        try:
            if wait:
                wait_until(self._is_ready, "the peer is ready", READY_S)
                self.idle_mb = self.idle_mb or self.resident_mb()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(ENDED_S)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self._url("/ready"), timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def _url(self, path: str) -> str:
        return f"http://{HOST}:{self._ports.http}{path}"

    def _pid(self) -> int:
        return int(self._home.pid_file("peer-1").read_text())

    def age_s(self) -> float:
        """How long ago the peer's process started."""
        with open("/proc/uptime") as uptime:
            return float(uptime.read().split()[0]) - self._ticks(19) / TICKS_PER_S

    def processor_s(self) -> float:
        """The processor time that it has taken so far."""
        return (self._ticks(11) + self._ticks(12)) / TICKS_PER_S

    def _ticks(self, field: int) -> int:
        with open(f"/proc/{self._pid()}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[field])

    def resident_mb(self) -> float:
        """Its resident memory now."""
        return self._status("VmRSS")

    def resident_most_mb(self) -> float:
        """The most that it ever had."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        with open(f"/proc/{self._pid()}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        return int(lines[name].split()[0]) / 1024

    def metrics(self) -> Mapping[str, float]:
        """Its gauges and counters by name, summed over their labels."""
        text = httpx.get(self._url("/metrics"), timeout=10.0).text
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    @asynccontextmanager
    async def caller(self, scopes: Mapping[str, tuple[int, int]]) -> AsyncIterator[Caller]:
        """Somebody who asks, over a connection to the bus as soon as there is one. `scopes`: the
        corpus' number of each end user's first memory, and how many there are."""
        client = await self._connected("client")
        node, other = await self._connected("node"), await self._connected("node")

        async def echo(message: Msg) -> None:
            await other.publish(message.reply, message.data)

        await other.subscribe(ECHO, cb=echo)
        await other.flush()
        try:
            yield Caller(client, node, self._home.key.read_text().strip(), scopes)
        finally:
            for connection in (client, node, other):
                await connection.close()

    async def _connected(self, user: str) -> Client:
        credentials = json.loads(self._home.credentials(user).read_text())
        give_up_at = time.monotonic() + READY_S
        while True:
            try:
                return await nats.connect(
                    f"nats://{HOST}:{self._ports.nats(1)}",
                    user=credentials["user"],
                    password=credentials["password"],
                    inbox_prefix=credentials["inbox_prefix"],
                    allow_reconnect=False,
                    error_cb=_nothing,
                )
            except (OSError, nats.errors.Error):
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(RETRY_S)


async def _nothing(_error: Exception) -> None:
    """The server is not there yet."""


class Caller:
    """Recalls by NATS requests, with questions that differ."""

    def __init__(
        self, client: Client, node: Client, key: str, scopes: Mapping[str, tuple[int, int]]
    ) -> None:
        self._client = client
        self._node = node
        self._key = key
        self._scopes = scopes
        self._corpus = Corpus()
        self._asked = 0

    async def recalls(self, end_user: str, *, count: int) -> Timing:
        """Ask so many questions one after the other; each must be answered whole."""
        bodies = [self._body(end_user) for _ in range(count)]
        timing = Timing()
        for body in bodies:
            began = time.perf_counter()
            reply = await self._ask(end_user, body)
            timing.times_s.append(time.perf_counter() - began)
            answer = json.loads(reply.data)
            assert answer["memories"], answer
            assert not answer["degraded"], answer["degraded_components"]
            timing.own_s.append(answer["latency_ms"] / 1e3)
        return timing

    async def echoes(self, *, count: int) -> Timing:
        """As many raw requests."""
        timing = Timing()
        for _ in range(count):
            began = time.perf_counter()
            await self._node.request(ECHO, b"x" * 700, timeout=REQUEST_S)
            timing.times_s.append(time.perf_counter() - began)
        return timing

    async def wait_recalled(self, end_user: str, *, within_s: float) -> float:
        """Ask until an answer is whole; how long that took, in seconds."""
        body = self._body(end_user)
        began = time.perf_counter()
        while True:
            try:
                answer = json.loads((await self._ask(end_user, body)).data)
            except (nats.errors.Error, TimeoutError):
                answer = {}
            took_s = time.perf_counter() - began
            if answer.get("memories") and not answer["degraded"]:
                return took_s
            assert took_s < within_s, answer
            await asyncio.sleep(RETRY_S)

    def _body(self, end_user: str) -> bytes:
        first, total = self._scopes[end_user]
        self._asked += 1
        # The number makes it another question: small scopes have fewer memories than are asked.
        question = f"{self._corpus.question(first + self._asked * STEP % total)} {self._asked}"
        return json.dumps({"query": question, "computation_tier": "high"}).encode()

    async def _ask(self, end_user: str, body: bytes) -> Msg:
        headers = {"X-API-Key": self._key, "X-End-User-ID": end_user}
        return await self._client.request(
            "memsync.v1.memory.query", body, timeout=REQUEST_S, headers=headers
        )
