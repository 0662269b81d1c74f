"""Whose the streams are. Two cells that were given one name must never read or write each other's
log: a stream carries the identity of the cell that made it, and nothing of a stream is read, heard
or written before that was looked at.

A stream once looked at stays looked at until the connection is closed for good. A reconnect does
not ask again: while servers elect a leader nobody could answer, and writes would stop.
"""

from __future__ import annotations

from collections.abc import Callable

from memsync.errors import Unavailable
from memsync.ids import Position, RecordKey
from memsync.ports import Log, Streams, StripeState
from memsync.telemetry import describe, logger
from memsync.wire.operations import RawMessage


class Ownership:
    """What is known of it. `fault` says that a stream belongs to another cell; then this process
    can only end, for which `dismiss` is told why."""

    def __init__(
        self, streams: Streams, cell: str, cell_name: str, dismiss: Callable[[str], None]
    ) -> None:
        self._streams = streams
        self._cell = cell
        self._cell_name = cell_name
        self._dismiss = dismiss
        self._ours: dict[int, int] = {}  # stripe -> the newest generation that is ours
        self.fault: str | None = None

    def forget(self) -> None:
        """A new connection may lead to other servers."""
        self._ours.clear()

    def is_ours(self, stripe: int, generation: int) -> bool:
        """Whether this generation, or a newer one, was looked at and is this cell's."""
        return self.fault is None and generation <= self._ours.get(stripe, -1)

    def may_write(self, stripe: int) -> bool:
        """Whether a generation of the stripe was looked at, and nothing is another cell's."""
        return self.fault is None and stripe in self._ours

    async def state(self, stripe: int, generation: int) -> StripeState:
        """The state of a stream, once it is certain whose it is. Raises `Unavailable` where the bus
        cannot say, and where it is another cell's."""
        state = await self._streams.state(stripe, generation)
        if state.cell not in ("", self._cell):
            self.fault = (
                f"the streams of cell {self._cell_name} on this bus belong to another cell "
                f"(identity {state.cell}, this one is {self._cell}); give this cell another name, "
                "or use that cell's genesis file"
            )
            self._dismiss(self.fault)
            raise Unavailable(self.fault)
        if not state.cell:
            await self._adopt(stripe, generation)
        self._ours[stripe] = max(generation, self._ours.get(stripe, -1))
        return state

    async def check(self, position: Position) -> None:
        """Look whose the stream of a position is, unless that is known. Raises `Unavailable` while
        it is not certain that it is this cell's."""
        if not self.is_ours(position.stripe, position.generation):
            await self.state(position.stripe, position.generation)

    async def _adopt(self, stripe: int, generation: int) -> None:
        """Put the identity onto a stream that an earlier version made without one."""
        try:
            await self._streams.adopt(stripe, generation)
        except Unavailable as error:
            logger().info("stream.not_adopted", stripe=stripe, **describe(error))
        else:
            logger().info("stream.adopted", stripe=stripe, generation=generation)


class OwnedLog:
    """`ports.Log` that reads, hears and writes this cell's streams only."""

    def __init__(self, log: Log, ownership: Ownership) -> None:
        self._log = log
        self._ownership = ownership

    def fault(self) -> str | None:
        """Why the bus cannot be asked at all, or not in this cell's name."""
        return self._ownership.fault or self._log.fault()

    async def publish(
        self,
        stripe: int,
        message_id: str,
        data: bytes,
        *,
        record: RecordKey | None = None,
        after: int | None = None,
        timeout_s: float,
    ) -> Position:
        """As `ports.Log.publish`; refused, for certain, while it is not known whose the stripe
        is."""
        if not self._ownership.may_write(stripe):
            raise Unavailable(
                f"it is not known yet whose the stream of stripe {stripe} is; nothing was written"
            )
        return await self._log.publish(
            stripe, message_id, data, record=record, after=after, timeout_s=timeout_s
        )

    async def fetch(self, start: Position) -> list[RawMessage]:
        """As `ports.Log.fetch`."""
        await self._ownership.check(start)
        return await self._log.fetch(start)

    async def fetch_from_leader(self, position: Position) -> RawMessage | None:
        """As `ports.Log.fetch_from_leader`."""
        await self._ownership.check(position)
        return await self._log.fetch_from_leader(position)

    async def last_of_record(
        self, stripe: int, generation: int, record: RecordKey, *, timeout_s: float
    ) -> int:
        """As `ports.Log.last_of_record`; what is written after it is looked at in `publish`."""
        return await self._log.last_of_record(stripe, generation, record, timeout_s=timeout_s)

    async def listen(self, stripe: int, heard: Callable[[RawMessage], None]) -> None:
        """As `ports.Log.listen`; frames of a stream that was not looked at yet are left out."""

        def take(message: RawMessage) -> None:
            if self._ownership.is_ours(stripe, message.position.generation):
                heard(message)

        await self._log.listen(stripe, take)
