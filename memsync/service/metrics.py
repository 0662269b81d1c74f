"""What the service counts. No tenant in a label; operations that do not exist are one label."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter

from memsync.times import TimesByLabel

OPERATIONS = Counter(
    "memsync_operations_total", "Requests answered, by HTTP status", ["operation", "status"]
)
OPERATION_SECONDS = TimesByLabel(
    "memsync_operation_seconds",
    "Time from a request's arrival at the service to its answer",
    "operation",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
KEY_USES_UNPUBLISHED = Counter(
    "memsync_key_uses_unpublished_total",
    "Times that the use of API keys could not be published and was kept for the next try",
)


@cache
def operations(operation: str, status: int) -> Counter:
    """The count of one operation's answers with this status: to be looked up once."""
    return OPERATIONS.labels(operation, str(status))
