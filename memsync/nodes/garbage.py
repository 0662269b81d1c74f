"""The garbage collector of a process that answers requests."""

from __future__ import annotations

import gc

# What requests and frames are made of holds no cycles, and goes when it is used no more. So the
# garbage collector looks seldom, at what came after the start only.
THRESHOLDS = (10_000, 10, 10)


def leave_requests_alone() -> None:
    """To be called once all that lasts has been made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
