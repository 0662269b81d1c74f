"""memory.relate: one more relation from a memory to another of the same scope."""

from __future__ import annotations

import msgspec

from memsync.core import relations
from memsync.core.records import Record, stamps_of
from memsync.core.stamps import wall_ms_of
from memsync.ids import Scope
from memsync.ports import Answer, StoredOperation
from memsync.service import access, answers, reads, writes
from memsync.service.about.room import check_new, check_room
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft, Intent
from memsync.wire import codec, replies, requests
from memsync.wire.operations import Attach, ItemOutcome, Relation
from memsync.wire.relations import TO_ITSELF, RelateRequest, relate_problems
from memsync.wire.requests import clamp, format_moment

RELATED, STANDS = "related", "stands"
CONFIDENCE_DEFAULT = 1.0


class _Name(msgspec.Struct, frozen=True):
    """What an answer says that the request does not; it is kept, for repeats. The rest is in the
    repeat itself: a relation's metadata must not be kept beyond the memory."""

    id: int
    created_at: str


async def relate(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /memory/{id}/relations: 201 with the relation, 200 where it stood so already."""
    request = answers.decode(body, RelateRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    intent = writes.intent_of(call, scope, request)

    async def execute() -> Answer | StoredOperation:
        requests.check(relate_problems(request))

        async def look() -> tuple[Record, Record]:
            return await _ends(parts, call, scope, request)

        found = await writes.looked(parts, call, intent, look)
        if isinstance(found, StoredOperation):
            return found
        return await _relate(parts, call, intent, request, *found)

    async def replay(outcome: list[ItemOutcome]) -> Answer:
        assert outcome[0].reason is not None
        name = codec.from_json(outcome[0].reason.encode(), _Name)
        return _shown(request, name, outcome[0].status)

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


async def _ends(
    parts: Parts, call: Call, scope: Scope, request: RelateRequest
) -> tuple[Record, Record]:
    start = await reads.visible_memory(parts, call, scope, request.memory_id)
    end = await reads.visible_memory(parts, call, scope, request.to_memory_id)
    if start.key == end.key:  # by another id of the same memory
        raise codec.invalid("to_memory_id", TO_ITSELF)
    return start, end


async def _relate(
    parts: Parts, call: Call, intent: Intent, request: RelateRequest, start: Record, end: Record
) -> Answer | StoredOperation:
    relation = Relation(
        stamp=parts.appender.stamp(above=stamps_of(start)),
        to=end.key,
        type=request.relationship_type,
        confidence=_confidence(request),
        metadata=None if request.metadata is None else codec.seal(request.metadata),
    )
    if (standing := _standing(start, relation)) is not None:
        name = _name(start, standing)
        outcome = _outcome(STANDS, request, name)
        stored = await writes.keep_outcome(parts, call, intent, outcome)
        return stored or _shown(request, name, STANDS)
    check_new(call, start, relations.RELATIONS)
    element = codec.pack(relation)
    check_room(start, relations.RELATIONS, element, field="to_memory_id")
    by_key: dict[str, bytes] = {call.context.operation_key: element}
    name = _name(start, relation)
    draft = Draft(
        outcome=_outcome(RELATED, request, name),
        operations=[Attach(start.key, start.scope, start.kind, {relations.RELATIONS: by_key})],
        stamp=relation.stamp,
    )
    await writes.publish(parts, call, intent, draft)
    return _shown(request, name, RELATED)


def _standing(start: Record, wanted: Relation) -> Relation | None:
    """The relation that already says what is wanted."""
    for relation in relations.relations_of(start):
        if msgspec.structs.replace(relation, stamp=wanted.stamp) == wanted:
            return relation
    return None


def _name(start: Record, relation: Relation) -> _Name:
    at_ms = wall_ms_of(relation.stamp)
    return _Name(relations.relation_id(start.key, relation), format_moment(at_ms))


def _outcome(status: str, request: RelateRequest, name: _Name) -> list[ItemOutcome]:
    return [ItemOutcome(status, [request.memory_id], codec.to_json(name).decode())]


def _shown(request: RelateRequest, name: _Name, status: str) -> Answer:
    """The answer to `request`: the relation says what it asked for, whether it is new or stood."""
    shown = replies.RelationInfo(
        id=name.id,
        from_memory_id=request.memory_id,
        to_memory_id=request.to_memory_id,
        relationship_type=request.relationship_type,
        confidence=_confidence(request),
        metadata=request.metadata,
        created_at=name.created_at,
    )
    return answers.answer(shown, 201 if status == RELATED else 200)


def _confidence(request: RelateRequest) -> float:
    given = CONFIDENCE_DEFAULT if request.confidence is None else request.confidence
    return clamp(given, 0.0, 1.0)


def info(start: Record, relation: Relation, from_id: int, to_id: int) -> replies.RelationInfo:
    """A relation as the API answers it, its ends named by these ids."""
    metadata = relation.metadata
    return replies.RelationInfo(
        id=relations.relation_id(start.key, relation),
        from_memory_id=from_id,
        to_memory_id=to_id,
        relationship_type=relation.type,
        confidence=relation.confidence,
        metadata=None if metadata is None else codec.open_as(metadata, dict),
        created_at=format_moment(relation.stamp.time >> 16),
    )
