"""Telling gateways what changed here, as it is applied (`wire/news.py` says what and why).

It only collects names while a batch is applied; the telling is a loop of its own, that nothing
waits for. News that could not be sent leave a gap in the numbers: who listens then knows that it
has missed something, and drops all that it keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from memsync import limits
from memsync.core.records import VERSIONED, Record
from memsync.engine import metrics
from memsync.errors import Unavailable
from memsync.ports import Change, Channel
from memsync.tasks import is_going_on
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.news import News, about_user
from memsync.wire.operations import ApiKeyOrigin

_TOLD = frozenset({"memory", "api_key", "organisation", "project"})


class Telling:
    """Tells the news of `member` over `channel`; `session` is a number that no other process
    has."""

    def __init__(self, member: str, cell: str, channel: Channel, *, session: int) -> None:
        self._member = member
        self._cell = cell
        self._channel = channel
        self._session = session
        self._number = 0
        self._users: set[str] = set()
        self._keys: set[bytes] = set()
        self._is_all = False
        self._arrived = asyncio.Event()

    def apply(self, changes: Sequence[Change]) -> None:
        """Note what a batch changed that was there before."""
        for change in changes:
            before, after = change.before, change.after
            if before is None or not _is_changed(before, after):
                continue
            match after.kind:
                case "memory":
                    self._users.add(after.scope.end_user)
                case "api_key":
                    self._keys.update(_hashes(before, after))
                case _:
                    self._is_all = True
            self._arrived.set()

    async def run(self) -> None:
        """Tell for ever, at the latest every `NEWS_S`; ends when cancelled."""
        while is_going_on():
            await self._wait_arrived()
            news = self._take()
            try:
                await self._channel.tell(codec.pack(news))
            except Unavailable as error:
                logger().debug("news.not_told", **describe(error))
            else:
                metrics.NEWS_TOLD.labels("content" if news.has_content else "number").inc()

    async def _wait_arrived(self) -> None:
        try:
            async with asyncio.timeout(limits.NEWS_S):
                await self._arrived.wait()
        except TimeoutError:
            pass

    def _take(self) -> News:
        self._arrived.clear()
        users, keys, is_all = self._users, self._keys, self._is_all
        self._users, self._keys, self._is_all = set(), set(), False
        if is_all or len(users) + len(keys) > limits.NEWS_NAMES_MAX:
            users, keys, is_all = set(), set(), True
        self._number += bool(users or keys or is_all)
        return News(
            member=self._member,
            cell=self._cell,
            session=self._session,
            number=self._number,
            users=[about_user(name) for name in sorted(users)],
            keys=sorted(keys),
            is_all=is_all,
        )


def _is_changed(before: Record, after: Record) -> bool:
    """Whether what its readers see is another: what it says, or whether it may be seen. What is
    counted of it, its tier and its vector are none of that."""
    if before.kind not in _TOLD:
        return False
    return (
        before.purged != after.purged
        or before.origin_stamp != after.origin_stamp
        or before.elements != after.elements
        or any(before.registers.get(n) != after.registers.get(n) for n in VERSIONED[before.kind])
    )


def _hashes(*records: Record) -> list[bytes]:
    return [r.origin.hash for r in records if isinstance(r.origin, ApiKeyOrigin)]
