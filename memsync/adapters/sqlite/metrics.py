"""Metrics of the store."""

from __future__ import annotations

from prometheus_client import Counter

ROWS_DAMAGED = Counter(
    "memsync_rows_damaged_total", "Times that a row was met whose state is not what its hash says"
)
STORES_SET_ASIDE = Counter(
    "memsync_stores_set_aside_total", "Damaged store files that were moved away at a start"
)
