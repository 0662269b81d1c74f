"""Limits by address, on a clock of the test's own."""

from __future__ import annotations

import pytest

from memsync.gateway import address_limits
from memsync.gateway.address_limits import AddressWindow, KnownKeys


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def taken(window: AddressWindow, address: str, count: int) -> int:
    """How many of `count` requests at once are let through."""
    let_in = 0
    for _ in range(count):
        if window.wait_s(address) == 0.0:
            window.note(address)
            let_in += 1
    return let_in


def test_of_any_window_only_so_many_pass() -> None:
    clock = Clock()
    window = AddressWindow(5, now=clock)
    assert taken(window, "a", 3) == 3
    clock.at_s += 0.6
    assert taken(window, "a", 9) == 2
    assert window.wait_s("a") == pytest.approx(0.4)
    clock.at_s += 0.4
    assert taken(window, "a", 9) == 3
    assert window.wait_s("a") == pytest.approx(0.6)


def test_addresses_do_not_disturb_each_other() -> None:
    window = AddressWindow(2, now=Clock())
    assert taken(window, "a", 5) == 2
    assert taken(window, "b", 5) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_limits, "ADDRESSES_MAX", 3)
    monkeypatch.setattr(address_limits, "KEYS_MAX", 3)
    window = AddressWindow(1, now=Clock())
    keys = KnownKeys()
    for address in "abcd":
        window.note(address)
        keys.add(address)
    assert [window.wait_s(address) > 0 for address in "abcd"] == [False, True, True, True]
    assert [key in keys for key in "abcd"] == [False, True, True, True]
    keys.drop("b")
    assert "b" not in keys
