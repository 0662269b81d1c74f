"""memory.get, memory.list and memory.query: reads from this peer's own store.

Each is as fresh as its caller asked for (service/freshness.py), or tagged. A read that names a
position waits until this peer has applied it. `get` and `list` then say 503
where that takes too long; a recall never does: it answers from what is there and says what was
missing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from memsync import errors, ids, limits
from memsync.core.memories import is_visible, view
from memsync.core.records import Record
from memsync.ids import Position, Scope
from memsync.ports import Answer
from memsync.service import access, answers, freshness
from memsync.service.freshness import REPLICATION
from memsync.service.parts import Call, Parts
from memsync.wire import codec, context, replies, requests
from memsync.wire.replies import QueryAnswer
from memsync.wire.requests import GetRequest, ListRequest, QueryRequest

OFFSET_MAX = 1 << 53


async def get(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /memory/{id}."""
    request = answers.decode(body, GetRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)

    async def evaluate() -> Answer:
        record = await visible_memory(parts, call, scope, request.memory_id)
        return answers.answer(view(record, shown_id=request.memory_id))

    return await consistent(parts, call, body, evaluate)


async def consistent(
    parts: Parts, call: Call, body: bytes, evaluate: Callable[[], Awaitable[Answer]]
) -> Answer:
    """What `evaluate` answers, as fresh as the caller asked for, or tagged. Raises `Unavailable`
    where `strong` cannot be had."""
    await _wait_applied(parts, call)
    mode = call.context.consistency
    state = await freshness.reach(parts, call, body, mode=mode, until_s=call.deadline_s)
    if isinstance(state, Answer):
        return state
    note_position(parts, call)
    if state == "unsure":
        call.exchange.headers[context.DEGRADED] = REPLICATION
    try:
        answer = await evaluate()
    finally:
        if parts.progress.lacking():  # found by this very read, perhaps: a row of it is damaged
            state = "unsure"
            call.exchange.headers[context.DEGRADED] = REPLICATION
    if mode == "strong":
        is_settled = await freshness.is_settled(parts, until_s=call.deadline_s)
        if state == "unsure" or not is_settled:
            raise errors.Unavailable(
                "strong: a majority has not confirmed what this peer has; ask again, or for "
                "session",
                retry_after_s=1.0,
            )
    return answer


async def visible_memory(parts: Parts, call: Call, scope: Scope, identifier: int) -> Record:
    """The memory with this id, where this caller may see it; raises `NotFound`."""
    found = await visible_memories(parts, call, scope, [identifier])
    if identifier not in found:
        raise errors.NotFound(f"memory {identifier} does not exist")
    return found[identifier]


async def visible_memories(
    parts: Parts, call: Call, scope: Scope, identifiers: Sequence[int]
) -> dict[int, Record]:
    """Those of the ids that resolve to memories of this scope that may be read."""
    possible = [one for one in identifiers if 1 <= one <= ids.ID_MAX]
    found = await parts.store.records_by_id(possible)
    return {
        identifier: record
        for identifier, record in found.items()
        if record.kind == "memory" and record.scope == scope and is_visible(record, call.now_ms)
    }


async def list_memories(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /memory/list and GET /v1/memory/{tenant}/{user}/list."""
    request = answers.decode(body, ListRequest)
    access.check_tenant(parts.directory, call.caller, request.tenant_id)
    end_user = request.user_id if request.user_id is not None else request.end_user_id
    scope = access.scope_of(parts.directory, call, end_user)
    limit = min(max(request.limit, 1), limits.LIST_LIMIT_MAX)
    offset = min(max(request.offset, 0), OFFSET_MAX)

    async def evaluate() -> Answer:
        records, total = await parts.store.page(
            ids.scope_key(scope), now_ms=call.now_ms, limit=limit, offset=offset
        )
        items = [view(record) for record in records]
        page = replies.MemoryPage(items=items, total=total, limit=limit, offset=offset)
        return answers.page(page, "items")

    return await consistent(parts, call, body, evaluate)


async def query(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /memory/query. Always an answer of the same shape, within the budget of its tier."""
    request = answers.decode(body, QueryRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    requests.check(requests.query_problems(request))
    budget_s = limits.RECALL_BUDGET_MS[request.computation_tier] / 1000
    deadline_s = min(call.deadline_s, call.arrived_s + budget_s)
    lacks = not await _has_positions(parts, call, request, deadline_s)
    mode = request.consistency or call.context.consistency
    state = await freshness.reach(parts, call, body, mode=mode, until_s=deadline_s)
    if isinstance(state, Answer):
        return _of_other_peer(state)
    note_position(parts, call)
    answer = await parts.recall.answer(
        scope,
        _clamped(request),
        deadline_s=deadline_s,
        degraded=(REPLICATION,) if lacks or state == "unsure" else (),
    )
    is_strong = mode != "strong" or await freshness.is_settled(parts, until_s=deadline_s)
    if not is_strong or parts.progress.lacking():  # found by this very recall, perhaps
        answer = _lacking_replication(answer)
    if answer.degraded:
        call.exchange.headers[context.DEGRADED] = ",".join(answer.degraded_components)
    return answers.page(answer, "memories")


async def _has_positions(
    parts: Parts, call: Call, request: QueryRequest, deadline_s: float
) -> bool:
    """Whether this peer has what the caller named; waits for at most half of the budget."""
    wanted = call.context.min_positions
    if request.min_position is not None:
        wanted += context.parse_positions(request.min_position)
    return await parts.progress.wait_for(wanted, (call.arrived_s + deadline_s) / 2)


def _of_other_peer(answer: Answer) -> Answer:
    """What a peer answered that this one has passed a question on to: it says so, and is else as
    that peer wrote it."""
    if answer.status != 200:
        return answer
    fields = codec.from_json(answer.body, dict[str, msgspec.Raw])
    found = codec.from_json(fields["freshness"], replies.Freshness)
    freshness_now = msgspec.structs.replace(found, source="other_peer")
    body = codec.to_json({**fields, "freshness": freshness_now})
    return msgspec.structs.replace(answer, body=body)


def _lacking_replication(answer: QueryAnswer) -> QueryAnswer:
    components = list(dict.fromkeys([*answer.degraded_components, REPLICATION]))
    return msgspec.structs.replace(answer, degraded=True, degraded_components=components)


def _clamped(request: QueryRequest) -> QueryRequest:
    if (
        len(request.query) <= limits.QUERY_CHARS_MAX
        and 1 <= request.k <= limits.RECALL_K_MAX
        and 1 <= request.traversal_depth <= limits.TRAVERSAL_DEPTH_MAX
    ):
        return request
    return msgspec.structs.replace(
        request,
        query=request.query[: limits.QUERY_CHARS_MAX],
        k=min(max(request.k, 1), limits.RECALL_K_MAX),
        traversal_depth=min(max(request.traversal_depth, 1), limits.TRAVERSAL_DEPTH_MAX),
    )


async def _wait_applied(parts: Parts, call: Call) -> None:
    """Wait for the position that the caller wants to see; raises `Unavailable` at the deadline."""
    wanted: tuple[Position, ...] = call.context.min_positions
    if wanted and not await parts.progress.wait_for(wanted, call.deadline_s):
        raise errors.Unavailable(
            f"position {context.format_positions(wanted)} has not arrived here", retry_after_s=1.0
        )


def note_position(parts: Parts, call: Call) -> None:
    """Say in the answer how far this peer is: what is read from now on is at least that new."""
    call.exchange.headers[context.POSITION] = context.format_positions(parts.progress.applied())
