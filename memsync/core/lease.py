"""Leases: why a peer may answer from its own store as if it had asked everybody. Pure.

A peer asks the members how far they are. Once fewer than a majority of them can have anything that
it has not applied (who does not answer may have anything), it holds a lease until `LEASE_S` after
the question was sent. Questions and answers go with watermarks: whoever hears a question names the
asker, with that question, in its watermarks for `GRANT_S`, which is longer. A write is answered
only when a majority has it, and everybody who is named by those that have it. Of the majority that
has an acknowledged write, then,

- either each had it when it answered the question, or was silent: then the asker had to apply it;
- or one answered without having it: then all that this one says of the write names the asker, and
  the write waits for the asker, or until the lease is over.

It is not enough for the asker to apply the furthest answer of a majority, which is simpler, because
it is too much: a frame that one peer heard of a server that died is with nobody else for the 4 to
7 s of an election, acknowledged it cannot be, and all other peers would be without a lease.

Gray and Cheriton, "Leases" (1989), is where the idea comes from; `lease_model.py` in the design
folder walks through this rule at random, and the simulation through this code. Times are seconds of
a clock that goes on while the process is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from memsync import limits
from memsync.ids import Position


class Grants:
    """Whom this peer has answered a lease's question lately. A process that starts has forgotten
    whom it answered before: it keeps silent for `GRANT_S`."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[float, int]] = {}

    def give(self, asker: str, question: int, now_s: float) -> None:
        """Name `asker` from now on for `GRANT_S`, and `question` as its last."""
        self._given[asker] = (now_s + limits.GRANT_S, question)

    def drop(self, asker: str) -> None:
        """`asker` gave its lease up."""
        self._given.pop(asker, None)

    def named(self, now_s: float) -> dict[str, int]:
        """Those who may hold a lease because of an answer from here, with the last question of
        each."""
        return {
            asker: question for asker, (until_s, question) in self._given.items() if until_s > now_s
        }


class Lease:
    """This peer's own lease."""

    def __init__(self) -> None:
        self._until_s = float("-inf")

    def hold(self, sent_s: float) -> None:
        """A question that was sent at `sent_s` was answered, and its answers are applied."""
        self._until_s = max(self._until_s, sent_s + limits.LEASE_S)

    def give_up(self) -> None:
        """Hold it no longer."""
        self._until_s = float("-inf")

    def is_held(self, now_s: float) -> bool:
        """Whether everything that was acknowledged up to now is applied here."""
        return now_s < self._until_s


class Survey(msgspec.Struct):
    """One question and the answers to it: what each member had applied when it answered.
    `membership` is the version of the membership that the asker went by."""

    token: int
    sent_s: float
    membership: str = ""
    answers: dict[str, dict[tuple[int, int], int]] = {}

    def hear(self, member: str, told: Iterable[Position]) -> None:
        """An answer came. The first of each member counts: whatever it applied later, it applied
        when it named the asker already."""
        if member in self.answers:
            return
        self.answers[member] = {(p.stripe, p.generation): p.sequence for p in told}

    def has_majority(self, members: Collection[str], asker: str) -> bool:
        """Whether so many answered that no write can have been acknowledged without one of them;
        the asker counts without asking."""
        return self._silent(members, asker) < least_in_cover(len(members))

    def is_satisfied(
        self, members: Collection[str], asker: str, own: Mapping[tuple[int, int], int]
    ) -> bool:
        """Whether the asker, who has applied `own`, has all that was acknowledged before the
        question was sent: in no generation may enough for an acknowledgement have more than it,
        where who did not answer may have anything. (What fewer have is not acknowledged. Should it
        be later, one who answered without having it takes part in that, and names the asker.)"""
        enough = least_in_cover(len(members))
        silent = self._silent(members, asker)
        if silent >= enough:
            return False
        told = [self.answers[member] for member in members if member in self.answers]
        places = {place for ends in told for place in ends}
        return all(
            silent + sum(ends.get(place, 0) > own.get(place, 0) for ends in told) < enough
            for place in places
        )

    def furthest(self) -> list[Position]:
        """The furthest position of every generation in the answers."""
        return furthest(
            Position(*place, sequence)
            for told in self.answers.values()
            for place, sequence in told.items()
        )

    def _silent(self, members: Collection[str], asker: str) -> int:
        return len(members) - len({asker, *self.answers}.intersection(members))


def majority_of(members: int) -> int:
    """How many members are a majority of so many."""
    return members // 2 + 1


def least_in_cover(members: int) -> int:
    """How many of so many members have a write at the least once it is acknowledged, be it by a
    peer that goes by the same membership or by one that is one change further: that may count a new
    member, or leave one out. (`memsync/decisions/0017-membership.md`)"""
    return (members + 1) // 2


def furthest(positions: Iterable[Position]) -> list[Position]:
    """The furthest of the positions in each generation of each stripe."""
    found: dict[tuple[int, int], Position] = {}
    for position in positions:
        place = (position.stripe, position.generation)
        found[place] = max(position, found.get(place, position))
    return list(found.values())


def covers(told: Iterable[Position], positions: Sequence[Position]) -> bool:
    """Whether who tells these ends has applied at least one of `positions`: those at which one
    frame lies."""
    return any(
        end.stripe == position.stripe
        and end.generation == position.generation
        and end.sequence >= position.sequence
        for end in told
        for position in positions
    )
