"""Which id block is the highest that the peers have seen."""

from __future__ import annotations

import asyncio

import pytest

from memsync.gateway.passing.leased_ids import HighestHeard
from memsync.gateway.passing.members import Members
from memsync.wire import codec
from memsync.wire.members import Roster
from memsync.wire.operations import Stamp

MEMBERS = ("peer-1", "peer-2", "peer-3")


def mark(member: str, highest_block: int) -> bytes:
    """A roster as it is sent, by one that knows only this of the members."""
    return codec.pack(Roster(member, "cell", Stamp(0, 0), [], highest_block))


async def test_a_majority_must_have_spoken() -> None:
    heard = HighestHeard(Members(MEMBERS))
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
    heard = HighestHeard(Members(MEMBERS))
    for block in blocks:
        heard.take(mark("peer-2", block))
    assert await heard.highest() == 8


def roster(time: int, *members: str) -> bytes:
    """A roster as it is sent, by whomever."""
    return codec.pack(Roster("peer-9", "cell", Stamp(time, 1), list(members), 0))


async def test_the_members_are_those_of_the_newest_roster() -> None:
    members = Members(["peer-3", "peer-1"])
    heard = HighestHeard(members)
    assert members.names() == ["peer-1", "peer-3"]
    heard.take(roster(0, *MEMBERS))
    assert members.names() == ["peer-1", "peer-2", "peer-3"]
    heard.take(roster(5, "peer-4", "peer-2"))
    assert members.names() == ["peer-2", "peer-4"]
    heard.take(roster(3, *MEMBERS))
    heard.take(roster(9))
    assert members.names() == ["peer-2", "peer-4"]


async def test_a_majority_is_one_of_the_members_of_now() -> None:
    heard = HighestHeard(Members(MEMBERS))
    waiting = asyncio.ensure_future(heard.wait_majority())
    heard.take(roster(5, "peer-1", "peer-2", "peer-3", "peer-4"))
    for member in ("peer-1", "peer-2"):
        heard.take(mark(member, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    heard.take(mark("peer-4", 2))
    await waiting
