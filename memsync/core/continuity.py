"""Whether frames of a stripe arrive without a gap. Pure: told what was heard, says what may be
applied.

Frames are applied in the order of their sequence, each once. What comes early is kept (a bounded
number) until the gap before it is filled; what comes again is dropped. A higher generation means
that the stream was lost and made again: reading goes on at its beginning, and what was missing of
the old generation comes from a peer that has it.
"""

from __future__ import annotations

from collections.abc import Iterable

from memsync import limits
from memsync.ids import Position
from memsync.wire.operations import RawMessage

EARLY_MAX = 1_024  # frames


class Continuity:
    """The state of reading one stripe: `next` is the position that may be applied next."""

    def __init__(self, start: Position) -> None:
        self.next = start
        self._end = 0  # highest sequence of this generation that anybody spoke of
        self._early: dict[int, RawMessage] = {}
        self._early_bytes = 0

    @property
    def has_gap(self) -> bool:
        """Whether frames are known to exist that have not come yet."""
        return self._end >= self.next.sequence

    def take(self, messages: Iterable[RawMessage]) -> list[RawMessage]:
        """Messages as they came, in any order, repeated or not: those that may be applied now."""
        for message in messages:
            self.note_end(message.position)
            sequence = message.position.sequence
            is_current = message.position.generation == self.next.generation
            is_next = sequence == self.next.sequence
            if is_current and (is_next or (sequence > self.next.sequence and self._has_room())):
                self._keep(message)
        ready = []
        while self.next.sequence in self._early:
            ready.append(self._early.pop(self.next.sequence))
            self._early_bytes -= len(ready[-1].data)
            self.next = Position(self.next.stripe, self.next.generation, self.next.sequence + 1)
        return ready

    def _has_room(self) -> bool:
        return len(self._early) < EARLY_MAX and self._early_bytes < limits.TAIL_EARLY_BYTES_MAX

    def _keep(self, message: RawMessage) -> None:
        if message.position.sequence not in self._early:
            self._early[message.position.sequence] = message
            self._early_bytes += len(message.data)

    def note_end(self, position: Position) -> None:
        """Somebody spoke of this position: all up to it exists."""
        if position.generation > self.next.generation:
            self.restart(Position(position.stripe, position.generation, 1))
        if position.generation == self.next.generation:
            self._end = max(self._end, position.sequence)

    def skip_to(self, end: Position) -> list[RawMessage]:
        """All up to `end` is here by another way: go on after it. Returns what came early and may
        be applied now."""
        if end.generation > self.next.generation:
            self.restart(Position(end.stripe, end.generation, end.sequence + 1))
        elif end.generation == self.next.generation and end.sequence >= self.next.sequence:
            for sequence in [s for s in self._early if s <= end.sequence]:
                self._early_bytes -= len(self._early.pop(sequence).data)
            self.next = Position(end.stripe, end.generation, end.sequence + 1)
        return self.take([])

    def lower_end(self, sequence: int) -> None:
        """Whatever anybody spoke of: nothing exists above `sequence`, or what came early."""
        self._end = max([sequence, *self._early])

    def restart(self, start: Position) -> None:
        """Go on reading at `start`: a new generation, or after a lawful trim."""
        self.next = start
        self._end = 0
        self._early.clear()
        self._early_bytes = 0
