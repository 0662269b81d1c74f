"""Reading a stripe: any order, loss, repetition or restart of what is heard applies each frame
once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memsync.core.continuity import EARLY_MAX, Continuity
from memsync.ids import Position
from memsync.wire.operations import RawMessage


def message(sequence: int, generation: int = 0) -> RawMessage:
    return RawMessage(Position(0, generation, sequence), b"%d" % sequence, "")


@given(st.lists(st.integers(1, 12), max_size=60))
def test_frames_are_applied_in_order_and_once_whatever_is_heard(heard: list[int]) -> None:
    reading = Continuity(Position(0, 0, 1))
    applied = [m.position.sequence for s in heard for m in reading.take([message(s)])]
    expected = 0
    while expected + 1 in set(heard):
        expected += 1
    assert applied == list(range(1, expected + 1))
    assert reading.next.sequence == expected + 1
    assert reading.has_gap == (bool(heard) and max(heard) > expected)


@given(st.permutations(range(1, 9)), st.integers(1, 8))
def test_what_was_missed_is_taken_when_it_is_read_again(order: list[int], missed: int) -> None:
    reading = Continuity(Position(0, 0, 1))
    first = reading.take([message(s) for s in order if s != missed])
    rest = reading.take([message(s) for s in range(missed, 9)])
    assert [m.position.sequence for m in first + rest] == list(range(1, 9))


def test_a_position_that_others_speak_of_is_a_gap() -> None:
    reading = Continuity(Position(0, 0, 5))
    reading.note_end(Position(0, 0, 4))
    assert not reading.has_gap
    reading.note_end(Position(0, 0, 5))
    assert reading.has_gap


def test_a_higher_generation_is_read_from_its_beginning() -> None:
    reading = Continuity(Position(0, 0, 100))
    assert reading.take([message(2, generation=1)]) == []
    assert reading.has_gap
    assert reading.next == Position(0, 1, 1)
    assert len(reading.take([message(1, generation=1)])) == 2


def test_an_older_generation_says_nothing() -> None:
    reading = Continuity(Position(0, 2, 1))
    assert reading.take([message(1, generation=1)]) == []
    reading.note_end(Position(0, 1, 50))
    assert not reading.has_gap


def test_early_frames_are_bounded_and_what_is_dropped_is_read_again() -> None:
    reading = Continuity(Position(0, 0, 1))
    reading.take([message(s) for s in range(2, EARLY_MAX + 50)])
    first = reading.take([message(1)])
    assert len(first) == EARLY_MAX + 1
    assert reading.has_gap
    rest = reading.take([message(s) for s in range(EARLY_MAX + 2, EARLY_MAX + 50)])
    assert rest[-1].position.sequence == EARLY_MAX + 49
    assert not reading.has_gap
