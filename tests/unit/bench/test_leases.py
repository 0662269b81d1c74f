"""The statistics of what leases cost, on forged samples, and the lines that they become."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench import __main__ as command
from tests.bench import leases
from tests.bench.comparing import Ratio, ratio, ratio_of_medians
from tests.bench.leases import Block, Case, RefusedError

ADD, RECALL = Case("add", 1, 40), Case("recall", 16, 40)
PAIRS = 40


def forged(seed: int, *, times: float, spread: float = 0.2) -> tuple[list[float], list[float]]:
    """One value for each block of a pair; the first is `times` the second but for noise, on a
    machine that is up to ten times as slow in one pair as in another."""
    random = np.random.default_rng(seed)
    slowness = np.exp(random.uniform(0.0, np.log(10.0), PAIRS))
    noise = np.exp(random.normal(0.0, spread, (2, PAIRS)))
    return list(times * slowness * noise[0]), list(slowness * noise[1])


def test_what_a_pair_shares_cancels_out() -> None:
    found = ratio([1.2, 24.0, 360.0], [1.0, 20.0, 300.0])
    assert (found.value, found.low, found.high) == pytest.approx((1.2, 1.2, 1.2))


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    found = [ratio(*forged(seed, times=1.1)) for seed in range(200)]
    assert 0.90 <= np.mean([one.low <= 1.1 <= one.high for one in found]) <= 0.99
    assert np.mean([one.value for one in found]) == pytest.approx(1.1, rel=0.01)


def test_a_difference_is_seen_and_none_is_not_made_up() -> None:
    assert ratio(*forged(1, times=1.3)).low > 1.0
    same = ratio(*forged(1, times=1.0))
    assert same.low < 1.0 < same.high


def test_four_times_as_many_pairs_halve_the_interval() -> None:
    ones, others = forged(2, times=1.0)
    few, many = ratio(ones[:10], others[:10]), ratio(ones, others)
    assert 0.3 < (many.high - many.low) / (few.high - few.low) < 0.8


def test_one_slow_request_does_not_move_a_median() -> None:
    blocks = [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]
    slow = [[1.0, 2.0, 900.0], [2.0, 4.0, 900.0]]
    assert ratio_of_medians(slow, blocks).value == 1.0


@pytest.mark.parametrize(("ones", "others"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([], [])])
def test_blocks_without_a_pair_are_refused(ones: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs"):
        ratio(ones, others)


@pytest.mark.parametrize(
    ("case", "found", "met"),
    [
        (ADD, Ratio(1.10, 1.05, 1.15), True),
        (ADD, Ratio(1.11, 0.99, 1.20), False),
        (RECALL, Ratio(1.05, 1.02, 1.08), True),
        (RECALL, Ratio(1.07, 0.99, 1.15), True),
        (RECALL, Ratio(1.07, 1.01, 1.15), False),
    ],
)
def test_when_a_goal_is_met(case: Case, found: Ratio, met: bool) -> None:
    assert leases.is_met(case, found) is met


def block(ms: float, *, refused: int = 0) -> Block:
    return Block([ms] * (40 - refused), 40 * ms / 1e3, refused)


def test_a_line_of_the_result() -> None:
    found = leases.figure(ADD, [block(6.0), block(12.0, refused=2)], [block(5.0), block(10.0)])
    assert (found.ratio.value, found.time_ratio.value, found.is_met) == (1.2, 1.2, False)
    assert (found.with_leases.p50_ms, found.with_leases.requests) == (6.0, 78)
    assert (found.with_leases.refused, found.without.refused) == (2, 0)
    assert found.with_leases.degraded == 0
    assert found.without.per_second == round(80 / 0.6, 1)


def test_what_is_mostly_refused_is_not_compared() -> None:
    with pytest.raises(RefusedError, match="9 requests"):
        leases.figure(ADD, [block(6.0, refused=9), block(6.0)], [block(5.0), block(5.0)])
    with pytest.raises(RefusedError):
        leases.figure(ADD, [block(6.0, refused=40)], [block(5.0)])


def test_the_table_says_what_is_met() -> None:
    figure = leases.figure(ADD, [block(6.0), block(6.0)], [block(5.0), block(5.0)])
    result = leases.Result(pairs=2, figures=[figure], idle_cores={}, load=[])
    columns = {str(column.header): list(column.cells) for column in leases.table(result).columns}
    assert columns["leases"] == ["with", "without"]
    assert columns["p50 ms"] == ["6.00", "5.00"]
    assert columns["times as long [95 %]"][0] == "p50 1.200 [1.200 1.200]"
    assert columns["met"][0] == "NO"


def test_too_few_pairs_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["leases", "--pairs", "1"])
    assert ended.value.code == 2
    assert "--pairs: at least 2" in capsys.readouterr().err
