"""Ways to peers that do what a test says, and remember what they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from memsync import errors
from memsync.gateway.exchange import error_to_answer
from memsync.gateway.passing.attempts import NoAnswerError, NotDeliveredError
from memsync.ports import Answer

GOOD = Answer(200, {"Memsync-Position": "0.0.1"}, b'{"memories":[]}')
HEARD_S = 0.001  # a time-out is heard after it: whoever waited for that time is gone by then


def refusal(cls: type[errors.MemsyncError]) -> Answer:
    """A peer's answer that says an error."""
    return error_to_answer(cls("as the test says"), "req_peer")


class Asked(msgspec.Struct, frozen=True):
    """One attempt as it arrived."""

    way: str
    member: str
    operation: str
    headers: dict[str, str]
    body: bytes


class Peers:
    """What each peer does, by (way, member), by member, or by default. `asked` has the attempts.

    A behaviour is an answer, an exception, `silent`, or an awaitable function.
    """

    def __init__(self, default: Any = GOOD) -> None:
        self.default = default
        self.does: dict[Any, Any] = {}
        self.asked: list[Asked] = []
        self.silent_now = 0  # attempts that wait at this moment
        self.closed: set[str] = set()

    def way(self, name: str) -> FakeWay:
        """A way to these peers."""
        return FakeWay(name, self)

    def members(self) -> list[str]:
        """Who was asked, in order."""
        return [asked.member for asked in self.asked]

    async def were_two_asked(self) -> bool:
        """Whether a second attempt has begun."""
        return len(self.asked) > 1

    async def answer(self, asked: Asked) -> Answer:
        """Do what the test says."""
        self.asked.append(asked)
        does = self.does.get((asked.way, asked.member), self.does.get(asked.member, self.default))
        if isinstance(does, Exception):
            raise does
        if isinstance(does, Answer):
            return does
        found: Answer = await does(self)
        return found


class FakeWay:
    """A `Way` to `Peers`."""

    def __init__(self, name: str, peers: Peers) -> None:
        self.name = name
        self._peers = peers

    def is_open(self) -> bool:
        """Unless the test closed it."""
        return self.name not in self._peers.closed

    async def ask(
        self, member: str, operation: str, headers: dict[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        """Do what the test says, no longer than the time-out."""
        asked = Asked(self.name, member, operation, dict(headers), body)
        try:
            async with asyncio.timeout(timeout_s + HEARD_S):
                return await self._peers.answer(asked)
        except TimeoutError as error:
            raise NoAnswerError("time-out") from error


async def silent(peers: Peers) -> Answer:
    """Never answer."""
    peers.silent_now += 1
    try:
        return await asyncio.get_running_loop().create_future()
    finally:
        peers.silent_now -= 1


def after(seconds: float, answer: Answer = GOOD) -> Callable[[Peers], Any]:
    """Answer late."""

    async def late(peers: Peers) -> Answer:
        await asyncio.sleep(seconds)  # the peer's own slowness, not a wait of the test
        return answer

    return late


NOT_DELIVERED = NotDeliveredError("no responders")
NO_ANSWER = NoAnswerError("connection lost")
