"""What follows from a history: which effects are certain, possible or impossible, and since when.

A **subject** is the memory that effects are about: one add, one item of a bulk, or one name
(`client_ref`) of a user, whoever used it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

from tests.simulation.history import DEFINITE, NEVER, OK, Effect, Event, History

Subject: TypeAlias = tuple[str, str, str]  # (kind, user, name)


class Fact:
    """What is known of one effect."""

    def __init__(self, effect: Effect, events: list[Event]) -> None:
        self.effect = effect
        self.events = events
        done = [event for event in events if event.outcome == OK]
        self.is_ok = bool(done)
        self.is_failed = bool(events) and all(event.outcome == DEFINITE for event in events)
        self.invoked_s = min((event.invoked_s for event in events), default=NEVER)
        self.covered_s = min((e.ended_s for e in done if e.ack != "log"), default=NEVER)

    def is_before(self, read: Event) -> bool:
        """Whether the read must show it."""
        if self.effect.number in read.must_see and "replication" not in read.degraded:
            return self.is_ok
        return read.is_fresh_read and self.covered_s < read.invoked_s

    def is_over_before(self, later: Fact) -> bool:
        """Whether it was answered before the other was asked for at all."""
        return self.covered_s < later.invoked_s


class Facts:
    """The effects of a history by what they are about."""

    def __init__(self, history: History) -> None:
        events: dict[int, list[Event]] = defaultdict(list)
        for event in history.events:
            if event.effect is not None:
                events[event.effect].append(event)
        self.all = [Fact(effect, events[effect.number]) for effect in history.effects]
        self.by_token: dict[str, Fact] = {t: f for f in self.all for t in f.effect.tokens}
        self.subjects: dict[Subject, list[Fact]] = defaultdict(list)  # who may have made each
        self.subject_of_token: dict[str, Subject] = {}
        self.subject_of_id: dict[int, Subject] = {}
        for fact in self.all:
            self._note_made(fact)
        self.updates = self._about("update")
        self.counts = self._about("cas")
        self.forgets = self._about("forget")

    def _note_made(self, fact: Fact) -> None:
        effect = fact.effect
        if effect.kind not in ("add", "bulk"):
            return
        for token in effect.tokens:
            named = effect.client_ref
            subject = ("name", effect.user, named) if named else ("memory", effect.user, token)
            self.subjects[subject].append(fact)
            self.subject_of_token[token] = subject
        for event in fact.events:
            for token, identifiers in answered_ids(effect, event).items():
                for identifier in identifiers:
                    self.subject_of_id[identifier] = self.subject_of_token[token]

    def _about(self, kind: str) -> dict[Subject, list[Fact]]:
        found: dict[Subject, list[Fact]] = defaultdict(list)
        for fact in self.all:
            for target in fact.effect.targets if fact.effect.kind == kind else ():
                found[self.subject_of_id[target]].append(fact)
        return found

    def made_s(self, subject: Subject) -> float:
        """When somebody was first told that it exists."""
        return min(fact.covered_s for fact in self.subjects[subject])

    def is_made(self, subject: Subject) -> bool:
        """Whether anybody was told that it exists, in whatever way."""
        return any(fact.is_ok for fact in self.subjects[subject])

    def maybe_forgotten_s(self, subject: Subject) -> float:
        """From when on it may be gone."""
        possible = [fact for fact in self.forgets.get(subject, ()) if not fact.is_failed]
        return min((fact.invoked_s for fact in possible), default=NEVER)

    def surely_forgotten(self, subject: Subject) -> list[Fact]:
        """The forgets that were answered with it."""
        return [
            fact
            for fact in self.forgets.get(subject, ())
            for event in fact.events
            if event.outcome == OK
            and any(self.subject_of_id.get(one) == subject for one in event.answer)
        ]


def answered_ids(effect: Effect, event: Event) -> dict[str, list[int]]:
    """The ids that the answer to an add names, by the token that they were asked for with."""
    if event.outcome != OK:
        return {}
    if effect.kind == "add":
        answer = event.answer
        return {effect.tokens[0]: answer["memory_ids"] if event.status == 200 else [answer["id"]]}
    if effect.kind == "bulk":
        results = event.answer["results"]
        return {effect.tokens[item["index"]]: item["memory_ids"] for item in results}
    return {}
