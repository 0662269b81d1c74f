"""`ports.Marks`: what members tell each other, and what gateways hear of it, on plain subjects."""

from __future__ import annotations

from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync.adapters.jetstream.bus_client import hear
from memsync.errors import Unavailable
from memsync.wire.subjects import CellName


class JetStreamMarks:
    """See `ports.Marks`."""

    def __init__(self, client: Client, cell: CellName, member: str) -> None:
        self._client = client
        self._cell = cell
        self._member = member

    async def tell(self, data: bytes, *, only: str | None = None) -> None:
        """Publish, if there is a connection right now."""
        subject = self._cell.mark(self._member) if only is None else self._cell.told(only)
        await publish(self._client, subject, data)

    async def announce(self, data: bytes) -> None:
        """The same, where others than members listen as well."""
        await publish(self._client, self._cell.roster(self._member), data)

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """Subscribe; nats-py subscribes again by itself after a reconnect."""
        for subject in (
            self._cell.mark("*"), self._cell.told(self._member), self._cell.roster("*"),
        ):  # fmt: skip
            await subscribe(self._client, subject, heard)


class JetStreamNews:
    """`ports.Channel` for the news of a peer."""

    def __init__(self, client: Client, cell: CellName, member: str) -> None:
        self._client = client
        self._subject = cell.news(member)

    async def tell(self, data: bytes) -> None:
        """Publish, if there is a connection right now."""
        await publish(self._client, self._subject, data)


async def publish(client: Client, subject: str, data: bytes) -> None:
    """Publish, if there is a connection right now; raises `Unavailable` where there is none."""
    try:
        await client.publish(subject, data)
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"watermark not sent: {type(error).__name__}") from error


async def subscribe(client: Client, subject: str, heard: Callable[[bytes], None]) -> None:
    """From now on call `heard` with what is published there."""

    def take(message: Msg) -> None:
        heard(message.data)

    await hear(client, subject, take)
