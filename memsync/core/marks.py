"""Marks: frames without writes that cut all stripes at one moment, so that members can compare what
they hold. Pure.

A mark of a round lies once in each stripe. Whoever has applied every stripe up to its mark, and
nothing behind any of them, holds what everybody else holds at that moment. So a stripe whose mark
was reached is held until the others have reached theirs; not for long, since writers wait: a round
whose marks do not come is passed over.

A round is a number: the wall clock divided by the time between two rounds. Only rounds near the
present one are held for: who reads the log of an hour ago need not stop at sixty marks.
"""

from __future__ import annotations

from collections import deque

import msgspec

from memsync import limits
from memsync.ids import Position
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, RawMessage, frame_id

INCARNATION = 0  # no process's, so that everybody's mark of a round is the same
ROUNDS_APART_MAX = 2  # between a mark and the present round: clocks differ, and logs lag
ROUNDS_REMEMBERED = 16
_PREFIX = f"{INCARNATION:x}."


class Cut(msgspec.Struct, frozen=True):
    """The marks of a round, one in each stripe, by stripe."""

    round: int
    positions: list[Position]


def make_mark(number: int) -> tuple[str, bytes]:
    """The message id and the bytes of a round's mark, the same whoever makes it."""
    frame = Frame(SCHEMA, INCARNATION, number, [])
    return frame_id(frame), codec.pack(frame)


def round_of(message_id: str) -> int | None:
    """The round whose mark this is; None for every other frame."""
    if not message_id.startswith(_PREFIX):
        return None
    try:
        return int(message_id.removeprefix(_PREFIX), 16)
    except ValueError:
        return None


class Hold:
    """Which stripes are held, and for which round. Told of every frame twice: when it is queued and
    when it is taken to be applied."""

    def __init__(self, hold_s: float = limits.MARK_HOLD_S) -> None:
        self._hold_s = hold_s
        self._reached: dict[int, Position] = {}
        self._round = 0  # that is held for; means something only while a stripe is held
        self._until_s = 0.0
        self._over: deque[int] = deque(maxlen=ROUNDS_REMEMBERED)
        self._queued: set[tuple[int, int]] = set()  # (stripe, round) of marks that have arrived
        self.present: int | None = None  # the round by the clock; None: no round is held for

    @property
    def is_on(self) -> bool:
        """Whether any stripe is held."""
        return bool(self._reached)

    @property
    def is_whole(self) -> bool:
        """Whether all stripes have reached their marks."""
        return len(self._reached) == limits.STRIPES

    @property
    def until_s(self) -> float:
        """When to look whether the round is to be passed over."""
        return self._until_s

    def holds(self, stripe: int) -> bool:
        """Whether frames of a stripe must wait."""
        return stripe in self._reached

    def has_seen(self, stripe: int, number: int) -> bool:
        """Whether a round's mark has arrived in a stripe, as far as that is remembered."""
        is_held_for = number == self._round and stripe in self._reached
        return is_held_for or number in self._over or (stripe, number) in self._queued

    def note_queued(self, message: RawMessage) -> None:
        """A frame has arrived, and will be taken some time."""
        number = round_of(message.message_id)
        if number is not None and self._is_wanted(number):
            self._queued.add((message.position.stripe, number))

    def note_taken(self, message: RawMessage, now_s: float) -> int | None:
        """A frame of a stripe that is not held is about to be applied; if it is a mark, the stripe
        is held from here. Returns the round that is passed over because of it, if any."""
        number = round_of(message.message_id)
        if number is None:
            return None
        self._queued.discard((message.position.stripe, number))
        if not self._is_wanted(number):
            return None
        passed = None
        if self.is_on and number != self._round:
            passed = self.end()  # this stripe has no mark of the round that others wait for
        if not self.is_on:
            self._round, self._until_s = number, now_s + self._hold_s
        self._reached[message.position.stripe] = message.position
        return passed

    def is_hopeless(self, now_s: float, *, can_more_come: bool) -> bool:
        """Whether to wait no longer: the time is over, or everything that waits to be applied is
        held already and nothing can be added; and a mark that is missing has not arrived. One that
        has arrived is reached in the order of arrival, whatever the load."""
        if not self.is_on or self.is_whole or (now_s < self._until_s and can_more_come):
            return False
        missing = set(range(limits.STRIPES)) - self._reached.keys()
        return any((stripe, self._round) not in self._queued for stripe in missing)

    def cut(self) -> Cut:
        """The marks, once all stripes have reached theirs."""
        return Cut(self._round, [self._reached[stripe] for stripe in sorted(self._reached)])

    def end(self) -> int:
        """Hold no stripe any more, and never for this round again; returns its number."""
        self._over.append(self._round)
        self._reached.clear()
        self._queued = {entry for entry in self._queued if self._is_wanted(entry[1])}
        return self._round

    def _is_wanted(self, number: int) -> bool:
        return (
            self.present is not None
            and abs(number - self.present) <= ROUNDS_APART_MAX
            and number not in self._over
        )
