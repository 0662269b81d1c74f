"""When a recall asks a second peer beside a silent one: after the p95 of what was answered lately,
and not too often. Time is virtual, so the moments are exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from memsync.client import patience
from memsync.gateway import metrics
from memsync.ports import Answer
from tests.fakes.gateway import Gateway
from tests.fakes.ways import GOOD, NOT_DELIVERED, Peers, after

QUESTION = b'{"query": "tea"}'
# A recall of tier medium waits no longer than a fifth of its 500 ms, whatever the p95 is, and half
# of them where its hedge is not granted.
SHARE_S, UNGRANTED_S = 0.1, 0.25


class Timed:
    """Whoever is asked first answers late; `moments` are those in which peers were asked."""

    def __init__(self, late_s: float) -> None:
        self.late_s = late_s
        self.moments: list[float] = []

    async def __call__(self, peers: Peers) -> Answer:
        self.moments.append(asyncio.get_running_loop().time())
        if len(self.moments) == 1:
            await asyncio.sleep(self.late_s)  # the peer's own slowness, not a wait of the test
        return GOOD


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
async def gateway(peers: Peers) -> AsyncIterator[Gateway]:
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport) as client:
        yield Gateway(peers, client)


async def recalls(gateway: Gateway, peers: Peers, seconds: float, count: int) -> None:
    """So many recalls that are answered after so long."""
    peers.default = after(seconds)
    for _ in range(count):
        await gateway.call("memory.query", QUESTION)


async def waited_s(gateway: Gateway, peers: Peers) -> float:
    """After how long another peer is asked beside a silent one."""
    timed = Timed(late_s=1.0)
    peers.default = timed
    assert await gateway.call("memory.query", QUESTION) == GOOD
    assert len(timed.moments) == 2
    return timed.moments[1] - timed.moments[0]


@pytest.mark.parametrize(
    ("answered", "expected_s"),
    [
        ({0.05: 32}, 0.05),
        ({0.001: 32}, patience.HEDGE_S_MIN),
        ({0.03: 28, 0.09: 4}, 0.09),  # more than 5 % are that slow
        ({0.03: 31, 0.09: 1}, 0.03),
    ],
)
async def test_a_second_peer_is_asked_after_the_p95_of_what_was_answered(
    answered: dict[float, int], expected_s: float, gateway: Gateway, peers: Peers
) -> None:
    assert sum(answered.values()) == patience.TIMES_BETWEEN
    for seconds, count in answered.items():
        await recalls(gateway, peers, seconds, count)
    assert await waited_s(gateway, peers) == pytest.approx(expected_s)


async def test_until_enough_is_known_it_waits_as_long_as_it_may(
    gateway: Gateway, peers: Peers
) -> None:
    await recalls(gateway, peers, 0.05, patience.TIMES_BETWEEN - 1)
    assert await waited_s(gateway, peers) == pytest.approx(patience.HEDGE_S_FIRST)


async def test_what_no_peer_answered_says_nothing_of_how_long_an_answer_takes(
    gateway: Gateway, peers: Peers
) -> None:
    await recalls(gateway, peers, 0.05, patience.TIMES_BETWEEN)
    peers.default = NOT_DELIVERED
    for _ in range(patience.TIMES_KEPT):
        assert (await gateway.call("memory.query", QUESTION)).status == 200
    assert await waited_s(gateway, peers) == pytest.approx(0.05)


async def test_hedges_are_rationed(gateway: Gateway, peers: Peers) -> None:
    """All peers are slow: asking two each time would make them slower."""
    asked, before = [], metrics.HEDGES._value.get()
    saved, rounds = int(patience.HEDGES_SAVED_MAX), 200
    peers.default = after(0.15)
    for _ in range(rounds):
        peers.asked.clear()
        await gateway.call("memory.query", QUESTION)
        asked.append(len(peers.asked))
    assert asked[:saved] == [2] * saved
    granted = saved + int(rounds * patience.HEDGES_PER_RECALL)
    assert granted - 2 <= asked.count(2) <= granted + 2
    assert asked.count(1) == rounds - asked.count(2)
    assert metrics.HEDGES._value.get() - before == asked.count(2)


async def test_one_that_is_not_granted_waits_longer(gateway: Gateway, peers: Peers) -> None:
    await recalls(gateway, peers, 0.15, 60)
    waits = [await waited_s(gateway, peers) for _ in range(20)]
    granted = [wait_s for wait_s in waits if wait_s == pytest.approx(SHARE_S)]
    assert 1 <= len(granted) <= 3  # one in ten
    assert [wait_s for wait_s in waits if wait_s not in granted] == pytest.approx(
        [UNGRANTED_S] * (len(waits) - len(granted))
    )


async def test_those_that_are_not_needed_are_saved(gateway: Gateway, peers: Peers) -> None:
    await recalls(gateway, peers, 0.15, 60)
    await recalls(gateway, peers, 0.001, 2 * patience.TIMES_KEPT)
    peers.default = after(0.03)  # one hedge each, at 20 ms
    peers.asked.clear()
    for _ in range(int(patience.HEDGES_SAVED_MAX)):
        await gateway.call("memory.query", QUESTION)
    assert len(peers.asked) == 2 * int(patience.HEDGES_SAVED_MAX)
