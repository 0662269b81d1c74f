"""Our histograms say at `/metrics` what prometheus_client's would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some
from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from memsync.times import TimesByLabel

BUCKETS = (0.001, 0.01, 0.1, 1.0)


@pytest.fixture
def ours() -> Iterator[TimesByLabel]:
    made = TimesByLabel("memsync_test_seconds", "How long.", "stage", BUCKETS)
    yield made
    REGISTRY.unregister(made)


def test_two_of_one_name_are_refused(ours: TimesByLabel) -> None:
    with pytest.raises(ValueError, match="Duplicated"):
        TimesByLabel("memsync_test_seconds", "Again.", "stage", BUCKETS)


@given(
    some.lists(
        some.tuples(some.sampled_from("ab"), some.sampled_from([0.0, *BUCKETS, 0.5, 7.0])),
        max_size=30,
    )
)
def test_what_is_shown_is_what_prometheus_client_shows(seen: list[tuple[str, float]]) -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    made = TimesByLabel("memsync_test_seconds", "How long.", "stage", BUCKETS)
    REGISTRY.unregister(made)
    mine.register(made)
    histogram = Histogram(
        "memsync_test_seconds", "How long.", ["stage"], buckets=BUCKETS, registry=theirs
    )
    for value, seconds in seen:
        made.of(value).observe(seconds)
        histogram.labels(value).observe(seconds)
    assert lines(mine) == lines(theirs)


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return sorted(line for line in text.splitlines() if "_created" not in line)
