"""memory.add and memory.bulk_add: what becomes of each item, and one write for all that are stored.

    items --candidates--> what is asked --look_up--> what exists --judge--> a verdict for each
          --store--> ids, vectors, stamp, ONE write

`judge` is a plain function: it sees every item of a bulk at once, so a repeat within the bulk is
met with the same rules as a repeat of something stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memsync import errors, ids, limits
from memsync.core.memories import CREATED, id_shown, is_visible, view
from memsync.core.recall import lexical
from memsync.core.records import Record
from memsync.core.stamps import wall_ms_of
from memsync.engine.writing.appender import Written
from memsync.ids import RecordKey, Scope, ScopeKey
from memsync.ports import Answer, StoredOperation
from memsync.service import access, answers, freshness, writes
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft, Intent
from memsync.wire import codec, replies, requests
from memsync.wire.operations import (
    Content,
    Create,
    Envelope,
    ItemOutcome,
    MemoryOrigin,
    Stamp,
    Vector,
)
from memsync.wire.requests import AddItem, AddRequest, BulkAddRequest

SKIPPED, REJECTED = "skipped", "rejected"
ALREADY_INGESTED, DUPLICATE, NO_CONTENT = "already_ingested", "duplicate", "no_high_value_content"
IMPORTANCE_DEFAULT = 0.5
_CONTENT_BYTES_MAX = limits.FRAME_BYTES_MAX - limits.BODY_BYTES_MAX - 256 * 1024


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An item with everything that follows from it alone."""

    place: int
    item: AddItem
    scope: Scope
    scope_key: ScopeKey
    record: RecordKey
    text_hash: bytes
    is_deduplicated: bool
    problem: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a candidate: `record` is what it met, `first` its like in the same bulk."""

    status: str
    reason: str | None = None
    record: Record | None = None
    first: int | None = None


class Stored(msgspec.Struct, frozen=True):
    """Per item what its caller is answered, and the write, where there was one."""

    outcome: list[ItemOutcome]
    candidates: list[Candidate]
    verdicts: list[Verdict]
    written: Written | None


async def add(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /memory/add."""
    request = answers.decode(body, AddRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    intent = _intent_of(call, scope, request)

    async def execute() -> Answer | StoredOperation:
        requests.check([*requests.text_problems(request), *requests.item_problems(request)])
        deduplicate = request.deduplicate is not False
        candidate = _candidate(call, intent, 0, request, scope, is_deduplicated=deduplicate)
        stored = await _store(parts, call, intent, [candidate])
        return _added(call, stored) if isinstance(stored, Stored) else stored

    async def replay(outcome: list[ItemOutcome]) -> Answer:
        return await _added_before(parts, call, outcome[0])

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


def _intent_of(call: Call, scope: Scope, request: AddRequest) -> Intent:
    intent = writes.intent_of(call, scope, request)
    if call.context.key_is_callers or request.client_ref is not None:
        return intent
    return msgspec.structs.replace(intent, record=_own_record(call, intent, 0, scope))


def _added(call: Call, stored: Stored) -> Answer:
    outcome, verdict = stored.outcome[0], stored.verdicts[0]
    if outcome.status == SKIPPED:
        return _skipped(outcome)
    record = verdict.record
    if stored.written is not None:
        record = stored.written.records[stored.candidates[0].record]
    return _memory_or_skipped(call, record, outcome)


def _memory_or_skipped(call: Call, record: Record | None, outcome: ItemOutcome) -> Answer:
    """201 with the memory; where it was forgotten meanwhile, that it had been taken."""
    if record is None or not is_visible(record, call.now_ms):
        return _skipped(ItemOutcome(SKIPPED, outcome.ids, ALREADY_INGESTED))
    return answers.answer(view(record, shown_id=outcome.ids[0]), 201)


def _skipped(outcome: ItemOutcome) -> Answer:
    return answers.answer(replies.AddSkipped(reason=outcome.reason or "", memory_ids=outcome.ids))


async def _added_before(parts: Parts, call: Call, outcome: ItemOutcome) -> Answer:
    if outcome.status == SKIPPED:
        return _skipped(outcome)
    found = await parts.store.records_by_id(outcome.ids)
    return _memory_or_skipped(call, found.get(outcome.ids[0]), outcome)


async def bulk_add(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /memory/bulk-add."""
    request = answers.decode(body, BulkAddRequest)
    default = request.end_user_id if request.end_user_id is not None else call.context.end_user
    scopes = [_item_scope(parts, call, item, default) for item in request.items]
    scope = access.owner_scope(parts.directory, call, default or "")
    intent = writes.intent_of(call, scope, request)

    async def execute() -> Answer | StoredOperation:
        requests.check(requests.bulk_problems(request))
        candidates = [
            _bulk_candidate(call, intent, place, request, scopes[place])
            for place in range(len(request.items))
        ]
        stored = await _store(parts, call, intent, candidates)
        return _bulk_answer(stored.outcome) if isinstance(stored, Stored) else stored

    async def replay(outcome: list[ItemOutcome]) -> Answer:
        return _bulk_answer(outcome)

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


def _item_scope(parts: Parts, call: Call, item: AddItem, default: str | None) -> Scope:
    end_user = item.end_user_id if item.end_user_id is not None else default
    return access.scope_of(parts.directory, call, end_user)


def _bulk_candidate(
    call: Call, intent: Intent, place: int, request: BulkAddRequest, scope: Scope
) -> Candidate:
    """An item of a bulk; what is wrong with its text rejects it alone."""
    item = request.items[place]
    deduplicate = request.deduplicate if item.deduplicate is None else item.deduplicate
    problems = requests.text_problems(item) or ([] if item.body else [("text", "empty")])
    candidate = _candidate(call, intent, place, item, scope, is_deduplicated=deduplicate)
    problem = ": ".join(problems[0]) if problems else None
    return msgspec.structs.replace(candidate, problem=problem)


def _bulk_answer(outcome: list[ItemOutcome]) -> Answer:
    results = [
        replies.BulkItem(index=place, status=one.status, memory_ids=one.ids, reason=one.reason)
        for place, one in enumerate(outcome)
    ]
    counts = dict.fromkeys((CREATED, SKIPPED, REJECTED), 0)
    for one in outcome:
        counts[one.status] += 1
    return answers.answer(replies.BulkAdded(total=len(outcome), results=results, **counts))


def _candidate(
    call: Call, intent: Intent, place: int, item: AddItem, scope: Scope, *, is_deduplicated: bool
) -> Candidate:
    key = ids.scope_key(scope)
    if item.client_ref is not None:
        record = ids.record_key_of_ref("memory", scope, item.client_ref)
    else:
        record = intent.record or _own_record(call, intent, place, scope)
    return Candidate(
        place=place,
        item=item,
        scope=scope,
        scope_key=key,
        record=record,
        text_hash=lexical.text_hash(key, item.body),
        is_deduplicated=is_deduplicated,
    )


def _own_record(call: Call, intent: Intent, place: int, scope: Scope) -> RecordKey:
    """The key of the record that this request alone makes of its item at `place`."""
    return ids.record_key_of_operation(
        "memory", scope, call.context.operation_key, intent.request_hash, place
    )


async def _store(
    parts: Parts, call: Call, intent: Intent, candidates: list[Candidate]
) -> Stored | StoredOperation:
    """Store what is new, as a whole or not at all, and say what became of each item; or what is
    kept of another attempt of this request, where nothing is new any more."""
    is_sure = call.context.key_is_callers or any(c.item.client_ref is not None for c in candidates)
    if is_sure:
        await freshness.be_fresh(parts, call)  # what was taken before must be met
    existing = await _existing(parts, call, candidates)
    duplicates = await _duplicates(parts, call, candidates)
    if duplicates and not is_sure:  # what is forgotten must not be met: the text would be lost
        await freshness.be_fresh(parts, call)
        duplicates = await _duplicates(parts, call, candidates)
    verdicts = judge(call, intent, candidates, existing, duplicates)
    fresh = [c for c, v in zip(candidates, verdicts, strict=True) if _is_fresh(v)]
    if not fresh:
        outcome = _outcome(verdicts, {})
        earlier = await writes.keep_outcome(parts, call, intent, outcome)
        return earlier or Stored(outcome, candidates, verdicts, None)
    vectors = await parts.recall.embed_for_write(
        [c.item.body for c in fresh], organisation=call.caller.organisation
    )
    contents = [_content(c.item, vector) for c, vector in zip(fresh, vectors, strict=True)]
    _check_size(contents)
    taken = await writes.take_ids(parts, call, [c.place for c in fresh], len(candidates))
    outcome = _outcome(verdicts, dict(zip((c.place for c in fresh), taken, strict=True)))
    stamp = parts.appender.stamp()
    operations = [
        _create(call, intent, candidate, identifier, content, stamp)
        for candidate, identifier, content in zip(fresh, taken, contents, strict=True)
    ]
    draft = Draft(outcome=outcome, operations=operations, stamp=stamp)
    written = await writes.publish(parts, call, intent, draft)
    return Stored(outcome, candidates, verdicts, written)


async def _existing(
    parts: Parts, call: Call, candidates: list[Candidate]
) -> dict[RecordKey, Record]:
    """What is already there under the keys of these items. A key of our own is new by itself."""
    is_callers = call.context.key_is_callers
    keys = [c.record for c in candidates if is_callers or c.item.client_ref is not None]
    return await freshness.complete(parts, lambda: parts.store.records(keys)) if keys else {}


async def _duplicates(
    parts: Parts, call: Call, candidates: list[Candidate]
) -> dict[tuple[ScopeKey, bytes], Record]:
    """Visible memories of the last 24 hours with these texts."""
    since_ms = call.now_ms - limits.DUPLICATE_TEXT_S * 1000
    wanted = list({(c.scope_key, c.text_hash) for c in candidates if c.is_deduplicated})
    if not wanted:
        return {}
    found = await parts.store.duplicates(wanted, since_ms)
    return {text: one for text, one in found.items() if is_visible(one, call.now_ms)}


def judge(
    call: Call,
    intent: Intent,
    candidates: Sequence[Candidate],
    existing: dict[RecordKey, Record],
    duplicates: dict[tuple[ScopeKey, bytes], Record],
) -> list[Verdict]:
    """What becomes of each item, the earlier ones first. Raises `KeyReused`."""
    verdicts: list[Verdict] = []
    records: dict[RecordKey, int] = {}
    texts: dict[tuple[ScopeKey, bytes], int] = {}
    for candidate in candidates:
        text = (candidate.scope_key, candidate.text_hash)
        verdict = _judge_alone(call, intent, candidate, existing.get(candidate.record))
        if verdict is None and (first := records.get(candidate.record)) is not None:
            verdict = Verdict(status=SKIPPED, reason=ALREADY_INGESTED, first=first)
        if verdict is None and not lexical.has_content(candidate.item.body):
            verdict = Verdict(status=SKIPPED, reason=NO_CONTENT)
        if verdict is None and candidate.is_deduplicated:
            if (record := duplicates.get(text)) is not None:
                verdict = _judge_duplicate(call, intent, candidate, record)
            elif (first := texts.get(text)) is not None:
                verdict = Verdict(status=SKIPPED, reason=DUPLICATE, first=first)
        verdict = verdict or Verdict(status=CREATED)
        if verdict.status == CREATED:
            records[candidate.record] = texts[text] = candidate.place
        verdicts.append(verdict)
    return verdicts


def _judge_alone(
    call: Call, intent: Intent, candidate: Candidate, existing: Record | None
) -> Verdict | None:
    """What an item's own text and key say, whatever else is in the bulk."""
    if candidate.problem is not None:
        return Verdict(status=REJECTED, reason=candidate.problem)
    if existing is not None and (existing.origin is not None or existing.purged is not None):
        return _judge_existing(call, intent, candidate, existing)
    return None


def _judge_existing(call: Call, intent: Intent, candidate: Candidate, record: Record) -> Verdict:
    origin = record.origin
    if isinstance(origin, MemoryOrigin) and origin.operation_key == call.context.operation_key:
        if origin.request_hash != intent.request_hash:
            raise writes.key_reused()
        if origin.place == candidate.place:
            return Verdict(status=CREATED, record=record)  # this request's own earlier attempt
    return Verdict(status=SKIPPED, reason=ALREADY_INGESTED, record=record)


def _judge_duplicate(call: Call, intent: Intent, candidate: Candidate, record: Record) -> Verdict:
    """A memory with the same text; the candidate's own record, which another attempt stored since
    `_existing` looked, is no duplicate of it."""
    if record.key == candidate.record:
        return _judge_existing(call, intent, candidate, record)
    return Verdict(status=SKIPPED, reason=DUPLICATE, record=record)


def _is_fresh(verdict: Verdict) -> bool:
    return verdict.status == CREATED and verdict.record is None


def _outcome(verdicts: list[Verdict], taken: dict[int, int]) -> list[ItemOutcome]:
    outcome: list[ItemOutcome] = []
    for place, verdict in enumerate(verdicts):
        if place in taken:
            known = [taken[place]]
        elif verdict.record is not None:
            known = [id_shown(verdict.record)]
        else:
            known = [] if verdict.first is None else outcome[verdict.first].ids
        outcome.append(ItemOutcome(verdict.status, known, verdict.reason))
    return outcome


def _content(item: AddItem, vector: Vector | None) -> Envelope:
    content = Content(
        text=item.body,
        metadata=item.metadata,
        terms=lexical.terms_of(item.body),
        vector=vector,
    )
    return codec.seal(content)


def _check_size(contents: list[Envelope]) -> None:
    """One write is one log message: what its texts unfold to (terms, vectors) has a limit, too."""
    size = sum(len(content.data) for content in contents)
    if size > _CONTENT_BYTES_MAX:
        raise errors.PayloadTooLarge(
            f"items: {size} bytes with their terms, at most {_CONTENT_BYTES_MAX}"
        )


def _create(
    call: Call,
    intent: Intent,
    candidate: Candidate,
    identifier: int,
    content: Envelope,
    stamp: Stamp,
) -> Create:
    item, created_at_ms = candidate.item, wall_ms_of(stamp)
    occurred = None if item.occurred_at is None else requests.parse_moment(item.occurred_at)
    expires = None if item.ttl_minutes is None else created_at_ms + item.ttl_minutes * 60_000
    importance = IMPORTANCE_DEFAULT if item.importance is None else item.importance
    origin = MemoryOrigin(
        operation_key=call.context.operation_key,
        request_hash=intent.request_hash,
        content=content,
        text_hash=candidate.text_hash,
        created_at_ms=created_at_ms,
        occurred_at_ms=occurred,
        expires_at_ms=expires,
        place=candidate.place,
        client_ref=item.client_ref,
        session_id=item.session_id,
        role=item.role,
        source=item.source,
        event_type=item.event_type,
        tags=item.tags or [],
        importance=requests.clamp(importance, 0.0, 1.0),
        is_summary=False,
    )
    return Create(candidate.record, candidate.scope, [identifier], origin)
