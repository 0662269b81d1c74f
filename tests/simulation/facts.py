"""What follows from a history: which effects are certain, possible or impossible, and since when.

A **subject** is the memory that effects are about: one add, one item of a bulk, one name
(`client_ref`) of a user, whoever used it, or one record that the add of a text was answered with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from tests.simulation.history import DEFINITE, NEVER, OK, UNKNOWN, Effect, Event, History

Subject: TypeAlias = tuple[str, str, str]  # (kind, user, name)
ADDS = ("add", "bulk")


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

    @property
    def settled_s(self) -> float:
        """It had no effect after this; infinite while nobody knows."""
        if any(event.outcome == UNKNOWN for event in self.events):
            return NEVER
        return max((event.ended_s for event in self.events), default=NEVER)

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
        self.by_kind: dict[str, list[Fact]] = defaultdict(list)
        self.writers: dict[str, list[Fact]] = defaultdict(list)  # of each token; several of a text
        self.subjects: dict[Subject, list[Fact]] = defaultdict(list)  # who may have made each
        self.subjects_of_user: dict[str, list[Subject]] = defaultdict(list)
        self.subject_of_token: dict[str, Subject] = {}
        self.subject_of_id: dict[int, Subject] = {}
        self.subjects_of_word: dict[tuple[str, str], set[Subject]] = defaultdict(set)
        self._of_source: dict[tuple[str, str], set[Subject]] = defaultdict(set)
        self._record_of_id = _smallest_ids(history)
        self._subject_of_record: dict[int, Subject] = {}
        for fact in self.all:
            self.by_kind[fact.effect.kind].append(fact)
            for token in fact.effect.tokens:
                self.writers[token].append(fact)
            if fact.effect.kind in ADDS:
                self._note_made(fact)
            elif fact.effect.kind == "text":
                self._note_text(fact)
        for subject in self.subjects:
            self.subjects_of_user[subject[1]].append(subject)
        self.updates = self._about("update")
        self.counts = self._about("cas")
        self.forgets = self._about("forget")
        self.signals = self._about("feedback")

    def _note_made(self, fact: Fact) -> None:
        effect = fact.effect
        for token in effect.tokens:
            named = effect.client_ref
            subject = ("name", effect.user, named) if named else ("memory", effect.user, token)
            self.subjects[subject].append(fact)
            self.subject_of_token[token] = subject
            if named is None:
                for word in filter(None, (token, bulk_of(effect))):
                    self.subjects_of_word[effect.user, word].add(subject)
            if effect.source is not None:
                self._of_source[effect.user, effect.source].add(subject)
        for event in fact.events:
            for token, identifiers in answered_ids(effect, event).items():
                for identifier in identifiers:
                    self._note_id(identifier, self.subject_of_token[token])

    def _note_text(self, fact: Fact) -> None:
        """Each record by itself: where two adds of a text did not know of each other, it is stored
        twice, and either may be forgotten without the other."""
        effect = fact.effect
        told: dict[Subject, list[Event]] = defaultdict(list)
        for event in fact.events:
            for identifiers in answered_ids(effect, event).values():
                for identifier in identifiers:
                    record = self._record_of_id.get(identifier, identifier)
                    subject = ("text", effect.user, str(record))
                    self._note_id(identifier, subject)
                    told[subject].append(event)
        for subject, events in told.items():
            self.subjects[subject].append(Fact(effect, events))
            self.subjects_of_word[effect.user, effect.tokens[0]].add(subject)

    def _note_id(self, identifier: int, subject: Subject) -> None:
        self.subject_of_id[identifier] = subject
        self._subject_of_record[self._record_of_id.get(identifier, identifier)] = subject

    def _about(self, kind: str) -> dict[Subject, list[Fact]]:
        found: dict[Subject, list[Fact]] = defaultdict(list)
        for fact in self.by_kind[kind]:
            for subject in self.meant(fact.effect):
                found[subject].append(fact)
        return found

    def meant(self, effect: Effect) -> list[Subject]:
        """What an effect is about: by ids, or by their source."""
        if effect.kind == "forget" and effect.source is not None:
            return sorted(self._of_source[effect.user, effect.source])
        return list(dict.fromkeys(self.subject_of_id[target] for target in effect.targets))

    def writer(self, token: str) -> Fact | None:
        """Who wrote a token that only one can have written."""
        found = self.writers.get(token)
        return found[0] if found else None

    def subject_of(self, token: str, identifiers: Iterable[int]) -> Subject | None:
        """Of a memory with this token, shown by these ids."""
        if token in self.subject_of_token:
            return self.subject_of_token[token]
        return next(filter(None, map(self.with_id, identifiers)), None)

    def with_id(self, identifier: int) -> Subject | None:
        """The memory that has this id, also where nobody was told it: two attempts of one add may
        have given it an id each, and an answer shows the smaller one."""
        return self._subject_of_record.get(self._record_of_id.get(identifier, identifier))

    def made_s(self, subject: Subject) -> float:
        """When somebody was first told that it exists."""
        return min(fact.covered_s for fact in self.subjects[subject])

    def is_made(self, subject: Subject) -> bool:
        """Whether anybody was told that it exists, in whatever way."""
        return any(fact.is_ok for fact in self.subjects[subject])

    def maybe_forgotten_s(self, subject: Subject, but: Fact | None = None) -> float:
        """From when on it may be gone, by other forgets than `but`."""
        return min(
            (
                fact.invoked_s
                for fact in self.forgets.get(subject, ())
                if fact is not but and not fact.is_failed and self._may_meet(fact, subject)
            ),
            default=NEVER,
        )

    def _may_meet(self, forget: Fact, subject: Subject) -> bool:
        """Whether the forget can have met it: it was not over when that was first asked for."""
        return min(f.invoked_s for f in self.subjects[subject]) < forget.settled_s

    def surely_forgotten(self, subject: Subject) -> list[Fact]:
        """The forgets that were answered with it."""
        return [
            fact
            for fact in self.forgets.get(subject, ())
            for event in fact.events
            if event.outcome == OK and any(self.with_id(one) == subject for one in event.answer)
        ]


def _smallest_ids(history: History) -> dict[int, int]:
    """The smallest id of the record that has an id, as far as a store tells at the end."""
    found: dict[int, int] = {}
    for rows in history.rows.values():
        for row in rows.values():
            found |= dict.fromkeys(row.ids, min(row.ids, default=0))
    return found


def bulk_of(effect: Effect) -> str:
    """The word that all memories of a bulk share."""
    return str(effect.body["items"][0]["text"].split()[-1]) if effect.kind == "bulk" else ""


def answered_ids(effect: Effect, event: Event) -> dict[str, list[int]]:
    """The ids that the answer to an add names, by the token that they were asked for with."""
    if event.outcome != OK:
        return {}
    if effect.kind in ("add", "text"):
        answer = event.answer
        return {effect.tokens[0]: answer["memory_ids"] if event.status == 200 else [answer["id"]]}
    if effect.kind == "bulk":
        results = event.answer["results"]
        return {effect.tokens[item["index"]]: item["memory_ids"] for item in results}
    return {}
