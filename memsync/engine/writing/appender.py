"""The write path: writes become frames, frames are stored by the bus, and are answered when
covered.

    write() -> queue -> one frame for all that waits (group commit) -> published on a stripe
            -> applied here, by a majority, and by whoever may hold a lease -> answered

A lone write waits for nobody. While a frame is under way the next one leaves when that one is half
way, going by how long frames took lately: a frame costs as much as several writes in it, so two
full ones are faster than four with little in them, and all four are there for when one is stuck
(`FRAMES_IN_FLIGHT_MAX`). What arrives meanwhile goes into the next. A frame that one
stripe does not take (or whose cover does not come) is tried on the next with the same id: twice in
the log is harmless, the join sees to that.

An error is definite only if every attempt's was.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.engine import metrics
from memsync.engine.applier import Applied, Applier
from memsync.engine.cell.clocks import Clocks
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.durability import Durability
from memsync.engine.progress import Progress
from memsync.engine.writing.conditional import Condition, Conditional
from memsync.engine.writing.frames import Frames, Written
from memsync.errors import (
    MemsyncError,
    NoQuorum,
    OutcomeUnknown,
    PayloadTooLarge,
    Unavailable,
)
from memsync.ids import Position
from memsync.ports import Log, Store
from memsync.tasks import is_going_on, pause
from memsync.wire import codec
from memsync.wire.operations import Frame, Stamp, Write, frame_id
from memsync.wire.requests import Ack

AVOID_STRIPE_S = 2.0  # how long a stripe that did not answer comes last
ROUND_PAUSE_S = 0.02  # after every stripe refused at once
VERDICT_GRACE_S = 0.05
EARLY_S = 0.0005  # by so much a timer may come early
USUAL_S_FIRST = 0.005
USUAL_S_MAX = 0.2  # of one frame: what waited for an absent member says nothing of the others


class _Pending(msgspec.Struct, eq=False):
    write: Write
    packed: bytes
    ack: Ack
    deadline_s: float
    future: asyncio.Future[Written]


class _Sending(msgspec.Struct, frozen=True, eq=False):
    """A frame under way. `applied` is what its join here comes to."""

    batch: list[_Pending]
    frame: Frame
    data: bytes
    applied: asyncio.Future[Applied]
    deadline_s: float


class Appender:
    """Coordinates writes. One per peer; ready after `start`."""

    def __init__(
        self,
        log: Log,
        store: Store,
        applier: Applier,
        members: Members,
        progress: Progress,
        leases: Leases,
        durability: Durability,
        clocks: Clocks,
        clock: Clock,
    ) -> None:
        self._log = log
        self._durability = durability
        self._applier = applier
        self._members = members
        self._progress = progress
        self._clocks = clocks
        self._clock = clock
        self._frames = Frames(clock)
        self._conditional = Conditional(
            log, store, applier, members, progress, leases, self._frames, clock
        )
        self._avoided_until_s: dict[int, float] = {}
        self._queue: deque[_Pending] = deque()
        self._arrived = asyncio.Event()
        self._in_flight = 0
        self._sent_s = float("-inf")  # when the last frame left,
        self._usual_s = USUAL_S_FIRST  # how long the last ones took,
        self._wake_s = float("-inf")  # and when the next may leave, if anything waits for that

    @property
    def incarnation(self) -> int:
        """The id block that was leased at this start; 0 before that."""
        return self._frames.incarnation

    def start(self, incarnation: int) -> None:
        """From now on coordinate, as this incarnation."""
        self._frames.incarnation = incarnation

    def why_not(self) -> str | None:
        """Why no write can be coordinated here right now."""
        if self._applier.broken is not None:
            return f"this peer stopped applying: {self._applier.broken}"
        if self._applier.failing is not None:
            return self._applier.failing
        if (fault := self._log.fault() or self._durability.fault) is not None:
            return fault
        if self._members.fault is not None:
            return self._members.fault
        if not self._frames.incarnation:
            return "no id block yet"
        if (fault := self._clocks.fault()) is not None:
            return fault
        return self._members.why_no_cover()

    def unfit(self) -> str | None:
        """Why this peer leaves writes to others, as long as one of them takes them: it could not
        take them at all, or it may lack what they go by."""
        return (
            self._applier.broken
            or self._applier.failing
            or next(iter(self._progress.lacking().values()), None)
            or self._members.fault
            or self._clocks.fault()
            or self._members.why_deaf()
        )

    def stamp(self, above: Iterable[Stamp] = ()) -> Stamp:
        """A stamp above the clock, above all that this process gave, and above `above`."""
        return self._frames.stamp(above)

    async def write(
        self, write: Write, *, ack: Ack, deadline_s: float, condition: Condition | None = None
    ) -> Written:
        """Have a write stored and covered, or say what is known of it.

        `deadline_s` is on the steady clock. Raises `NoQuorum`, `NoStripeLeader`, `Unavailable`,
        `VersionConflict` (all definite) or `OutcomeUnknown`. A caller that is cancelled leaves the
        write under way.
        """
        if (why := self.why_not()) is not None:
            raise NoQuorum(f"{why}; nothing was written")
        if ack == "all" and len(self._members.alive()) < len(self._members.names):
            missing = sorted(set(self._members.names) - set(self._members.alive()))
            raise NoQuorum(f"ack all: {', '.join(missing)} not alive; nothing was written")
        if condition is not None:
            return await self._conditional.write(write, condition, ack=ack, deadline_s=deadline_s)
        if len(self._queue) >= limits.WRITES_QUEUED_MAX:
            raise Unavailable(f"{len(self._queue)} writes wait already; nothing was written")
        packed = codec.pack(write)
        size_bytes = len(packed)
        if size_bytes > limits.FRAME_BYTES_MAX:
            raise PayloadTooLarge(
                f"a write of {size_bytes} bytes, at most {limits.FRAME_BYTES_MAX}"
            )
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        pending = _Pending(write, packed, ack, deadline_s, future)
        self._queue.append(pending)
        self._arrived.set()
        return await self._answer(pending)

    async def wait_settled(self, *, ack: Ack, deadline_s: float) -> None:
        """Wait until all that was applied here is covered: before a repeat is answered from this
        store. Raises as `write` does; nothing is published."""
        if ack == "log":
            return
        if (why := self.why_not()) is not None:
            raise NoQuorum(f"{why}; nothing was written")
        for position in self._progress.written():
            if not await self._members.wait_covered([position], ack, deadline_s):
                raise OutcomeUnknown(
                    "the first attempt is applied here but not yet by enough members; "
                    "repeat it with the same key"
                )

    async def _answer(self, pending: _Pending) -> Written:
        """Wait for the frame's verdict: a moment longer than it may take, so that it is heard."""
        started = time.perf_counter()
        metrics.WRITES_IN_FLIGHT.inc()
        left_s = pending.deadline_s + VERDICT_GRACE_S - self._clock.steady_s()
        end = asyncio.get_running_loop().call_later(max(0.0, left_s), self._give_up, pending)
        try:
            return await pending.future
        finally:
            end.cancel()
            metrics.WRITES_IN_FLIGHT.dec()
            metrics.WRITE_SECONDS.observe(time.perf_counter() - started)

    def _give_up(self, pending: _Pending) -> None:
        """The deadline has come: say what is known of the write."""
        if pending.future.done():
            return
        if pending in self._queue:
            self._queue.remove(pending)
            error: MemsyncError = Unavailable(
                "the deadline came before the write was sent; nothing was written"
            )
        else:
            error = OutcomeUnknown(
                "the deadline came before a majority of the members had the write; "
                "repeat it with the same key"
            )
        pending.future.set_exception(error)

    async def run(self) -> None:
        """Send frames until cancelled."""
        async with asyncio.TaskGroup() as frames:
            while is_going_on():
                await self._arrived.wait()
                while self._queue and self._may_send():
                    self._in_flight += 1
                    self._sent_s = self._clock.steady_s()
                    frames.create_task(self._send(self._next_batch()))
                metrics.WRITES_QUEUED.set(len(self._queue))
                self._arrived.clear()

    def _may_send(self) -> bool:
        """Whether the next frame may leave now; where only time is lacking, it is looked again."""
        if not self._in_flight:
            return True
        if self._in_flight >= limits.FRAMES_IN_FLIGHT_MAX:
            return False
        due_s = self._sent_s + self._usual_s / 2
        left_s = due_s - self._clock.steady_s()
        if left_s > EARLY_S and self._wake_s < due_s:
            self._wake_s = due_s
            asyncio.get_running_loop().call_later(left_s, self._arrived.set)
        return left_s <= EARLY_S

    def _next_batch(self) -> list[_Pending]:
        batch = [self._queue.popleft()]
        operations, size = len(batch[0].write.operations), len(batch[0].packed)
        while self._queue:
            operations += len(self._queue[0].write.operations)
            size += len(self._queue[0].packed)
            if operations > limits.FRAME_OPERATIONS_MAX or size > limits.FRAME_BYTES_TARGET:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send(self, batch: list[_Pending]) -> None:
        """See a frame through. Every pending write gets its answer; nothing is raised."""
        began_s = self._clock.steady_s()
        latest_s = max(pending.deadline_s for pending in batch)
        deadline_s = min(latest_s, self._clock.steady_s() + limits.FRAME_S_MAX)
        frame: Frame | None = None
        try:
            frame, data = self._frames.make([pending.packed for pending in batch])
            metrics.FRAME_WRITES.observe(len(batch))
            applied = self._applier.expect(frame)
            places = await self._store_frame(_Sending(batch, frame, data, applied, deadline_s))
            took_s = min(self._clock.steady_s() - began_s, USUAL_S_MAX)
            self._usual_s += (took_s - self._usual_s) / 8
            self._resolve(batch, "quorum", places[-1], await self._applier.joined(frame, applied))
            if any(pending.ack == "all" for pending in batch):
                if not await self._members.wait_covered(places, "all", deadline_s):
                    raise OutcomeUnknown("not every member had the write in time; it is in the log")
                self._resolve(batch, "all", places[-1], await self._applier.joined(frame, applied))
        except MemsyncError as error:
            for pending in batch:
                if not pending.future.done():
                    pending.future.set_exception(error)
        finally:
            if frame is not None:
                self._applier.forget(frame)
            self._in_flight -= 1
            self._arrived.set()

    def _resolve(
        self, batch: Sequence[_Pending], ack: Ack, position: Position, applied: Applied
    ) -> None:
        for pending in batch:
            if pending.ack in ("log", ack) and not pending.future.done():
                keys = {operation.record for operation in pending.write.operations}
                records = {key: applied[key] for key in keys if key in applied}
                pending.future.set_result(Written(position=position, records=records))

    async def _store_frame(self, sending: _Sending) -> list[Position]:
        """Publish on one stripe after the other until enough members have the frame; where it lies.
        Whoever has it from one stripe counts, whichever it is."""
        places: list[Position] = []
        unknown: OutcomeUnknown | None = None
        refused: Unavailable | None = None
        deadline_s = sending.deadline_s
        while self._clock.steady_s() < deadline_s:
            for stripe in self._rotation():
                try:
                    position = await self._publish(stripe, sending)
                except OutcomeUnknown as error:
                    unknown = error
                    self._avoid(stripe, "no answer")
                    continue
                except Unavailable as error:
                    refused = error
                    self._avoid(stripe, error.code)
                    continue
                places.append(position)
                await self._answer_logged(places, sending)
                if await self._wait_cover(places, sending):
                    return places
                unknown = OutcomeUnknown(
                    "the frame is in the log but not yet applied by all who must have it; "
                    "repeat it with the same key"
                )
                self._avoid(stripe, "no cover")
                if self._clock.steady_s() >= deadline_s:
                    break
            if self._members.why_no_cover() is not None:
                break  # waiting longer helps no caller
            await pause(ROUND_PAUSE_S)
        if unknown is not None:
            raise unknown
        raise NoQuorum(
            refused.message if refused else "the deadline had passed; nothing was written"
        )

    async def _publish(self, stripe: int, sending: _Sending) -> Position:
        remaining_s = sending.deadline_s - self._clock.steady_s()
        if remaining_s <= 0:
            raise Unavailable("the deadline has passed")
        position = await self._log.publish(
            stripe,
            frame_id(sending.frame),
            sending.data,
            timeout_s=min(limits.PUBLISH_TIMEOUT_S, remaining_s),
        )
        metrics.FRAMES_PUBLISHED.inc()
        return position

    async def _answer_logged(self, places: Sequence[Position], sending: _Sending) -> None:
        """Answer those who asked for the PubAck only, whatever the others in the frame wait for;
        the records still come from the join on this peer."""
        if not any(pending.ack == "log" for pending in sending.batch):
            return
        if await self._progress.wait_for_one_of(places, sending.deadline_s):
            applied = await self._applier.joined(sending.frame, sending.applied)
            self._resolve(sending.batch, "log", places[-1], applied)

    async def _wait_cover(self, places: Sequence[Position], sending: _Sending) -> bool:
        if all(pending.ack == "log" for pending in sending.batch):
            return self._progress.has_one_of(places)
        operations = sum(len(pending.write.operations) for pending in sending.batch)
        patience_s = limits.COVER_TIMEOUT_S + operations * limits.COVER_OPERATION_S
        until_s = min(sending.deadline_s, self._clock.steady_s() + patience_s)
        return await self._members.wait_covered(places, "quorum", until_s)

    def _rotation(self) -> list[int]:
        """All stripes: the own one first, those that failed lately last."""
        now_s = self._clock.steady_s()
        names, name = self._members.names, self._members.name
        preferred = names.index(name) if name in names else 0
        order = [(preferred + i) % limits.STRIPES for i in range(limits.STRIPES)]
        return sorted(order, key=lambda stripe: self._avoided_until_s.get(stripe, 0) > now_s)

    def _avoid(self, stripe: int, reason: str) -> None:
        self._avoided_until_s[stripe] = self._clock.steady_s() + AVOID_STRIPE_S
        metrics.STRIPE_ROTATIONS.labels(reason).inc()


__all__ = ["Appender", "Condition", "Written"]
