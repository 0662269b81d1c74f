"""The gateway's process: it starts without a bus, passes on over HTTP, and ends as it should."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from memsync import config
from memsync.gateway.app import build_app
from memsync.gateway.server import listen, serve
from memsync.ports import Answer
from tests.conditions import eventually
from tests.fakes.backend import KEY, MemoryBackend

TOP = Path(__file__).resolve().parents[2]
HEADERS = {"X-API-Key": KEY, "X-End-User-ID": "anna"}
Start = Callable[..., subprocess.Popen[bytes]]


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Peer(MemoryBackend):
    """A peer's service; a request waits while `gate` is cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        await self.gate.wait()
        return await super().call(operation, headers, body)

    async def was_asked(self) -> bool:
        """Whether a request has been answered."""
        return bool(self.calls)


@pytest.fixture
def peer_port() -> int:
    return free_port()


@pytest.fixture
async def peer(peer_port: int) -> AsyncIterator[Peer]:
    """A peer's own port."""
    backend, stop = Peer(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        sockets = [listen("127.0.0.1", peer_port)]
        group.create_task(serve(build_app(backend, name="peer-1"), sockets=sockets, stop=stop))
        yield backend
        stop.set()


@pytest.fixture
def settings(tmp_path: Path, peer_port: int) -> Path:
    """Settings with a bus that is not there."""
    path = tmp_path / "gateway.toml"
    path.write_text(
        f'name = "gateway-1"\nhttp_port = {free_port()}\n'
        f'[peers]\npeer-1 = "http://127.0.0.1:{peer_port}"\n'
        f'[nats]\nservers = ["nats://127.0.0.1:{free_port()}"]\n'
    )
    return path


@pytest.fixture
def start(settings: Path) -> Iterator[Start]:
    """Start gateways; those that are left at the end are killed."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "memsync.nodes.gateway",
            "--config",
            str(settings),
            *arguments,
        ]
        process = subprocess.Popen(command, cwd=TOP, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
        started.append(process)
        return process  # type: ignore[no-any-return]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def url(settings: Path) -> str:
    """Where the gateways listen."""
    return f"http://127.0.0.1:{config.load(settings, config.GatewaySettings).http_port}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers=HEADERS) as found:
        yield found


async def wait_alive(client: httpx.AsyncClient) -> None:
    """Wait until it serves and has seen its peer."""

    async def is_alive() -> bool:
        try:
            return bool((await client.get("/ready")).json()["checks"]["peers"] == "ok")
        except httpx.TransportError:
            return False

    await eventually(is_alive, "the gateway serves")


async def test_without_a_bus_it_passes_on_over_http(
    start: Start, peer: Peer, client: httpx.AsyncClient
) -> None:
    start()
    await wait_alive(client)
    added = await client.post("/memory/add", json={"text": "green tea"})
    found = await client.post("/memory/query", json={"query": "tea"})
    ready = await client.get("/ready")
    assert added.status_code == 201
    assert [memory["id"] for memory in found.json()["memories"]] == [added.json()["id"]]
    assert added.headers["x-served-by"] == "gateway-1"
    assert added.headers["memsync-position"] == "0.0.1"
    assert len(added.headers.get_list("x-request-id")) == 1
    assert ready.status_code == 503
    assert ready.json()["checks"]["bus"].startswith("failed: not connected")
    assert (await client.get("/health")).json()["status"] == "degraded"


async def test_sigterm_lets_requests_finish(
    start: Start, peer: Peer, client: httpx.AsyncClient
) -> None:
    process = start("--name", "gateway-7")
    await wait_alive(client)
    peer.gate.clear()
    async with asyncio.TaskGroup() as group:
        adding = group.create_task(client.post("/memory/add", json={"text": "green tea"}))

        async def is_passed_on() -> bool:
            text = (await client.get("/metrics")).text
            return "memsync_gateway_requests_in_flight 1.0" in text

        await eventually(is_passed_on, "the request is in flight")
        process.send_signal(signal.SIGTERM)

        async def is_refusing() -> bool:
            try:
                async with httpx.AsyncClient(base_url=client.base_url) as other:
                    await other.get("/healthz")
            except httpx.TransportError:
                return True
            return False

        await eventually(is_refusing, "new connections are refused")
        assert process.poll() is None
        peer.gate.set()
    assert adding.result().status_code == 201
    assert adding.result().headers["x-served-by"] == "gateway-7"
    assert await asyncio.to_thread(process.wait, 10) == 0


async def test_two_share_one_socket_and_one_may_end(
    start: Start, peer: Peer, client: httpx.AsyncClient
) -> None:
    sock = listen("127.0.0.1", int(client.base_url.port or 0))
    with sock:
        environment = os.environ | {"MEMSYNC_LISTEN_FD": str(sock.fileno())}
        pair = [
            start("--name", name, pass_fds=[sock.fileno()], env=environment)
            for name in ("gateway-1", "gateway-2")
        ]
        await wait_alive(client)
        seen: set[str] = set()

        async def have_both_answered() -> bool:
            async with httpx.AsyncClient(base_url=client.base_url) as other:
                seen.add((await other.get("/healthz")).headers["x-served-by"])
            return len(seen) == 2

        await eventually(have_both_answered, "both accept connections")
        pair[0].send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(pair[0].wait, 10) == 0
        for _ in range(20):
            async with httpx.AsyncClient(base_url=client.base_url) as other:
                answer = await other.get("/healthz")
            assert answer.headers["x-served-by"] == "gateway-2"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [("http_port = ", "http_port = 7", "http_port"), ("[peers]", "[people]", "people"),
     ('name = "gateway-1"', 'name = "Gateway 1"', "name"),
     ("[nats]", '[nats]\ncredentials = "/nowhere"', "nats.credentials")],
)  # fmt: skip
def test_a_wrong_configuration_is_one_line_and_exit_2(
    old: str, new: str, told: str, settings: Path, start: Start
) -> None:
    settings.write_text(settings.read_text().replace(old, new))
    process = start()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert len(errors.decode().splitlines()) == 1
    assert told in errors.decode()
