"""One line of `memsync top`: what happened between two readings of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from memsync.cli.status.bus import BusState, Stripe
from memsync.cli.status.processes import Process
from memsync.cli.top.counts import Counts, quantile, together
from memsync.cli.top.watching import NO_COUNTS, Reading, Use

OPERATIONS = "memsync_operations_total"
OPERATION_SECONDS = "memsync_operation_seconds_bucket"
REQUESTS = "memsync_http_requests_total"
REQUEST_SECONDS = "memsync_http_seconds_bucket"
OWN_ROUTES = ("/ready", "/health", "/healthz", "/metrics", "/status", "/status.json")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one kind: how many a second, by HTTP status, and how long they took."""

    operation: str
    per_s: float
    statuses: dict[str, float]
    p50_ms: float | None
    p95_ms: float | None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one process does. None is what it does not tell."""

    name: str
    state: str
    uptime_s: float | None
    lag_entries: int | None = None
    writes_queued: int | None = None
    writes_in_flight: int | None = None
    requests_in_flight: int | None = None
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    hot_index_bytes: int | None = None
    failed: dict[str, str] = {}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Rates are over `interval_s`, None in the first one. Operations are counted by the
    peers, or where only a gateway is known by that one, by route."""

    at: str
    interval_s: float | None
    ready: bool
    requests_per_s: float | None
    operations: list[Operation]
    processes: list[Load]
    stripes: list[Stripe]
    problems: list[str]


def compare(before: Reading | None, after: Reading, *, interval_s: float, at: str) -> Sample:
    """What happened from one reading to the next, `interval_s` later."""
    operations = _operations(before, after, interval_s) if before else []
    processes = after.processes
    servers = [name for name in after.uses if name not in {one.name for one in processes}]
    loads = [_load(one, before, after, interval_s) for one in processes]
    loads += [
        _with_use(Load(name=name, state="running", uptime_s=None), before, after, interval_s)
        for name in servers
    ]
    return Sample(
        at=at,
        interval_s=round(interval_s, 3) if before else None,
        ready=all(one.state == "ready" for one in processes)
        and all(stripe.leader is not None for stripe in after.bus.stripes)
        and not after.bus.problems,
        requests_per_s=round(sum((one.per_s for one in operations), 0.0), 2) if before else None,
        operations=operations,
        processes=loads,
        stripes=after.bus.stripes,
        problems=after.bus.problems,
    )


def _operations(before: Reading, after: Reading, interval_s: float) -> list[Operation]:
    names = [one.name for one in after.peers] or [one.name for one in after.gateways]
    grown = together(
        after.counts[name].since(before.counts[name])
        for name in names
        if name in after.counts and before.counts.get(name, NO_COUNTS) is not NO_COUNTS
    )
    if grown.by_labels(OPERATIONS):
        return list(_rates(grown, OPERATIONS, OPERATION_SECONDS, "operation", interval_s))
    by_route = _rates(grown, REQUESTS, REQUEST_SECONDS, "route", interval_s)
    return [one for one in by_route if one.operation not in OWN_ROUTES]


def _rates(
    grown: Counts, requests: str, seconds: str, label: str, interval_s: float
) -> Iterable[Operation]:
    statuses: dict[str, dict[str, float]] = {}
    for (name, status), count in sorted(grown.by_labels(requests, label, "status").items()):
        if count > 0:
            statuses.setdefault(name, {})[status] = round(count / interval_s, 2)
    buckets: dict[str, dict[float, float]] = {}
    for (name, bound), count in grown.by_labels(seconds, label, "le").items():
        buckets.setdefault(name, {})[float(bound)] = count
    for name, rates in statuses.items():
        yield Operation(
            operation=name,
            per_s=round(sum(rates.values()), 2),
            statuses=rates,
            p50_ms=_milliseconds(quantile(buckets.get(name, {}), 0.5)),
            p95_ms=_milliseconds(quantile(buckets.get(name, {}), 0.95)),
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1_000 * seconds, 2)


def _load(process: Process, before: Reading | None, after: Reading, interval_s: float) -> Load:
    counts = after.counts.get(process.name, NO_COUNTS)
    is_peer = counts.total("memsync_members_alive") is not None
    load = Load(
        name=process.name,
        state=process.state,
        uptime_s=process.uptime_s,
        lag_entries=_lag(process, counts, after.bus) if is_peer else None,
        writes_queued=_whole(counts.total("memsync_writes_queued")),
        writes_in_flight=_whole(counts.total("memsync_writes_in_flight")),
        requests_in_flight=None
        if is_peer
        else _whole(counts.total("memsync_gateway_requests_in_flight")),
        hot_index_bytes=_whole(counts.total("memsync_hot_index_bytes")),
        failed=process.failed,
    )
    return _with_use(load, before, after, interval_s)


def _lag(process: Process, counts: Counts, bus: BusState) -> int | None:
    """As its watermark says, or where that is not known, as it says of itself."""
    positions = bus.positions.get(process.name)
    if positions is not None and bus.stripes:
        return bus.lag_entries(positions)
    return _whole(counts.total("memsync_tail_lag_entries"))


def _with_use(load: Load, before: Reading | None, after: Reading, interval_s: float) -> Load:
    """With its memory, and its processor time: 100 % is one core."""
    now = _used(load.name, after)
    then = _used(load.name, before) if before else None
    if now is None:
        return load
    is_same = then is not None and then.pid == now.pid and now.cpu_s >= then.cpu_s
    share = (now.cpu_s - then.cpu_s) / interval_s if then and is_same else None
    return msgspec.structs.replace(
        load,
        memory_bytes=now.memory_bytes,
        cpu_percent=None if share is None else round(100 * share, 1),
    )


def _used(name: str, reading: Reading) -> Use | None:
    """As the machine says where it is this one, else as the process says."""
    if name in reading.uses:
        return reading.uses[name]
    counts = reading.counts.get(name, NO_COUNTS)
    cpu_s = counts.total("process_cpu_seconds_total")
    memory_bytes = counts.total("process_resident_memory_bytes")
    if cpu_s is None or memory_bytes is None:
        return None
    return Use(0, cpu_s, int(memory_bytes))


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
