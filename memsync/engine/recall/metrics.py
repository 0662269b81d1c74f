"""What recall tells Prometheus. No tenant ever stands in a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECALL_SECONDS = Histogram(
    "memsync_recall_seconds",
    "Time that recalls spent, by stage (embed, load, search, answer; all is the whole recall).",
    ["stage"],
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
RECALL_DEGRADED_TOTAL = Counter(
    "memsync_recall_degraded_total",
    "Answers that lacked a component, by component.",
    ["component"],
)
HOT_INDEX_BYTES = Gauge(
    "memsync_hot_index_bytes", "About how much memory the loaded recall indexes take."
)
HOT_INDEX_SCOPES = Gauge("memsync_hot_index_scopes", "How many scopes are loaded for recall.")
