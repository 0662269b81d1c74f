"""`ports.Marks`: watermarks on a plain subject."""

from __future__ import annotations

from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync.errors import Unavailable
from memsync.wire.subjects import CellName


class JetStreamMarks:
    """See `ports.Marks`."""

    def __init__(self, client: Client, cell: CellName, member: str) -> None:
        self._client = client
        self._subject = cell.mark(member)
        self._everybody = cell.mark("*")

    async def tell(self, data: bytes) -> None:
        """Publish, if there is a connection right now."""
        try:
            await self._client.publish(self._subject, data)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"watermark not sent: {type(error).__name__}") from error

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """Subscribe; nats-py subscribes again by itself after a reconnect."""

        async def take(message: Msg) -> None:
            heard(message.data)

        await self._client.subscribe(self._everybody, cb=take)
