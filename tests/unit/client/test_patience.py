"""How long to wait before somebody else is asked, and before asking again."""

from __future__ import annotations

import pytest

from memsync import limits
from memsync.client import patience
from memsync.client.patience import RecallTimes, backoff_s


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [([0.001] * 64, 0.02, 0.02), ([0.05] * 64, 0.05, 0.05), ([2.0] * 64, 0.25, 0.25),
     ([0.03] * 60 + [0.2] * 4, 0.2, 0.2), ([0.03] * 63 + [0.2], 0.03, 0.03), ([], 0.1, 0.1)],
)  # fmt: skip
def test_patience_is_the_95th_percentile_within_bounds(
    times: list[float], low: float, high: float
) -> None:
    found = RecallTimes()
    for seconds in times:
        found.note(seconds)
    assert low <= found.patience_s() <= high


def test_old_times_are_forgotten() -> None:
    found = RecallTimes()
    for seconds in [0.2] * patience.TIMES_KEPT + [0.03] * patience.TIMES_KEPT:
        found.note(seconds)
    assert found.patience_s() == 0.03


def test_hedges_are_rationed() -> None:
    found = RecallTimes()
    hedged = 0
    for _ in range(1_000):
        if found.patience_s() < limits.ATTEMPT_TIMEOUT_S:
            found.spend()
            hedged += 1
    assert 100 <= hedged <= 125


def test_pauses_double_up_to_a_second_and_obey_the_server() -> None:
    for failures in (1, 2, 3, 10, 1_000):
        whole_s = min(1.0, 0.05 * 2.0 ** min(failures - 1, 20))
        assert whole_s / 2 <= backoff_s(failures) <= whole_s
    assert backoff_s(1, 7.0) == 7.0
