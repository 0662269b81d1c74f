"""Asks every process of a cluster for its state and its metrics, over and over.

Gateways share one address: whoever takes a connection answers on it from then on, so one
connection is kept for each gateway that was found.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import httpx
import msgspec

from memsync.cli.status.bus import Bus, BusState
from memsync.cli.status.processes import Places, Process, ask_process, with_unseen
from memsync.cli.top.counts import Counts, parse
from memsync.homes import Home
from memsync.local import process_table

NEW_CONNECTIONS = 4  # so many a reading, while a gateway is missing
NO_COUNTS = Counts({})


class Use(msgspec.Struct, frozen=True):
    """What a process takes of the machine: processor time since its start, and memory."""

    pid: int
    cpu_s: float
    memory_bytes: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One moment: every process with its metrics, the bus, and what local processes take."""

    gateways: list[Process]
    peers: list[Process]
    counts: dict[str, Counts]
    bus: BusState
    uses: dict[str, Use]

    @property
    def processes(self) -> list[Process]:
        """The gateways, and the peers."""
        return [*self.gateways, *self.peers]


class Watch:
    """Connections to all processes of a cluster."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._connections = AsyncExitStack()
        self._peers: dict[str, httpx.AsyncClient] = {}
        self._gateways: list[httpx.AsyncClient] = []
        self._bus = Bus(places.home) if places.home else None

    async def read(self) -> Reading:
        """How everything is now. What does not answer is unreachable, nothing is raised."""
        gateways, peers, bus = await asyncio.gather(
            self._read_gateways(),
            asyncio.gather(*(self._read_peer(name) for name in self._places.peers)),
            self._bus.read() if self._bus else _no_bus(),
        )
        answered = {process.name: counts for process, counts in [*gateways, *peers]}
        home = self._places.home
        return Reading(
            gateways=with_unseen([process for process, _ in gateways], self._places)
            if self._places.url
            else [],
            peers=[process for process, _ in peers],
            counts=answered,
            bus=bus,
            uses=uses_of(home) if home else {},
        )

    async def close(self) -> None:
        """End all connections."""
        await self._connections.aclose()
        if self._bus is not None:
            await self._bus.close()

    async def _read_peer(self, name: str) -> tuple[Process, Counts]:
        if name not in self._peers:
            self._peers[name] = await self._open()
        return await read_process(self._peers[name], name, self._places.peers[name])

    async def _read_gateways(self) -> list[tuple[Process, Counts]]:
        """Each gateway once; new connections are tried while one is missing."""
        url = self._places.url
        if url is None:
            return []
        kept = await asyncio.gather(*(read_process(one, "", url) for one in self._gateways))
        found: dict[str, tuple[Process, Counts]] = {}
        for client, answer in zip([*self._gateways], kept, strict=True):
            await self._keep(client, answer, found)
        for _ in range(NEW_CONNECTIONS):
            if len(found) >= max(1, len(self._places.gateways)):
                break
            client = await self._open()
            answer = await read_process(client, "", url)
            if not await self._keep(client, answer, found) and answer[0].state == "unreachable":
                return [*found.values(), answer]
        return list(found.values())

    async def _keep(
        self,
        client: httpx.AsyncClient,
        answer: tuple[Process, Counts],
        found: dict[str, tuple[Process, Counts]],
    ) -> bool:
        """Keep the connection if it is the first one to a gateway."""
        process, _ = answer
        is_new = process.state != "unreachable" and process.name not in found
        if is_new:
            found[process.name] = answer
        if is_new and client not in self._gateways:
            self._gateways.append(client)
        if not is_new:
            self._gateways = [one for one in self._gateways if one is not client]
            await client.aclose()
        return is_new

    async def _open(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1)
        return await self._connections.enter_async_context(self._places.client(limits=limits))


async def read_process(client: httpx.AsyncClient, name: str, url: str) -> tuple[Process, Counts]:
    """The state of one process and its metrics, over one connection."""
    process = await ask_process(client, name, url, keeps_connection=True)
    if process.state == "unreachable":
        return process, NO_COUNTS
    try:
        response = await client.get(url + "/metrics")
        return process, parse(response.text)
    except (httpx.HTTPError, ValueError) as error:
        failed = process.failed | {"metrics": str(error)[:80] or type(error).__name__}
        return msgspec.structs.replace(process, failed=failed), NO_COUNTS


def uses_of(home: Home) -> dict[str, Use]:
    """What the processes of a local home take, by name, the nats-servers included."""
    found: dict[str, Use] = {}
    for path in sorted(home.path.glob("run/*.pid")):
        pid = process_table.read_pid(path)
        use = process_table.use_of(pid) if pid is not None else None
        if pid is not None and use is not None:
            found[path.stem] = Use(pid, *use)
    return found


async def _no_bus() -> BusState:
    return BusState()
