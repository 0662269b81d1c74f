"""Histograms of times for what happens thousands of times a second.

prometheus_client takes a lock and compares bound after bound at each observation, 3 us in all; a
recall makes ten of them. Here one is a search among the bounds and two additions. What is asked for
at `/metrics` looks the same. For one event loop: there are no locks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from time import perf_counter

from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Times:
    """How long one kind of thing took; `counts[n]` are those of at most `bounds[n]` seconds and
    more than the bound before."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = (*map(float, bounds), float("inf"))
        self.counts = [0] * len(self.bounds)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """One took so long."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds


class Timed:
    """`with Timed(seconds, "rank"):` adds what the block takes, whatever becomes of it, to the
    seconds under that name."""

    __slots__ = ("_began_s", "_name", "_seconds")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds = seconds
        self._name = name

    def __enter__(self) -> None:
        self._began_s = perf_counter()

    def __exit__(self, *raised: object) -> None:
        took_s = perf_counter() - self._began_s
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + took_s


def bound_text(bound: float) -> str:
    """A bound as Prometheus writes it."""
    return "+Inf" if bound == float("inf") else repr(bound)


class TimesByLabel(Collector):
    """A histogram of Prometheus with one label, of which few values exist; `buckets` are seconds
    and grow."""

    def __init__(self, name: str, documentation: str, label: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._buckets = tuple(buckets)
        self._times: dict[str, Times] = {}
        REGISTRY.register(self)

    def of(self, value: str) -> Times:
        """The times under one value of the label."""
        found = self._times.get(value)
        if found is None:
            found = self._times[value] = Times(self._buckets)
        return found

    def describe(self) -> list[HistogramMetricFamily]:
        """What is collected, without its values."""
        return [self._family()]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What `/metrics` shows."""
        family = self._family()
        for value, times in sorted(self._times.items()):
            total, buckets = 0, []
            for bound, count in zip(times.bounds, times.counts, strict=True):
                total += count
                buckets.append((bound_text(bound), total))
            family.add_metric([value], buckets=buckets, sum_value=times.sum_s)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
