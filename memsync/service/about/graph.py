"""memory.graph: memories and the relations between them, for whoever draws or walks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from memsync import limits
from memsync.core.memories import is_visible, view_fields
from memsync.core.records import Record
from memsync.core.relations import relations_of
from memsync.errors import Unavailable
from memsync.ids import RecordKey, Scope
from memsync.ports import Answer
from memsync.service import access, answers, reads
from memsync.service.about.relations import info
from memsync.service.parts import Call, Parts
from memsync.wire import replies
from memsync.wire.relations import GraphRequest
from memsync.wire.requests import clamp

_NODES_BYTES_MAX = limits.ANSWER_BYTES_MAX * 2 // 3
_EDGES_BYTES_MAX = limits.ANSWER_BYTES_MAX // 4
Around = Sequence[tuple[RecordKey, int | None]]


async def graph(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /memory/graph. Raises `Unavailable` where the scope cannot be loaded in time."""
    request = answers.decode(body, GraphRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    limit = int(clamp(request.limit, 1, limits.GRAPH_NODES_MAX))
    depth = int(clamp(request.depth, 1, limits.TRAVERSAL_DEPTH_MAX))

    async def evaluate() -> Answer:
        start: Record | None = None
        if request.memory_id is not None:
            start = await reads.visible_memory(parts, call, scope, request.memory_id)
        found = await parts.recall.around(
            scope,
            None if start is None else start.key,
            depth=depth,
            limit=limit + 1,
            deadline_s=call.deadline_s,
        )
        if found is None:
            raise Unavailable("this end user's memories are still being loaded", retry_after_s=1.0)
        records = await parts.store.records([key for key, _ in found[:limit]])
        drawn = _graph(call, scope, found[:limit], records)
        if len(found) > limit:
            drawn = msgspec.structs.replace(drawn, truncated=True)
        return answers.answer(drawn)

    return await reads.consistent(parts, call, body, evaluate)


def _graph(
    call: Call, scope: Scope, found: Around, records: Mapping[RecordKey, Record]
) -> replies.Graph:
    shown = {
        key: record
        for key, _ in found
        if (record := records.get(key)) is not None
        and record.scope == scope
        and is_visible(record, call.now_ms)
    }
    nodes = [
        (key, replies.GraphNode(**view_fields(shown[key]), distance=distance))
        for key, distance in found
        if key in shown
    ]
    kept = answers.within([node for _, node in nodes], _NODES_BYTES_MAX)
    ids = {key: node.id for key, node in nodes[: len(kept)]}
    edges = [
        info(shown[key], relation, ids[key], ids[relation.to])
        for key in ids
        for relation in relations_of(shown[key])
        if relation.to in ids
    ]
    drawn = answers.within(edges[: limits.GRAPH_EDGES_MAX], _EDGES_BYTES_MAX)
    is_cut = len(kept) < len(nodes) or len(drawn) < len(edges)
    return replies.Graph(nodes=kept, edges=drawn, truncated=is_cut)
