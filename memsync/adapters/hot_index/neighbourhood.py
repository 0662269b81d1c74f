"""What lies around a memory in a loaded scope, or in all of it: for whoever draws the graph."""

from __future__ import annotations

import numpy as np

from memsync.adapters.hot_index.scope import LoadedScope
from memsync.core.recall import graph
from memsync.ids import RecordKey


def neighbourhood(
    scope: LoadedScope, start: RecordKey | None, *, depth: int, limit: int, now_ms: int
) -> list[tuple[RecordKey, int | None]]:
    """At most `limit` visible memories. From `start`: it and what is within `depth` relations of
    it, the nearest first, with the distance. Without: those that have relations first, and of both
    kinds the newest first."""
    visible = scope.population(now_ms).visible
    if start is None:
        rows = np.flatnonzero(visible)
        related = scope.relations.keys()
        is_related = np.array([scope.keys[row] in related for row in rows.tolist()], np.bool_)
        columns = scope.columns
        order = np.lexsort(
            (columns["stamp_time"][rows], columns["created_at_ms"][rows], is_related)
        )[::-1][:limit]
        return [(scope.keys[row], None) for row in rows[order].tolist()]
    row = scope.row_of(start)
    if row is None or not visible[row]:
        return []
    found = graph.around(row, lambda one: scope.beside(one, visible), depth=depth, limit=limit)
    return [(scope.keys[one], distance) for one, distance in found.items()]
