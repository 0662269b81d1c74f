"""One winner: writes that happen only while a record has the version that the caller saw.

Such a write is published alone, on the record's own subject in its home stripe (for ever the same
one), and only if nothing was published there since this peer looked. So conditional writes of a
record are serialised against each other. They cannot rotate: while their stripe has no leader they
are refused.

An error is definite only if no publish before it was left unknown.
"""

from __future__ import annotations

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.core import memories
from memsync.core.records import stamps_of
from memsync.engine.applier import Applier
from memsync.engine.frames import Frames, Written
from memsync.engine.members import Members
from memsync.engine.progress import Progress
from memsync.errors import MemsyncError, OutcomeUnknown, Unavailable, VersionConflict
from memsync.ids import Position, RecordKey, scope_key
from memsync.ports import Log, Store
from memsync.wire import codec
from memsync.wire.operations import Stamp, Write, frame_id
from memsync.wire.requests import Ack

TRIES_MAX = 50


class Condition(msgspec.Struct, frozen=True):
    """The write happens only while `record` is visible and has this version."""

    record: RecordKey
    version: str


class Conditional:
    """Coordinates conditional writes, one record at a time."""

    def __init__(
        self,
        log: Log,
        store: Store,
        applier: Applier,
        members: Members,
        progress: Progress,
        frames: Frames,
        clock: Clock,
    ) -> None:
        self._log = log
        self._store = store
        self._applier = applier
        self._members = members
        self._progress = progress
        self._frames = frames
        self._clock = clock

    async def write(
        self, write: Write, condition: Condition, *, ack: Ack, deadline_s: float
    ) -> Written:
        """Raises as `Appender.write` does; `VersionConflict` names the current version."""
        unknown: OutcomeUnknown | None = None
        for _ in range(TRIES_MAX):
            try:
                written = await self._attempt(write, condition, ack=ack, deadline_s=deadline_s)
            except OutcomeUnknown as error:
                unknown = error
            except MemsyncError as error:
                if unknown is not None:
                    raise unknown from error
                raise
            else:
                if written is not None:
                    return written
            if self._left_s(deadline_s) <= 0:
                break
        raise unknown or Unavailable("the record changes too fast; nothing was written")

    async def _attempt(
        self, write: Write, condition: Condition, *, ack: Ack, deadline_s: float
    ) -> Written | None:
        """One look and one publish; None where another write came between the two."""
        key = condition.record
        stripe = int.from_bytes(key[:4], "big") % limits.STRIPES
        last = await self._log.last_of_record(stripe, key, timeout_s=self._left_s(deadline_s))
        await self._catch_up(last, deadline_s)
        done = await self._repeat_of(write, last, ack=ack, deadline_s=deadline_s)
        if done is not None:
            return done
        above = await self._checked_version(condition)
        stamped = msgspec.structs.replace(write, stamp=self._frames.stamp(above))
        frame, data = self._frames.make([codec.pack(stamped)])
        applied = self._applier.expect(frame)
        try:
            position = await self._log.publish(
                stripe,
                frame_id(frame),
                data,
                record=key,
                after=0 if last is None else last.sequence,
                timeout_s=min(limits.PUBLISH_TIMEOUT_S, max(0.001, self._left_s(deadline_s))),
            )
            await self._wait_covered(position, ack, deadline_s)
            return Written(position=position, records=dict(await applied))
        except VersionConflict:
            return None
        finally:
            self._applier.forget(frame)

    async def _catch_up(self, last: Position | None, deadline_s: float) -> None:
        """Apply what came before on the record's own subject, and what any member says it has: a
        plain update may lie in any stripe, and must be seen by the check that follows."""
        wanted = [*self._members.heard_ends(), *([last] if last else [])]
        if not await self._progress.wait_for(wanted, deadline_s):
            raise Unavailable("this peer has not caught up with the others; nothing was written")

    async def _repeat_of(
        self, write: Write, last: Position | None, *, ack: Ack, deadline_s: float
    ) -> Written | None:
        """An earlier attempt of this very write that is in the log after all."""
        stored = await self._store.operation(scope_key(write.scope), write.key)
        if last is None or stored is None or stored.request_hash != write.request_hash:
            return None
        await self._wait_covered(last, ack, deadline_s)
        keys = [operation.record for operation in write.operations]
        return Written(position=last, records=await self._store.records(keys))

    async def _checked_version(self, condition: Condition) -> list[Stamp]:
        """The stamps that the update must beat; raises where the version is another by now."""
        record = await self._store.record(condition.record)
        visible = record is not None and memories.is_visible(record, self._clock.wall_ms())
        current = memories.version_of(record) if record is not None and visible else None
        if record is None or current != condition.version:
            raise VersionConflict(
                "if_version: the memory has another version by now",
                details={"current_version": current},
            )
        return stamps_of(record)

    async def _wait_covered(self, position: Position, ack: Ack, deadline_s: float) -> None:
        count = {"log": 1, "quorum": self._members.majority, "all": len(self._members.names)}[ack]
        if not await self._members.wait_covered(position, count, deadline_s):
            raise OutcomeUnknown(
                "in the log, but not yet applied by enough members; repeat it with the same key"
            )

    def _left_s(self, deadline_s: float) -> float:
        return deadline_s - self._clock.steady_s()
