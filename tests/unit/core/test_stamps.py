"""Stamps only grow, whatever the clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memsync.core.stamps import next_stamp, wall_ms_of
from memsync.wire.operations import Stamp


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=50))
def test_stamps_grow_while_the_clock_steps_about(clock: list[int]) -> None:
    last = Stamp(0, 0)
    for wall_ms in clock:
        stamp = next_stamp(last, wall_ms=wall_ms, incarnation=3)
        assert stamp > last
        assert wall_ms_of(stamp) >= wall_ms
        last = stamp


@given(st.lists(st.builds(Stamp, st.integers(0, 1 << 60), st.integers(0, 1 << 32)), max_size=5))
def test_a_stamp_beats_all_that_it_must_beat(above: list[Stamp]) -> None:
    stamp = next_stamp(Stamp(0, 0), wall_ms=1, incarnation=0, above=above)
    assert all(stamp > other for other in above)
