"""What recall tells Prometheus. No tenant ever stands in a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from memsync.times import TimesByLabel

RECALL_SECONDS = TimesByLabel(
    "memsync_recall_seconds",
    "Time that recalls spent, by stage (load, embed, search with expand and rank in it, these by "
    "themselves, reason, read, answer, cache; all is the whole recall; explain comes after it).",
    "stage",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
RECALL_DEGRADED_TOTAL = Counter(
    "memsync_recall_degraded_total",
    "Answers that lacked a component, by component.",
    ["component"],
)
PROVIDER_FAILURES = Counter(
    "memsync_provider_failures_total",
    "Calls of models, caches and stages of recalls that failed, by provider.",
    ["provider"],
)
MEMORIES_TO_EMBED = Gauge(
    "memsync_memories_to_embed",
    "Memories known to lack a vector of the configured model; the first member alive embeds them.",
)
MEMORIES_EMBEDDED = Counter(
    "memsync_memories_embedded_total", "Memories that were embedded again by this peer."
)
BREAKER_OPENED = Counter(
    "memsync_breaker_opened_total",
    "How often a provider or a stage failed so often in a row that it is left alone, by provider.",
    ["provider"],
)
BREAKER_STATE = Gauge(
    "memsync_breaker_state",
    "For how many organisations a provider or a stage is left alone (open) or tried again "
    "(probing).",
    ["provider", "state"],
)
HOT_INDEX_BYTES = Gauge(
    "memsync_hot_index_bytes", "About how much memory the loaded recall indexes take."
)
HOT_INDEX_SCOPES = Gauge("memsync_hot_index_scopes", "How many scopes are loaded for recall.")
RESULTS_LOOKED = Counter(
    "memsync_recall_results_looked_total",
    "Looks for an answer of the same version of its scope: hit or miss.",
    ["result"],
)
SHOWN_BYTES = Gauge(
    "memsync_recall_shown_bytes",
    "About how much memory memories take that are kept as recalls showed them.",
)
RESULTS_BYTES = Gauge("memsync_recall_results_bytes", "About how much memory kept answers take.")
USES_WAITING = Gauge(
    "memsync_memory_uses_waiting", "Memories whose uses are counted and not all published yet."
)
USES_DROPPED = Counter(
    "memsync_memory_uses_dropped_total", "Uses of memories that were not counted: too many wait."
)
USES_UNPUBLISHED = Counter(
    "memsync_memory_uses_unpublished_total", "Times that uses of memories could not be published."
)
EXPLANATIONS_DROPPED = Counter(
    "memsync_explanations_dropped_total", "Answers that are not explained: too many wait."
)
EXPLANATIONS_AGE = Gauge(
    "memsync_explanations_oldest_age_seconds",
    "How old the oldest explanation is that this peer keeps, as of its last write; below 7 days on "
    "a peer that is older: they do not all fit (explanations_bytes_max). 0: none since the start.",
)
EXPLANATIONS_UNWRITTEN = Counter(
    "memsync_explanations_unwritten_total", "Times that explanations could not be written."
)
HOT_INDEX_BUILDS = Counter(
    "memsync_hot_index_builds_total",
    "Large scopes for which approximate search was built, by result (built, failed).",
    ["result"],
)
