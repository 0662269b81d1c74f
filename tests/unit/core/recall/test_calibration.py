"""How sure an answer is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall.calibration import Facts, confidence_of, facts_of

SHARE = st.floats(0, 1)


def test_facts_are_those_of_the_first_five() -> None:
    covered = [0.1, 0.3, 0.2, 0.0, 0.0, 0.9]
    scorings = [{"coverage": share, "bm25": 3.0} for share in covered]
    assert facts_of(scorings, margin=0.2, by_named=None) == Facts(0.2, pytest.approx(0.2), False)
    enough = facts_of([{"coverage": 0.7}], margin=0.2, by_named=False)
    assert enough == Facts(0.2, 0.0, True)
    assert facts_of([{}], margin=0.0, by_named=True) == Facts(0.0, 0.5, False)


@given(margin=SHARE, missing=st.floats(0, 0.5), other=st.booleans(), less=SHARE)
def test_less_to_go_by_is_less_confidence(
    margin: float, missing: float, other: bool, less: float
) -> None:
    confidence = confidence_of(Facts(margin, missing, other))
    assert 0 < confidence < 1
    assert confidence_of(Facts(margin * less, missing, other)) <= confidence
    assert confidence_of(Facts(margin, missing + less, other)) <= confidence
    assert confidence_of(Facts(margin, missing, other=True)) <= confidence


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_is_refused(broken: float) -> None:
    with pytest.raises(ValueError, match="confidence of"):
        confidence_of(Facts(broken, 0.0, other=False))
