"""How long no conditional update went through, stripe by stripe, and how often each stripe lost its
leader meanwhile. Pure functions over a history.

A conditional update cannot leave the home stripe of its record, so it waits out every loss of that
stripe's leader. In an outage of a stripe none was done: it goes from the beginning of the first one
that failed, or had to wait, until the last of them had its end; and until a leader was elected, if
that was later and none had been done yet. It is cut at each election but the last: what lies
between two elections is one loss. A machine that was cut off comes back with a newer term and makes
leaders step down that nothing had happened to; so one cut may be two losses, of one stripe or two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from tests.chaos.history import Elected, Fault, Operation

NOTED_S = 1.0  # shorter ones are how long a request takes
WITHOUT_QUORUM = ("gone two",)  # faults by which more is lost than a leader


class Outage(msgspec.Struct, frozen=True):
    """One of a stripe, in seconds of the run. `elections` are those in it. `is_judged`: only a
    leader was missing, as far as the faults tell."""

    stripe: int
    began: float
    ended: float
    elections: list[float]
    is_judged: bool = True

    @property
    def losses_s(self) -> list[float]:
        """How long each loss of the leader lasted, the last one until an update was done."""
        times = [self.began, *self.elections[:-1], self.ended]
        return [after - before for before, after in pairwise(times)]


def outages(
    swaps: Iterable[Operation], elections: Sequence[Elected], faults: Sequence[Fault]
) -> list[Outage]:
    """Those of all stripes that lasted `NOTED_S` or more, by their beginning. `swaps` are updates
    over every way; only those over HTTP can fail by what happened to a stripe."""
    known = [one for one in swaps if math.isfinite(one.ended)]
    homes = {one.invoke.refs[0]: one.end.stripe for one in known if one.end.stripe >= 0}
    found: list[Outage] = []
    for stripe in sorted(set(homes.values())):
        at_home = [one for one in known if homes.get(one.invoke.refs[0]) == stripe]
        at = sorted(one.at for one in elections if one.stripe == stripe)
        for began, ended, done in _gaps(at_home):
            inside = [one for one in at if began < one <= done]
            until = max([ended, *inside])
            if until - began >= NOTED_S:
                is_judged = _is_judged(began, until, faults)
                found.append(Outage(stripe, began, until, inside, is_judged))
    return sorted(found, key=lambda one: one.began)


def _gaps(swaps: Sequence[Operation]) -> Iterator[tuple[float, float, float]]:
    """(began, ended, the next one done) of times in which none was done and some should have
    been."""
    done = sorted(one.ended for one in swaps if one.is_ok)
    troubled = [one for one in swaps if _is_trouble(one)]
    for before, after in pairwise([0.0, *done, math.inf]):
        inside = [one for one in troubled if before < one.ended <= after]
        if inside:
            began = max(before, min(one.began for one in inside))
            yield began, max(one.ended for one in inside), after


def _is_trouble(swap: Operation) -> bool:
    """Whether it failed for no fault of its own, or had to wait."""
    if swap.is_ok:
        return swap.ended - swap.began >= NOTED_S
    return swap.invoke.way == "http" and not 0 < swap.end.status < 500


def _is_judged(began: float, ended: float, faults: Sequence[Fault]) -> bool:
    """Whether no fault of these times took more than a leader."""
    for one in faults:
        until = one.taken_back if one.ready is None else one.ready
        is_then = one.began <= ended and began <= until
        if is_then and any(name in one.kind for name in WITHOUT_QUORUM):
            return False
    return True
