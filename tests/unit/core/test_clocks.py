"""Whose clock is off, by the median of at least three."""

from __future__ import annotations

import pytest

from memsync.core.clocks import READINGS_S, Readings, apart_ms

HOUR_MS = 3_600_000.0


@pytest.mark.parametrize(
    ("own", "others", "apart"),
    [
        (0.0, [0.0, HOUR_MS], 0.0),
        (HOUR_MS, [0.0, 10.0], HOUR_MS - 10.0),
        (-HOUR_MS, [0.0, 10.0], -HOUR_MS),
        (0.0, [HOUR_MS], None),
        (0.0, [], None),
        (0.0, [-100.0, 100.0, HOUR_MS, 0.0], 0.0),
    ],
)
def test_the_median_judges(own: float, others: list[float], apart: float | None) -> None:
    assert apart_ms(own, others) == apart


def test_a_reading_that_was_late_does_not_count() -> None:
    readings = Readings()
    readings.take(1_000_000, 1.0)
    readings.take(1_001_600, 2.9)  # 0.3 s on its way
    assert readings.wall_ms(7.0) == 1_006_000


def test_a_hundred_late_ones_do_not_hide_the_good_one_before_them() -> None:
    """A busy machine: each of the readings is 0.4 s old when it is heard."""
    readings = Readings()
    readings.take(1_000_000, 1.0)
    for number in range(100):
        readings.take(1_000_000 + number * 80 - 400, 1.0 + number * 0.08)
    assert readings.wall_ms(9.0) == 1_008_000


def test_a_clock_that_was_put_back_is_believed_after_some_seconds() -> None:
    readings = Readings()
    readings.take(9_000_000, 1.0)
    for number in range(int(READINGS_S * 10) + 1):
        readings.take(1_000_000 + number * 100, 1.1 + number * 0.1)
    assert readings.wall_ms(1.1 + READINGS_S) == pytest.approx(1_000_000 + READINGS_S * 1000)


def test_a_reading_from_before_a_silence_does_not_count() -> None:
    readings = Readings()
    readings.take(9_000_000, 1.0)
    readings.take(1_000_000, 60.0)
    assert readings.wall_ms(60.0) == 1_000_000
