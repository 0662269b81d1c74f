"""Which differences between members' sums mean something."""

from __future__ import annotations

from memsync.core.comparing import Comparing, Verdict, different_buckets, digest_of
from memsync.ids import Position
from memsync.wire.members import Sums

AT = [Position(stripe, 0, 5) for stripe in range(3)]


def sums(member: str, number: int, digest: bytes, positions: list[Position] = AT) -> Sums:
    return Sums(member=member, cell="c", minute=number, positions=positions, digest=digest)


def test_once_is_no_divergence_and_twice_running_is_one() -> None:
    comparing = Comparing()
    found: list[Verdict] = []
    for number, theirs in enumerate([b"other", b"own", b"other", b"other", b"other", b"own"]):
        comparing.note_own(sums("a", number, b"own"))
        found += comparing.note_heard(sums("b", number, theirs))
    assert [v.is_divergence for v in found] == [False, False, False, True, True, False]
    assert [v.begins for v in found] == [False, False, False, True, False, False]
    assert [v.ends for v in found] == [False, False, False, False, False, True]


def test_the_order_of_hearing_and_cutting_does_not_matter_and_a_repeat_counts_once() -> None:
    comparing = Comparing()
    assert comparing.note_heard(sums("b", 1, b"other")) == []
    assert comparing.note_heard(sums("b", 1, b"other")) == []
    assert [v.times_different for v in comparing.note_own(sums("a", 1, b"own"))] == [1]
    assert comparing.note_heard(sums("b", 1, b"other")) == []


def test_members_are_compared_each_on_its_own() -> None:
    comparing = Comparing()
    comparing.note_own(sums("a", 1, b"own"))
    comparing.note_heard(sums("b", 1, b"other"))
    comparing.note_heard(sums("c", 1, b"own"))
    comparing.note_own(sums("a", 2, b"own"))
    (first,) = comparing.note_heard(sums("c", 2, b"other"))
    (second,) = comparing.note_heard(sums("b", 2, b"other"))
    assert (first.times_different, second.times_different) == (1, 2)


def test_sums_at_other_positions_or_of_another_round_say_nothing() -> None:
    comparing = Comparing()
    elsewhere = [*AT[:2], Position(2, 1, 5)]
    comparing.note_own(sums("a", 1, b"own"))
    assert comparing.note_heard(sums("b", 1, b"other", elsewhere)) == []
    assert comparing.note_heard(sums("b", 2, b"other")) == []


def test_what_is_kept_is_bounded() -> None:
    comparing = Comparing()
    for number in range(100):
        comparing.note_heard(sums("b", number, b"other"))
    assert comparing.note_own(sums("a", 90, b"own")) == []
    assert comparing.note_own(sums("a", 99, b"own")) != []


def test_a_bucket_without_rows_is_the_same_as_none() -> None:
    assert digest_of({1: 5, 2: 0}) == digest_of({1: 5}) != digest_of({1: 6})
    assert different_buckets({1: 5, 2: 0, 3: 7}, {1: 5, 3: 8, 4: 1}) == [3, 4]
