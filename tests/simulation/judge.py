"""The judge: which promises a history breaks.

lost         what was acknowledged is not there at the end: a memory, an update, a relation, a
             signal, an API key
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
from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from memsync.wire import context
from tests.simulation import attached
from tests.simulation.facts import Fact, Facts, Subject, answered_ids, bulk_of
from tests.simulation.history import (
    DEFINITE,
    NEVER,
    OK,
    Effect,
    Event,
    History,
    Row,
    Seen,
    all_seen,
)
from tests.simulation.keys import REVOKED_KEY, UNKNOWN_KEY, Keys

UNEXPECTED = (400, 401, 403, 405, 413, 422, 429, 500, 501)
OF_KEYS = (UNKNOWN_KEY, REVOKED_KEY)  # of a key that callers made themselves, `keys` judges
BY_ID = ("memory.get", "memory.graph")
ABOUT_MEMORIES = ("update", "cas", "relate", "feedback")  # 404: one of these does not exist


class Violation(msgspec.Struct, frozen=True, order=True):
    """A broken promise."""

    kind: str
    what: str


def judge(history: History) -> list[Violation]:
    """Everything that is wrong with a history."""
    facts = Facts(history)
    keys = Keys(facts)
    found = [Violation(kind, what) for kind, what in history.troubles]
    for event in history.events:
        found += _answer_is_right(facts, keys, history, event)
    for fact in facts.all:
        found += _repeats_are_equal(facts, fact)
    for member, rows in sorted(history.rows.items()):
        found += _ending_is_right(facts, member, list(rows.values()))
        found += _ids_resolve(facts, member, history.resolved[member], rows)
        wrong = attached.wrong_at_the_end(facts, member, list(rows.values()))
        found += (Violation(*one) for one in wrong)
    for member, held in sorted(history.keys.items()):
        found += (Violation(*one) for one in keys.wrong_at_the_end(member, held))
    found += _counts_are_exact(facts)
    if len(set(history.states.values())) > 1:
        said = ", ".join(f"{m} {state.hex()[:8]}" for m, state in sorted(history.states.items()))
        found.append(Violation("divergent", said))
    return found


def _answer_is_right(
    facts: Facts, keys: Keys, history: History, event: Event
) -> Iterator[Violation]:
    is_of_keys = event.key_id is not None and event.status in OF_KEYS
    if event.status in UNEXPECTED and not is_of_keys:
        yield Violation("unexpected", f"#{event.number} {event.status}: {event.answer}")
    if event.effect is None:
        said = f"#{event.number} {event.operation} by {event.member}"
        yield from _read_is_right(facts, event, said)
        wrong = [attached.wrong_in_a_graph(facts, event, said), keys.wrong_in_a_use(event, said)]
    else:
        said = f"#{event.number} {history.effects[event.effect].kind} by {event.member}"
        yield from _write_is_right(facts, history, event, said)
        wrong = [attached.wrong_in_an_answer(facts, event, said), keys.wrong_in_an_end(event, said)]
    for found in wrong:
        yield from (Violation(*one) for one in found)


# Reads.


def _read_is_right(facts: Facts, event: Event, said: str) -> Iterator[Violation]:
    seen = all_seen(event)
    for memory in seen:
        yield from _memory_is_possible(facts, event, memory, said)
    subjects = {memory.id: facts.subject_of(memory.token, [memory.id]) for memory in seen}
    for subject, count in Counter(subjects[memory.id] for memory in seen).items():
        if count > 1 and subject is not None:
            yield Violation("doubled", f"{said}: {subject} {count} times")
    yield from _bulks_are_whole(facts, event, {memory.token for memory in seen}, said)
    yield from _read_is_fresh(facts, event, set(filter(None, subjects.values())), said)
    for memory in seen:
        subject = subjects[memory.id]
        if subject is not None:
            yield from _values_are_fresh(facts, event, subject, memory, said)


def _memory_is_possible(facts: Facts, event: Event, memory: Seen, said: str) -> Iterator[Violation]:
    written = [memory.token, *memory.tags]
    if "by" in memory.metadata:
        written.append(memory.metadata["by"])
    for token in written:
        found = facts.writers.get(token, [])
        if not any(not f.is_failed and f.invoked_s <= event.ended_s for f in found):
            yield Violation("phantom", f"{said}: {token}")
        elif all(fact.effect.user != event.user for fact in found):
            yield Violation("phantom", f"{said}: {token} of {found[0].effect.user}")


def _bulks_are_whole(
    facts: Facts, event: Event, tokens: set[str], said: str
) -> Iterator[Violation]:
    """A list shows all of them, and who asks for the word of one asks for that one."""
    word = event.body.get("query", "")
    for fact in facts.by_kind["bulk"]:
        is_asked = event.operation == "memory.list" or word == bulk_of(fact.effect)
        if is_asked and fact.effect.user == event.user:
            yield from _bulk_is_whole(facts, fact, tokens, event.ended_s, said)


def _bulk_is_whole(
    facts: Facts, fact: Fact, tokens: set[str], at_s: float, said: str
) -> Iterator[Violation]:
    left = [
        token
        for token in fact.effect.tokens
        if facts.maybe_forgotten_s(facts.subject_of_token[token]) >= at_s  # at the end: never
    ]
    there = [token for token in left if token in tokens]
    if 0 < len(there) < len(left):
        yield Violation("partial", f"{said}: {there} of {left}")


def _read_is_fresh(
    facts: Facts, event: Event, subjects: set[Subject], said: str
) -> Iterator[Violation]:
    for subject in _asked_for(facts, event):
        made = [f for f in facts.subjects[subject] if _must_show(f, event)]
        is_left = facts.maybe_forgotten_s(subject) > event.ended_s
        if made and is_left and subject not in subjects:
            yield Violation("stale", f"{said}: lacks {subject}")
        if subject in subjects and _is_surely_gone(facts, event, subject):
            yield Violation("stale", f"{said}: still has {subject}")


def _is_surely_gone(facts: Facts, event: Event, subject: Subject) -> bool:
    return any(_must_show(forget, event) for forget in facts.surely_forgotten(subject))


def _must_show(fact: Fact, event: Event) -> bool:
    """As `Fact.is_before`; that a memory does not exist is an answer, too."""
    if event.operation in BY_ID and event.status == 404:
        event = msgspec.structs.replace(event, outcome=OK)
    return event.outcome == OK and fact.is_before(event)


def _asked_for(facts: Facts, event: Event) -> Iterable[Subject]:
    """The subjects that the answer would show if they are there."""
    if event.operation == "memory.list":
        return facts.subjects_of_user.get(event.user, ())
    if event.operation in BY_ID:
        subject = facts.subject_of_id.get(event.body["memory_id"])
        return () if subject is None else (subject,)
    return sorted(facts.subjects_of_word.get((event.user, event.body["query"]), ()))


def _values_are_fresh(
    facts: Facts, event: Event, subject: Subject, memory: Seen, said: str
) -> Iterator[Violation]:
    shown = facts.writer(memory.tags[0]) if memory.tags else None
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


def _write_is_right(facts: Facts, history: History, event: Event, said: str) -> Iterator[Violation]:
    assert event.effect is not None
    fact, effect = facts.all[event.effect], history.effects[event.effect]
    is_denied = effect.kind in ABOUT_MEMORIES and event.status == 404
    if is_denied and all(_should_exist(facts, target, event) for target in effect.targets):
        yield Violation("stale", f"{said}: {effect.targets} do not exist")
    if event.outcome != OK:
        return
    if effect.kind == "forget" and effect.source is not None:
        yield from _source_is_forgotten(facts, fact, event, said)
    elif effect.kind == "forget":
        others = [f for f in facts.by_kind["forget"] if f is not fact]
        for target in set(effect.targets) - set(event.answer):
            is_others = any(target in f.effect.targets for f in others)
            if not is_others and len(fact.events) == 1 and _should_exist(facts, target, event):
                yield Violation("stale", f"{said}: overlooked {target}")
    if effect.kind == "cas" and event.basis is not None:
        yield from _nothing_was_overlooked(facts, history, event, said)
    if effect.kind == "text" and event.status == 200:
        yield from _duplicate_was_there(facts, fact, event, said)


def _source_is_forgotten(facts: Facts, fact: Fact, event: Event, said: str) -> Iterator[Violation]:
    """Who forgets by a source forgets all of it that was there before it was first asked for."""
    answered = set(map(facts.with_id, event.answer))
    for subject in facts.meant(fact.effect):
        is_left = facts.maybe_forgotten_s(subject, but=fact) > event.ended_s
        if is_left and facts.made_s(subject) < fact.invoked_s and subject not in answered:
            yield Violation("stale", f"{said}: overlooked {subject} of {fact.effect.source}")


def _duplicate_was_there(facts: Facts, fact: Fact, event: Event, said: str) -> Iterator[Violation]:
    """Nobody is told that a text is stored already as a memory that was forgotten before."""
    for identifier in event.answer["memory_ids"]:
        for forget in facts.surely_forgotten(facts.subject_of_id[identifier]):
            if forget.is_over_before(fact):
                yield Violation("stale", f"{said}: is not stored beside {identifier}, forgotten")


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


def _repeats_are_equal(facts: Facts, fact: Fact) -> Iterator[Violation]:
    """Of callers' keys: of a key that a gateway made only what was written is kept."""
    effect = fact.effect
    done = sorted((e for e in fact.events if e.outcome == OK), key=lambda e: e.ended_s)
    for first, again in pairwise(done):
        is_same = _told(effect, first) == _told(effect, again) or _may_differ(facts, fact, first)
        if context.IDEMPOTENCY_KEY in effect.headers and not is_same:
            said = f"#{first.number} {first.answer}, #{again.number} {again.answer}"
            yield Violation("repeat", f"{effect.kind}: {said}")
    if effect.kind == "cas" and done:
        for event in fact.events:
            if event.status == 409 and event.invoked_s > done[0].ended_s:
                yield Violation("repeat", f"#{event.number}: conflicts with its own success")


def _told(effect: Effect, event: Event) -> object:
    """What an answer says that every repeat must say, too."""
    if effect.kind in ("add", "bulk") and context.IDS in effect.headers:
        return answered_ids(effect, event)
    if effect.kind == "forget":
        return event.answer
    if effect.kind == "relate":
        return event.answer["id"]
    if effect.kind == "key":
        return event.answer["key"]
    if effect.kind == "feedback":
        return event.answer["summary"]["total_signals"]
    return None


def _may_differ(facts: Facts, fact: Fact, first: Event) -> bool:
    """Of two attempts of one request that did not know of each other one answers, and what the one
    with the earlier stamp did is kept for repeats. They did the same, unless another request about
    the same memory came between: then a repeat is told what the caller was not. That is known of
    the product: an attempt cannot know of one that is on its way through another stripe."""
    others = {"forget": facts.forgets, "feedback": facts.signals}.get(fact.effect.kind, {})
    return any(
        other is not fact and other.invoked_s < first.ended_s and first.invoked_s < other.settled_s
        for subject in facts.meant(fact.effect)
        for other in others.get(subject, ())
    )


# The end.


def _ending_is_right(facts: Facts, member: str, rows: list[Row]) -> Iterator[Violation]:
    subjects = {row.key: facts.subject_of(row.token, row.ids) for row in rows}
    visible = {subjects[row.key]: row for row in rows if row.is_visible}
    held = Counter(subjects[row.key] for row in rows if row.token)
    for row in rows:
        yield from _row_is_possible(facts, member, row)
    for subject in facts.subjects:
        if held[subject] > 1:
            yield Violation("doubled", f"{member}: {subject} has {held[subject]} records")
        is_left = facts.maybe_forgotten_s(subject) == NEVER
        if facts.is_made(subject) and is_left and subject not in visible:
            yield Violation("lost", f"{member}: {subject}")
        if facts.surely_forgotten(subject) and subject in visible:
            yield Violation("resurrected", f"{member}: {subject}")
        if subject in visible:
            yield from _last_update_stands(facts, member, subject, visible[subject])
    tokens = {row.token for row in rows if row.is_visible}
    for fact in facts.by_kind["bulk"]:
        yield from _bulk_is_whole(facts, fact, tokens, NEVER, f"{member} at the end")
    yield from _texts_are_counted(facts, member, Counter(row.token for row in rows))


def _texts_are_counted(facts: Facts, member: str, held: Counter[str]) -> Iterator[Violation]:
    """No text is stored more often than it was sent: to leave out its like is a filter and promises
    nothing, but each add stores it once at the most."""
    sent = Counter(fact.effect.tokens[0] for fact in facts.by_kind["text"] if not fact.is_failed)
    for token in {fact.effect.tokens[0] for fact in facts.by_kind["text"]}:
        if held[token] > sent[token]:
            said = f"{held[token]} records of {sent[token]} adds"
            yield Violation("doubled", f"{member}: {token}: {said}")


def _row_is_possible(facts: Facts, member: str, row: Row) -> Iterator[Violation]:
    written = [row.token]
    if row.is_visible:  # what was changed while it was forgotten is nobody's to see
        written += [*row.tags, *[by for by in [row.metadata.get("by")] if by]]
    for token in filter(None, written):
        found = facts.writers.get(token, [])
        if not any(not f.is_failed and f.effect.user == row.user for f in found):
            yield Violation("phantom", f"{member} at the end: {token}")


def _last_update_stands(
    facts: Facts, member: str, subject: Subject, row: Row
) -> Iterator[Violation]:
    shown = facts.writer(row.tags[0]) if row.tags else None
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
        row = rows[key]
        if row.token and facts.subject_of(row.token, row.ids) != subject:
            yield Violation("ids", f"{member}: {identifier} of {subject} is {row.token}")
    for subject, found in keys.items():
        if len(found) > 1:
            yield Violation("ids", f"{member}: the ids of {subject} are {len(found)} records")


__all__ = ["DEFINITE", "Violation", "judge"]
