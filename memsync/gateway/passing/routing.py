"""Which peer is asked, in which order, and how long to wait before the next one. Pure.

A request has a preferred peer (rendezvous hash), so that each scope's index is loaded on few of
them. Peers that failed lately come last. Times are seconds of any one clock that only grows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import msgspec

TAGGED_S = 1.0  # so long a peer that was not sure of its own answer is not asked first
SUSPECT_S_FIRST = 1.0
SUSPECT_S_MAX = 8.0
OVERTAKEN_MAX = 3  # so often in a row overtaken by a hedge, and a peer is suspect


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
    """Peers that did not answer lately: they are asked last, for 1 s, doubling to 8 s; and those
    whose last answer said that it may be old: they are asked before these, for 1 s. The ways to
    peers are judged alike."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._for_s: dict[str, float] = {}
        self._overtaken: dict[str, int] = {}
        self._tagged_until: dict[str, float] = {}

    def order(self, members: Sequence[str], now_s: float) -> list[str]:
        """The members with the suspects moved to the end, each part in its own order."""
        if not self._until and not self._tagged_until:
            return list(members)
        return sorted(members, key=lambda member: self._rank(member, now_s))

    def is_promising(self, member: str, now_s: float) -> bool:
        """Whether it may well answer, and better than one that is not sure of its answer."""
        return self._rank(member, now_s) == 0

    def _rank(self, member: str, now_s: float) -> int:
        if self._until.get(member, 0.0) > now_s:
            return 2
        return int(self._tagged_until.get(member, 0.0) > now_s)

    def tagged(self, member: str, now_s: float) -> None:
        """Its answer said that it may be old."""
        self._tagged_until[member] = now_s + TAGGED_S

    def sure(self, member: str) -> None:
        """Its answer is as fresh as was asked for."""
        self._tagged_until.pop(member, None)

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


def plan(order: Sequence[str], buses: Sequence[str], http: str) -> Iterator[Attempt]:
    """The attempts of one request; `buses` are the ways over the bus that are open, the best first.

    The first ones differ in the way AND in the peer (first bus, second bus, the peer's own port),
    so that one frozen peer together with one frozen server costs two waits. Then what is left, over
    the second bus, beginning with whom no bus has reached; then the peers' own ports. Made one by
    one: nearly every request needs the first only.
    """
    ways = [*buses, http]
    varied = []
    for number, way in enumerate(ways):
        varied.append(Attempt(way, order[number % len(order)]))
        yield varied[-1]
    reached = {attempt.member for attempt in varied if attempt.way != http}
    late = sorted(order, key=lambda member: member in reached)
    by_bus = [Attempt(bus, member) for bus in buses[-1:] for member in late]
    by_http = [Attempt(http, member) for member in order]
    yield from dict.fromkeys(one for one in by_bus + by_http if one not in varied)
