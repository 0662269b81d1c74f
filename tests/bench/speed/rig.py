"""A cluster with connections to it, and the requests that it is loaded with."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec
import nats
from nats.aio.client import Client

from memsync.local.ports import HOST
from memsync.wire import context, genesis
from tests.bench.corpus import Corpus
from tests.bench.speed import bus, machine, web
from tests.bench.speed.blocks import RefusedError, Step, Told
from tests.conditions import eventually
from tests.system.conftest import Cluster

SERVERS = PEERS = 3
GATEWAYS = 2
PROCESSES = (
    *(f"nats-{number}" for number in range(1, SERVERS + 1)),
    *(f"peer-{number}" for number in range(1, PEERS + 1)),
    *(f"gateway-{number}" for number in range(1, GATEWAYS + 1)),
)
CONNECTIONS = 6  # to the bus, over its servers in turns
WRITERS = 64  # end users who add
BULK = 50
FILLING = 6  # bulk requests at once while scopes are filled
TEXTS = 20_000  # texts and questions that are made beforehand, and used again with another number
PAYLOAD = b"x" * 700  # about what an add of one memory puts on the log
PUBLISHED, ECHO = b"bench.publish", b"bench.echo"
STREAM = "BENCH"
METADATA = {"a": 1}
KEYS = 8  # that the users share: a key may be used 1,000 times a second at a peer
WARM_S = 180.0
BUILDS = "memsync_hot_index_builds_total"
REPEATED_S = 600.0


class Rig:
    """What is asked of the cluster; each step is one operation. `opened` makes it."""

    def __init__(self, cluster: Cluster, to: Connections) -> None:
        self.cluster = cluster
        self._to = to
        self._corpus = Corpus()
        self._numbers = itertools.count()
        self._texts = [memory.text for memory in self._corpus.memories(0, TEXTS)]
        self._heads: dict[tuple[str, str], bytes] = {}
        self._keys = [cluster.api_key]
        self._free = list(to.web)
        self._pids = {name: cluster.pid(name) for name in PROCESSES}

    def usage(self) -> Mapping[str, float]:
        """Processor seconds of the cluster's processes so far, keepers left out."""
        return machine.used(self._pids)

    def find_processes(self) -> None:
        """Look again which processes they are: one was started again."""
        self._pids = {name: self.cluster.pid(name) for name in PROCESSES}

    @property
    def library_node(self) -> Client:
        """The official client library, as a user of the cell's own."""
        return self._to.library_node

    async def repeat(self, step: Step, count: int, *, in_flight: int) -> None:
        """A step so many times."""
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                try:
                    await step()
                except RefusedError:
                    await step()  # once more: a machine that others load refuses some

        async with asyncio.timeout(REPEATED_S), asyncio.TaskGroup() as workers:
            for _ in range(in_flight):
                workers.create_task(worker())

    # Steps without the cluster's peers: what the bus alone takes.

    async def raw_publish(self) -> None:
        """An R3 publish with an id, fsynced on a majority."""
        headers = b"NATS/1.0\r\nNats-Msg-Id: %d\r\n\r\n" % next(self._numbers)
        _, answer = await self._to.node.request(PUBLISHED, headers, PAYLOAD)
        if b'"seq"' not in answer:
            raise RefusedError(answer.decode(errors="replace"))

    async def raw_request(self) -> None:
        """A request to a responder at another server that only echoes."""
        await self._to.node.request(ECHO, b"", PAYLOAD)

    async def library_publish(self) -> None:
        """The same as `raw_publish` with the official client library."""
        headers = {"Nats-Msg-Id": str(next(self._numbers))}
        await self._to.library_js.publish(PUBLISHED.decode(), PAYLOAD, headers=headers)

    async def library_request(self) -> None:
        """The same as `raw_request` with the official client library."""
        await self._to.library_node.request(ECHO.decode(), PAYLOAD, timeout=5)

    # Steps over NATS.

    async def add(self) -> None:
        """One memory of one of many end users."""
        number = next(self._numbers)
        await self._ask("memory.add", f"writer-{number % WRITERS}", self._memory(number), b"201")

    async def library_add(self) -> None:
        """The same with the official client library."""
        number = next(self._numbers)
        user = f"writer-{number % WRITERS}"
        await self._ask_by_library("memory.add", user, self._memory(number), "201")

    async def bulk_add(self) -> None:
        """Fifty memories in one request."""
        number = next(self._numbers)
        items = [self._memory(number * BULK + place) for place in range(BULK)]
        await self._ask("memory.bulk_add", f"writer-{number % WRITERS}", {"items": items}, b"200")

    def recalls(self, users: Sequence[str]) -> Step:
        """Recalls of these end users in turns, each with a question that nobody asked before."""

        async def recall() -> None:
            number = next(self._numbers)
            await self._ask("memory.query", users[number % len(users)], self._question(number))

        return recall

    def library_recalls(self, users: Sequence[str]) -> Step:
        """The same with the official client library."""

        async def recall() -> None:
            number = next(self._numbers)
            await self._ask_by_library(
                "memory.query", users[number % len(users)], self._question(number), "200"
            )

        return recall

    # Steps over HTTP, at the gateways.

    async def web_add(self) -> None:
        """The same as `add`."""
        number = next(self._numbers)
        await self._post("/memory/add", f"writer-{number % WRITERS}", self._memory(number), 201)

    def web_recalls(self, users: Sequence[str]) -> Step:
        """The same as `recalls`."""

        async def recall() -> None:
            number = next(self._numbers)
            await self._post(
                "/memory/query", users[number % len(users)], self._question(number), 200
            )

        return recall

    async def make_keys(self) -> None:
        """Have several API keys, since one has a limit."""
        founded = genesis.read(self.cluster.home / "genesis.json")
        fields = {"environment": founded.key.environment, "rate_limit_tier": "unlimited"}
        made = []
        for number in range(KEYS):
            body = {"name": f"bench {number}", **fields}
            _, answer = await self._ask("keys.create", "bench", body, b"201")
            made.append(json.loads(answer)["key"])
        self._keys = made
        self._heads.clear()

    def _headers(self, user: str) -> dict[str, str]:
        key = self._keys[zlib.crc32(user.encode()) % len(self._keys)]
        return {context.API_KEY: key, context.END_USER: user}

    async def warm(self, users: Sequence[str], told: Told) -> None:
        """Have each peer load these end users' scopes: ask each at its own port until its answer is
        whole."""
        for peer in range(1, PEERS + 1):
            port = int(self.cluster.peer_url(peer).rpartition(":")[2])
            connection = await web.connect(HOST, port)
            for place, user in enumerate(users):
                told(f"peer-{peer}: loading scope {place + 1} of {len(users)}")
                is_whole = partial(self._is_whole, connection, user)
                await eventually(is_whole, f"{user} is loaded at peer-{peer}", WARM_S)
            connection.close()

    async def wait_built(self, scopes: int, told: Told) -> None:
        """Until each peer has made approximate search for so many large scopes."""
        for peer in range(1, PEERS + 1):
            told(f"peer-{peer}: building approximate search")

            async def is_built(url: str = self.cluster.peer_url(peer)) -> bool:
                async with httpx.AsyncClient(timeout=10.0) as http:
                    text = (await http.get(url + "/metrics")).text
                found = re.findall(rf"^{BUILDS}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
                return sum(map(float, found)) >= scopes

            await eventually(is_built, f"peer-{peer} has built {scopes}", WARM_S)

    async def _is_whole(self, connection: web.Connection, user: str) -> bool:
        head = web.request_head("/memory/query", self._headers(user))
        body = self._question(next(self._numbers)) | {"computation_tier": "high"}
        status, answer = await connection.request(head, msgspec.json.encode(body))
        if status != 200:
            raise RefusedError(f"/memory/query: {status} {answer[:500]!r}")
        return not json.loads(answer)["degraded"]

    async def fill(self, sizes: Mapping[str, int], told: Told) -> None:
        """Give each end user so many memories, by bulk_add."""
        total = sum(sizes.values())
        work = [
            (user, first, min(BULK, size - first))
            for user, size in sizes.items()
            for first in range(0, size, BULK)
        ]
        left, done = iter(work), 0

        async def worker() -> None:
            nonlocal done
            for user, first, count in left:
                texts = self._corpus.memories(first, count)
                items = [{"text": memory.text, "metadata": METADATA} for memory in texts]
                body = {"items": items, "deduplicate": False}
                await self._ask("memory.bulk_add", user, body, b"200")
                done += count
                told(f"filling scopes: {done:,} of {total:,}")

        async with asyncio.timeout(REPEATED_S), asyncio.TaskGroup() as workers:
            for _ in range(FILLING):
                workers.create_task(worker())

    def _memory(self, number: int) -> dict[str, object]:
        return {"text": f"{self._texts[number % TEXTS]} {number}", "metadata": METADATA}

    def _question(self, number: int) -> dict[str, object]:
        words = self._texts[number * 7 % TEXTS].split()
        return {
            "query": f"What did I say about {words[1]} and {words[4]} and {words[-1]} {number}?"
        }

    async def _ask(
        self, operation: str, user: str, body: Mapping[str, object], status: bytes = b"200"
    ) -> bus.Answer:
        head = self._heads.get(("", user))
        if head is None:
            head = self._heads["", user] = bus.header_block(self._headers(user))
        to = self._to.client[next(self._to.turns) % len(self._to.client)]
        subject = b"memsync.v1." + operation.encode()
        headers, answer = await to.request(subject, head, msgspec.json.encode(body))
        if b"Memsync-Status: " + status not in headers or b"Memsync-Degraded" in headers:
            raise RefusedError(f"{operation}: {headers!r} {answer[:500]!r}")
        return headers, answer

    async def _ask_by_library(
        self, operation: str, user: str, body: Mapping[str, object], status: str
    ) -> None:
        answer = await self._to.library_client.request(
            f"memsync.v1.{operation}",
            msgspec.json.encode(body),
            timeout=10,
            headers=self._headers(user),
        )
        headers = answer.headers or {}
        if headers.get(context.STATUS) != status or context.DEGRADED in headers:
            raise RefusedError(f"{operation}: {headers} {answer.data[:500]!r}")

    async def _post(self, path: str, user: str, body: Mapping[str, object], status: int) -> None:
        head = self._heads.get((path, user))
        if head is None:
            head = web.request_head(path, self._headers(user))
            self._heads[path, user] = head
        connection = self._free.pop()
        try:
            found, answer = await connection.request(head, msgspec.json.encode(body))
        finally:
            self._free.append(connection)
        if found != status:
            raise RefusedError(f"{path}: {found} {answer[:500]!r}")


class Connections(msgspec.Struct, frozen=True):
    """All connections of a rig: bare ones, and those of the official client library."""

    client: list[bus.Bus]
    node: bus.Bus
    web: list[web.Connection]
    library_client: Client
    library_node: Client
    turns: itertools.count[int]

    @property
    def library_js(self) -> nats.js.JetStreamContext:
        """The official library's publishes."""
        return self.library_node.jetstream()


@asynccontextmanager
async def opened(cluster: Cluster, *, web_connections: int = 0) -> AsyncIterator[Rig]:
    """A rig for a running cluster, with a stream beside those of the cell."""
    async with AsyncExitStack() as stack:

        async def bare(server: int, user: str) -> bus.Bus:
            port = int(cluster.nats_url(server).rpartition(":")[2])
            connection = await bus.connect(HOST, port, _credentials(cluster, user))
            stack.callback(connection.close)
            return connection

        async def official(server: int, user: str) -> Client:
            known = _credentials(cluster, user)
            connection = await nats.connect(
                cluster.nats_url(server), user=known["user"], password=known["password"],
                inbox_prefix=known["inbox_prefix"],
            )  # fmt: skip
            stack.push_async_callback(connection.close)
            return connection

        responder = await bare(2, "node")
        responder.echo(ECHO)
        port = int(cluster.url.rpartition(":")[2])
        callers = [await web.connect(HOST, port) for _ in range(web_connections)]
        for caller in callers:
            stack.callback(caller.close)
        to = Connections(
            client=[await bare(1 + place % SERVERS, "client") for place in range(CONNECTIONS)],
            node=await bare(1, "node"),
            web=callers,
            library_client=await official(1, "client"),
            library_node=await official(1, "node"),
            turns=itertools.count(),
        )
        await to.library_js.add_stream(
            name=STREAM, subjects=[PUBLISHED.decode()], num_replicas=SERVERS, storage="file",
            max_bytes=256 * 1024 * 1024, discard="old",
        )  # fmt: skip
        yield Rig(cluster, to)


def _credentials(cluster: Cluster, user: str) -> dict[str, str]:
    text = Path(cluster.home / f"{user}.creds").read_text()
    found: dict[str, str] = json.loads(text)
    return found
