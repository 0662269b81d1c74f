"""memory.get, memory.list and memory.query: reads from this peer's own store.

A read that names a position waits until this peer has applied it. `get` and `list` then say 503
where that takes too long; a recall never does: it answers from what is there and says what was
missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memsync import errors, ids, limits
from memsync.core.memories import is_visible, view
from memsync.core.records import Record
from memsync.ids import Position, Scope
from memsync.ports import Answer
from memsync.service import access, answers
from memsync.service.parts import Call, Parts
from memsync.wire import context, replies, requests
from memsync.wire.requests import GetRequest, ListRequest, QueryRequest

REPLICATION = "replication"
OFFSET_MAX = 1 << 53


async def get(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /memory/{id}."""
    request = answers.decode(body, GetRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    await _wait_applied(parts, call)
    record = await visible_memory(parts, call, scope, request.memory_id)
    return answers.answer(view(record, shown_id=request.memory_id))


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
    await _wait_applied(parts, call)
    limit = min(max(request.limit, 1), limits.LIST_LIMIT_MAX)
    offset = min(max(request.offset, 0), OFFSET_MAX)
    records, total = await parts.store.page(
        ids.scope_key(scope), now_ms=call.now_ms, limit=limit, offset=offset
    )
    items = [view(record) for record in records]
    page = replies.MemoryPage(items=items, total=total, limit=limit, offset=offset)
    return answers.page(page, "items")


async def query(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /memory/query. Always an answer of the same shape, within the budget of its tier."""
    request = answers.decode(body, QueryRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    requests.check(requests.query_problems(request))
    budget_s = limits.RECALL_BUDGET_MS[request.computation_tier] / 1000
    deadline_s = min(call.deadline_s, call.arrived_s + budget_s)
    is_fresh = await _is_fresh(parts, call, request, deadline_s)
    note_position(parts, call)
    answer = await parts.recall.answer(
        scope,
        _clamped(request),
        deadline_s=deadline_s,
        degraded=() if is_fresh else (REPLICATION,),
    )
    if answer.degraded:
        call.exchange.headers[context.DEGRADED] = ",".join(answer.degraded_components)
    return answers.page(answer, "memories")


async def _is_fresh(parts: Parts, call: Call, request: QueryRequest, deadline_s: float) -> bool:
    """Whether this peer can answer as the caller asked; waits for at most half of the budget.

    `strong` needs leases, which are not built: it is answered like `session`, and tagged.
    """
    wanted = call.context.min_positions
    if request.min_position is not None:
        wanted += context.parse_positions(request.min_position)
    if wanted:
        wait_until_s = (call.arrived_s + deadline_s) / 2
        if not await parts.progress.wait_for(wanted, wait_until_s):
            return False
    consistency = request.consistency or call.context.consistency
    return consistency != "strong" and not parts.progress.is_behind()


def _clamped(request: QueryRequest) -> QueryRequest:
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
    note_position(parts, call)


def note_position(parts: Parts, call: Call) -> None:
    """Say in the answer how far this peer is: what is read from now on is at least that new."""
    call.exchange.headers[context.POSITION] = context.format_positions(parts.progress.applied())
