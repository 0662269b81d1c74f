"""What makes a peer leave writes to others: each reason by itself, and for as long as it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from memsync.errors import NoQuorum, Unavailable
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of

HOUR_MS = 3_600_000
UNFIT = 2  # the place of the peer that is harmed


@asynccontextmanager
async def a_cell() -> AsyncIterator[Cell]:
    bus = MemoryBus()
    bus.found()
    async with running_cell(bus) as cell:
        yield cell


async def add(peer: CellPeer, number: int) -> None:
    await peer.appender.write(
        write_of(peer, f"key-{number}", create(number)),
        ack="quorum",
        deadline_s=peer.clock.steady_s() + 10.0,
    )


async def is_with(peer: CellPeer, number: int) -> bool:
    return await peer.record(create(number).record) is not None


async def fill_disk(peer: CellPeer) -> Callable[[], None]:
    real = peer.store.apply

    async def fails(*arguments: object) -> object:
        raise Unavailable("store: database or disk is full")

    def mend() -> None:
        peer.store.apply = real  # type: ignore[method-assign]

    peer.store.apply = fails  # type: ignore[method-assign, assignment]
    return mend


async def put_clock_ahead(peer: CellPeer) -> Callable[[], None]:
    peer.clock.offset_ms = HOUR_MS

    def mend() -> None:
        peer.clock.offset_ms = 0

    return mend


async def lose_rows(peer: CellPeer) -> Callable[[], None]:
    peer.progress.set_lacking("test", "rows are to come")
    return lambda: peer.progress.set_lacking("test", None)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (fill_disk, "disk is full"),
        (put_clock_ahead, "ahead of the members' median"),
        (lose_rows, "rows are to come"),
    ],
)
async def test_a_harmed_peer_leaves_writes_to_others_until_it_is_well(
    harm: Callable[[CellPeer], Awaitable[Callable[[], None]]], why: str
) -> None:
    async with a_cell() as cell:
        peer = cell[UNFIT]
        assert peer.appender.unfit() is None
        mend = await harm(peer)
        await add(cell[0], 1)  # others go on

        async def is_unfit() -> bool:
            return why in (peer.appender.unfit() or "")

        await eventually(is_unfit, "it leaves writes to others")
        assert cell[0].appender.unfit() is None
        mend()

        async def is_fit() -> bool:
            return peer.appender.unfit() is None and await is_with(peer, 1)

        await eventually(is_fit, "it is well again, and has what it missed")
        await add(peer, 2)


async def test_a_peer_whose_disk_is_full_publishes_nothing() -> None:
    async with a_cell() as cell:
        peer = cell[UNFIT]
        mend = await fill_disk(peer)
        await add(cell[0], 1)

        async def is_failing() -> bool:
            return peer.applier.failing is not None

        await eventually(is_failing, "its store fails")
        published = [len(stream.messages) for stream in cell.bus.streams.values()]
        with pytest.raises(NoQuorum, match="disk is full") as refused:
            await add(peer, 2)
        assert refused.value.definite
        assert [len(stream.messages) for stream in cell.bus.streams.values()] == published
        mend()


async def test_a_peer_that_stopped_applying_leaves_writes_to_others() -> None:
    async with a_cell() as cell:
        peer = cell[UNFIT]
        peer.applier.broken = "frame schema 2"
        assert peer.appender.unfit() == "frame schema 2"
        assert "stopped applying" in (peer.appender.why_not() or "")
