"""Which peer is asked, in which order, and how long to wait before the next one. Pure.

A request has a preferred peer (rendezvous hash), so that each scope's index is loaded on few of
them. Peers that failed lately come last. Times are seconds of any one clock that only grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from memsync import limits

SUSPECT_S_FIRST = 1.0
SUSPECT_S_MAX = 8.0
OVERTAKEN_MAX = 3  # so often in a row overtaken by a hedge, and a peer is suspect
HEDGE_S_MIN = 0.02
HEDGE_S_MAX = 0.25
HEDGE_S_FIRST = 0.1  # until enough times are known
HEDGES_SAVED_MAX = 20.0
HEDGES_PER_RECALL = 0.1  # so slow peers are not made slower by twice the requests
TIMES_KEPT = 256
TIMES_BETWEEN = 32


class Attempt(msgspec.Struct, frozen=True):
    """One try: which way (a name) to which peer."""

    way: str
    member: str


def rendezvous(members: Sequence[str], *parts: str) -> list[str]:
    """The members in the order in which a request with these parts prefers them.

    Highest random weight (Thaler and Ravishankar 1998): taking a member away moves only its share.
    """
    key = blake2b("\x00".join(parts).encode(errors="surrogatepass"), digest_size=16).digest()
    weights = {
        member: blake2b(member.encode(), digest_size=8, key=key).digest() for member in members
    }
    return sorted(members, key=weights.__getitem__, reverse=True)


class Suspects:
    """Peers that did not answer lately. They are asked last, for 1 s, doubling to 8 s."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._for_s: dict[str, float] = {}
        self._overtaken: dict[str, int] = {}

    def order(self, members: Sequence[str], now_s: float) -> list[str]:
        """The members with the suspects moved to the end, each part in its own order."""
        return sorted(members, key=lambda member: self._until.get(member, 0.0) > now_s)

    def answered(self, member: str) -> None:
        """The peer is well again."""
        if self._for_s or self._overtaken:
            self._until.pop(member, None)
            self._for_s.pop(member, None)
            self._overtaken.pop(member, None)

    def failed(self, member: str, now_s: float) -> None:
        """The peer could not be reached, or kept silent for a whole attempt."""
        if self._until.get(member, 0.0) > now_s:
            return  # known already; one failure of many requests at once counts once
        self._for_s[member] = min(SUSPECT_S_MAX, 2 * self._for_s.get(member, SUSPECT_S_FIRST / 2))
        self._until[member] = now_s + self._for_s[member]

    def overtaken(self, member: str, now_s: float) -> None:
        """Another peer was asked later and answered first."""
        self._overtaken[member] = self._overtaken.get(member, 0) + 1
        if self._overtaken[member] >= OVERTAKEN_MAX:
            self.failed(member, now_s)


class RecallTimes:
    """The running 95th percentile of recalls, and how many hedges may be spent."""

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
        return self._hedge_s if self._saved >= 1.0 else limits.ATTEMPT_TIMEOUT_S

    def spend(self) -> None:
        """A second peer was asked."""
        self._saved -= 1.0


def plan(order: Sequence[str], buses: Sequence[str], http: str) -> list[Attempt]:
    """The attempts of one request; `buses` are the ways over the bus that are open.

    The first ones differ in the way AND in the peer (first bus, second bus, the peer's own port),
    so that one frozen peer together with one frozen server costs two waits. Then what is left.
    """
    ways = [*buses, http]
    varied = [Attempt(way, order[number % len(order)]) for number, way in enumerate(ways)]
    by_bus = [Attempt(bus, member) for bus in buses[-1:] for member in order]
    by_http = [Attempt(http, member) for member in order]
    return list(dict.fromkeys(varied + by_bus + by_http))
