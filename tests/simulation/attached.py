"""What a history breaks of the promises about relations and signals: as (kind, what).

They are elements of memories that nothing takes away, also where the memory is forgotten. So each
that was acknowledged is there at the end, once, on the memory that it is about; and no other is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.simulation.facts import Fact, Facts, Subject
from tests.simulation.history import OK, Event, Row, all_seen

ATTACHES = ("relate", "feedback")
Wrong = Iterator[tuple[str, str]]


def wrong_at_the_end(facts: Facts, member: str, rows: list[Row]) -> Wrong:
    """Of a member's store."""
    held: dict[Subject, Counter[str]] = defaultdict(Counter)
    for row in rows:
        subject = facts.subject_of(row.token, row.ids)
        for token in row.attached:
            yield from _is_possible(facts, subject, token, f"{member} at the end")
        if subject is not None:
            held[subject].update(row.attached)
    for fact in [fact for kind in ATTACHES for fact in facts.by_kind[kind]]:
        [subject, *_] = facts.meant(fact.effect)
        count = held[subject][fact.effect.tokens[0]]
        said = f"{member}: {fact.effect.kind} {fact.effect.tokens[0]} of {subject}"
        if fact.is_ok and not count:
            yield "lost", said
        if count > 1:
            yield "doubled", f"{said} is there {count} times"


def _is_possible(facts: Facts, subject: Subject | None, token: str, said: str) -> Wrong:
    fact = facts.writer(token)
    if fact is None or fact.effect.kind not in ATTACHES or fact.is_failed:
        yield "phantom", f"{said}: {token} is attached, and nobody has done that"
    elif subject is not None and facts.meant(fact.effect)[0] != subject:
        yield "phantom", f"{said}: {token} is attached to {subject}"


def wrong_in_a_graph(facts: Facts, event: Event, said: str) -> Wrong:
    """Of the relations that a read shows, and of those that it lacks."""
    if event.operation != "memory.graph" or event.outcome != OK:
        return
    shown: dict[tuple[Subject, Subject, str], Fact] = {}
    nodes = {one.id: facts.subject_of(one.token, [one.id]) for one in all_seen(event)}
    for edge in event.answer["edges"]:
        fact = facts.writer(edge["metadata"]["v"])
        ends = [nodes.get(edge[end]) for end in ("from_memory_id", "to_memory_id")]
        if fact is None or fact.is_failed or fact.invoked_s > event.ended_s:
            yield "phantom", f"{said}: {edge}"
        elif ends != facts.meant(fact.effect):
            yield "phantom", f"{said}: {edge} is between other memories"
        else:
            shown[_place(facts, fact)] = fact
    for fact in facts.by_kind["relate"]:
        place = _place(facts, fact)
        if not _should_be_shown(facts, fact, event, place):
            continue
        newest = shown.get(place)
        if newest is None or (newest is not fact and newest.is_over_before(fact)):
            yield "stale", f"{said}: lacks {fact.effect.tokens[0]}, from {place[0]} to {place[1]}"


def _place(facts: Facts, fact: Fact) -> tuple[Subject, Subject, str]:
    """One relation of a type stands between two memories: the newest."""
    start, end = facts.meant(fact.effect)
    return start, end, fact.effect.body["relationship_type"]


def _should_be_shown(
    facts: Facts, fact: Fact, event: Event, place: tuple[Subject, Subject, str]
) -> bool:
    """Whether the memory asked for is one end of it, and neither end may be forgotten."""
    return (
        facts.subject_of_id[event.body["memory_id"]] in place[:2]
        and fact.is_before(event)
        and all(facts.maybe_forgotten_s(end) > event.ended_s for end in place[:2])
    )


def wrong_in_an_answer(facts: Facts, event: Event, said: str) -> Wrong:
    """Of the signals that the answer to one counts: those that were over before it was first sent,
    and none that was not yet sent, or was refused. A repeat is answered with the first count."""
    assert event.effect is not None
    fact = facts.all[event.effect]
    if fact.effect.kind != "feedback" or event.outcome != OK:
        return
    [subject] = facts.meant(fact.effect)
    others = [other for other in facts.signals[subject] if other is not fact]
    least = 1 + sum(other.is_over_before(fact) for other in others)
    most = 1 + sum(not o.is_failed and o.invoked_s < event.ended_s for o in others)
    total = event.answer["summary"]["total_signals"]
    if total < least:
        yield "stale", f"{said}: counts {total} signals, {least} were acknowledged"
    if total > most:
        yield "phantom", f"{said}: counts {total} signals, {most} were sent"
