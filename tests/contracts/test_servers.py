"""One suite for every `ports.Servers`: varz of real servers, and the fake bus."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from memsync.adapters.jetstream.servers import NatsServers
from memsync.config import NatsSettings
from memsync.errors import Unavailable
from memsync.local.ports import HOST, is_free
from memsync.ports import StripeCopy
from memsync.wire.subjects import CellName
from tests.conditions import eventually, wait_until
from tests.contracts.buses import TIMEOUT_S, RealBed, kill, settings_of, wait_heard
from tests.fakes.bus import MemoryBus
from tests.system.local_bus import Bus, free_ports

NATS = Path(sys.executable).with_name("nats-server")
ENDED_WITHIN_S = 10.0
CELL = CellName("local", "cell")
CONFIG = """
server_name: solo
listen: "{host}:{port}"
{jetstream}
system_account: SYS
accounts {{ SYS {{ users: [{{ user: system, password: "a-password" }}] }} }}
"""


@contextmanager
def solo(path: Path, jetstream: str) -> Iterator[NatsSettings]:
    """One nats-server with this `jetstream` block."""
    port = free_ports(servers=1, peers=1).nats(1)
    path.mkdir(parents=True, exist_ok=True)
    config = path / "nats.conf"
    config.write_text(CONFIG.format(host=HOST, port=port, jetstream=jetstream))
    credentials = path / "system.creds"
    credentials.write_text('{"user": "system", "password": "a-password"}')
    process = subprocess.Popen([NATS, "--config", str(config), "--log", str(path / "nats.log")])
    try:
        wait_until(lambda: not is_free(port), "the server listens")
        yield NatsSettings(servers=[f"nats://{HOST}:{port}"], system_credentials=str(credentials))
    finally:
        process.kill()
        process.wait(ENDED_WITHIN_S)


async def test_servers_that_always_sync_have_no_fault(bus: Bus) -> None:
    assert await NatsServers(settings_of(bus), "test", CELL).faults() == {}


async def test_a_server_that_syncs_late_is_named(tmp_path: Path) -> None:
    lazy = f'jetstream {{ store_dir: "{tmp_path}/store" }}'
    with solo(tmp_path, lazy) as settings:
        found = await NatsServers(settings, "test", CELL).faults()
    assert found == {
        "solo": "acknowledges before it syncs; set jetstream { sync_interval: always }"
    }


async def test_a_server_that_syncs_always_is_not_named(tmp_path: Path) -> None:
    always = f'jetstream {{ store_dir: "{tmp_path}/store", sync_interval: always }}'
    with solo(tmp_path, always) as settings:
        assert await NatsServers(settings, "test", CELL).faults() == {}


async def test_a_server_without_jetstream_is_named(tmp_path: Path) -> None:
    with solo(tmp_path, "") as settings:
        found = await NatsServers(settings, "test", CELL).faults()
    assert found == {"solo": "has no JetStream; start it with JetStream enabled"}


async def test_a_minority_of_the_servers_says_nothing(tmp_path: Path) -> None:
    with solo(tmp_path, "") as settings:
        silent = [f"nats://{HOST}:{free_ports(servers=2, peers=1).nats(n)}" for n in (1, 2)]
        three = msgspec.structs.replace(settings, servers=[*settings.servers, *silent])
        with pytest.raises(Unavailable, match="1 of 3 NATS servers"):
            await NatsServers(three, "test", CELL).faults()


async def test_a_user_of_another_account_is_told_what_to_check(bus: Bus) -> None:
    settings = settings_of(bus)
    node = msgspec.structs.replace(settings, system_credentials=settings.credentials)
    with pytest.raises(Unavailable, match=r"check nats\.system_credentials"):
        await NatsServers(node, "test", CELL).faults()


async def test_a_dead_server_is_left_out(bus: Bus) -> None:
    kill(bus, "nats-3")
    assert await NatsServers(settings_of(bus), "test", CELL).faults() == {}


async def test_the_fake_says_what_it_is_told_and_nothing_when_cut_off() -> None:
    bus = MemoryBus()
    peer = bus.peer("peer-1")
    assert await peer.faults() == {}
    peer.server_faults = {"nats-1": "acknowledges before it syncs"}
    assert await peer.faults() == {"nats-1": "acknowledges before it syncs"}
    bus.cut_off.add("peer-1")
    with pytest.raises(Unavailable):
        await peer.faults()


async def test_every_server_tells_of_its_copies(real: RealBed) -> None:
    member = await real.member()
    servers = NatsServers(settings_of(real.bus), "test", real.cell)
    assert await servers.copies() == []
    for stripe in (0, 2):
        await member.streams.create(stripe, 3)
        await wait_heard(member.log, stripe)
    for number in range(5):
        await member.log.publish(2, f"m-{number}", b"", timeout_s=TIMEOUT_S)
    await member.streams.trim(2, 3, first_sequence=2)

    async def are_told() -> bool:
        found = {copy for copy in await servers.copies() if copy.stripe == 2}
        return found == {StripeCopy(f"nats-{n}", 2, 3, 2, 5, 0) for n in (1, 2, 3)}

    await eventually(are_told, "three copies")
    await real.erase(2, 3, 4)

    async def is_counted() -> bool:
        return [copy.deleted for copy in await servers.copies() if copy.stripe == 2] == [1, 1, 1]

    await eventually(is_counted, "what is missing within is counted")


async def test_the_copies_of_the_fake_are_alike() -> None:
    bus = MemoryBus()
    bus.found()
    bus.store(1, "a", b"", None)
    bus.store(1, "b", b"", None)
    bus.erase(1, 1)
    peer = bus.peer("peer-1")
    found = [copy for copy in await peer.copies() if copy.stripe == 1]
    assert found == [StripeCopy(f"nats-{n}", 1, 0, 1, 2, 1) for n in (1, 2, 3)]
    bus.cut_off.add("peer-1")
    with pytest.raises(Unavailable):
        await peer.copies()
