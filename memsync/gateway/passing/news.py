"""Hearing from the peers what changed, so that what is kept here of it is dropped.

Whoever may have missed something drops everything: after a gap in a peer's numbers, when a process
is heard for the first time, and when news cannot be read. While the bus is gone nothing is heard
and nothing is dropped; the first numbers after it tell whether anything was missed. Each connection
listens, so the same news may come twice, and late the second time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import msgspec
from nats.aio.client import Client

from memsync import limits
from memsync.adapters.jetstream import marks
from memsync.gateway import metrics
from memsync.telemetry import logger
from memsync.wire import codec
from memsync.wire.news import News
from memsync.wire.subjects import CellName

PROCESSES_MAX = 4 * limits.MEMBERS_MAX  # whose numbers are remembered


class Droppable(Protocol):
    """What is kept of answers."""

    def heard(self, member: str) -> None:
        """A peer tells its news."""
        ...

    def drop_user(self, user: bytes, why: str) -> None:
        """The memories of an end user (`wire.news.about_user`) changed."""
        ...

    def drop_key(self, key_hash: bytes, why: str) -> None:
        """An API key (`ids.secret_hash`) changed."""
        ...

    def drop_all(self, why: str) -> None:
        """Anything may have changed."""
        ...


class Hearing:
    """Drops what the news say, and everything where some may be missing."""

    def __init__(self, kept: Droppable) -> None:
        self._kept = kept
        self._heard: OrderedDict[str, tuple[int, int]] = OrderedDict()  # session, number

    def take(self, data: bytes) -> None:
        """Hear what a peer tells."""
        try:
            news = codec.unpack(data, News)
        except msgspec.DecodeError:  # of another version: it may say anything
            self._kept.drop_all("unreadable")
            return
        self._kept.heard(news.member)
        session, number = self._heard.get(news.member, (0, 0))  # no process has session 0
        if session == news.session and news.number <= number:
            return  # heard over the other connection already, or the same number again
        self._heard[news.member] = news.session, news.number
        self._heard.move_to_end(news.member)
        if len(self._heard) > PROCESSES_MAX:
            self._heard.popitem(last=False)
        metrics.NEWS_TELLERS.set(len(self._heard))
        is_next = session == news.session and news.number == number + 1 and news.has_content
        if not is_next:
            event = "news.missed" if session else "news.begun"
            logger().info(event, member=news.member, known=number, told=news.number)
            self._kept.drop_all("gap")
            return
        if news.is_all:
            self._kept.drop_all("told")
            return
        metrics.NEWS_HEARD.inc()
        for user in news.users:
            self._kept.drop_user(user, "told")
        for key_hash in news.keys:
            self._kept.drop_key(key_hash, "told")


async def hear(client: Client, cell: CellName, hearing: Hearing) -> None:
    """From now on take what is told on this connection, as long as it lives."""
    await marks.subscribe(client, cell.news("*"), hearing.take)
