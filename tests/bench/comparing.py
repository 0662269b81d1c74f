"""Two ways of doing one thing, measured in turns: how many times as long the one takes.

A machine that others use is fast now and slow a second later, so separate runs cannot be compared,
nor can all samples of one way with all of the other. What is compared are blocks that were measured
one right after the other, and what the blocks of a pair share cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 4_000
SHARE = 0.95  # of the interval
SEED = 7
PAIRS_MIN = 2


class Ratio(msgspec.Struct, frozen=True):
    """How many times as long, with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def ratio(ones: Sequence[float], others: Sequence[float]) -> Ratio:
    """The geometric mean of `ones[i] / others[i]`, all above 0; one value for each block of a pair.

    The interval is the percentile bootstrap over pairs (Efron and Tibshirani, "An Introduction to
    the Bootstrap", 1993, chapter 13): a pair is drawn whole, since its blocks are not independent.
    The same values give the same interval. Raises `ValueError` for fewer than two pairs, or where
    a block has no pair.
    """
    if len(ones) != len(others) or len(ones) < PAIRS_MIN:
        raise ValueError(f"{len(ones)} and {len(others)} blocks make no {PAIRS_MIN} pairs")
    logarithms = np.log(np.asarray(ones, float) / np.asarray(others, float))
    drawn = np.random.default_rng(SEED).integers(
        0, len(logarithms), size=(RESAMPLES, len(logarithms))
    )
    means = logarithms[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - SHARE) / 2, (1 + SHARE) / 2])
    value, low, high = np.exp([logarithms.mean(), low, high])
    return Ratio(round(float(value), 4), round(float(low), 4), round(float(high), 4))


def ratio_of_medians(ones: Sequence[ArrayLike], others: Sequence[ArrayLike]) -> Ratio:
    """The same of the blocks' medians; a block is the samples taken in it, in any unit."""
    return ratio(
        [float(np.median(block)) for block in ones],
        [float(np.median(block)) for block in others],
    )
