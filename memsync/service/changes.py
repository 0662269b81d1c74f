"""memory.update and memory.forget: registers written above everything that their records hold."""

from __future__ import annotations

from collections.abc import Iterable

from memsync import ids, limits
from memsync.core.memories import id_shown, is_visible, view
from memsync.core.records import Record, stamps_of
from memsync.engine.writing.appender import Condition
from memsync.errors import NotFound
from memsync.ids import Scope
from memsync.ports import Answer, StoredOperation
from memsync.service import access, answers, freshness, reads, writes
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft, Intent
from memsync.wire import codec, requests
from memsync.wire.operations import ItemOutcome, Update
from memsync.wire.requests import ForgetRequest, UpdateRequest

UPDATED, FORGOTTEN = "updated", "forgotten"
_FRAME_ROOM = limits.FRAME_BYTES_MAX - 512 * 1024  # the rest is for the ids of the outcome


async def update(parts: Parts, call: Call, body: bytes) -> Answer:
    """PATCH /memory/{id}."""
    request = answers.decode(body, UpdateRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    intent = writes.intent_of(call, scope, request)

    async def look() -> Record:
        return await reads.visible_memory(parts, call, scope, request.memory_id)

    async def execute() -> Answer | StoredOperation:
        requests.check(requests.update_problems(request))
        found = await writes.looked(parts, call, intent, look)
        if isinstance(found, StoredOperation):
            return found
        return _shown(call, await _write_update(parts, call, intent, request, found), request)

    async def replay(_: list[ItemOutcome]) -> Answer:
        record = await freshness.read_for_repeat(parts, call, look)
        return _shown(call, record, request)

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


async def _write_update(
    parts: Parts, call: Call, intent: Intent, request: UpdateRequest, record: Record
) -> Record:
    change = Update(record.key, record.scope, record.kind, _registers(request))
    condition = None
    if request.if_version is not None:
        condition = Condition(record.key, request.if_version)
    draft = Draft(
        outcome=[ItemOutcome(UPDATED, [request.memory_id])],
        operations=[change],
        stamp=parts.appender.stamp(above=stamps_of(record)),
        condition=condition,
    )
    written = await writes.publish(parts, call, intent, draft)
    return written.records[record.key]


def _registers(request: UpdateRequest) -> dict[str, bytes]:
    """The registers that a request names. Metadata is content, so it goes into an envelope."""
    values: dict[str, object] = {
        "tags": request.tags,
        "source": request.source,
        "event_type": request.event_type,
    }
    if request.importance is not None:
        values["importance"] = requests.clamp(request.importance, 0.0, 1.0)
    if request.metadata is not None:
        values["metadata"] = codec.seal(request.metadata)
    return {name: codec.pack(value) for name, value in values.items() if value is not None}


def _shown(call: Call, record: Record, request: UpdateRequest) -> Answer:
    """The memory after its update, unless somebody forgot it at the same time."""
    if not is_visible(record, call.now_ms):
        raise NotFound(f"memory {request.memory_id} does not exist")
    return answers.answer(view(record, shown_id=request.memory_id))


async def forget(parts: Parts, call: Call, body: bytes) -> Answer:
    """DELETE /memory/forget: a bare array of the ids that are forgotten."""
    request = answers.decode(body, ForgetRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)

    async def look() -> dict[int, Record]:
        return await _meant(parts, call, scope, request)

    if request.dry_run:
        requests.check(requests.forget_problems(request))
        return answers.answer(list(await look()))
    intent = writes.intent_of(call, scope, request)

    async def execute() -> Answer | StoredOperation:
        requests.check(requests.forget_problems(request))
        await freshness.be_fresh(parts, call)
        meant = await freshness.complete(parts, look)
        # After the reading: what another attempt has forgotten is not among these, but meant too.
        if (stored := await writes.met(parts, call, intent)) is not None:
            return stored
        outcome = [ItemOutcome(FORGOTTEN, list(meant))]
        if meant:
            await _write_forget(parts, call, intent, request, meant)
            return answers.answer(outcome[0].ids)
        # Else an attempt that comes after the answer would forget what was added since.
        stored = await writes.keep_outcome(parts, call, intent, outcome, is_kept_of_gateways=True)
        return stored or answers.answer(outcome[0].ids)

    async def replay(outcome: list[ItemOutcome]) -> Answer:
        return answers.answer(outcome[0].ids)

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


async def _meant(
    parts: Parts, call: Call, scope: Scope, request: ForgetRequest
) -> dict[int, Record]:
    """The memories that a forget means, by the id that it is answered with."""
    if request.memory_ids is not None:
        named = list(dict.fromkeys(request.memory_ids))
        found = await reads.visible_memories(parts, call, scope, named)
        meant = {identifier: found[identifier] for identifier in named if identifier in found}
        _check_room(scope, meant)
        return meant
    assert request.filters is not None
    records = await parts.store.matching(
        ids.scope_key(scope), request.filters, now_ms=call.now_ms, limit=_room(scope)
    )
    return {id_shown(record): record for record in records}


def _room(scope: Scope) -> int:
    """How many memories of this scope one write can forget: it is one log message."""
    one = Update(ids.RecordKey(bytes(16)), scope, "memory", {"deleted": codec.pack(True)})
    return min(limits.FORGET_IDS_MAX, _FRAME_ROOM // len(codec.pack(one)))


def _check_room(scope: Scope, meant: dict[int, Record]) -> None:
    room = _room(scope)
    if len(meant) > room:
        raise codec.invalid("memory_ids", f"{len(meant)} ids, {room} of this user fit one write")


async def _write_forget(
    parts: Parts, call: Call, intent: Intent, request: ForgetRequest, meant: dict[int, Record]
) -> None:
    records = _distinct(meant.values())
    registers = {"deleted": codec.pack(True)}
    draft = Draft(
        outcome=[ItemOutcome(FORGOTTEN, list(meant))],
        operations=[Update(r.key, r.scope, r.kind, registers) for r in records],
        stamp=parts.appender.stamp(above=[s for record in records for s in stamps_of(record)]),
        reason=request.reason or "",
    )
    await writes.publish(parts, call, intent, draft)


def _distinct(records: Iterable[Record]) -> list[Record]:
    """Each record once, though several of its ids were named."""
    return list({record.key: record for record in records}.values())
