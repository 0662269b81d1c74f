"""The stream of ids: lost, rolled back, mended by many at once; no block is handed out twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from memsync.engine.streams.id_stream import APART, PLACES, IdStream
from memsync.errors import MemsyncError, NoQuorum, Unavailable
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus, T, Wires
from tests.fakes.cell import Cell, CellPeer, running_cell

SPAN = APART * PLACES
HOLDERS = 4


class Unhurried(Wires):
    """Every question about ids takes its own time, before and after it is heard."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def ask(self, kind: str, source: str, do: Callable[[], T], *, timeout_s: float) -> T:
        if "ids" not in kind and kind != "lease":
            return await super().ask(kind, source, do, timeout_s=timeout_s)
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        found = do()
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        return found


def caretaker(peer: CellPeer) -> IdStream:
    return peer.engine.caretakers.id_stream


async def lease(peer: CellPeer) -> int:
    """A block as every leaser takes it: only above what a majority says it has seen."""
    highest = max(mark.highest_block for mark in peer.members.watermarks().values())
    block = await peer.bus.lease()
    if block <= highest:
        raise NoQuorum(f"block {block} was seen")
    return block


async def mended(cell: Cell) -> None:
    """Wait until every caretaker is content."""

    async def are_content() -> bool:
        return all(caretaker(peer).fault is None for peer in cell.peers.values())

    await eventually(are_content, "the stream of ids is right")


async def test_a_new_cell_begins_above_a_block_that_its_log_holds() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        assert bus.first_block == SPAN + 1 + len(cell.peers)
        assert [peer.store.highest_block >= SPAN for peer in cell.peers.values()] == [True] * 3


@pytest.mark.parametrize("made_again_at", [None, 1, 5])
async def test_lost_or_rolled_back_it_goes_on_above_what_was_handed_out(
    made_again_at: int | None,
) -> None:
    """Also above the blocks that somebody holds and has not used."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        held = [await lease(cell[n % 3]) for n in range(200)]
        bus.first_block = made_again_at

        async def goes_on() -> int | None:
            try:
                return await lease(cell[1])
            except Unavailable:
                return None

        block = await eventually(goes_on, "a block is handed out again", 15)
        assert block is not None
        assert block > max(held)
        await mended(cell)


async def test_lost_again_before_anything_was_used_it_does_not_begin_there_again() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        await mended(cell)
        handed_out: list[int] = []
        for _ in range(4):
            bus.first_block = None
            looker = caretaker(cell[0])
            while await looker.look() is not None:
                pass
            handed_out += [await cell[0].bus.lease() for _ in range(10)]
        assert len(set(handed_out)) == len(handed_out)


async def test_with_a_minority_nothing_is_made() -> None:
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        await mended(cell)
        for name in ("peer-2", "peer-3"):
            await cell.stop(name)

        async def is_alone() -> bool:
            return len(cell[0].members.alive()) == 1

        await eventually(is_alone, "peer-1 is alone")
        bus.first_block = None
        with pytest.raises(Unavailable, match="a majority must say"):
            await caretaker(cell[0]).look()
        assert bus.first_block is None


@pytest.mark.parametrize("seed", range(12))
async def test_whoever_mends_it_in_whatever_order_no_block_is_handed_out_twice(seed: int) -> None:
    """All peers mend at once, every call takes its own time, and the stream is lost in between."""
    bus = MemoryBus()
    async with running_cell(bus) as cell:
        chance = random.Random(seed)
        bus.network = Unhurried(chance)
        handed_out: list[int] = []

        async def hold() -> None:
            for _ in range(60):
                peer = cell[chance.randrange(3)]
                try:
                    handed_out.append(await lease(peer))
                except MemsyncError:
                    pass
                await asyncio.sleep(0)

        async def mend(peer: CellPeer) -> None:
            looker = IdStream(peer.bus, peer.bus, peer.members)
            for _ in range(8):
                looker._looks = 99  # it has waited for the others long enough
                try:
                    await looker.look()
                except Unavailable:
                    pass

        async def lose() -> None:
            for _ in range(6):
                for _ in range(chance.randrange(1, 40)):
                    await asyncio.sleep(0)
                bus.first_block = chance.choice([None, 1, SPAN - 3, bus.first_block])

        lookers = [mend(peer) for peer in cell.peers.values() for _ in range(2)]
        await asyncio.gather(lose(), *lookers, *(hold() for _ in range(HOLDERS)))
        assert len(set(handed_out)) == len(handed_out)
        looker = caretaker(cell[0])
        while await looker.look() is not None:
            pass
        assert await lease(cell[0]) not in handed_out
