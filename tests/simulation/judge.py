"""The judge: which promises a history breaks.

lost         what was acknowledged is not there at the end
resurrected  what was forgotten is there at the end
partial      a bulk is seen in part
stale        an answer that is not tagged lacks what was acknowledged before it was asked for,
             or a write went by what was no longer so
phantom      something is seen that nobody wrote, or that was refused for certain
doubled      one effect is there twice
beaten       an acknowledged update lost to one that was acknowledged before it was asked for
divergent    the members are not the same at the end
ids          an id that was handed out does not resolve, or to another memory
repeat       the answer to a repeated key is another one than the first
unexpected   an answer that no caller of this kind may get
process, applier, settle   what the harness met: see `simulation`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import msgspec

from memsync.wire import context
from tests.simulation.facts import Fact, Facts, Subject, answered_ids
from tests.simulation.history import DEFINITE, OK, Effect, Event, History, Row, Seen, all_seen

UNEXPECTED = (400, 401, 403, 405, 413, 422, 429, 500, 501)


class Violation(msgspec.Struct, frozen=True, order=True):
    """A broken promise."""

    kind: str
    what: str


def judge(history: History) -> list[Violation]:
    """Everything that is wrong with a history."""
    facts = Facts(history)
    found = [Violation(kind, what) for kind, what in history.troubles]
    for event in history.events:
        found += _read_is_right(facts, event)
        found += _write_is_right(facts, history, event)
    for fact in facts.all:
        found += _repeats_are_equal(fact)
    for member, rows in sorted(history.rows.items()):
        found += _ending_is_right(facts, member, list(rows.values()))
        found += _ids_resolve(facts, member, history.resolved[member], rows)
    found += _counts_are_exact(facts)
    if len(set(history.states.values())) > 1:
        said = ", ".join(f"{m} {state.hex()[:8]}" for m, state in sorted(history.states.items()))
        found.append(Violation("divergent", said))
    return found


# Reads.


def _read_is_right(facts: Facts, event: Event) -> Iterator[Violation]:
    if event.status in UNEXPECTED:
        yield Violation("unexpected", f"#{event.number} {event.status}: {event.answer}")
    if event.effect is not None:
        return
    seen = all_seen(event)
    said = f"#{event.number} {event.operation} by {event.member}"
    for memory in seen:
        yield from _memory_is_possible(facts, event, memory, said)
    subjects = [facts.subject_of_token[m.token] for m in seen if m.token in facts.by_token]
    for subject, count in Counter(subjects).items():
        if count > 1:
            yield Violation("doubled", f"{said}: {subject} {count} times")
    yield from _bulks_are_whole(facts, event, {memory.token for memory in seen}, said)
    yield from _read_is_fresh(facts, event, seen, set(subjects), said)


def _memory_is_possible(facts: Facts, event: Event, memory: Seen, said: str) -> Iterator[Violation]:
    written = [memory.token, *memory.tags]
    if "by" in memory.metadata:
        written.append(memory.metadata["by"])
    for token in written:
        fact = facts.by_token.get(token)
        if fact is None or fact.is_failed or fact.invoked_s > event.ended_s:
            yield Violation("phantom", f"{said}: {token}")
        elif fact.effect.user != event.user:
            yield Violation("phantom", f"{said}: {token} of {fact.effect.user}")


def _bulks_are_whole(
    facts: Facts, event: Event, tokens: set[str], said: str
) -> Iterator[Violation]:
    word = event.body.get("query", "")
    if event.operation != "memory.list" and not word.startswith("b"):
        return
    for fact in facts.all:
        if fact.effect.kind == "bulk" and fact.effect.user == event.user:
            yield from _bulk_is_whole(facts, fact, tokens, event.ended_s, said)


def _bulk_is_whole(
    facts: Facts, fact: Fact, tokens: set[str], at_s: float, said: str
) -> Iterator[Violation]:
    left = [
        token
        for token in fact.effect.tokens
        if facts.maybe_forgotten_s(facts.subject_of_token[token]) > at_s
    ]
    there = [token for token in left if token in tokens]
    if 0 < len(there) < len(left):
        yield Violation("partial", f"{said}: {there} of {left}")


def _read_is_fresh(
    facts: Facts, event: Event, seen: list[Seen], subjects: set[Subject], said: str
) -> Iterator[Violation]:
    for subject in _asked_for(facts, event):
        made = [f for f in facts.subjects[subject] if _must_show(f, event)]
        is_left = facts.maybe_forgotten_s(subject) > event.ended_s
        if made and is_left and subject not in subjects:
            yield Violation("stale", f"{said}: lacks {subject}")
        gone = [f for f in facts.surely_forgotten(subject) if _must_show(f, event)]
        if gone and subject in subjects:
            yield Violation("stale", f"{said}: still has {subject}")
    for memory in seen:
        if memory.token in facts.subject_of_token:
            yield from _values_are_fresh(facts, event, memory, said)


def _must_show(fact: Fact, event: Event) -> bool:
    """As `Fact.is_before`; that a memory does not exist is an answer of a get, too."""
    if event.operation == "memory.get" and event.status == 404:
        event = msgspec.structs.replace(event, outcome=OK)
    return event.outcome == OK and fact.is_before(event)


def _asked_for(facts: Facts, event: Event) -> list[Subject]:
    """The subjects that the answer would show if they are there."""
    match event.operation:
        case "memory.list":
            return [subject for subject in facts.subjects if subject[1] == event.user]
        case "memory.get":
            subject = facts.subject_of_id.get(event.body["memory_id"])
            return [] if subject is None else [subject]
        case _:
            word = event.body["query"]
            return [
                facts.subject_of_token[token]
                for fact in facts.all
                if fact.effect.kind in ("add", "bulk") and fact.effect.client_ref is None
                for token in fact.effect.tokens
                if word == token or word == _bulk_of(fact.effect)
            ]


def _bulk_of(effect: Effect) -> str:
    return str(effect.body["items"][0]["text"].split()[-1]) if effect.kind == "bulk" else ""


def _values_are_fresh(facts: Facts, event: Event, memory: Seen, said: str) -> Iterator[Violation]:
    subject = facts.subject_of_token[memory.token]
    shown = facts.by_token.get(memory.tags[0]) if memory.tags else None
    for newer in facts.updates.get(subject, ()):
        if newer is not shown and newer.is_before(event) and _is_older(shown, newer):
            yield Violation("stale", f"{said}: {subject} has {memory.tags}, {_name(newer)} is over")
    counted = memory.metadata.get("n", 0)
    for count in facts.counts.get(subject, ()):
        assert count.effect.count is not None
        if count.is_before(event) and count.effect.count > counted:
            yield Violation("stale", f"{said}: {subject} counts {counted}, {_name(count)} is over")


def _is_older(shown: Fact | None, newer: Fact) -> bool:
    """Whether what is shown was over before the newer one was asked for."""
    return shown is None or shown.is_over_before(newer)


def _name(fact: Fact) -> str:
    return f"{fact.effect.tokens[0]} ({fact.invoked_s:.3f} to {fact.covered_s:.3f})"


# Writes.


def _write_is_right(facts: Facts, history: History, event: Event) -> Iterator[Violation]:
    if event.effect is None:
        return
    fact, effect = facts.all[event.effect], history.effects[event.effect]
    said = f"#{event.number} {effect.kind} by {event.member}"
    if effect.kind in ("update", "cas") and event.status == 404:
        for target in effect.targets:
            if _should_exist(facts, target, event):
                yield Violation("stale", f"{said}: {target} does not exist")
    if effect.kind == "forget" and event.outcome == OK:
        others = [f for f in facts.all if f is not fact and f.effect.kind == "forget"]
        for target in set(effect.targets) - set(event.answer):
            is_others = any(target in f.effect.targets for f in others)
            if not is_others and len(fact.events) == 1 and _should_exist(facts, target, event):
                yield Violation("stale", f"{said}: overlooked {target}")
    if effect.kind == "cas" and event.outcome == OK and event.basis is not None:
        yield from _nothing_was_overlooked(facts, history, event, said)


def _should_exist(facts: Facts, target: int, event: Event) -> bool:
    subject = facts.subject_of_id[target]
    return (
        facts.made_s(subject) < event.invoked_s
        and facts.maybe_forgotten_s(subject) >= event.invoked_s
        and all(
            fact.events and fact.events[0] is event
            for fact in facts.forgets.get(subject, ())
            if fact.invoked_s < event.ended_s and not fact.is_failed
        )
    )


def _nothing_was_overlooked(
    facts: Facts, history: History, event: Event, said: str
) -> Iterator[Violation]:
    """A conditional update that went through although what it had read was no longer so."""
    assert event.basis is not None
    assert event.effect is not None
    read, fact = history.events[event.basis], facts.all[event.effect]
    subject = facts.subject_of_id[fact.effect.targets[0]]
    for other in [*facts.updates.get(subject, ()), *facts.counts.get(subject, ())]:
        if other is not fact and read.ended_s < other.invoked_s and other.is_over_before(fact):
            yield Violation("stale", f"{said}: overlooked {_name(other)}")


def _repeats_are_equal(fact: Fact) -> Iterator[Violation]:
    effect = fact.effect
    done = sorted((e for e in fact.events if e.outcome == OK), key=lambda e: e.ended_s)
    for first, again in pairwise(done):
        if context.IDEMPOTENCY_KEY not in effect.headers:
            same = True  # of a key that a gateway made only what was written is kept
        elif effect.kind in ("add", "bulk") and context.IDS in effect.headers:
            same = answered_ids(effect, first) == answered_ids(effect, again)
        elif effect.kind == "forget":
            same = first.answer == again.answer
        else:
            same = True
        if not same:
            said = f"#{first.number} {first.answer}, #{again.number} {again.answer}"
            yield Violation("repeat", f"{effect.kind}: {said}")
    if effect.kind == "cas" and done:
        for event in fact.events:
            if event.status == 409 and event.invoked_s > done[0].ended_s:
                yield Violation("repeat", f"#{event.number}: conflicts with its own success")


# The end.


def _ending_is_right(facts: Facts, member: str, rows: list[Row]) -> Iterator[Violation]:
    visible = {facts.subject_of_token.get(row.token): row for row in rows if row.is_visible}
    held = Counter(facts.subject_of_token.get(row.token) for row in rows if row.token)
    for row in rows:
        yield from _row_is_possible(facts, member, row)
    for subject in facts.subjects:
        if held[subject] > 1:
            yield Violation("doubled", f"{member}: {subject} has {held[subject]} records")
        is_left = facts.maybe_forgotten_s(subject) == float("inf")
        if facts.is_made(subject) and is_left and subject not in visible:
            yield Violation("lost", f"{member}: {subject}")
        if facts.surely_forgotten(subject) and subject in visible:
            yield Violation("resurrected", f"{member}: {subject}")
        if subject in visible:
            yield from _last_update_stands(facts, member, subject, visible[subject])
    tokens = {row.token for row in rows if row.is_visible}
    for fact in facts.all:
        if fact.effect.kind == "bulk":
            yield from _bulk_is_whole(facts, fact, tokens, float("inf"), f"{member} at the end")


def _row_is_possible(facts: Facts, member: str, row: Row) -> Iterator[Violation]:
    written = [row.token]
    if row.is_visible:  # what was changed while it was forgotten is nobody's to see
        written += [*row.tags, *[by for by in [row.metadata.get("by")] if by]]
    for token in filter(None, written):
        fact = facts.by_token.get(token)
        if fact is None or fact.is_failed or fact.effect.user != row.user:
            yield Violation("phantom", f"{member} at the end: {token}")


def _last_update_stands(
    facts: Facts, member: str, subject: Subject, row: Row
) -> Iterator[Violation]:
    shown = facts.by_token.get(row.tags[0]) if row.tags else None
    for newer in facts.updates.get(subject, ()):
        if newer is not shown and newer.is_ok and _is_older(shown, newer):
            yield Violation("beaten", f"{member}: {subject} has {row.tags}, not {_name(newer)}")
    counts = facts.counts.get(subject, ())
    done = [fact.effect.count or 0 for fact in counts if fact.is_ok]
    possible = {fact.effect.count for fact in counts if not fact.is_failed}
    total = row.metadata.get("n", 0)
    if done and total < max(done):
        yield Violation("lost", f"{member}: {subject} counts {total}, {max(done)} was acknowledged")
    missing = [count for count in range(1, total + 1) if count not in possible]
    if missing:
        yield Violation("phantom", f"{member}: {subject} counts {total}, nobody counted {missing}")


def _counts_are_exact(facts: Facts) -> Iterator[Violation]:
    for subject, counts in facts.counts.items():
        done = Counter(fact.effect.count for fact in counts if fact.is_ok)
        for count, times in done.items():
            if times > 1:
                yield Violation("doubled", f"{subject}: {times} writers counted {count}")


def _ids_resolve(
    facts: Facts, member: str, resolved: dict[int, bytes], rows: dict[bytes, Row]
) -> Iterator[Violation]:
    keys: dict[Subject, set[bytes]] = {}
    for identifier, subject in facts.subject_of_id.items():
        key = resolved.get(identifier)
        if key is None or key not in rows:
            yield Violation("ids", f"{member}: {identifier} of {subject} does not resolve")
            continue
        keys.setdefault(subject, set()).add(key)
        token = rows[key].token
        if token and facts.subject_of_token.get(token) != subject:
            yield Violation("ids", f"{member}: {identifier} of {subject} is {token}")
    for subject, found in keys.items():
        if len(found) > 1:
            yield Violation("ids", f"{member}: the ids of {subject} are {len(found)} records")


__all__ = ["DEFINITE", "Violation", "judge"]
