"""A gateway's two connections: through different servers, also after one of them died; and the news
that come over both."""

from __future__ import annotations

import asyncio
import signal
import time

import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync.adapters.jetstream.marks import JetStreamNews
from memsync.engine.cell.news import Telling
from memsync.gateway.passing.attempts import NoAnswerError
from memsync.gateway.passing.news import Hearing, hear
from memsync.gateway.passing.ways import BusWay, keep_apart
from memsync.ports import Change
from memsync.wire.news import about_user
from tests.conditions import eventually
from tests.contracts.buses import Line, RealBed, settings_of
from tests.fakes.memories import changed, memory
from tests.system.local_bus import Bus

PATIENCE_S = 30.0  # a server dies, and its clients look for another


class Kept:
    """Remembers what was dropped."""

    def __init__(self) -> None:
        self.users: list[bytes] = []
        self.all: list[str] = []

    def heard(self, member: str) -> None:
        pass

    def drop_user(self, user: bytes, why: str) -> None:
        self.users.append(user)

    def drop_key(self, key_hash: bytes, why: str) -> None:
        raise AssertionError("no key changes here")

    def drop_all(self, why: str) -> None:
        self.all.append(why)


async def test_ways_part_again_after_a_server_died_and_news_go_on(bus: Bus, real: RealBed) -> None:
    kept = Kept()
    hearing = Hearing(kept)
    ways = [
        BusWay(name, real.cell, settings_of(bus), servers)
        for name, servers in (
            ("bus", bus.servers),
            ("second_bus", [*bus.servers[1:], bus.servers[0]]),
        )
    ]
    teller = await real.connect("peer-1")
    channel = JetStreamNews(teller, real.cell, "peer-1")
    telling = Telling("peer-1", "cell", channel, session=1)
    tea = memory("tea", "green tea")

    async def listen(client: Client) -> None:
        await hear(client, real.cell, hearing)

    async def are_together() -> bool:
        return ways[0].server() is not None and ways[0].server() == ways[1].server()

    async def are_apart() -> bool:
        servers = {way.server() for way in ways}
        return None not in servers and len(servers) == 2

    async def is_heard() -> bool:
        telling.apply([Change(tea, changed(tea, deleted=True))])
        return about_user("ada") in kept.users

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(way.run(f"test-{way.name}", listen)) for way in ways]
        running.append(tasks.create_task(telling.run()))
        await eventually(are_apart, "each has its server", PATIENCE_S)
        await eventually(is_heard, "news are heard", PATIENCE_S)
        bus.end(1, signal.SIGKILL)
        await eventually(are_together, "both go through the same server", PATIENCE_S)
        running.append(tasks.create_task(keep_apart(*ways)))
        await eventually(are_apart, "each has its own again", PATIENCE_S)
        kept.users.clear()
        await eventually(is_heard, "news are heard again", PATIENCE_S)
        for task in running:
            task.cancel()


async def test_one_server_is_no_reason_to_move(bus: Bus, real: RealBed) -> None:
    only = [bus.servers[0]]
    ways = [BusWay(name, real.cell, settings_of(bus), only) for name in ("bus", "second_bus")]
    async with asyncio.timeout(PATIENCE_S):
        await keep_apart(*ways)  # ends at once


async def test_what_waits_over_a_silent_line_is_told_when_the_line_is_given_up(
    real: RealBed,
) -> None:
    """A cable is out, and the watchdog gives the connection up: nobody waits until his deadline."""
    line = Line(real.bus.servers)
    await line.open()
    settings = msgspec.structs.replace(settings_of(real.bus), servers=[line.url])
    way = BusWay("bus", real.cell, settings, [line.url])
    asked = asyncio.Event()

    async def keep_silent(message: Msg) -> None:
        asked.set()

    async def nothing(client: Client) -> None:
        await asyncio.get_running_loop().create_future()

    async def is_up() -> bool:
        return way.is_open()

    await real.admin.subscribe(real.cell.peer("peer-1", ">"), cb=keep_silent)
    await real.admin.flush()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(way.run("test", nothing))
        await eventually(is_up, "it is up", PATIENCE_S)
        waiting = asyncio.create_task(way.ask("peer-1", "memory.add", {}, b"", PATIENCE_S))
        await asyncio.wait_for(asked.wait(), PATIENCE_S)
        line.silence()
        began = time.monotonic()
        with pytest.raises(NoAnswerError):
            await waiting
        assert time.monotonic() - began < PATIENCE_S / 3
        line.mend()
        await eventually(is_up, "it is up again", PATIENCE_S)
        running.cancel()
    await line.close()
