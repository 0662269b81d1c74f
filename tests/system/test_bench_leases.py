"""`scripts/bench leases` on a real cluster: that the peers do without leases when they are told to,
and that a short run gives its figures."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from memsync import limits
from tests.bench import leases
from tests.system.conftest import Cluster, running_cluster


@pytest.fixture(scope="module")
def switchable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("switchable") / "home"
    with running_cluster(home, up=leases.UP) as running:
        running.wait_ready()
        yield running


def added_past_a_frozen_peer_s(cluster: Cluster) -> float:
    """How long an add takes at peer-1 right after peer-3 stopped."""
    pid = cluster.pid("peer-3")
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        answer = httpx.post(
            cluster.peer_url(1) + "/memory/add",
            json={"text": "Ada keeps bees", "deduplicate": False},
            headers=cluster.headers("ada"),
            timeout=10.0,
        )
        took_s = time.monotonic() - began
    finally:
        os.kill(pid, signal.SIGCONT)
    assert answer.status_code == 201, answer.text
    return took_s


def thrice(cluster: Cluster) -> Iterator[float]:
    """The same three times, each time with all peers there: a slow machine adds to some of them."""
    for _ in range(3):
        yield added_past_a_frozen_peer_s(cluster)
        cluster.wait_ready()


async def test_who_may_hold_a_lease_delays_a_write_and_without_leases_nobody_does(
    switchable: Cluster,
) -> None:
    async with leases.rigged(switchable) as rig:
        await rig.switch(has_leases=True)
        with_s = max(thrice(switchable))
        assert with_s > limits.GRANT_S / 2
        await rig.switch(has_leases=False)
        without_s = min(thrice(switchable))
        assert without_s < limits.GRANT_S / 2


async def test_a_short_run(switchable: Cluster) -> None:
    result = await leases.compare(switchable, 2)
    assert [(one.operation, one.in_flight) for one in result.figures] == [
        ("add", 1), ("add", 16), ("recall", 1), ("recall", 16)
    ]  # fmt: skip
    for case, one in zip(leases.CASES, result.figures, strict=True):
        for way in (one.with_leases, one.without):
            assert way.requests + way.refused == 2 * case.count
            assert 0 < way.p50_ms <= way.p95_ms
        assert one.ratio.low <= one.ratio.value <= one.ratio.high
    assert set(result.idle_cores) == {"with", "without"}


def test_the_switch_is_not_in_the_product() -> None:
    sources = Path(leases.__file__).parents[2].glob("memsync/**/*.py")
    assert not [path for path in sources if "without_leases" in path.read_text(encoding="utf-8")]
