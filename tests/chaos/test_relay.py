"""The relay that stands in for network namespaces: what is held back, late, and passed on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from memsync.homes import HOST
from memsync.local.ports import Ports
from tests.chaos.network import Relayed
from tests.chaos.relay import CLIENT, RESENT_S, Links, machine_of

TOP = Path(__file__).parents[2]
OPEN: dict[str, Any] = {"held": [], "slow": 0, "delay_s": 0.0, "jitter_s": 0.0, "loss": 0.0}
WITHIN_S = 5.0
SILENT_S = 0.2


class Relay:
    """A relay before two servers that answer what they get: of machine 2 and of machine 3. Whoever
    connects from this process is on `own`."""

    def __init__(self, process: subprocess.Popen[str], ports: dict[int, int]) -> None:
        self._process = process
        self._ports = ports
        self.callers: list[Caller] = []

    def tell(self, **more: Any) -> dict[str, Any]:
        """From now on it is like this; with nothing, only ask what was met."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**OPEN, **more} if more else {}) + "\n")
        self._process.stdin.flush()
        met: dict[str, Any] = json.loads(self._process.stdout.readline())
        return met

    async def connect(self, machine: int) -> Caller:
        """Connected to the server there."""
        self.callers.append(Caller(*await asyncio.open_connection(HOST, self._ports[machine])))
        return self.callers[-1]


class Caller:
    """A connection, and what comes back over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def asks(self, what: bytes = b"?\n", *, within_s: float = WITHIN_S) -> float:
        """Seconds until it is answered; raises `TimeoutError`."""
        began = time.monotonic()
        self.writer.write(what)
        await self.answered(what, within_s=within_s)
        return time.monotonic() - began

    async def answered(self, what: bytes, *, within_s: float = WITHIN_S) -> None:
        """It comes back."""
        async with asyncio.timeout(within_s):
            assert await self._reader.readexactly(len(what)) == what


class Server:
    """Answers what it gets."""

    def __init__(self) -> None:
        self.answering: list[asyncio.Task[None] | None] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.answering.append(asyncio.current_task())
        with suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def _started(folder: Path, pairs: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.relay", str(folder), *pairs],
        cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@asynccontextmanager
async def relay(folder: Path, own: str = "peer-1") -> AsyncIterator[Relay]:
    (folder / "run").mkdir()
    (folder / "run" / f"{own}.pid").write_text(str(os.getpid()))
    server_of_both, real = Server(), {}
    async with AsyncExitStack() as stack:
        for machine in (2, 3):
            server = await asyncio.start_server(server_of_both.answer, HOST, 0)
            await stack.enter_async_context(server)
            real[server.sockets[0].getsockname()[1]] = machine
        pairs = [f"{port}={machine}" for port, machine in real.items()]
        process = _started(folder, pairs)
        assert process.stdout is not None
        made = json.loads(process.stdout.readline())
        between = Relay(process, {real[int(port)]: found for port, found in made.items()})
        try:
            yield between
        finally:
            process.communicate(timeout=10)
            for caller in between.callers:
                await _close(caller.writer)
            await asyncio.gather(*filter(None, server_of_both.answering))


async def test_it_passes_on_what_is_sent(tmp_path: Path) -> None:
    async with relay(tmp_path) as between:
        caller = await between.connect(2)
        assert await caller.asks(b"x" * 100_000) < WITHIN_S
        assert between.tell() == {"held": [], "late": 0}


async def test_what_is_held_back_comes_when_it_is_let_go(tmp_path: Path) -> None:
    async with relay(tmp_path) as between:
        caller, other = await between.connect(2), await between.connect(3)
        await caller.asks()
        between.tell(held=[[1, 2]])
        with pytest.raises(TimeoutError):
            await caller.asks(b"held\n", within_s=SILENT_S)
        await other.asks()  # another machine is reached
        assert between.tell() == {"held": [[1, 2]], "late": 0}
        between.tell(held=[])
        await caller.answered(b"held\n")


async def test_one_direction_may_be_held_back(tmp_path: Path) -> None:
    """What is sent arrives, and what is answered does not."""
    async with relay(tmp_path) as between:
        caller = await between.connect(2)
        await caller.asks()
        between.tell(held=[[2, 1]])
        with pytest.raises(TimeoutError):
            await caller.asks(b"sent\n", within_s=SILENT_S)
        assert between.tell() == {"held": [[2, 1]], "late": 0}
        between.tell(held=[])
        await caller.answered(b"sent\n")


async def test_nothing_is_connected_through_a_cut(tmp_path: Path) -> None:
    async with relay(tmp_path) as between:
        between.tell(held=[[2, 1]])
        caller = await between.connect(2)
        with pytest.raises(TimeoutError):
            await caller.asks(within_s=SILENT_S)
        between.tell(held=[])
        await caller.answered(b"?\n")


async def test_a_slow_machine_is_slow_each_way_and_no_other_is(tmp_path: Path) -> None:
    async with relay(tmp_path) as between:
        caller, other = await between.connect(2), await between.connect(3)
        await caller.asks()
        between.tell(slow=2, delay_s=0.1)
        assert await caller.asks() >= 0.2
        assert between.tell() == {"held": [], "late": 2}
        between.tell(slow=2, delay_s=WITHIN_S)
        assert await other.asks() < WITHIN_S
        assert between.tell() == {"held": [], "late": 0}


async def test_a_caller_of_no_machine_is_with_the_callers(tmp_path: Path) -> None:
    async with relay(tmp_path, own="gateway-1") as between:
        caller = await between.connect(3)
        await caller.asks()
        between.tell(held=[[CLIENT, 3]])
        with pytest.raises(TimeoutError):
            await caller.asks(within_s=SILENT_S)


def test_what_is_lost_is_as_late_as_what_is_sent_again() -> None:
    links = Links()
    links.change({**OPEN, "slow": 2, "delay_s": 0.01, "loss": 1.0})
    assert links.late_s(1, 2) == pytest.approx(0.01 + RESENT_S)
    links.change({**OPEN, "slow": 2, "delay_s": 0.01, "jitter_s": 0.005})
    times = [links.late_s(2, 1) for _ in range(100)]
    assert 0.005 <= min(times) < max(times) <= 0.015
    assert links.late_s(1, 3) == 0.0
    assert links.met() == {"held": [], "late": 100}


def test_server_and_peer_are_on_the_machine_of_their_number() -> None:
    assert [machine_of(name) for name in ("nats-2", "peer-3", "gateway-1")] == [2, 3, CLIENT]


def test_where_there_are_no_namespaces_the_relay_says_what_it_has_met(tmp_path: Path) -> None:
    """Without any traffic nothing is cut and nothing is slow: a fault of which that is so does not
    count."""
    network = Relayed()
    network.begin(tmp_path, Ports())
    try:
        network.drop([(1, 2), (2, 1)])
        assert "nothing is held back" in network.why_not_cut([(1, 2), (2, 1)])
        network.pass_again([(1, 2), (2, 1)])
        network.slow(3, delay_ms=40, jitter_ms=0, loss=0.0)
        assert network.why_not_slow(3, least_ms=40, is_lossy=False) == "nothing was late"
        network.slow_no_more()
    finally:
        network.end()
