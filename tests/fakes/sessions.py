"""Rows of sessions, for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def links(session: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The rows before and after each in its session."""
    before, after = np.full(len(session), -1, np.int32), np.full(len(session), -1, np.int32)
    last: dict[int, int] = {}
    for row, number in enumerate(session):
        if number >= 0 and number in last:
            before[row], after[last[number]] = last[number], row
        last[number] = row
    return before, after
