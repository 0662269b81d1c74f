"""A server whose copy of the log is damaged is found, named and, after the remedy, whole again."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from memsync.adapters.jetstream.servers import NatsServers
from memsync.clock import SystemClock
from memsync.core.membership import founded
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.streams.log_scrub import LogScrub, misfits
from memsync.engine.streams.ownership import OwnedLog, Ownership
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import StripeState
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, RawMessage, frame_id
from tests.conditions import eventually
from tests.contracts.buses import TIMEOUT_S, Member, RealBed, make_whole, settings_of, wait_heard

FRAMES = 2_000
WHOLE_S = 30.0


def frame(number: int) -> Frame:
    return Frame(SCHEMA, 7, number, [])


def message(number: int) -> RawMessage:
    return RawMessage(Position(0, 0, number), codec.pack(frame(number)), frame_id(frame(number)))


def test_holes_and_what_is_not_what_was_published_are_named() -> None:
    good = [message(n) for n in range(1, 11)]
    assert misfits(good, 1, ()) == []
    assert misfits(good[:2] + good[5:], 1, ()) == [3, 4, 5]
    assert misfits(good[4:], 2, ()) == [2, 3, 4]
    garbage = RawMessage(Position(0, 0, 11), b"\xff", "x")
    other = RawMessage(Position(0, 0, 12), message(3).data, "7.9")
    assert misfits([*good, garbage, other], 1, ()) == [11, 12]
    assert misfits([*good, garbage, other], 1, {Position(0, 0, 11)}) == [12]
    assert misfits([], 5, ()) == []


class _Looked:
    """What `Stripes` has looked at."""

    def __init__(self, state: StripeState) -> None:
        self.states = {0: state}


async def scrub_of(real: RealBed, member: Member) -> LogScrub:
    """The scrub of a peer that has applied nothing yet."""
    clock = SystemClock()
    progress = Progress(clock)
    members = Members(
        "peer-1",
        founded(("peer-1",)),
        "cell",
        marks=member.marks,
        progress=progress,
        clock=clock,
        own=lambda: pytest.fail("nothing is told here"),
        incarnation=lambda: 1,
    )
    ownership = Ownership(member.streams, "cell", "cell", lambda why: None)
    stripes = _Looked(await ownership.state(0, 0))
    return LogScrub(
        NatsServers(settings_of(real.bus), "scrub", real.cell),
        OwnedLog(member.log, ownership),
        ownership,
        members=members,
        progress=progress,
        stripes=stripes,  # type: ignore[arg-type]
        void=(),
    )


async def filled(real: RealBed) -> Member:
    """A stripe with frames, on all servers."""
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    for first in range(1, FRAMES + 1, 100):
        batch = [message(n) for n in range(first, first + 100)]
        await asyncio.gather(
            *(member.log.publish(0, m.message_id, m.data, timeout_s=TIMEOUT_S) for m in batch)
        )
    return member


async def test_a_sound_log_has_no_findings(real: RealBed) -> None:
    scrub = await scrub_of(real, await filled(real))
    for _ in range(12):
        await scrub.read_back(0)
    await scrub.ask_servers()
    assert scrub.verdict() == "ok"


async def test_a_follower_that_lost_half_a_block_is_named_and_mended(real: RealBed) -> None:
    """Jepsen's truncation (nats-server #7549): the server itself says that it is well."""
    member = await filled(real)
    state = await member.streams.state(0, 0)
    victim = next(server for server in state.servers if server != state.leader)
    number = int(victim.removeprefix("nats-"))
    store = real.bus.home.data(victim)
    real.bus.end(number)
    [block] = store.glob(f"jetstream/*/streams/{real.cell.stream(0, 0)}/msgs/1.blk")
    truncate_half(block)
    await make_whole(real.bus)
    scrub = await scrub_of(real, member)

    async def is_found() -> bool:
        return await look(scrub, f"server {victim}")

    await eventually(is_found, f"{victim} is named", WHOLE_S)
    said = scrub.verdict()
    assert said.startswith("ok: ")
    assert f"{victim} lacks messages within its copy of the log" in said
    assert "move its store_dir aside" in said
    assert set(scrub.findings) <= {f"server {victim}", "stripe 0"}

    async def is_read() -> bool:
        await scrub.read_back(0)
        return "stripe 0" in scrub.findings

    await eventually(is_read, "reading back meets the holes, too", WHOLE_S)
    real.bus.end(number, signal.SIGKILL)
    shutil.move(store, store.with_name(f"{victim}-aside"))
    await make_whole(real.bus)

    async def is_mended() -> bool:
        await look(scrub, f"server {victim}")
        await scrub.read_back(0)
        return not scrub.findings

    await eventually(is_mended, "the remedy helps", 60)


async def look(scrub: LogScrub, place: str) -> bool:
    """Ask the servers; whether there is a finding at this place."""
    try:
        await scrub.ask_servers()
    except Unavailable:
        pass
    return place in scrub.findings


def truncate_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
