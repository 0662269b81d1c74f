"""What a history breaks of the promises about API keys: as (kind, what).

A key that was taken back is refused by every answer that is fresh; one that was made is known by
every answer that is fresh. At the end every member has each key, as it was left, and one for each
creation, however many attempts were made; it goes by each id that was answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.simulation.facts import Fact, Facts
from tests.simulation.history import NEVER, OK, Event, KeyRow

UNKNOWN_KEY, REVOKED_KEY, NO_SUCH_KEY = 401, 403, 404
Wrong = Iterator[tuple[str, str]]


class Keys:
    """The keys of a history by their ids. One creation may have been told with several."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._first: dict[int, int] = {}  # of a key's ids, the one that it goes by here
        self.told: dict[int, list[Event]] = defaultdict(list)  # the answers that name each
        self.ends: dict[int, list[Fact]] = defaultdict(list)  # those who took it back
        for fact in facts.by_kind["key"]:
            done = [event for event in fact.events if event.outcome == OK]
            for event in done:
                self.told[event.answer["id"]].append(event)
                self._first[event.answer["id"]] = done[0].answer["id"]
        for fact in facts.by_kind["revoke"]:
            self.ends[self._known_by(fact.effect.targets[0])].append(fact)

    def _known_by(self, identifier: int) -> int:
        return self._first.get(identifier, identifier)

    def made_s(self, identifier: int) -> float:
        """When somebody was first told of it, by an answer that waited for more than the log."""
        told = self.told[identifier]
        return min((event.ended_s for event in told if event.ack != "log"), default=NEVER)

    def maybe_ended_s(self, identifier: int) -> float:
        """From when on it may be refused."""
        possible = [f for f in self.ends[self._known_by(identifier)] if not f.is_failed]
        return min((fact.invoked_s for fact in possible), default=NEVER)

    def wrong_in_a_use(self, event: Event, said: str) -> Wrong:
        """Of the answer to a read by a key."""
        identifier = event.key_id
        if identifier is None:
            return
        over = [f for f in self.ends[self._known_by(identifier)] if f.covered_s < event.invoked_s]
        if event.is_fresh_read and over:
            yield "stale", f"{said}: key {identifier} is accepted, and was revoked"
        if event.status == REVOKED_KEY and self.maybe_ended_s(identifier) > event.ended_s:
            yield "phantom", f"{said}: key {identifier} is refused, and nobody revoked it"
        is_local = event.headers.get("Memsync-Consistency") == "local"
        is_excused = is_local or "replication" in event.degraded
        is_made = self.made_s(identifier) < event.invoked_s
        if event.status == UNKNOWN_KEY and is_made and not is_excused:
            yield "stale", f"{said}: key {identifier} is not known"

    def wrong_in_an_end(self, event: Event, said: str) -> Wrong:
        """Of the answer to who takes a key back."""
        assert event.effect is not None
        effect = self._facts.all[event.effect].effect
        if effect.kind != "revoke" or event.status != NO_SUCH_KEY:
            return
        if self.made_s(effect.targets[0]) < event.invoked_s:
            yield "stale", f"{said}: key {effect.targets[0]} does not exist"

    def wrong_at_the_end(self, member: str, rows: Mapping[int, KeyRow]) -> Wrong:
        """Of a member's store."""
        records: dict[str, set[bytes]] = defaultdict(set)
        for row in rows.values():
            records[row.name].add(row.record)
        for name, found in records.items():
            if len(found) > 1:
                yield "doubled", f"{member} at the end: {len(found)} keys {name}"
        for identifier, row in rows.items():
            fact = self._facts.writer(row.name)
            if fact is None or fact.is_failed:
                yield "phantom", f"{member} at the end: key {identifier}, {row.name}"
        for identifier in self.told:
            said = f"{member}: key {identifier}"
            if identifier not in rows:
                yield "lost", said
                continue
            is_revoked = rows[identifier].is_revoked
            if not is_revoked and any(f.is_ok for f in self.ends[self._known_by(identifier)]):
                yield "resurrected", f"{said} was revoked"
            if is_revoked and self.maybe_ended_s(identifier) == NEVER:
                yield "phantom", f"{said}: nobody revoked it"
