"""Rate limits: never more than the limit in any window, and not much less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.admission import GRANULES, TIERS, Admission, RateLimits, Window

SMALL = RateLimits(per_second=2, per_minute=5, per_hour=9)
GAPS = st.lists(
    st.one_of(st.floats(0, 1.5), st.floats(0, 70), st.floats(0, 4_000)), min_size=1, max_size=60
)


def spans(limits: RateLimits) -> list[tuple[float, int]]:
    return [(1.0, limits.per_second), (60.0, limits.per_minute), (3_600.0, limits.per_hour)]


@given(gaps=GAPS, start=st.floats(0, 1e6))
def test_agrees_with_a_list_of_times(gaps: list[float], start: float) -> None:
    """The dumb model keeps every time. We may refuse up to one granule longer, never pass more."""
    admission, passed, now = Admission(), [], start
    for gap in gaps:
        now += gap
        verdict = admission.admit("key", SMALL, now)
        inside = [sum(now - at < span for at in passed) for span, _ in spans(SMALL)]
        wider = [sum(now - at <= span * (1 + 1 / GRANULES) + 1e-6 for at in passed)
                 for span, _ in spans(SMALL)]  # fmt: skip
        if any(n >= limit for n, (_, limit) in zip(inside, spans(SMALL), strict=True)):
            assert not verdict.admitted
        if all(n < limit for n, (_, limit) in zip(wider, spans(SMALL), strict=True)):
            assert verdict.admitted
        if verdict.admitted:
            passed.append(now)


@given(gaps=GAPS)
def test_coming_again_after_retry_after_passes(gaps: list[float]) -> None:
    admission, now = Admission(), 0.0
    for gap in gaps:
        now += gap
        verdict = admission.admit("key", SMALL, now)
        if not verdict.admitted:
            assert verdict.retry_after_s > 0
            now += verdict.retry_after_s + 1e-6
            assert admission.admit("key", SMALL, now).admitted


@given(gaps=GAPS)
def test_a_window_counts_nothing_below_zero_and_forgets_all(gaps: list[float]) -> None:
    window, now = Window(60.0), 0.0
    for gap in gaps:
        now += gap
        window.advance(now)
        window.count()
        assert window.total >= 1
    window.advance(now + 61)
    assert window.total == 0


@pytest.mark.parametrize(
    ("tier", "limits"),
    [
        ("free", (2, 30, 100)),
        ("pro", (10, 200, 5_000)),
        ("enterprise", (50, 1_000, 50_000)),
        ("unlimited", (1_000, 60_000, 3_600_000)),
    ],
)
def test_tiers_pass_exactly_their_second(tier: str, limits: tuple[int, int, int]) -> None:
    assert TIERS[tier] == RateLimits(*limits)
    admission = Admission()
    for _ in range(limits[0]):
        assert admission.admit("key", TIERS[tier], 5.0).admitted
    refused = admission.admit("key", TIERS[tier], 5.0)
    assert (refused.admitted, refused.limit, refused.remaining) == (False, limits[0], 0)
    assert 1.0 <= refused.retry_after_s <= 1.0 + 2 / GRANULES
    assert admission.admit("key", TIERS[tier], 5.0 + refused.retry_after_s).admitted


def test_the_minute_and_the_hour_hold_a_slow_sender() -> None:
    admission = Admission()
    passed = [admission.admit("key", TIERS["free"], at * 1.1).admitted for at in range(50)]
    assert sum(passed) == 30
    passed = [admission.admit("key", TIERS["free"], 100 + at * 3.0).admitted for at in range(200)]
    assert sum(passed) == 70


def test_remaining_speaks_of_the_tightest_window() -> None:
    admission = Admission()
    verdict = admission.admit("key", SMALL, 0.0)
    assert (verdict.limit, verdict.remaining) == (2, 1)
    for at in (2.0, 4.0, 6.0):
        verdict = admission.admit("key", SMALL, at)
    assert (verdict.limit, verdict.remaining) == (5, 1)
    assert 50 < verdict.reset_s <= 60.6


def test_a_refused_request_is_not_counted() -> None:
    admission = Admission()
    for _ in range(2):
        admission.admit("key", SMALL, 0.0)
    for _ in range(100):
        assert not admission.admit("key", SMALL, 0.5).admitted
    assert admission.admit("key", SMALL, 1.02).admitted


def test_keys_do_not_share_windows_and_the_longest_unused_is_let_go() -> None:
    admission = Admission(keys_max=2)
    one = RateLimits(1, 1, 1)
    assert admission.admit("a", one, 0.0).admitted
    assert admission.admit("b", one, 0.0).admitted
    assert not admission.admit("a", one, 0.0).admitted
    assert admission.admit("c", one, 0.0).admitted  # "b" goes, "a" was used later
    assert not admission.admit("a", one, 0.0).admitted
    assert admission.admit("b", one, 0.0).admitted


def test_a_clock_that_steps_back_forgets_nothing() -> None:
    admission = Admission()
    one = RateLimits(1, 1, 1)
    assert admission.admit("key", one, 100.0).admitted
    assert not admission.admit("key", one, 50.0).admitted
