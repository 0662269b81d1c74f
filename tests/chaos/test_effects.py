"""Every fault sees for itself whether it took effect: on processes, files and a server that are
there, and on some that are not. One that did nothing is no fault, and its run cannot be judged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from memsync.adapters.sqlite.store import open_store
from memsync.homes import HOST, Home
from memsync.ids import Position
from memsync.local import secrets
from memsync.local.ports import Ports
from memsync.wire import subjects
from memsync.wire.subjects import CellName
from tests.chaos import stores
from tests.chaos.cluster import Cluster
from tests.chaos.driver import FILLERS
from tests.chaos.fault import Context, Fault, Together
from tests.chaos.network import CannotError, Relayed
from tests.chaos.of_data import (
    IdsDeleted,
    RowAltered,
    StoreDeleted,
    StoreRolledBack,
    StoreZeros,
    StreamDeleted,
)
from tests.chaos.of_processes import APART, CLOCK_OFFSET_S, Clock, Freeze, Gone, Kill, Restart
from tests.conditions import wait_until
from tests.fakes.memories import create, frame

TOP = Path(__file__).parents[2]
SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(600)"
PEER = "peer-2"


class Stage:
    """A cluster of processes that only sleep, with their pid files; and what keeps them."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.cluster = Cluster(self.home, Ports(), Relayed())
        self.context = Context(self.cluster, Client(), random.Random(1), folder)
        self._all: list[subprocess.Popen[bytes]] = []
        for name in ("run", "config"):
            (folder / name).mkdir()

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """A process of this name, below somebody who may be stopped in its keeper's place."""
        process = self._spawned()
        self.home.pid_file(name).write_text(str(process.pid))
        self.cluster._keepers.setdefault(name, self._spawned())
        return process

    def _spawned(self) -> subprocess.Popen[bytes]:
        self._all.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", SLEEPER]))
        return self._all[-1]

    def end(self) -> None:
        """All of them."""
        for process in self._all:
            process.kill()
            process.wait()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.end()


async def suffered(fault: Fault) -> str:
    """Make it, look, and take it back, as the nemesis does; why it had no effect."""
    await fault.make()
    await fault.look()
    await fault.take_back()
    return fault.why_without_effect()


# Processes


@pytest.mark.parametrize("kind", [Kill, Freeze, Gone])
async def test_a_process_that_was_there_is_seen_to_be_hit(kind: type[Fault], stage: Stage) -> None:
    process = stage.start(PEER)
    assert await suffered(kind(stage.context, [PEER])) == ""
    if kind is Freeze:
        os.kill(process.pid, 0)  # and it runs again
    else:
        assert process.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("kind", [Kill, Freeze, Gone])
async def test_a_process_that_was_down_already_is_not(kind: type[Fault], stage: Stage) -> None:
    process = stage.start(PEER)
    process.kill()
    process.wait()
    assert await suffered(kind(stage.context, [PEER])) == "nothing was seen of it"


async def test_one_of_two_that_was_down_already_is_enough(stage: Stage) -> None:
    stage.start("peer-1")
    stage.start(PEER).kill()
    wait_until(lambda: stage._all[-2].poll() is not None, "the second has ended")
    assert await suffered(Kill(stage.context, ["peer-1", PEER])) != ""


async def test_a_process_that_somebody_thaws_is_not_frozen(stage: Stage) -> None:
    process, fault = stage.start(PEER), Freeze(stage.context, [PEER])
    await fault.make()
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: _state(process.pid) != "T", "it goes on")
    await fault.look()
    assert fault.why_without_effect() != ""


async def test_a_process_that_somebody_starts_again_is_not_gone(stage: Stage) -> None:
    fault = Gone(stage.context, [PEER])
    stage.start(PEER)
    await fault.make()
    stage.start(PEER)
    await fault.look()
    assert fault.why_without_effect() != ""


@pytest.mark.parametrize("was_down", [False, True])
async def test_a_restart_ends_a_process(was_down: bool, stage: Stage) -> None:
    """What a keeper starts where nothing ran is no restart."""

    async def ready(timeout_s: float) -> list[str]:
        return []

    first = stage.start(PEER)
    stage.cluster.wait_ready = ready  # type: ignore[method-assign]
    if was_down:
        first.kill()
        first.wait()
        stage.home.pid_file(PEER).unlink()
    fault = Restart(stage.context, [PEER])
    making = asyncio.create_task(fault.make())
    await asyncio.sleep(0)  # it has sent what it sends
    await asyncio.to_thread(first.wait)
    stage.start(PEER)
    await making
    assert (fault.why_without_effect() == "") == (not was_down)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# Clocks


@asynccontextmanager
async def metrics(text: str) -> AsyncIterator[str]:
    """Something that answers with this, and its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = text.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, HOST, 0)
    async with server:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("apart_s", "has_effect"),
    [(CLOCK_OFFSET_S, True), (-CLOCK_OFFSET_S, False), (0.02, False), (None, False)],
)
async def test_a_clock_is_off_once_the_peer_says_so(
    apart_s: float | None, has_effect: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.chaos.of_processes.CLOCK_SEEN_S", 0.1)
    fault = Clock(stage.context, [PEER])
    fault._offset_s = CLOCK_OFFSET_S
    async with metrics("" if apart_s is None else f"# HELP\n{APART} {apart_s}\n") as url:
        monkeypatch.setattr(stage.cluster, "peer_url", lambda peer: url)
        await fault.look()
    assert (fault.why_without_effect() == "") == has_effect


@pytest.mark.parametrize("text", ["", "clock_offset_s = 0.0\n", "clock_offset_s = 0\n" * 2])
def test_settings_that_name_no_clock_are_an_error(text: str, stage: Stage) -> None:
    path = stage.home.config(f"{PEER}.toml")
    path.write_text(text)
    with pytest.raises(CannotError, match="lines of"):
        Clock(stage.context, [PEER])._set(60.0, "development")


def test_settings_are_set(stage: Stage) -> None:
    path = stage.home.config(f"{PEER}.toml")
    path.write_text('name = "p"\nprofile = "production"\nclock_offset_s = 0.0\n')
    Clock(stage.context, [PEER])._set(60.0, "development")
    assert path.read_text() == 'name = "p"\nprofile = "development"\nclock_offset_s = 60.0\n'


# Stores


async def written(stage: Stage, *, first: int, count: int) -> None:
    """Memories in the peer's store, each a frame."""
    folder = stage.home.data(PEER)
    async with open_store(folder) as store:
        for number in range(first, first + count):
            text = f"m{number} p.{number} {FILLERS[0]}"
            logged = frame(create(f"m{number}", text, identifier=number), sequence=number)
            await store.apply([logged], {0: Position(0, 0, number)})


@pytest.mark.parametrize("kind", [StoreZeros, StoreDeleted])
async def test_a_store_that_is_there_is_damaged(kind: type[Fault], stage: Stage) -> None:
    stage.start(PEER)
    await written(stage, first=1, count=3)
    assert await suffered(kind(stage.context, [PEER])) == ""
    path = stage.cluster.store(PEER)
    assert path.exists() == (kind is StoreZeros)


@pytest.mark.parametrize("kind", [StoreZeros, StoreDeleted])
async def test_a_store_that_is_empty_is_not(kind: type[Fault], stage: Stage) -> None:
    stage.start(PEER)
    path = stage.cluster.store(PEER)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert await suffered(kind(stage.context, [PEER])) == "nothing was seen of it"


@pytest.mark.parametrize("more", [0, 2])
async def test_a_store_is_rolled_back_if_it_had_gone_on(more: int, stage: Stage) -> None:
    stage.start(PEER)
    await written(stage, first=1, count=3)
    fault = StoreRolledBack(stage.context, [PEER])
    await fault.make()
    await written(stage, first=4, count=more)
    await fault.look()
    await fault.take_back()
    assert stores.applied(stage.cluster.store(PEER)) == 3
    assert (fault.why_without_effect() == "") == (more > 0)


async def test_a_row_is_altered_and_known_to_be(stage: Stage) -> None:
    await written(stage, first=1, count=3)
    fault = RowAltered(stage.context, [PEER])
    assert await suffered(fault) == ""
    assert not fault.is_healed()


async def test_without_a_memory_no_row_is_altered(stage: Stage) -> None:
    await written(stage, first=1, count=0)
    with pytest.raises(CannotError):
        await RowAltered(stage.context, [PEER]).make()


# Streams


@pytest.fixture
async def server(tmp_path: Path, stage: Stage) -> AsyncIterator[Client]:
    """A server with a stream of stripe 1 in two generations and the stream of ids."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    config = tmp_path / "nats.conf"
    config.write_text(f'listen: "{HOST}:{port}"\njetstream {{ store_dir: "{tmp_path}/js" }}\n')
    process = _nats(config)
    wait_until(lambda: _answers(port), "the server answers")
    client = await nats.connect(f"nats://{HOST}:{port}")
    stage.context.bus = client
    for generation in (0, 1):
        await client.jetstream().add_stream(name=_stream(generation), subjects=[f"s.{generation}"])
    await client.jetstream().add_stream(name=subjects.IDS_STREAM, subjects=["ids"])
    yield client
    await client.close()
    process.terminate()
    process.wait(10)


def _nats(config: Path) -> subprocess.Popen[bytes]:
    program = str(TOP / "memsync" / "nodes" / "nats.py")
    command = [sys.executable, "-I", "-S", program, "--config", str(config)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((HOST, port)) == 0


def _stream(generation: int) -> str:
    return CellName(secrets.REGION, secrets.CELL).stream(1, generation)


async def test_the_newest_stream_of_a_stripe_is_gone(server: Client, stage: Stage) -> None:
    assert await suffered(StreamDeleted(stage.context, ["stripe-1"])) == ""
    left = {info.config.name for info in await server.jetstream().streams_info()}
    assert left == {_stream(0), subjects.IDS_STREAM}
    with pytest.raises(CannotError):
        await StreamDeleted(stage.context, ["stripe-2"]).make()


async def test_the_stream_of_ids_is_gone_or_another_one(server: Client, stage: Stage) -> None:
    fault = IdsDeleted(stage.context, ["MEMSYNC_IDS"])
    assert await suffered(fault) == ""
    with pytest.raises(CannotError):
        await IdsDeleted(stage.context, ["MEMSYNC_IDS"]).make()


# Several


async def test_of_several_together_each_must_take_effect(stage: Stage) -> None:
    stage.start(PEER)
    fault = Together(
        stage.context, [Kill(stage.context, [PEER]), Freeze(stage.context, ["nats-1"])]
    )
    assert await suffered(fault) == "nothing was seen of it"
