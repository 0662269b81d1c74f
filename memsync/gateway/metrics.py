"""What the HTTP face and the gateway count. No tenant, key or user ever stands in a label."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "memsync_http_requests", "Requests answered, by route template and status.", ("route", "status")
)
SECONDS = Histogram(
    "memsync_http_seconds",
    "Time from the headers of a request to its answer, by route template.",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ATTEMPTS = Counter(
    "memsync_gateway_attempts",
    "Attempts at peers, by way (bus, second_bus, http) and result.",
    ("way", "result"),
)
HEDGES = Counter("memsync_gateway_hedges", "Recalls for which a second peer was asked.")
DEGRADED = Counter("memsync_gateway_empty_recalls", "Recalls that no peer answered.")
IN_FLIGHT = Gauge("memsync_gateway_requests_in_flight", "Requests being passed on at the moment.")
