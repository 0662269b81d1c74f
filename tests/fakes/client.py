"""A cluster for the client library's tests: ways whose attempts end as a script says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from memsync import errors
from memsync.client.answers import Reply
from memsync.client.asking import NoAnswerError, NotDeliveredError, Request
from memsync.wire import codec

LOST = NoAnswerError("no answer from somebody: connection reset")
NOT_THERE = NotDeliveredError("nobody listens")
GOOD = Reply(200, {}, b"{}")
Behaviour = Exception | Reply | Callable[["FakeCluster"], Awaitable[Reply]]


def refusal(error: errors.MemsyncError, status: int | None = None) -> Reply:
    """A server's answer that says an error."""
    body = codec.to_json(errors.error_answer(error, "req"))
    return Reply(error.http_status if status is None else status, {}, body)


class FakeCluster:
    """What each attempt comes to, in order of the attempts; then `default`."""

    def __init__(self, *script: Behaviour, default: Behaviour = GOOD) -> None:
        self.script = [*script]
        self.default = default
        self.asked: list[tuple[str, Request]] = []
        self.silent_now = 0

    def ways(self, *names: str) -> list[FakeWay]:
        """Ways to this cluster."""
        return [FakeWay(name, self) for name in names or ("one", "two")]

    @property
    def names(self) -> list[str]:
        """The ways that were taken, in order."""
        return [name for name, _ in self.asked]

    async def answer(self, way: str, request: Request, sent: Callable[[], None]) -> Reply:
        """The next of the script."""
        self.asked.append((way, request))
        does = self.script.pop(0) if self.script else self.default
        if not isinstance(does, NotDeliveredError):
            sent()
        if isinstance(does, Exception):
            raise does
        return does if isinstance(does, Reply) else await does(self)


class FakeWay:
    """A `Way` to a `FakeCluster`."""

    def __init__(self, name: str, cluster: FakeCluster) -> None:
        self.failed_at_s = 0.0
        self.name = name
        self.is_closed = False
        self._cluster = cluster

    def is_open(self) -> bool:
        """Always."""
        return True

    async def ask(self, request: Request, timeout_s: float, sent: Callable[[], None]) -> Reply:
        """See `Way`."""
        return await self._cluster.answer(self.name, request, sent)

    async def close(self) -> None:
        """Noted."""
        self.is_closed = True


async def silent(cluster: FakeCluster) -> Reply:
    """Never answer."""
    cluster.silent_now += 1
    try:
        return await asyncio.get_running_loop().create_future()
    finally:
        cluster.silent_now -= 1


def terms(**changes: Any) -> dict[str, Any]:
    """The terms of a call that is in a hurry."""
    usual = {"within_s": 5.0, "patience_s": 0.01, "retries": True, "has_met": False}
    return usual | changes
