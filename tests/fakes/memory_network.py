"""A network in memory between a client over httpcore and one server of this process: for tests in
which time is virtual, where a real socket would never be ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from tests.fakes.model_server import ModelServer


class _Written:
    """What a server writes with: bytes that its client reads."""

    def __init__(self, to: asyncio.StreamReader) -> None:
        self._to = to
        self.has_client_gone = False

    def write(self, data: bytes) -> None:
        if not self.has_client_gone:
            self._to.feed_data(data)

    async def drain(self) -> None:
        await asyncio.sleep(0)  # the client's turn: it may have enough
        if self.has_client_gone:
            raise ConnectionResetError

    def close(self) -> None:
        self._to.feed_eof()


class _Stream(httpcore.AsyncNetworkStream):
    """The client's end of a connection."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._there, self._here = asyncio.StreamReader(), asyncio.StreamReader()
        self._written: Any = _Written(self._here)
        task = asyncio.create_task(network.server._serve(self._there, self._written))
        network.connections.add(task)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._here.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._there.feed_data(buffer)

    async def aclose(self) -> None:
        self._written.has_client_gone = True
        self._there.feed_eof()

    def get_extra_info(self, info: str) -> Any:
        return self._here.at_eof() if info == "is_readable" else None


class MemoryNetwork(httpcore.AsyncNetworkBackend):
    """All addresses lead to one server."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.connections: set[asyncio.Task[Any]] = set()

    def lead(self, client: httpx.AsyncClient) -> None:
        """Have a client go through this network."""
        transport = httpx.AsyncHTTPTransport()
        transport._pool = httpcore.AsyncConnectionPool(network_backend=self)
        client._transport = transport

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(self)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait_idle(self) -> None:
        """Wait until every connection has ended at the server, too."""
        await asyncio.gather(*self.connections)
