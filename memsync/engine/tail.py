"""Reading one stripe: what the bus republishes, and whatever that left out, read back from the
stream.

The fast way is `heard`: a frame that is the next one goes straight to the applier. Everything else
(a gap, a reconnect, a start, a position that another member spoke of, a quiet second) wakes `run`,
which reads from the stream until nothing more comes. Delivery is at least once; `core.continuity`
makes it once.
"""

from __future__ import annotations

import asyncio

from memsync import limits
from memsync.core.continuity import Continuity
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.progress import Progress, stripe_part
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Log, Streams
from memsync.tasks import is_going_on
from memsync.telemetry import logger
from memsync.wire.operations import RawMessage

RETRY_S = 0.1


class Tail:
    """The reader of one stripe, from where the store left off."""

    def __init__(
        self, stripe: int, log: Log, streams: Streams, applier: Applier, progress: Progress
    ) -> None:
        self._stripe = stripe
        self._log = log
        self._streams = streams
        self._applier = applier
        self._progress = progress
        self._wake = asyncio.Event()
        end = progress.end_of(stripe)
        start = Position(stripe, 0, 1) if end is None else _after(end)
        self._continuity = Continuity(start)

    def heard(self, message: RawMessage) -> None:
        """A frame was republished."""
        if not self._applier.has_room:
            self.note_end(message.position)
            return
        ready = self._continuity.take([message])
        if ready:
            self._applier.put(ready)
        if self._continuity.has_gap:
            self._wake.set()

    def note_end(self, position: Position) -> None:
        """Another member, or a PubAck, spoke of this position."""
        self._continuity.note_end(position)
        if self._continuity.has_gap:
            self._wake.set()

    def wake(self) -> None:
        """Look whether there is anything new (after a reconnect)."""
        self._wake.set()

    async def run(self) -> None:
        """Listen, then keep up until cancelled."""
        await self._log.listen(self._stripe, self.heard)
        while is_going_on():
            try:
                await self._read_to_end()
            except Unavailable as error:
                self._progress.set_behind(stripe_part(self._stripe), error.message)
                await asyncio.sleep(RETRY_S)
                continue
            try:
                async with asyncio.timeout(limits.TAIL_CHECK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass  # a quiet second: look, in case a last frame was not heard
            self._wake.clear()

    async def _read_to_end(self) -> None:
        while True:
            await self._applier.wait_room()
            asked = self._continuity.next
            found = await self._log.fetch(asked)
            ready = self._continuity.take(found)
            if ready:
                self._applier.put(ready)
            elif self._continuity.next == asked:
                if self._continuity.has_gap or found:
                    await self._meet_gap(asked)
                    return
                self._progress.set_behind(stripe_part(self._stripe), None)
                metrics.TAIL_LAG.labels(self._stripe).set(0)
                return
            if self._continuity.has_gap:
                metrics.TAIL_GAPS.inc()

    async def _meet_gap(self, asked: Position) -> None:
        """The server that answered does not have `asked`: it is behind, or frames are gone."""
        state = await self._streams.state(self._stripe, asked.generation)
        if state.first_sequence > asked.sequence:
            raise Unavailable(
                f"stripe {self._stripe}: the log begins at {state.first_sequence}, this store ends "
                f"before {asked.sequence}; it needs the rows of another peer"
            )
        logger().warning("stripe.gap_met", stripe=self._stripe, sequence=asked.sequence)
        raise Unavailable(f"stripe {self._stripe}: no server gave sequence {asked.sequence} yet")

    @property
    def generation(self) -> int:
        """The generation that is being read."""
        return self._continuity.next.generation

    def restart(self, generation: int) -> None:
        """Read another generation from its beginning."""
        if generation > self.generation:
            self._continuity.restart(Position(self._stripe, generation, 1))
            self._wake.set()


def _after(end: Position) -> Position:
    return Position(end.stripe, end.generation, end.sequence + 1)
