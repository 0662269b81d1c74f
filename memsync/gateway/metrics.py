"""What the HTTP face and the gateway count. No tenant, key or user ever stands in a label."""

from __future__ import annotations

from functools import cache

from prometheus_client import Counter, Gauge

from memsync.times import TimesByLabel

REQUESTS = Counter(
    "memsync_http_requests", "Requests answered, by route template and status.", ("route", "status")
)
SECONDS = TimesByLabel(
    "memsync_http_seconds",
    "Time from the headers of a request to its answer, by route template.",
    "route",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ATTEMPTS = Counter(
    "memsync_gateway_attempts",
    "Attempts at peers, by way (bus, second_bus, http) and result.",
    ("way", "result"),
)
ROUNDS = Counter(
    "memsync_gateway_rounds", "Rounds of further attempts, where one was not settled by the first."
)
HEDGES = Counter("memsync_gateway_hedges", "Recalls for which a second peer was asked.")
WITHOUT_PEERS = Counter(
    "memsync_gateway_recalls_without_peers",
    "Recalls that no peer answered, by what was given: kept (the last good answer) or empty.",
    ("given",),
)
LAST_ANSWERS = Gauge("memsync_gateway_last_answers", "Last good answers that are kept.")
LAST_ANSWERS_BYTES = Gauge("memsync_gateway_last_answers_bytes", "About what they take.")
LAST_ANSWERS_DROPPED = Counter(
    "memsync_gateway_last_answers_dropped",
    "Last good answers dropped, by why: told, written, refused, expired, gap, unreadable.",
    ("why",),
)
NEWS_HEARD = Counter("memsync_gateway_news_heard", "News of peers that named what changed.")
IN_FLIGHT = Gauge("memsync_gateway_requests_in_flight", "Requests being passed on at the moment.")
NEWS_TELLERS = Gauge("memsync_gateway_news_tellers", "Peers whose news have been heard.")


@cache
def attempts(way: str, result: str) -> Counter:
    """The count of attempts that went this way and ended so: to be looked up once."""
    return ATTEMPTS.labels(way, result)
