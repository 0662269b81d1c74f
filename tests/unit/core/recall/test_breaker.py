"""The breaker, step by step and against a dumb model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall.breaker import (
    COOLDOWN_S,
    COOLDOWN_S_MAX,
    FAILURES_TO_OPEN,
    Breaker,
)


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for number in range(FAILURES_TO_OPEN):
        ticket = breaker.ask(at_s)
        assert ticket is not None
        assert breaker.failed(ticket, at_s) == (number == FAILURES_TO_OPEN - 1)
    return breaker


def test_the_figures_are_those_of_the_design() -> None:
    assert (FAILURES_TO_OPEN, COOLDOWN_S, COOLDOWN_S_MAX) == (5, 60, 600)


def test_five_failures_in_a_row_open_it() -> None:
    breaker = opened()
    assert breaker.state(0) == breaker.state(59.9) == "open"
    assert breaker.ask(59.9) is None


def test_a_success_between_them_starts_the_count_again() -> None:
    breaker = Breaker()
    for _ in range(3 * FAILURES_TO_OPEN):
        for _ in range(FAILURES_TO_OPEN - 1):
            assert not breaker.failed(breaker.ask(0) or 0, 0)
        assert not breaker.is_untroubled
        breaker.succeeded(breaker.ask(0) or 0)
        assert breaker.is_untroubled
    assert breaker.state(0) == "closed"


def test_after_the_cooldown_one_probe_goes_and_closes_it() -> None:
    breaker = opened()
    assert breaker.state(60) == "probing"
    probe = breaker.ask(60)
    assert probe is not None
    assert breaker.ask(60) is None  # one at a time
    assert breaker.ask(1_000) is None
    breaker.succeeded(probe)
    assert breaker.state(60) == "closed"
    assert breaker.is_untroubled
    assert breaker.ask(60) is not None


def test_the_cooldown_doubles_while_probes_fail_and_has_an_end() -> None:
    breaker, now_s, pauses = opened(), 0.0, []
    for _ in range(7):
        began_s = now_s
        while (probe := breaker.ask(now_s)) is None:
            now_s += 1
        pauses.append(now_s - began_s)
        assert breaker.failed(probe, now_s)
    assert pauses == [60, 120, 240, 480, 600, 600, 600]
    while (probe := breaker.ask(now_s)) is None:
        now_s += 1
    breaker.succeeded(probe)
    for _ in range(FAILURES_TO_OPEN):  # the next trouble begins with the short cooldown
        breaker.failed(breaker.ask(now_s) or 0, now_s)
    assert breaker.ask(now_s + 59) is None
    assert breaker.ask(now_s + 60) is not None


def test_a_probe_that_nobody_waited_for_leaves_room_for_another() -> None:
    breaker = opened()
    probe = breaker.ask(60)
    assert probe is not None
    breaker.given_up(probe)
    again = breaker.ask(60)
    assert again is not None
    assert breaker.failed(again, 60)
    assert breaker.ask(60 + 119) is None


@pytest.mark.parametrize("is_success", [True, False])
def test_what_was_asked_before_it_turned_does_not_count(is_success: bool) -> None:
    breaker = Breaker()
    late = breaker.ask(0)
    assert late is not None
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(breaker.ask(0) or 0, 0)
    if is_success:
        breaker.succeeded(late)
    else:
        assert not breaker.failed(late, 59)
    assert breaker.state(59) == "open"
    probe = breaker.ask(60)
    assert probe is not None  # 60 s after it opened, not after the late failure
    breaker.given_up(late)
    assert breaker.ask(60) is None  # the probe is still under way


@given(st.lists(st.tuples(st.sampled_from("sfgw"), st.floats(0, 200)), max_size=60))
def test_it_agrees_with_a_dumb_model(steps: list[tuple[str, float]]) -> None:
    """Calls one after the other: a history is enough to say what is allowed."""
    breaker, now_s = Breaker(), 0.0
    failures, open_until_s, cooldown_s = 0, None, COOLDOWN_S
    for kind, seconds in steps:
        if kind == "w":
            now_s += seconds
            continue
        ticket = breaker.ask(now_s)
        is_allowed = open_until_s is None or now_s >= open_until_s
        assert (ticket is not None) == is_allowed
        if ticket is None:
            continue
        if kind == "s":
            breaker.succeeded(ticket)
            failures, open_until_s, cooldown_s = 0, None, COOLDOWN_S
        elif kind == "g":
            breaker.given_up(ticket)
        else:
            breaker.failed(ticket, now_s)
            if open_until_s is not None:
                cooldown_s = min(2 * cooldown_s, COOLDOWN_S_MAX)
                open_until_s = now_s + cooldown_s
            elif (failures := failures + 1) == FAILURES_TO_OPEN:
                open_until_s = now_s + cooldown_s
