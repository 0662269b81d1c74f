"""A gateway's backend on fakes: peers that do what a test says, ids, a clock that can be moved."""

from __future__ import annotations

import asyncio

import httpx

from memsync.gateway.passing.backend import PeerBackend
from memsync.gateway.passing.members import Members
from memsync.gateway.passing.news import Hearing
from memsync.gateway.passing.routing import Suspects
from memsync.gateway.passing.watch import PeerWatch
from memsync.gateway.passing.without_peers import LastAnswers
from memsync.ports import Answer
from tests.fakes.clock import LoopClock
from tests.fakes.ways import Peers

HEADERS = {"X-API-Key": "k", "X-End-User-ID": "anna", "X-Request-ID": "req_1"}
MEMBERS = ["peer-1", "peer-2", "peer-3"]


class MovedClock(LoopClock):
    """Both clocks, ahead by as much as a test says."""

    ahead_s = 0.0

    def wall_ms(self) -> int:
        return super().wall_ms() + round(self.ahead_s * 1000)

    def steady_s(self) -> float:
        return super().steady_s() + self.ahead_s


class FakeIds:
    """Ids from 100 on, while there are any."""

    def __init__(self) -> None:
        self.next = 100
        self.are_there = True

    async def take(self, count: int) -> tuple[int, int] | None:
        if not self.are_there:
            return None
        first, self.next = self.next, self.next + count
        return first, first + count - 1


class Gateway:
    """A `PeerBackend` on fakes."""

    def __init__(self, peers: Peers, client: httpx.AsyncClient) -> None:
        self.peers = peers
        self.ids = FakeIds()
        self.suspects = Suspects()
        self.is_stopping = False
        self.members = Members(MEMBERS)
        urls = dict.fromkeys(MEMBERS, "http://127.0.0.1:1")
        self.clock = MovedClock()
        self.last_answers = LastAnswers(self.clock)
        self.hearing = Hearing(self.last_answers)
        self.watch = PeerWatch(urls, self.members, client, self.suspects)
        self.backend = PeerBackend(
            [peers.way("bus"), peers.way("second")],
            peers.way("http"),
            self.ids,
            self.watch,
            self.members,
            self.suspects,
            self.last_answers,
            is_stopping=lambda: self.is_stopping,
        )

    async def call(self, operation: str, body: bytes = b"{}", **headers: str) -> Answer:
        """One request; nothing may be left of it."""
        given = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
        before = asyncio.all_tasks()
        answer = await self.backend.call(operation, given, body)
        assert asyncio.all_tasks() == before
        assert self.peers.silent_now == 0
        return answer
