"""How long to wait for an answer before somebody else is asked as well, and before asking again.
Pure but for the chance in `backoff_s`. Times are seconds."""

from __future__ import annotations

import random

from memsync import limits

HEDGE_S_MIN = 0.02
HEDGE_S_MAX = 0.25
HEDGE_S_FIRST = 0.1  # until enough times are known
HEDGES_SAVED_MAX = 20.0
HEDGES_PER_RECALL = 0.1  # so slow peers are not made slower by twice the requests
TIMES_KEPT = 256
TIMES_BETWEEN = 32
BACKOFF_S = 0.05
BACKOFF_S_MAX = 1.0


class RecallTimes:
    """The running 95th percentile of reads, and how many hedges may be spent."""

    def __init__(self) -> None:
        self._times = [0.0] * TIMES_KEPT
        self._count = 0
        self._hedge_s = HEDGE_S_FIRST
        self._saved = HEDGES_SAVED_MAX

    def note(self, seconds: float) -> None:
        """A recall was answered after so long."""
        self._times[self._count % TIMES_KEPT] = seconds
        self._count += 1
        if self._count % TIMES_BETWEEN == 0:
            known = sorted(self._times[: self._count])
            percentile = known[int(len(known) * 0.95)]
            self._hedge_s = min(max(percentile, HEDGE_S_MIN), HEDGE_S_MAX)

    def patience_s(self) -> float:
        """How long to wait for a peer before another is asked as well."""
        self._saved = min(HEDGES_SAVED_MAX, self._saved + HEDGES_PER_RECALL)
        return self._hedge_s if self.may_hedge() else limits.ATTEMPT_TIMEOUT_S

    def may_hedge(self) -> bool:
        """Whether a second peer may be asked as early as the percentile says."""
        return self._saved >= 1.0

    def spend(self) -> None:
        """A second peer was asked."""
        self._saved -= 1.0


def backoff_s(failures: int, asked_s: float | None = None) -> float:
    """How long to wait after the n-th failure (from 1): at least what the server asked for, else
    doubling, with chance in it."""
    doubled = min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** min(failures - 1, 16))
    wait_s: float = doubled * random.uniform(0.5, 1.0)
    return max(asked_s or 0.0, wait_s)
