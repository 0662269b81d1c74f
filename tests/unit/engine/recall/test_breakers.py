"""Breakers by organisation and provider."""

from __future__ import annotations

import pytest

from memsync import limits
from memsync.core.recall.breaker import FAILURES_TO_OPEN
from memsync.engine.recall.breakers import Breakers


class HandClock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def wall_ms(self) -> int:
        return int(self.now_s * 1_000)

    def steady_s(self) -> float:
        return self.now_s


def fail(breakers: Breakers, organisation: int, provider: str, times: int) -> None:
    for _ in range(times):
        ticket = breakers.ask(organisation, provider)
        assert ticket is not None
        breakers.failed(ticket)


def test_one_organisation_and_provider_says_nothing_of_another() -> None:
    clock = HandClock()
    breakers = Breakers(clock)
    fail(breakers, 1, "primary", FAILURES_TO_OPEN)
    fail(breakers, 2, "primary", FAILURES_TO_OPEN - 1)
    assert breakers.ask(1, "primary") is None
    assert breakers.ask(2, "primary") is not None
    assert breakers.ask(1, "secondary") is not None
    assert breakers.troubled() == {"primary": {"open": 1}}
    clock.now_s += 60
    assert breakers.troubled() == {"primary": {"probing": 1}}
    probe = breakers.ask(1, "primary")
    assert probe is not None
    assert breakers.ask(1, "primary") is None
    breakers.succeeded(probe)
    assert breakers.troubled() == {}
    assert breakers.ask(1, "primary") is not None


def test_a_probe_that_was_given_up_is_free_again() -> None:
    clock = HandClock()
    breakers = Breakers(clock)
    fail(breakers, 1, "primary", FAILURES_TO_OPEN)
    clock.now_s += 60
    probe = breakers.ask(1, "primary")
    assert probe is not None
    breakers.given_up(probe)
    assert breakers.ask(1, "primary") is not None


def test_only_so_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BREAKERS_MAX", 3)
    breakers = Breakers(HandClock())
    for organisation in range(5):
        fail(breakers, organisation, "primary", FAILURES_TO_OPEN)
    assert breakers.troubled() == {"primary": {"open": 3}}
    assert breakers.ask(0, "primary") is not None
    assert breakers.ask(4, "primary") is None


def test_success_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BREAKERS_MAX", 1)
    breakers = Breakers(HandClock())
    fail(breakers, 1, "primary", 1)
    ticket = breakers.ask(1, "primary")
    assert ticket is not None
    breakers.succeeded(ticket)
    fail(breakers, 2, "primary", FAILURES_TO_OPEN)  # would forget the first one
    assert breakers.ask(2, "primary") is None
