"""Which stripes are held at the marks of a round, and for how long."""

from __future__ import annotations

import pytest

from memsync.core.marks import Cut, Hold, make_mark, round_of
from memsync.ids import Position
from memsync.wire import codec
from memsync.wire.operations import RawMessage

HOLD_S = 0.2


def mark(stripe: int, number: int, sequence: int = 7) -> RawMessage:
    """The mark of round `number` in a stripe."""
    message_id, data = make_mark(number)
    return RawMessage(Position(stripe, 0, sequence), data, message_id)


def holding(present: int | None = 100) -> Hold:
    hold = Hold(HOLD_S)
    hold.present = present
    return hold


def take(hold: Hold, message: RawMessage, now_s: float = 0.0) -> int | None:
    hold.note_queued(message)
    return hold.note_taken(message, now_s)


def test_a_mark_is_a_frame_that_writes_nothing_and_everybody_makes_the_same() -> None:
    message_id, data = make_mark(29_000_000)
    assert make_mark(29_000_000) == (message_id, data)
    assert codec.decode_frame(data).writes == []
    assert round_of(message_id) == 29_000_000


@pytest.mark.parametrize("message_id", ["", "9.1", "10.ff", "0.", "0.x", "00.1"])
def test_other_frames_are_no_marks(message_id: str) -> None:
    assert round_of(message_id) is None


def test_each_stripe_is_held_from_its_mark_until_all_have_reached_theirs() -> None:
    hold = holding()
    take(hold, mark(1, 100, 5))
    assert (hold.holds(0), hold.holds(1), hold.is_whole) == (False, True, False)
    take(hold, mark(0, 100, 3))
    take(hold, mark(2, 100, 9))
    assert hold.is_whole
    assert hold.cut() == Cut(100, [Position(0, 0, 3), Position(1, 0, 5), Position(2, 0, 9)])
    hold.end()
    assert not hold.is_on


def test_a_round_that_is_over_is_never_held_for_again() -> None:
    hold = holding()
    take(hold, mark(1, 100))
    assert hold.end() == 100
    take(hold, mark(0, 100))
    assert not hold.is_on
    assert hold.has_seen(2, 100)


@pytest.mark.parametrize(("present", "is_held"), [(None, False), (97, False), (98, True)])
def test_only_rounds_near_the_present_are_held_for(present: int | None, is_held: bool) -> None:
    hold = holding(present)
    take(hold, mark(0, 100))
    assert hold.is_on is is_held


def test_the_mark_of_another_round_ends_the_one_that_was_waited_for() -> None:
    hold = holding()
    take(hold, mark(0, 100))
    assert take(hold, mark(1, 101)) == 100
    assert (hold.holds(0), hold.holds(1)) == (False, True)


def test_waiting_ends_with_the_time_unless_the_missing_marks_have_arrived() -> None:
    hold = holding()
    take(hold, mark(0, 100), now_s=5.0)
    hold.note_queued(mark(1, 100))
    assert not hold.is_hopeless(5.1, can_more_come=True)
    assert hold.is_hopeless(5.2, can_more_come=True)
    hold.note_queued(mark(2, 100))
    assert not hold.is_hopeless(5.2, can_more_come=True)
    take(hold, mark(1, 100))
    take(hold, mark(2, 100))
    assert hold.is_whole


def test_waiting_ends_at_once_when_nothing_more_can_come() -> None:
    hold = holding()
    take(hold, mark(0, 100), now_s=5.0)
    assert hold.is_hopeless(5.0, can_more_come=False)


def test_a_mark_that_was_taken_while_it_was_not_wanted_is_not_waited_for() -> None:
    hold = holding()
    hold.note_queued(mark(1, 100))
    hold.present = None
    hold.note_taken(mark(1, 100), 0.0)
    hold.present = 100
    take(hold, mark(0, 100))
    take(hold, mark(2, 100))
    assert hold.is_hopeless(HOLD_S, can_more_come=True)
