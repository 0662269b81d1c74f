"""Positions merge in any order, and what is kept of them is bounded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync import errors, limits
from memsync.client.positions import GENERATIONS_KEPT, Positions, merged
from memsync.ids import Position
from memsync.wire import context

POSITIONS = st.builds(
    Position,
    st.integers(0, limits.STRIPES - 1),
    st.integers(0, 5),
    st.integers(0, 1 << 40),
)


@given(st.lists(POSITIONS, max_size=30), st.randoms())
def test_any_order_and_repetition_is_the_same(found: list[Position], chance: random.Random) -> None:
    texts = [context.format_positions([one]) for one in found]
    whole = merged(context.format_positions(found))
    chance.shuffle(texts)
    assert merged(*texts, *texts[:3], whole) == whole
    assert len(context.parse_positions(whole)) <= limits.STRIPES * GENERATIONS_KEPT


def test_the_highest_of_each_generation_is_kept() -> None:
    assert merged("0.0.5,1.0.7", "0.0.3,2.1.1", "") == "0.0.5,1.0.7,2.1.1"
    assert merged("0.0.5", "0.1.2", "0.2.1") == "0.1.2,0.2.1"
    assert str(Positions()) == ""


@pytest.mark.parametrize("text", ["x", "1.2", "9.0.1", "0.0.-1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(errors.ValidationFailed):
        Positions(text)
