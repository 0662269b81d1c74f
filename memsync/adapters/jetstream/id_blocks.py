"""Blocks of ids, leased from the bus: the PubAck's sequence of `MEMSYNC_IDS` is the block.

A block lives in memory only. It must lie above the highest block that anybody has seen, else the
stream was lost or rolled back and numbers would be given twice; then nothing is handed out until
the stream is right again. So that blocks count that are held and not used yet, each is told to all
who lease before its first number is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from memsync import ids
from memsync.errors import NoQuorum, Unavailable
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import subjects

LEASE_TIMEOUT_S = 1.0
RETRY_S = 0.25
BLOCK_DIGITS_MAX = 10  # of 32 bits
REFILL_BELOW = ids.NUMBERS_PER_BLOCK // 4


class IdBlocks:
    """Hands out ranges of memory ids. `highest` asks for the highest block seen by the peers."""

    def __init__(self, client: Client, space: int, highest: Callable[[], Awaitable[int]]) -> None:
        self._client = client
        self._space = space
        self._highest = highest
        self._blocks: list[tuple[int, int]] = []  # (block, first free number)
        self.highest_leased = 0  # by anybody, as far as it was heard
        self._leasing = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._wanted.set()

    async def lease(self) -> int:
        """A block that nobody else has or will have; raises `NoQuorum` where none is to be had."""
        highest = max(await self._highest(), self.highest_leased)
        try:
            jetstream = self._client.jetstream(timeout=LEASE_TIMEOUT_S)
            ack = await jetstream.publish(
                subjects.IDS_SUBJECT, b"", timeout=LEASE_TIMEOUT_S, stream=subjects.IDS_STREAM
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise NoQuorum(f"no id block: {type(error).__name__}; nothing was written") from error
        if ack.seq <= highest:
            raise NoQuorum(
                f"id block {ack.seq} is not above {highest}, the highest that was seen: "
                f"{subjects.IDS_STREAM} was lost and is being made again; nothing was written"
            )
        await self._tell(ack.seq)
        return ack.seq

    async def _tell(self, block: int) -> None:
        """Have all who lease know of a block, in case the stream forgets it."""
        self.highest_leased = max(self.highest_leased, block)
        try:
            await self._client.publish(subjects.IDS_LEASED, str(block).encode())
        except (NatsError, OSError) as error:
            raise NoQuorum("the id block could not be told; nothing was written") from error

    async def _hear(self, message: Msg) -> None:
        if message.data.isdigit() and len(message.data) <= BLOCK_DIGITS_MAX:
            self.highest_leased = max(self.highest_leased, int(message.data))

    async def take(self, count: int) -> tuple[int, int]:
        """`count` (1..65535) consecutive ids as (first, last)."""
        if not 1 <= count < ids.NUMBERS_PER_BLOCK:
            raise ValueError(f"{count} ids at once")
        while not self._has_room(count):
            async with self._leasing:
                if not self._has_room(count):  # else somebody else has leased meanwhile
                    self._blocks.append((await self.lease(), 1))
        block, number = self._blocks[0]
        self._blocks[0] = (block, number + count)
        if ids.NUMBERS_PER_BLOCK - number - count < REFILL_BELOW and len(self._blocks) < 2:
            self._wanted.set()
        first = ids.memory_id(self._space, block, number)
        return first, first + count - 1

    def _has_room(self, count: int) -> bool:
        """Whether the first block holds `count` more; blocks that do not are done with."""
        while self._blocks and self._blocks[0][1] + count > ids.NUMBERS_PER_BLOCK:
            self._blocks.pop(0)
        return bool(self._blocks)

    async def run(self) -> None:
        """Lease ahead, so that no caller waits for a block, and hear what others leased; ends when
        it is cancelled."""
        await self._client.subscribe(subjects.IDS_LEASED, cb=self._hear)
        while is_going_on():
            await self._wanted.wait()
            try:
                async with self._leasing:
                    if len(self._blocks) < 2:
                        self._blocks.append((await self.lease(), 1))
                self._wanted.clear()
            except Unavailable as error:
                logger().warning("id_block.not_leased", **describe(error))
                await pause(RETRY_S)
