"""Reading one stripe: what the bus republishes, and whatever that left out, read back from the
stream.

The fast way is `heard`: a frame that is the next one goes straight to the applier. Everything else
(a gap, a reconnect, a start, a position that another member or the stream's leader spoke of, some
quiet seconds) wakes `run`, which reads from the stream until nothing more comes; the next batch is
read while the applier commits the last one. Delivery is at least once; `core.continuity` makes it
once.

No sequence is ever left out silently. Where a message does not come:

- the stream begins after it: it was trimmed, and all rows of a peer that has applied what was
  trimmed take its place (`recovery`);
- the stream goes on after it: a hole. Any server may have it still, so it is asked for several
  times, then of the leader; a peer that has applied it gives all its rows. If the leader, every
  member that is alive and with this one a majority lack it for `HOLE_S`, it was never acknowledged
  (a majority would have it) and nobody waits for its cover any more: it is passed as void, with an
  alarm.

An empty peer takes rows rather than read a long log.
"""

from __future__ import annotations

import asyncio

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.core.continuity import Continuity
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.cell.members import Members
from memsync.engine.progress import is_among, stripe_part
from memsync.engine.repair.recovery import Recovery
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Log, Streams, StripeState
from memsync.tasks import is_going_on, pause
from memsync.telemetry import logger
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, RawMessage

RETRY_S = 0.1
HOLE_RETRY_S = 0.5
ON_ITS_WAY_READS = 3  # of a message that is heard of before the server that is asked has it
ON_ITS_WAY_S = 0.03
_NOTHING = codec.pack(Frame(SCHEMA, 0, 0, []))  # what is applied in the place of a void message


class _Hole(msgspec.Struct):
    """Messages that are missing from within the stream: since when (steady clock), and up to where
    the stream went then."""

    since_s: float
    generation: int
    last_sequence: int
    reads: int = 0


class Tail:
    """The reader of one stripe, from where the store left off."""

    def __init__(
        self,
        stripe: int,
        *,
        log: Log,
        streams: Streams,
        applier: Applier,
        members: Members,
        recovery: Recovery,
        clock: Clock,
    ) -> None:
        self._stripe = stripe
        self._log = log
        self._streams = streams
        self._applier = applier
        self._members = members
        self._progress = applier.progress
        self._recovery = recovery
        self._clock = clock
        self._wake = asyncio.Event()
        self._hole: _Hole | None = None
        self._rows_until: Position | None = None  # what comes as rows; nothing is read meanwhile
        self._may_take_rows = applier.progress.is_empty()
        end = applier.progress.end_of(stripe)
        start = Position(stripe, 0, 1) if end is None else _after(end)
        self._continuity = Continuity(start)

    def heard(self, message: RawMessage) -> None:
        """A frame was republished."""
        if not self._applier.has_room:
            self.note_end(message.position)
            return
        self._put(self._continuity.take([message]))
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

    @property
    def generation(self) -> int:
        """The generation that is being read."""
        return self._continuity.next.generation

    def restart(self, generation: int) -> None:
        """Read another generation from its beginning."""
        if generation > self.generation:
            self._continuity.restart(Position(self._stripe, generation, 1))
            self._wake.set()

    def skip_to(self, end: Position) -> None:
        """Everything up to `end` was joined as rows: go on after it."""
        self._put(self._continuity.skip_to(end))
        self._wake.set()

    async def run(self) -> None:
        """Listen, then keep up until cancelled."""
        await self._log.listen(self._stripe, self.heard)
        while is_going_on():
            if not self._is_waiting_for_rows():
                try:
                    await self._read_to_end()
                except Unavailable as error:
                    self._progress.set_behind(stripe_part(self._stripe), error.message)
                    await pause(self._pause_s())
                    continue
            try:
                async with asyncio.timeout(self._quiet_s()):
                    await self._wake.wait()
            except TimeoutError:
                pass  # quiet: look, in case nobody heard of a last frame
            self._wake.clear()

    async def _read_to_end(self) -> None:
        while not self._prefers_rows():
            await self._applier.wait_room()
            asked = self._continuity.next
            found = await self._log.fetch(asked)
            self._put(self._continuity.take(found))
            if self._continuity.next == asked:
                if not (self._continuity.has_gap or found):
                    self._may_take_rows = False
                    metrics.TAIL_LAG.labels(self._stripe).set(0)
                    await self._note_all_read(asked)
                    return
                await self._meet_gap(asked)
                if self._rows_until is not None:
                    return
            if self._continuity.has_gap:
                metrics.TAIL_GAPS.inc()

    async def _note_all_read(self, following: Position) -> None:
        """This stripe is not behind once all before `following` is applied as well: what was read
        may wait in the applier's queue, or at a mark."""
        last = Position(following.stripe, following.generation, following.sequence - 1)
        until_s = self._clock.steady_s() + limits.TAIL_CHECK_S
        if await self._progress.wait_for([last], until_s):
            self._progress.set_behind(stripe_part(self._stripe), None)

    def _quiet_s(self) -> float:
        """How long nothing may be heard before it is looked. What others have applied, and where
        the stream ends, is told much sooner."""
        return limits.TAIL_QUIET_S if self._rows_until is None else limits.TAIL_CHECK_S

    def _pause_s(self) -> float:
        """Before the stream is read again: longer where it is known to have a hole."""
        is_hole = self._hole is not None and self._hole.reads >= limits.HOLE_READS
        return HOLE_RETRY_S if is_hole else RETRY_S

    def _put(self, ready: list[RawMessage]) -> None:
        """Have these applied; the reading goes on, whatever was in its way."""
        if ready:
            self._hole = None
            self._applier.put(ready)
            self._recovery.need_no_more(stripe_part(self._stripe))

    # Rows instead of frames.

    def _is_waiting_for_rows(self) -> bool:
        """False as soon as they are here, or nobody could give them: then it is looked again what
        the log has."""
        until = self._rows_until
        if until is None:
            return False
        is_over = self._progress.has([until]) or until.generation != self.generation
        if is_over or not any(is_among([end], until) for end in self._told()):
            self._rows_until = None
        return self._rows_until is not None

    def _prefers_rows(self) -> bool:
        """Whether this is an empty peer with so long a log before it that rows come sooner: they
        are what the log came to. Known once others have told how far they are."""
        if not self._may_take_rows:
            return False
        position = self._continuity.next
        ends = [p for p in self._told() if p.generation == position.generation]
        furthest = max(ends, default=position)
        if furthest.sequence - position.sequence < limits.ROWS_FIRST_FRAMES:
            return False
        self._may_take_rows = False  # once; should it fail there is still the log
        self._need_rows(f"stripe {self._stripe}: this store was empty", furthest)
        return True

    def _told(self) -> list[Position]:
        """What other members that are alive said of this stripe last."""
        told = self._members.told_by_others().values()
        return [p for ends in told for p in ends if p.stripe == self._stripe]

    def _need_rows(self, why: str, until: Position) -> None:
        """Have another peer's rows take the place of everything up to `until`."""
        self._rows_until = until
        self._progress.set_behind(stripe_part(self._stripe), f"{why}; rows of a peer are joined")
        self._recovery.need_all(why, [until], part=stripe_part(self._stripe))

    # Gaps.

    async def _meet_gap(self, asked: Position) -> None:
        """The server that answered does not have `asked`: it is behind, or messages are gone.
        Raises `Unavailable` where it is to be asked for again."""
        state = await self._streams.state(self._stripe, asked.generation)
        if state.first_sequence > asked.sequence:
            until = Position(self._stripe, asked.generation, state.first_sequence - 1)
            self._need_rows(
                f"stripe {self._stripe}: the log begins at {state.first_sequence}, this store ends "
                f"before {asked.sequence}",
                until,
            )
            return
        if state.last_sequence < asked.sequence:
            self._meet_end(asked, state)
            return
        await self._meet_hole(asked, state)

    def _meet_end(self, asked: Position, state: StripeState) -> None:
        """The leader's stream ends before `asked`, of which somebody spoke."""
        has_it = any(is_among([end], asked) for end in self._told())
        if state.leader is not None and not has_it:
            self._continuity.lower_end(state.last_sequence)  # who spoke of it has been set back
        if self._continuity.has_gap:
            raise Unavailable(
                f"stripe {self._stripe}: {asked.sequence} exists, the log is said to end at "
                f"{state.last_sequence}"
            )

    async def _meet_hole(self, asked: Position, state: StripeState) -> None:
        now_s = self._clock.steady_s()
        if (
            self._hole is None
            or asked.generation != self._hole.generation
            or asked.sequence > self._hole.last_sequence
        ):
            self._hole = _Hole(now_s, asked.generation, state.last_sequence)
        self._hole.reads += 1
        if self._hole.reads <= ON_ITS_WAY_READS:
            await pause(ON_ITS_WAY_S)
            return
        if self._hole.reads < limits.HOLE_READS:
            raise Unavailable(f"stripe {self._stripe}: no server gave {asked.sequence} yet")
        logger().warning("stripe.gap_met", stripe=self._stripe, sequence=asked.sequence)
        message = await self._log.fetch_from_leader(asked)
        if message is not None:
            self._put(self._continuity.take([message]))
            return
        if any(is_among([end], asked) for end in self._told()):
            self._need_rows(
                f"stripe {self._stripe}: no server has {asked.sequence}, another peer does", asked
            )
            return
        lacking = self._members_without(asked)
        held_s = now_s - self._hole.since_s
        if held_s < limits.HOLE_S or lacking < self._members.majority:
            raise Unavailable(
                f"stripe {self._stripe}: neither a server nor one of {lacking} members has "
                f"{asked.sequence}; {self._members.majority} must say so for {limits.HOLE_S:g} s"
            )
        self._pass_void(asked)

    def _members_without(self, position: Position) -> int:
        """How many members that are alive, this one included if it is one, are in the position's
        generation and have not applied it."""
        told = [p for p in self._told() if p.generation == position.generation]
        own = int(self._members.is_member())
        return own + sum(p.sequence < position.sequence for p in told)

    def _pass_void(self, position: Position) -> None:
        hole = self._hole
        metrics.HOLES_VOIDED.inc()
        logger().error(
            "hole.voided",
            stripe=position.stripe,
            generation=position.generation,
            sequence=position.sequence,
        )
        self._put(self._continuity.take([RawMessage(position, _NOTHING, "")]))
        self._hole = hole  # those that are missing beside it were waited for as long


def _after(end: Position) -> Position:
    return Position(end.stripe, end.generation, end.sequence + 1)
