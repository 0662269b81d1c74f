"""Id blocks: what `IdBlocks` promises on real servers, and the fake bus's lease beside it."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from memsync import ids
from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.errors import NoQuorum
from memsync.ports import Streams
from tests.conditions import eventually
from tests.contracts.buses import MemoryBed, RealBed

SPACE = 3
AT_ONCE_S = 0.5


class Seen:
    """What the peers have seen of blocks."""

    def __init__(self) -> None:
        self.highest = 0

    async def __call__(self) -> int:
        await asyncio.sleep(0)
        return self.highest


async def blocks_of(real: RealBed, name: str, seen: Seen | None = None) -> IdBlocks:
    """A member's blocks."""
    return IdBlocks(await real.connect(name), SPACE, seen or Seen())


async def streams_of(real: RealBed) -> Streams:
    """The streams of a member that takes no ids."""
    return (await real.member("keeper")).streams


@asynccontextmanager
async def running(blocks: IdBlocks) -> AsyncIterator[None]:
    """Lease ahead for as long as the block lasts."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(blocks.run())
        yield
        task.cancel()


def check_disjoint(ranges: list[tuple[int, int]], counts: list[int]) -> None:
    """No id twice, no range over the end of its block or at a block's number 0."""
    for (first, last), count in zip(ranges, counts, strict=True):
        assert last - first + 1 == count
        assert ids.block_of(first) == ids.block_of(last)
        assert first % ids.NUMBERS_PER_BLOCK
    ordered = sorted(ranges)
    for (_, last), (first, _) in itertools.pairwise(ordered):
        assert last < first


async def test_ranges_never_meet_between_instances_and_never_leave_their_block(
    real: RealBed,
) -> None:
    await (await streams_of(real)).create_ids(1)
    instances = [await blocks_of(real, name) for name in ("peer-1", "peer-2")]
    ranges: list[tuple[int, int]] = []
    counts: list[int] = []

    async def take(blocks: IdBlocks, seed: int) -> None:
        sizes = random.Random(seed)
        for _ in range(400):
            count = sizes.randint(1, 50)
            ranges.append(await blocks.take(count))
            counts.append(count)
            await asyncio.sleep(0)

    async with running(instances[0]):  # one leases ahead, the other when it must
        takers = (take(blocks, n) for n in range(8) for blocks in instances)
        await asyncio.gather(*takers)
    check_disjoint(ranges, counts)
    blocks_used = {ids.block_of(first) for first, _ in ranges}
    assert len(blocks_used) >= 4  # every instance came over the end of a block
    assert {first >> (ids.NUMBERS_PER_BLOCK.bit_length() - 1 + 32) for first, _ in ranges} == {3}


@pytest.mark.parametrize("left", [0, 1, 49, 50, 51, 700])
async def test_many_takers_at_the_end_of_a_block_get_ids_of_their_own(
    real: RealBed, left: int
) -> None:
    await (await streams_of(real)).create_ids(1)
    blocks = await blocks_of(real, "peer-1")
    used = ids.NUMBERS_PER_BLOCK - 1 - left
    ranges = [await blocks.take(used)]
    counts = [1 + n % 50 for n in range(200)]
    ranges += await asyncio.gather(*(blocks.take(count) for count in counts))
    check_disjoint(ranges, [used, *counts])


async def test_more_takers_at_once_than_a_block_has_ids_for(real: RealBed) -> None:
    await (await streams_of(real)).create_ids(1)
    blocks = await blocks_of(real, "peer-1")
    counts = [50] * 2_700  # two blocks and a little, all asked for before the first is leased
    ranges = await asyncio.gather(*(blocks.take(count) for count in counts))
    check_disjoint(ranges, counts)


async def test_one_take_may_have_all_that_a_block_holds_and_no_more(real: RealBed) -> None:
    await (await streams_of(real)).create_ids(1)
    blocks = await blocks_of(real, "peer-1")
    most = ids.NUMBERS_PER_BLOCK - 1
    ranges = [await blocks.take(count) for count in (1, most, most, 1)]
    check_disjoint(ranges, [1, most, most, 1])
    for count in (0, -1, most + 1):
        with pytest.raises(ValueError, match="ids at once"):
            await blocks.take(count)


async def test_a_cancelled_take_gives_nothing_away_twice(real: RealBed) -> None:
    await (await streams_of(real)).create_ids(1)
    blocks = await blocks_of(real, "peer-1")
    tasks = [asyncio.create_task(blocks.take(50)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    ranges = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(ranges) >= 10
    ranges.append(await blocks.take(50))
    check_disjoint(ranges, [50] * len(ranges))


async def test_no_block_that_was_seen_is_handed_out(real: RealBed) -> None:
    streams = await streams_of(real)
    await streams.create_ids(40)
    seen = Seen()
    seen.highest = 41
    blocks = await blocks_of(real, "peer-1", seen)
    for number in (40, 41):
        with pytest.raises(NoQuorum, match=f"id block {number} is not above 41") as raised:
            await blocks.take(1)
        assert raised.value.definite
    first, _ = await blocks.take(1)
    assert ids.block_of(first) == 42


async def test_a_stream_of_ids_that_was_made_again_too_low_gives_nothing(real: RealBed) -> None:
    streams = await streams_of(real)
    await streams.create_ids(10)
    seen = Seen()
    blocks = await blocks_of(real, "peer-1", seen)
    seen.highest = await blocks.lease()
    await streams.delete_ids()
    await streams.create_ids(9)
    for _ in range(2):
        with pytest.raises(NoQuorum):
            await blocks.take(1)
    seen.highest = await blocks.lease()
    assert seen.highest == 11


async def test_a_block_is_there_before_it_is_needed(real: RealBed) -> None:
    streams = await streams_of(real)
    await streams.create_ids(1)
    blocks = await blocks_of(real, "peer-1")

    async def ends(end: int) -> bool:
        return await streams.ids_end() == end

    async with running(blocks):
        await eventually(lambda: ends(1), "one block is leased ahead")
        await real.cut("peer-1")
        assert await blocks.take(10) == (
            ids.memory_id(SPACE, 1, 1),
            ids.memory_id(SPACE, 1, 10),
        )
        await real.restore("peer-1")
        await blocks.take(60_000)
        await blocks.take(1)
        await eventually(lambda: ends(2), "the next is leased when the first runs low")
        await real.cut("peer-1")
        first, last = await blocks.take(10_000)
        assert (ids.block_of(first), ids.block_of(last)) == (2, 2)
        await real.restore("peer-1")


async def test_leasing_ahead_goes_on_when_ids_come_back(real: RealBed) -> None:
    streams = await streams_of(real)
    blocks = await blocks_of(real, "peer-1")
    async with running(blocks):
        with pytest.raises(NoQuorum):
            await blocks.take(1)
        await streams.create_ids(5)

        async def is_leased() -> bool:
            return await streams.ids_end() == 5

        await eventually(is_leased, "a block is leased ahead")
    assert ids.block_of((await blocks.take(1))[0]) == 5


class Leases:
    """What leases blocks: `IdBlocks` for each of two members, or their fake buses."""

    def __init__(self, bed: RealBed | MemoryBed) -> None:
        self.bed = bed
        self.members: dict[str, Callable[[], Awaitable[int]]] = {}

    async def connect(self, name: str) -> Callable[[], Awaitable[int]]:
        """A member's lease."""
        if isinstance(self.bed, RealBed):
            return (await blocks_of(self.bed, name)).lease
        return self.bed.bus.peer(name).lease


@pytest.fixture
def leases(bed: RealBed | MemoryBed) -> Leases:
    """On every bus in turn."""
    return Leases(bed)


async def test_a_block_is_leased_once(leases: Leases) -> None:
    await (await leases.bed.member("keeper")).streams.create_ids(7)
    members = [await leases.connect(name) for name in ("peer-1", "peer-2")]
    found = await asyncio.gather(*(lease() for lease in members for _ in range(20)))
    assert sorted(found) == list(range(7, 47))
    assert await (await leases.bed.member("keeper-2")).streams.ids_end() == 46


async def test_without_a_stream_of_ids_there_is_no_block(leases: Leases) -> None:
    lease = await leases.connect("peer-1")
    started = time.monotonic()
    with pytest.raises(NoQuorum) as raised:
        await lease()
    assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S


async def test_without_a_connection_there_is_no_block(leases: Leases) -> None:
    await (await leases.bed.member("keeper")).streams.create_ids(1)
    lease = await leases.connect("peer-1")
    assert await lease() == 1
    await leases.bed.cut("peer-1")
    started = time.monotonic()
    with pytest.raises(NoQuorum) as raised:
        await lease()
    assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S
    await leases.bed.restore("peer-1")
    assert await lease() == 2


async def test_a_block_that_somebody_holds_unused_is_not_handed_out_again(real: RealBed) -> None:
    """The stream is rolled back below blocks that no peer has seen in use."""
    streams = await streams_of(real)
    await streams.create_ids(1)
    holder, other = [await blocks_of(real, name) for name in ("peer-1", "peer-2")]
    async with running(other):
        held = [await holder.lease() for _ in range(5)]

        async def has_heard() -> bool:
            return other.highest_leased >= max(held)

        await eventually(has_heard, "peer-2 knows what peer-1 holds")
        await streams.delete_ids()
        await streams.create_ids(1)
        given: list[int] = []
        while not given:
            try:
                given.append(await other.lease())
            except NoQuorum:
                pass
        assert min(given) > max(held)


async def test_no_block_is_taken_before_it_is_known_what_was_seen(real: RealBed) -> None:
    streams = await streams_of(real)
    await streams.create_ids(1)

    async def unknown() -> int:
        raise NoQuorum("nobody was heard")

    blocks = IdBlocks(await real.connect("peer-1"), SPACE, unknown)
    for _ in range(3):
        with pytest.raises(NoQuorum, match="nobody was heard"):
            await blocks.lease()
    assert await streams.ids_end() == 0
