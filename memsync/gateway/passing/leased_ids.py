"""Memory ids for the writes that pass through, so that every attempt of a write uses the same.

A gateway without ids passes writes on without: the first peer then fixes them. So nothing here may
hold a write up or fail it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import nats.errors
from nats.aio.client import Client

from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.errors import NoQuorum, Unavailable
from memsync.telemetry import describe, logger
from memsync.wire import context
from memsync.wire.subjects import CellName

HIGHEST_OPERATION = "ids.highest"
ASK_TIMEOUT_S = 0.5
TAKE_TIMEOUT_S = 0.2
PAUSE_S = 1.0  # after a failure, so that not every write waits


class HighestBlock(msgspec.Struct, frozen=True):
    """A peer's answer to `ids.highest`: the highest id block that it has seen used."""

    highest: int


class Ids(Protocol):
    """Where ids come from."""

    async def take(self, count: int) -> tuple[int, int] | None:
        """`count` consecutive ids as (first, last), or None where there are none at the moment."""
        ...


class LeasedIds:
    """Ids from blocks leased over a connection to the bus, while there is one."""

    def __init__(self, cell: CellName, members: Sequence[str], space: int) -> None:
        self._cell = cell
        self._members = list(members)
        self._space = space
        self._blocks: IdBlocks | None = None
        self._again_at_s = 0.0

    async def take(self, count: int) -> tuple[int, int] | None:
        """`count` consecutive ids as (first, last), or None where there are none at the moment."""
        now_s = asyncio.get_running_loop().time()
        if self._blocks is None or now_s < self._again_at_s:
            return None
        try:
            async with asyncio.timeout(TAKE_TIMEOUT_S):
                return await self._blocks.take(count)
        except (TimeoutError, Unavailable) as error:
            self._again_at_s = now_s + PAUSE_S
            logger().info("ids.not_taken", **describe(error))
            return None

    async def run(self, client: Client) -> None:
        """Lease blocks over a connection, ahead of need; ends when cancelled."""

        async def highest() -> int:
            return await self._highest(client)

        self._blocks = IdBlocks(client, self._space, highest)
        try:
            await self._blocks.run()
        finally:
            self._blocks = None

    async def _highest(self, client: Client) -> int:
        """The highest block that a majority of the members has seen; raises `NoQuorum`."""
        answers = await asyncio.gather(*(self._ask(client, member) for member in self._members))
        known = [answer for answer in answers if answer is not None]
        if 2 * len(known) <= len(self._members):
            raise NoQuorum(
                f"{len(known)} of {len(self._members)} peers said which id blocks they saw"
            )
        return max(known)

    async def _ask(self, client: Client, member: str) -> int | None:
        subject = self._cell.peer(member, HIGHEST_OPERATION)
        try:
            message = await client.request(subject, b"{}", timeout=ASK_TIMEOUT_S)
            if (message.headers or {}).get(context.STATUS) != "200":
                return None
            return msgspec.json.decode(message.data, type=HighestBlock).highest
        except (nats.errors.Error, OSError, TimeoutError, msgspec.DecodeError):
            return None  # a peer that cannot say is counted as absent
