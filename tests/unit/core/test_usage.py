"""How often a memory was recalled, and what that is worth."""

from __future__ import annotations

import pytest

from memsync.core.records import join_operation, version_of
from memsync.core.usage import usage_of, uses_of
from memsync.wire.operations import Count
from tests.fakes import memories


@pytest.mark.parametrize(
    ("counts", "uses", "usage"),
    [({}, 0, 0.0), ({"1": 1}, 1, 0.138629), ({"1": 7, "2": 3}, 10, 0.479579),
     ({"1": 147}, 147, 0.999442), ({"1": 148}, 148, 1.0), ({"1": 10**9}, 10**9, 1.0)],
)  # fmt: skip
def test_uses_of_all_stores_count(counts: dict[str, int], uses: int, usage: float) -> None:
    record = memories.memory("m", "text")
    count = Count(record.key, record.scope, "memory", {"uses": counts}, {"last_access_ms": 5})
    counted = join_operation(record, count, memories.stamp(memories.NOW_MS + 5))
    assert uses_of(counted) == uses
    assert usage_of(counted) == pytest.approx(usage, abs=1e-6)
    assert version_of(counted) == version_of(record)
