"""The metrics of one process at one moment, and what happened between two of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

OURS = ("memsync_", "process_")
STARTED = "process_start_time_seconds"
Labels = frozenset[tuple[str, str]]


class Counts:
    """The numbers of a process: by the name of the sample and its labels."""

    def __init__(self, values: Mapping[tuple[str, Labels], float]) -> None:
        self._values = dict(values)

    def total(self, name: str) -> float | None:
        """The sum over all labels; None where there is no such number."""
        found = [value for (known, _), value in self._values.items() if known == name]
        return math.fsum(found) if found else None

    def by_labels(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The sums by these labels."""
        sums: dict[tuple[str, ...], float] = {}
        for (known, pairs), value in self._values.items():
            if known == name:
                own = dict(pairs)
                key = tuple(own.get(label, "") for label in labels)
                sums[key] = sums.get(key, 0.0) + value
        return sums

    def since(self, before: Counts | None) -> Counts:
        """By how much everything grew; a process that was started meanwhile began at 0."""
        if before is None or before.total(STARTED) != self.total(STARTED):
            return self
        grown = {key: value - before._values.get(key, 0.0) for key, value in self._values.items()}
        return Counts(grown)


def parse(text: str) -> Counts:
    """The text of `/metrics`; raises ValueError for anything else."""
    values: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(OURS):
                values[sample.name, frozenset(sample.labels.items())] = sample.value
    return Counts(values)


def together(counts: Iterable[Counts]) -> Counts:
    """The sum over processes."""
    sums: dict[tuple[str, Labels], float] = {}
    for one in counts:
        for key, value in one._values.items():
            sums[key] = sums.get(key, 0.0) + value
    return Counts(sums)


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """The time below which `share` of the observations lie, as Prometheus estimates it: evenly
    spread inside a bucket, and at most the highest bound. `buckets` are cumulative counts by
    their upper bound. None without observations."""
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank = share * buckets[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound
    return lower
