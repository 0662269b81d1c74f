"""The stream that hands out id blocks: making it where it is missing, or hands out what was handed
out before. No block may be handed out twice, whatever is lost and whoever mends it.

Theory of operation. Blocks that are held and not used yet (gateways lease ahead) are known to
nobody else, so "above the highest block seen" is not enough for a new stream. Whoever makes one
first RESERVES a block that nobody has, by a frame without writes that carries it as its incarnation
into the log: every store that applies it has then seen it. Once a majority tells that it has,
the stream is made to begin right after the reserved block.

- Every making has a reservation of its own, covered by a majority before the stream is made. So
  whoever heard a majority after that reserves above it: two streams begin `APART` blocks apart or
  more, and what one has handed out unseen (fewer than `APART`) the next does not.
- Members that reserve at the same moment, each with an old view, are kept apart by their place.
- A deletion may come late and take away the stream that another just made. That is only one more
  stream lost: it is made again, above a new reservation.
- A stream made late, below what was handed out since, is refused by every leaser (a block must lie
  above the highest seen), and taken away again.
"""

from __future__ import annotations

from memsync import limits
from memsync.engine import metrics
from memsync.engine.cell.members import Members
from memsync.errors import NoQuorum, Unavailable
from memsync.ports import Log, Streams
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, frame_id

CHECK_S = 2.0
RETRY_S = 0.2
APART = 1 << 12
PLACES = 1 << (limits.MEMBERS_MAX - 1).bit_length()
COVER_LOOKS = 100
POLL_S = 0.02
LOOKS_BEFORE_OTHERS_ACT = 10


class IdStream:
    """The caretaker of `MEMSYNC_IDS` in one peer. `fault` says what is wrong with it."""

    def __init__(self, streams: Streams, log: Log, members: Members) -> None:
        self._streams = streams
        self._log = log
        self._members = members
        self._looks = 0  # in a row that found it wrong
        self.fault: str | None = None

    async def run(self) -> None:
        """Look every two seconds until cancelled."""
        while is_going_on():
            try:
                self.fault = await self.look()
            except Unavailable as error:
                self.fault = error.message
                logger().info("ids.not_checked", **describe(error))
            await pause(CHECK_S if self.fault is None else RETRY_S)

    async def look(self) -> str | None:
        """Look once, and mend what was wrong at the last look too. Returns what is wrong."""
        highest = self.highest_seen()
        end = await self._streams.ids_end()
        if end is not None and end >= highest:
            self._looks = 0
            return None
        self._looks += 1
        wrong = (
            "the stream of ids is missing"
            if end is None
            else f"the stream of ids hands out {end + 1}, block {highest} was seen"
        )
        is_first = self._members.is_first_alive()
        is_certain = self._looks >= 2 or highest == 0
        if not is_certain or not (is_first or self._looks > LOOKS_BEFORE_OTHERS_ACT):
            return wrong
        if highest:  # else it is the first of a new cell
            logger().error("ids.lost", handed_out=end, highest_seen=highest)
        if end is not None:
            await self._streams.delete_ids()
        reserved = await self._reserve()
        await self._streams.create_ids(reserved + 1)
        metrics.IDS_REMADE.inc()
        self._looks = 0
        return None

    def highest_seen(self) -> int:
        """The highest block that the members have seen; raises `NoQuorum` while no majority of them
        speaks, and for who is none."""
        if not self._members.is_member():
            raise NoQuorum("only members lease id blocks; nothing was written")
        marks = self._members.watermarks()
        heard = [name for name in self._members.alive() if name in marks]
        if len(heard) < self._members.majority:
            raise NoQuorum(
                f"{len(heard)} of {len(self._members.names)} members heard; a majority must say "
                "which id blocks it has seen; nothing was written"
            )
        return max(mark.highest_block for mark in marks.values())

    async def _reserve(self) -> int:
        """A block that nobody has, known to a majority."""
        span = APART * PLACES
        above = (self.highest_seen() // span + 1) * span  # raises for who is no member
        block = above + self._members.names.index(self._members.name) * APART
        frame = Frame(SCHEMA, block, 0, [])
        await self._publish(frame_id(frame), codec.pack(frame))
        for _ in range(COVER_LOOKS):
            if self._is_seen(block):
                return block
            await pause(POLL_S)
        raise Unavailable(f"id block {block} is not known to a majority yet")

    async def _publish(self, message_id: str, data: bytes) -> None:
        """Into whichever stripe takes it."""
        refused: Unavailable | None = None
        for stripe in range(limits.STRIPES):
            try:
                await self._log.publish(stripe, message_id, data, timeout_s=limits.FETCH_TIMEOUT_S)
            except Unavailable as error:
                refused = error
            else:
                return
        assert refused is not None
        raise refused

    def _is_seen(self, block: int) -> bool:
        marks = self._members.watermarks()
        names = set(self._members.names)
        having = [n for n, mark in marks.items() if n in names and mark.highest_block >= block]
        return len(having) >= self._members.majority
