"""Messages that nobody of ours wrote: peers stop, name them, and pass by what a person says."""

from __future__ import annotations

import msgspec
import pytest

from memsync.engine.applier import Applier
from memsync.engine.progress import Progress
from memsync.ids import Position
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, RawMessage, frame_id
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import CellPeer, create, running_cell, write_of
from tests.fakes.clock import LoopClock
from tests.fakes.store import MemoryStore

LATER = codec.pack((SCHEMA + 1, 7, 1, []))
UNKNOWN = codec.pack((SCHEMA, 7, 1, [["k", b"h" * 16, 600, [1, "", "development", "ada"], "a", "",
                                      [1, 1], [], [[99, b"r" * 16]]]]))  # fmt: skip
POISON = {"garbage": b"\xff\xfenobody's", "empty": b"", "later": LATER, "unknown": UNKNOWN}


@pytest.mark.parametrize("data", POISON.values(), ids=POISON.keys())
async def test_every_peer_stops_names_the_message_and_recalls_tagged(data: bytes) -> None:
    bus = MemoryBus()
    bus.found()
    async with running_cell(bus) as cell:
        await cell[0].appender.write(
            write_of(cell[0], "key-1", create(1)),
            ack="all",
            deadline_s=cell[0].clock.steady_s() + 5,
        )
        place = bus.store(2, "a-stranger", data, None)

        async def have_stopped() -> bool:
            return all(peer.applier.broken for peer in cell.peers.values())

        await eventually(have_stopped, "every peer has stopped")
        for peer in cell.peers.values():
            said = peer.health.checks()["store"]
            assert f"It lies at 2.0.{place.sequence} of the log" in said
            assert "'a-stranger'" in said
            assert f'void_positions = ["2.0.{place.sequence}"]' in said
            assert peer.progress.is_behind()
            assert peer.appender.why_not() is not None
            assert await peer.record(create(1).record) is not None


async def frames(peer: CellPeer, count: int) -> list[RawMessage]:
    """Frames of stripe 0 as they would lie in the log."""
    found = []
    for number in range(1, count + 1):
        frame = Frame(SCHEMA, 5, number, [write_of(peer, f"key-{number}", create(number))])
        position = Position(0, 0, number)
        found.append(RawMessage(position, codec.pack(frame), frame_id(frame)))
    return found


async def test_what_lies_before_it_is_applied_and_nothing_after_it() -> None:
    peer = CellPeer(MemoryBus(), "peer-1", ["peer-1"])
    good = await frames(peer, 9)
    bad = msgspec.structs.replace(good[4], data=b"\xff", message_id="stranger")
    store = MemoryStore()
    applier = Applier(store, Progress(LoopClock()), [])
    with pytest.raises(Exception, match=r"It lies at 0\.0\.5"):
        await applier._apply_or_name([*good[:4], bad, *good[5:]])
    assert await store.positions() == {(0, 0): 4}
    there = [await store.record(create(n).record) is not None for n in range(1, 10)]
    assert there == [True] * 4 + [False] * 5


async def test_a_person_may_pass_exactly_one_position_by() -> None:
    peer = CellPeer(MemoryBus(), "peer-1", ["peer-1"])
    good = await frames(peer, 9)
    bad = msgspec.structs.replace(good[4], data=b"\xff", message_id="stranger")
    store = MemoryStore()
    applier = Applier(store, Progress(LoopClock()), [], void=[Position(0, 0, 5)])
    await applier._apply_or_name([*good[:4], bad, *good[5:]])
    assert await store.positions() == {(0, 0): 9}
    there = [await store.record(create(n).record) is not None for n in range(1, 10)]
    assert there == [True] * 4 + [False] + [True] * 4
    worse = msgspec.structs.replace(bad, position=Position(0, 0, 10))
    with pytest.raises(Exception, match=r"It lies at 0\.0\.10"):
        await applier._apply_or_name([worse])
