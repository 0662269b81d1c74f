"""Which peer is asked, and when the next one."""

from __future__ import annotations

from collections import Counter

from memsync.gateway.passing import routing
from memsync.gateway.passing.routing import Attempt, Suspects, plan, rendezvous

MEMBERS = ["peer-1", "peer-2", "peer-3"]
GOLDEN = ["peer-2", "peer-1", "peer-3"]  # gateways of all versions must agree


def test_an_order_is_stable_and_does_not_depend_on_the_list() -> None:
    order = rendezvous(MEMBERS, "key", "project", "user")
    assert order == GOLDEN
    assert order == rendezvous(MEMBERS[::-1], "key", "project", "user")


def test_scopes_spread_evenly_over_first_and_second_places() -> None:
    orders = [rendezvous(MEMBERS, "key", "", f"user-{n}") for n in range(3_000)]
    for place in (0, 1):
        counts = Counter(order[place] for order in orders)
        assert all(850 < counts[member] < 1150 for member in MEMBERS)


def test_a_lost_member_moves_only_its_own_scopes() -> None:
    for number in range(300):
        before = rendezvous(MEMBERS, "key", "", f"user-{number}")
        after = rendezvous(MEMBERS[:2], "key", "", f"user-{number}")
        assert after == [member for member in before if member != "peer-3"]


def test_the_parts_are_kept_apart() -> None:
    orders = {
        tuple(rendezvous([f"m{n}" for n in range(9)], *parts))
        for parts in (("ab", "", "c"), ("a", "b", "c"), ("ab", "c", ""), ("", "ab", "c"))
    }
    assert len(orders) == 4


def test_a_failed_peer_is_last_for_a_second_then_longer() -> None:
    suspects = Suspects()
    suspects.failed("peer-1", 10.0)
    suspects.failed("peer-1", 10.1)  # of the same moment: counts once
    assert suspects.order(MEMBERS, 10.9) == ["peer-2", "peer-3", "peer-1"]
    assert suspects.order(MEMBERS, 11.1) == MEMBERS
    suspects.failed("peer-1", 11.2)
    assert suspects.order(MEMBERS, 13.1) == ["peer-2", "peer-3", "peer-1"]
    assert suspects.order(MEMBERS, 13.3) == MEMBERS


def test_suspicion_has_an_end_and_an_answer_ends_it() -> None:
    suspects = Suspects()
    at_s = 0.0
    for _ in range(10):
        suspects.failed("peer-1", at_s)
        at_s += 100.0
    suspects.failed("peer-1", at_s)
    assert suspects.order(MEMBERS, at_s + routing.SUSPECT_S_MAX + 0.1) == MEMBERS
    assert suspects.order(MEMBERS, at_s + 0.1)[-1] == "peer-1"
    suspects.answered("peer-1")
    assert suspects.order(MEMBERS, at_s + 0.1) == MEMBERS
    suspects.failed("peer-1", at_s)
    assert suspects.order(MEMBERS, at_s + 1.1) == MEMBERS


def test_one_slow_answer_is_no_suspicion_but_three_in_a_row_are() -> None:
    suspects = Suspects()
    for _ in range(2):
        suspects.overtaken("peer-1", 1.0)
    suspects.answered("peer-1")
    for _ in range(2):
        suspects.overtaken("peer-1", 1.0)
    assert suspects.order(MEMBERS, 1.1) == MEMBERS
    suspects.overtaken("peer-1", 1.0)
    assert suspects.order(MEMBERS, 1.1)[-1] == "peer-1"


def test_the_first_attempts_differ_in_way_and_peer_and_then_all_is_tried() -> None:
    attempts = list(plan(MEMBERS, ["bus", "second"], "http"))
    assert attempts[:3] == [
        Attempt("bus", "peer-1"), Attempt("second", "peer-2"), Attempt("http", "peer-3"),
    ]  # fmt: skip
    assert set(attempts[3:]) == {
        Attempt("second", "peer-1"), Attempt("second", "peer-3"),
        Attempt("http", "peer-1"), Attempt("http", "peer-2"),
    }  # fmt: skip


def test_without_a_bus_the_ports_are_left_in_order() -> None:
    assert list(plan(MEMBERS, [], "http")) == [Attempt("http", member) for member in MEMBERS]


def test_a_cell_of_one() -> None:
    assert list(plan(["only"], ["bus", "second"], "http")) == [
        Attempt("bus", "only"), Attempt("second", "only"), Attempt("http", "only"),
    ]  # fmt: skip
