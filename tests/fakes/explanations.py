"""`ports.ExplanationStore` in memory."""

from __future__ import annotations

from collections.abc import Sequence

from memsync import limits
from memsync.errors import Unavailable
from memsync.ids import ScopeKey
from memsync.ports.recall import Explained


class MemoryExplanations:
    """In the order of their coming; `fault` is raised, where a test set it."""

    def __init__(self, bytes_max: int = limits.EXPLANATIONS_BYTES_MAX_DEFAULT) -> None:
        self._bytes_max = bytes_max
        self.kept: dict[str, Explained] = {}
        self.fault: Unavailable | None = None

    async def put(self, explained: Sequence[Explained], *, now_ms: int) -> int | None:
        """Keep these."""
        if self.fault is not None:
            raise self.fault
        for one in explained:
            self.kept.setdefault(one.query_id, one)
        while self.kept:
            oldest = next(iter(self.kept.values()))
            size = sum(len(one.body) for one in self.kept.values())
            is_old = oldest.at_ms < now_ms - limits.EXPLANATION_S * 1000
            if not is_old and size <= self._bytes_max:
                return oldest.at_ms
            del self.kept[oldest.query_id]
        return None

    async def get(self, scope: ScopeKey, query_id: str, *, now_ms: int) -> bytes | None:
        """The body with this id."""
        found = self.kept.get(query_id)
        is_there = found is not None and found.scope == scope
        if found is None or not is_there or found.at_ms < now_ms - limits.EXPLANATION_S * 1000:
            return None
        return found.body
