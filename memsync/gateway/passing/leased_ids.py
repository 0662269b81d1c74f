"""Memory ids for the writes that pass through, so that every attempt of a write uses the same.

A gateway without ids passes writes on without: the first peer then fixes them. So nothing here may
hold a write up or fail it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec
from nats.aio.client import Client

from memsync.adapters.jetstream import marks
from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.errors import Unavailable
from memsync.gateway.passing.members import Members
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.members import Roster
from memsync.wire.subjects import CellName

TAKE_TIMEOUT_S = 0.2
PAUSE_S = 1.0  # after a failure, so that not every write waits


class Ids(Protocol):
    """Where ids come from."""

    async def take(self, count: int) -> tuple[int, int] | None:
        """`count` consecutive ids as (first, last), or None where there are none at the moment."""
        ...


class LeasedIds:
    """Ids from blocks leased over a connection to the bus, while there is one."""

    def __init__(self, cell: CellName, members: Members, space: int) -> None:
        self._cell = cell
        self._members = members
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
        """Lease blocks over a connection, ahead of need; ends when it is cancelled."""
        heard = HighestHeard(self._members)
        await marks.subscribe(client, self._cell.roster("*"), heard.take)
        blocks = IdBlocks(client, self._space, heard.highest)
        await heard.wait_majority()
        self._blocks = blocks
        try:
            await blocks.run()
        finally:
            self._blocks = None


class HighestHeard:
    """The highest id block that the peers have seen, as they tell it with their rosters.

    A majority must have been heard: a block that was used is known to one of them. Who the members
    are is heard here, too.
    """

    def __init__(self, members: Members) -> None:
        self._members = members
        self._heard: dict[str, int] = {}
        self._has_majority = asyncio.Event()

    def take(self, data: bytes) -> None:
        """Hear what a process announced. What cannot be read is of another version."""
        try:
            told = codec.decode_told(data)
        except msgspec.DecodeError:
            return
        self._members.hear(told)
        names = self._members.names()
        if isinstance(told, Roster) and told.member in names:
            known = self._heard.get(told.member, 0)
            self._heard[told.member] = max(known, told.highest_block)
        if 2 * len(self._heard.keys() & set(names)) > len(names):
            self._has_majority.set()

    async def wait_majority(self) -> None:
        """Wait until a majority of the members has been heard."""
        await self._has_majority.wait()

    async def highest(self) -> int:
        """The highest block heard of."""
        return max(self._heard.values(), default=0)
