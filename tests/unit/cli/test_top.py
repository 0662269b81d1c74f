"""`memsync top`: what is made of the metrics of processes, and what a script or a log sees."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from rich.console import Console

from memsync.cli.status.bus import BusState, Stripe
from memsync.cli.status.processes import Process
from memsync.cli.top import showing
from memsync.cli.top.counts import Counts, parse, quantile, together
from memsync.cli.top.sample import Sample, compare
from memsync.cli.top.watching import Reading, Use
from memsync.ids import Position
from tests.unit.cli.conftest import USER, Shell
from tests.unit.cli.serving import ClusterBackend

AT = "2026-01-02T03:04:05.000+00:00"
STRIPE = Stripe(stripe=0, generation=0, leader="nats-1", servers=["nats-1"], last_sequence=10)


class FakePeer:
    """The numbers of a peer, kept and written by prometheus_client itself."""

    def __init__(self, started_s: float = 1.0) -> None:
        registry = self._registry = CollectorRegistry()
        labels = ["operation", "status"]
        self.operations = Counter("memsync_operations_total", "n", labels, registry=registry)
        self.seconds = Histogram(
            "memsync_operation_seconds", "n", ["operation"], buckets=(0.01, 0.1), registry=registry
        )
        for name, value in {
            "memsync_members_alive": 3,
            "memsync_writes_queued": 4,
            "memsync_writes_in_flight": 5,
            "memsync_hot_index_bytes": 2_000_000,
            "process_start_time_seconds": started_s,
            "process_cpu_seconds_total": 2.0,
            "process_resident_memory_bytes": 70_000_000,
        }.items():
            Gauge(name, "n", registry=registry).set(value)
        lag = Gauge("memsync_tail_lag_entries", "n", ["stripe"], registry=registry)
        for stripe in "012":
            lag.labels(stripe).set(2)

    def answer(self, operation: str, status: int, seconds: float, times: int = 1) -> None:
        """It answered so many requests."""
        for _ in range(times):
            self.operations.labels(operation, str(status)).inc()
            self.seconds.labels(operation).observe(seconds)

    def counts(self) -> Counts:
        """What it tells now."""
        return parse(generate_latest(self._registry).decode())


def reading(
    counts: Counts, bus: BusState | None = None, uses: dict[str, Use] | None = None
) -> Reading:
    """One peer that tells these numbers."""
    peer = Process(name="peer-1", url="http://p", state="ready", uptime_s=3_700.0)
    return Reading(
        gateways=[], peers=[peer], counts={"peer-1": counts}, bus=bus or BusState(),
        uses=uses or {},
    )  # fmt: skip


def busy() -> Sample:
    """Two seconds in which a peer answered 8 adds and refused 2, and somebody asked once."""
    peer = FakePeer()
    peer.answer("memory.add", 201, 5.0, times=3)
    before = reading(peer.counts(), uses={"peer-1": Use(7, 1.0, 0), "nats-1": Use(8, 1.0, 0)})
    peer.answer("memory.add", 201, 0.005, times=8)
    peer.answer("memory.add", 503, 0.05, times=2)
    peer.answer("memory.query", 200, 0.05)
    bus = BusState(positions={"peer-1": [Position(0, 0, 7)]}, stripes=[STRIPE])
    uses = {"peer-1": Use(7, 1.5, 80_000_000), "nats-1": Use(9, 0.1, 20_000_000)}
    return compare(before, reading(peer.counts(), bus, uses), interval_s=2.0, at=AT)


def test_rates_and_times_are_those_of_the_interval() -> None:
    sample = busy()
    assert sample.requests_per_s == 5.5
    add, query = sample.operations
    assert (add.operation, add.per_s, add.statuses) == ("memory.add", 5.0, {"201": 4.0, "503": 1.0})
    assert (add.p50_ms, add.p95_ms) == (6.25, 77.5)
    assert (query.operation, query.per_s) == ("memory.query", 0.5)


def test_the_load_of_each_process() -> None:
    peer, server = busy().processes
    assert (peer.lag_entries, peer.writes_queued, peer.writes_in_flight) == (3, 4, 5)
    assert (peer.cpu_percent, peer.memory_bytes) == (25.0, 80_000_000)
    assert peer.hot_index_bytes == 2_000_000
    assert (server.name, server.memory_bytes) == ("nats-1", 20_000_000)
    assert server.cpu_percent is None  # it was started again meanwhile


def test_without_a_home_a_process_tells_its_own_lag_and_memory() -> None:
    counts = FakePeer().counts()
    [peer] = compare(reading(counts), reading(counts), interval_s=1.0, at=AT).processes
    assert (peer.lag_entries, peer.memory_bytes, peer.cpu_percent) == (6, 70_000_000, 0.0)


def test_a_process_that_was_started_again_counts_from_nothing() -> None:
    old, new = FakePeer(started_s=1.0), FakePeer(started_s=2.0)
    old.answer("memory.add", 201, 0.01, times=100)
    new.answer("memory.add", 201, 0.01, times=3)
    sample = compare(reading(old.counts()), reading(new.counts()), interval_s=1.0, at=AT)
    assert sample.requests_per_s == 3.0


def test_the_first_sample_has_no_rates() -> None:
    sample = compare(None, reading(FakePeer().counts()), interval_s=0.0, at=AT)
    assert (sample.requests_per_s, sample.interval_s, sample.operations) == (None, None, [])


def test_a_quantile_lies_inside_its_bucket() -> None:
    infinite = float("inf")
    assert quantile({}, 0.5) is None
    assert quantile({0.1: 0.0, infinite: 0.0}, 0.5) is None
    assert quantile({0.1: 10.0, 0.2: 20.0, infinite: 20.0}, 0.75) == pytest.approx(0.15)
    assert quantile({0.1: 0.0, infinite: 4.0}, 0.5) == 0.1  # no more is known than the bound


def test_counts_are_summed_and_others_numbers_are_left_out() -> None:
    peer = FakePeer()
    peer.answer("memory.get", 200, 0.01, times=2)
    both = together([peer.counts(), peer.counts()])
    assert both.by_labels("memsync_operations_total", "status") == {("200",): 4.0}
    assert parse("python_info 1.0\n").total("python_info") is None
    with pytest.raises(ValueError, match="html"):
        parse("<html>\n")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_screen_fits_and_shows_everything(columns: int) -> None:
    console = Console(width=columns, color_system=None)
    with console.capture() as capture:
        console.print(showing.screen(busy(), columns))
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= columns
    for part in ("memory.add", "201: 4 503: 1", "77.5 ms", "25%", "80 MB", "nats-1"):
        assert part in shown
    assert "Process  State" in shown


def test_one_line_for_a_log() -> None:
    text = showing.line(busy())
    assert text.startswith(f"{AT}; ready; 5.5 requests/s; memory.add 5/s p50 6.2 ms p95 77.5 ms")
    assert text.endswith("peer-1 lag 3")


def test_what_fails_is_told() -> None:
    broken = Process(name="peer-1", url="u", state="not ready", failed={"bus": "gone"})
    leaderless = Stripe(stripe=1, generation=0, leader=None, servers=[], last_sequence=0)
    after = Reading(
        gateways=[], peers=[broken], counts={}, uses={},
        bus=BusState(stripes=[leaderless], problems=["no server answers"]),
    )  # fmt: skip
    sample = compare(after, after, interval_s=1.0, at=AT)
    assert sample.ready is False
    assert showing.line(sample).endswith(
        "peer-1 fails in bus: gone; stripe 1 has no leader; no server answers"
    )


@pytest.mark.usefixtures("url", "backend")
def test_a_script_gets_a_document_for_each_interval(shell: Shell) -> None:
    ended = shell("top", "--json", "--count", "2", "--interval", "0.2")
    assert ended.code == 0
    documents = [json.loads(line) for line in ended.out.splitlines()]
    assert [one["processes"][0]["name"] for one in documents] == ["gateway-1"] * 2
    assert all(one["ready"] and one["interval_s"] >= 0.2 for one in documents)


@pytest.mark.usefixtures("url")
def test_a_pipe_gets_a_line_for_each_interval(shell: Shell, backend: ClusterBackend) -> None:
    backend.found_checks = {"bus": "failed: no connection"}
    assert shell("add", "tea", "--user", USER).code == 0
    [line] = shell("top", "--count", "1", "--interval", "0.2").out.splitlines()
    assert "; not ready; " in line
    assert "gateway-1 fails in bus: failed: no connection" in line


def test_nobody_there_is_no_cluster(shell: Shell) -> None:
    ended = shell("top", "--url", "http://127.0.0.1:1", "--json")
    assert ended.code == 3
    assert ended.document["error"]["code"] == "NO_CLUSTER"
    assert shell("top", "--url", "http://127.0.0.1:1", "--interval", "0").code == 2
