"""One winner: writes that happen only while a record has the version that the caller saw.

Such a write is published alone, on the record's own subject in its home stripe (for ever the same
one), and only if nothing was published there since this peer looked. So conditional writes of a
record are serialised against each other. They cannot rotate: while their stripe has no leader they
are refused.

What was published last on the subject is asked of any server. One that is behind does no harm: the
leader of the stripe compares, and refuses. So a write needs the leader of its stripe and nobody
else, above all not the one that the servers have for their streams as a whole.

A publish whose answer did not come is a doubt. It is over once this very write is applied here, or
once something else was published on the subject behind what it was to follow: then the leader has
refused it, or will. Until then the write is tried again, since only one of its publishes can be
taken. An error is definite only if no doubt was left.
"""

from __future__ import annotations

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.core import memories
from memsync.core.records import stamps_of, version_of
from memsync.engine.applier import Applier
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.writing.frames import Frames, Written
from memsync.errors import (
    MemsyncError,
    NoStripeLeader,
    OutcomeUnknown,
    Unavailable,
    VersionConflict,
)
from memsync.ids import Position, RecordKey, scope_key
from memsync.ports import Log, Store
from memsync.tasks import pause
from memsync.wire import codec
from memsync.wire.operations import Stamp, Write, frame_id
from memsync.wire.requests import Ack

TRIES_MAX = 300
AGAIN_S = 0.02  # after a conflict: whoever was behind catches up
IN_DOUBT_AGAIN_S = 0.1  # after a refusal, while it is not known whether the write happened


class Condition(msgspec.Struct, frozen=True):
    """The write happens only while `record` is visible and has this version."""

    record: RecordKey
    version: str


class _Doubt:
    """Whether a publish of a write may have happened unheard, and what each such was to follow."""

    def __init__(self) -> None:
        self.error: OutcomeUnknown | None = None
        self._after: dict[int, int] = {}  # generation -> the highest sequence to follow

    def note(self, last: Position) -> None:
        """A publish that was to follow `last` had no answer."""
        known = self._after.get(last.generation, 0)
        self._after[last.generation] = max(known, last.sequence)

    def settle(self, last: Position) -> None:
        """All up to `last` on the record's subject is applied here, and this write is not in it."""
        if last.sequence > self._after.get(last.generation, last.sequence):
            del self._after[last.generation]
            if not self._after:
                self.error = None


class Conditional:
    """Coordinates conditional writes, one record at a time."""

    def __init__(
        self,
        log: Log,
        store: Store,
        applier: Applier,
        members: Members,
        progress: Progress,
        leases: Leases,
        frames: Frames,
        clock: Clock,
    ) -> None:
        self._log = log
        self._store = store
        self._applier = applier
        self._members = members
        self._progress = progress
        self._leases = leases
        self._frames = frames
        self._clock = clock

    async def write(
        self, write: Write, condition: Condition, *, ack: Ack, deadline_s: float
    ) -> Written:
        """Raises as `Appender.write` does; `VersionConflict` names the current version."""
        doubt = _Doubt()
        for _ in range(TRIES_MAX):
            pause_s = AGAIN_S
            try:
                written = await self._attempt(write, condition, doubt, ack, deadline_s)
            except OutcomeUnknown as error:
                doubt.error = error
            except MemsyncError as error:
                if doubt.error is None:
                    raise
                if not isinstance(error, Unavailable):
                    raise doubt.error from error
                pause_s = IN_DOUBT_AGAIN_S
            else:
                if written is not None:
                    return written
            if self._left_s(deadline_s) <= pause_s:
                break
            if doubt.error is not None and self._members.why_no_cover() is not None:
                break  # waiting longer helps no caller
            await pause(pause_s)
        raise doubt.error or Unavailable("the record changes too fast; nothing was written")

    async def _attempt(
        self, write: Write, condition: Condition, doubt: _Doubt, ack: Ack, deadline_s: float
    ) -> Written | None:
        """One look and one publish; None where another write came between the two."""
        stripe = int.from_bytes(condition.record[:4], "big") % limits.STRIPES
        last = await self._look(stripe, condition.record, deadline_s)
        looked_s = await self._catch_up(last, deadline_s)
        done = await self._repeat_of(write, stripe, ack=ack, deadline_s=deadline_s)
        if done is not None:
            return done
        doubt.settle(last)
        above = await self._checked_version(condition)
        if self._clock.steady_s() - looked_s >= limits.STAMP_WITHIN_S:
            return None  # this process stood still: a plain update may have been acknowledged since
        stamped = msgspec.structs.replace(write, stamp=self._frames.stamp(above))
        frame, data = self._frames.make([codec.pack(stamped)])
        applied = self._applier.expect(frame)
        try:
            position = await self._log.publish(
                stripe,
                frame_id(frame),
                data,
                record=condition.record,
                after=last.sequence,
                timeout_s=min(limits.PUBLISH_TIMEOUT_S, max(0.001, self._left_s(deadline_s))),
            )
            await self._wait_covered(position, ack, deadline_s)
            return Written(
                position=position, records=dict(await self._applier.joined(frame, applied))
            )
        except VersionConflict:
            return None
        except OutcomeUnknown:
            doubt.note(last)
            raise
        finally:
            self._applier.forget(frame)

    async def _look(self, stripe: int, record: RecordKey, deadline_s: float) -> Position:
        """What some server has last on the record's own subject, in the newest generation that this
        peer knows; sequence 0 where it has nothing."""
        end = self._progress.end_of(stripe)
        if end is None:
            raise NoStripeLeader(f"stripe {stripe} has no stream yet; nothing was written")
        timeout_s = min(limits.FETCH_TIMEOUT_S, self._left_s(deadline_s))
        last = await self._log.last_of_record(
            stripe, end.generation, record, timeout_s=max(0.001, timeout_s)
        )
        return Position(stripe, end.generation, last)

    async def _catch_up(self, last: Position, deadline_s: float) -> float:
        """Apply what came before on the record's own subject, and all that was acknowledged up to
        the moment that is returned (steady clock): a plain update may lie in any stripe, and must
        be seen by the check that follows."""
        is_there = await self._progress.wait_for([last], deadline_s)
        looked_s = self._clock.steady_s()
        if not is_there or await self._leases.wait_fresh(deadline_s) != "fresh":
            raise Unavailable("this peer has not caught up with the others; nothing was written")
        return looked_s

    async def _repeat_of(
        self, write: Write, stripe: int, *, ack: Ack, deadline_s: float
    ) -> Written | None:
        """An earlier attempt of this very write that is applied here. Where it lies in its stripe
        is not kept: all that is applied of the stripe must be covered."""
        stored = await self._store.operation(scope_key(write.scope), write.key)
        if stored is None or stored.request_hash != write.request_hash:
            return None
        written = self._progress.written()
        ends = [end for end in written if end.stripe == stripe] or written
        for end in ends:
            await self._wait_covered(end, ack, deadline_s)
        keys = [operation.record for operation in write.operations]
        return Written(position=ends[-1], records=await self._store.records(keys))

    async def _checked_version(self, condition: Condition) -> list[Stamp]:
        """The stamps that the update must beat; raises where the version is another by now."""
        record = await self._store.record(condition.record)
        visible = record is not None and memories.is_visible(record, self._clock.wall_ms())
        current = version_of(record) if record is not None and visible else None
        if record is None or current != condition.version:
            raise VersionConflict(
                "if_version: the record has another version by now",
                details={"current_version": current},
            )
        return stamps_of(record)

    async def _wait_covered(self, position: Position, ack: Ack, deadline_s: float) -> None:
        if ack == "log":
            return
        if not await self._members.wait_covered([position], ack, deadline_s):
            raise OutcomeUnknown(
                "in the log, but not yet applied by enough members; repeat it with the same key"
            )

    def _left_s(self, deadline_s: float) -> float:
        return deadline_s - self._clock.steady_s()
