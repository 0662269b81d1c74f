"""The fit of the confidence: finds weights that made the outcomes, and judges fairly."""

from __future__ import annotations

import numpy as np
import pytest

from memsync.core.recall.calibration import Facts
from tests.bench import calibrating
from tests.bench.calibrating import Asked

TRUE = np.array([4.0, -8.0, -1.5, 0.5])


def asked(count: int, *, seed: int) -> list[Asked]:
    """Questions about three conversations, answered as often as TRUE says."""
    chance = np.random.default_rng(seed)
    found = []
    for number in range(count):
        facts = Facts(chance.random(), chance.random() / 2, bool(chance.random() < 0.3))
        evidence = np.array([facts.margin, facts.missing, facts.other, 1.0]) @ TRUE
        is_answered = bool(chance.random() < 1 / (1 + np.exp(-evidence)))
        found.append(Asked(number % 3, number % 3, 4, is_answered, facts))
    return found


def test_the_fit_finds_the_weights_that_made_the_outcomes() -> None:
    assert calibrating.fitted(asked(8_000, seed=1)) == pytest.approx(TRUE, abs=0.5)


def test_what_was_fitted_elsewhere_is_calibrated_here() -> None:
    questions = asked(3_000, seed=2)
    answered = np.array([one.is_answered for one in questions], float)
    likely = calibrating.left_out(questions, 3)
    assert calibrating.calibration_error(likely, answered) < 0.05
    assert calibrating.brier(likely, answered) < answered.var()


def test_the_errors_are_those_of_their_definitions() -> None:
    answered = np.array([1.0, 0.0] * 50)
    assert calibrating.calibration_error(np.full(100, 0.5), answered) == pytest.approx(0)
    assert calibrating.calibration_error(np.full(100, 0.8), answered) == pytest.approx(0.3)
    assert calibrating.brier(np.full(100, 0.5), answered) == 0.25
    assert calibrating.brier(answered, answered) == 0


def test_others_questions_weigh_less() -> None:
    """Unanswered questions of other conversations pull less than as many of one's own."""
    own = asked(300, seed=3)
    none = [Asked(0, 1, 0, False, one.facts) for one in own]
    as_own = [Asked(0, 0, 5, False, one.facts) for one in own]
    base_of = [calibrating.fitted(own + more)[-1] for more in ([], none, as_own)]
    assert base_of[0] > base_of[1] > base_of[2]
