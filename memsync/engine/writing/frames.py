"""Stamps and frames: what gives this process's writes their place, once and for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from memsync.clock import Clock
from memsync.core.records import Record, as_record
from memsync.core.stamps import next_stamp
from memsync.errors import Internal, InvariantBroken
from memsync.ids import Position, RecordKey
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, Stamp


class Written(msgspec.Struct, frozen=True):
    """An acknowledged write: where its frame lies, and its records after the join."""

    position: Position
    records: dict[RecordKey, Record]


class Frames:
    """Gives stamps and numbers. `incarnation` is the id block leased at this start; 0 before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = Stamp(0, 0)
        self._number = 0
        self.incarnation = 0

    def stamp(self, above: Iterable[Stamp] = ()) -> Stamp:
        """A stamp above the clock, above all that were given, and above `above`."""
        self._last = next_stamp(
            self._last,
            wall_ms=self._clock.wall_ms(),
            incarnation=self.incarnation,
            above=above,
        )
        return self._last

    def make(self, writes: Sequence[bytes]) -> tuple[Frame, bytes]:
        """A frame of packed writes as it will be read: decoded and dry-joined before anybody sees
        it. The bytes are those of `codec.pack` of the frame; each write is encoded once."""
        self._number += 1
        packed = [msgspec.Raw(write) for write in writes]
        data = codec.pack((SCHEMA, self.incarnation, self._number, packed))
        try:
            decoded = codec.decode_frame(data)
            for write in decoded.writes:
                for operation in write.operations:
                    as_record(operation, write.stamp)
        except InvariantBroken as error:
            logger().error("frame.unfit", **describe(error))
            raise Internal("the write has no valid form; nothing was written") from error
        return decoded, data
