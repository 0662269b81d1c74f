"""Which id block is the highest that the peers have seen."""

from __future__ import annotations

import asyncio

import pytest

from memsync.gateway.passing.leased_ids import HighestHeard
from memsync.wire import codec
from memsync.wire.members import Watermark

MEMBERS = ("peer-1", "peer-2", "peer-3")


def mark(member: str, highest_block: int) -> bytes:
    """A watermark as it is sent."""
    return codec.pack(Watermark(member, "cell", 1, 1, [], [], highest_block, 0))


async def test_a_majority_must_have_spoken() -> None:
    heard = HighestHeard(MEMBERS)
    waiting = asyncio.ensure_future(heard.wait_majority())
    for data in (mark("peer-1", 7), mark("peer-1", 5), mark("stranger", 99), b"nonsense"):
        heard.take(data)
    await asyncio.sleep(0)
    assert not waiting.done()
    heard.take(mark("peer-3", 9))
    await waiting
    assert await heard.highest() == 9


@pytest.mark.parametrize("blocks", [(3, 8), (8, 3)])
async def test_what_was_heard_once_stays(blocks: tuple[int, int]) -> None:
    heard = HighestHeard(MEMBERS)
    for block in blocks:
        heard.take(mark("peer-2", block))
    assert await heard.highest() == 8
