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

No message can come too late for that, or overtake others. What a watermark says of a write stays
true: its teller has it, and names all who may hold a lease because it answered them without having
it. A question that is heard late is answered as of then. A grant is given back by name and process,
since that of a later process of the same name may have been given meanwhile.

Gray and Cheriton, "Leases" (1989), is where the idea comes from; `lease_model.py` in the design
folder walks through this rule at random, and the simulation through this code. Times are seconds of
a clock that goes on while the process is stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from memsync import limits
from memsync.ids import Position

QUESTION_BITS = 32  # of the number of a question, below that of the process


def first_question(process: int) -> int:
    """Where a process begins to count its questions. `process` is a number of at most 31 bits, not
    0, that no other process of its name has: a random one."""
    return (process << QUESTION_BITS) + 1


def process_of(question: int) -> int:
    """Which process asked."""
    return question >> QUESTION_BITS


class Grants:
    """Whom this peer has answered a lease's question lately. A process that starts has forgotten
    whom it answered before: it keeps silent for `GRANT_S`."""

    def __init__(self) -> None:
        # By name and process: until when, and the last question. Of two of one name the one that
        # asked last stands last.
        self._given: dict[tuple[str, int], tuple[float, int]] = {}

    def give(self, asker: str, question: int, now_s: float) -> None:
        """Name `asker` from now on for `GRANT_S`, and `question` as its last."""
        key = (asker, process_of(question))
        self._given = {k: v for k, v in self._given.items() if v[0] > now_s and k != key}
        self._given[key] = (now_s + limits.GRANT_S, question)

    def drop(self, asker: str, question: int) -> None:
        """The process of `asker` that asked `question` gave its lease up; an earlier or a later one
        may hold another."""
        self._given.pop((asker, process_of(question)), None)

    def named(self, now_s: float) -> dict[str, int]:
        """Those who may hold a lease because of an answer from here, with the last question of
        each."""
        return {
            asker: question
            for (asker, _), (until_s, question) in self._given.items()
            if until_s > now_s
        }


class Unheard:
    """Holders of leases that others hear and this peer does not: it would wait for their word on
    each write for as long as others name them, which is for ever. A holder that died asks no more
    questions, so what others still say of it is no sign of that."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}  # the last question of each that was heard here
        self._news: dict[str, tuple[float, float]] = {}  # the first and the last of each since then

    def hear(self, member: str, question: int) -> None:
        """The member itself was heard; it asked `question`, or nothing (0)."""
        self._news.pop(member, None)
        if question:
            self._asked[member] = question

    def hear_of(self, holder: str, question: int, now_s: float) -> None:
        """Another member has heard the holder ask `question`, as it had not said before."""
        known = self._asked.get(holder, 0)
        if question <= known and process_of(question) == process_of(known):
            return  # it was heard here, too, or a later one was
        first_s, last_s = self._news.get(holder, (now_s, now_s))
        if now_s - last_s >= limits.GRANT_S:
            first_s = now_s  # what was before is over
        self._news[holder] = (first_s, now_s)

    def holders(self, now_s: float) -> list[str]:
        """Those whom others have gone on hearing for `UNHEARD_S`, and this peer has not since."""
        return [
            holder
            for holder, (first_s, last_s) in self._news.items()
            if last_s - first_s >= limits.UNHEARD_S and now_s - last_s < limits.GRANT_S
        ]


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
