"""`memsync status`: what is ready, what is not, and what cannot be known."""

from __future__ import annotations

import msgspec
import pytest

from memsync.cli.status_of_bus import BusState, Stripe
from memsync.ids import Position
from tests.unit.cli.conftest import Shell
from tests.unit.cli.serving import ClusterBackend


@pytest.mark.usefixtures("url")
def test_a_gateway_alone_tells_its_checks(shell: Shell, backend: ClusterBackend) -> None:
    ended = shell("status")
    assert ended.code == 0
    assert ended.out.startswith("gateway-1\tready\t0m0")
    backend.found_checks = {"bus": "failed: no connection", "store": "ok"}
    told = shell("status", "--json")
    assert told.code == 1
    assert told.document["ready"] is False
    [gateway] = told.document["gateways"]
    assert (gateway["state"], gateway["failed"]) == ("not ready", {"bus": "failed: no connection"})
    assert "bus: failed: no connection" in shell("status").out


def test_nobody_there_is_no_cluster(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSYNC_API_KEY", "k")
    ended = shell("status", "--url", "http://127.0.0.1:1", "--json")
    assert ended.code == 3
    assert ended.document["error"]["code"] == "NO_CLUSTER"


def test_lag_is_what_the_stripes_have_and_the_member_has_not() -> None:
    stripes = [
        Stripe(stripe=number, generation=1, leader="n", servers=["n"], last_sequence=10)
        for number in range(3)
    ]
    state = BusState(stripes=stripes)
    caught_up = [Position(number, 1, 10) for number in range(3)]
    assert state.lag_entries(caught_up) == 0
    assert state.lag_entries([Position(0, 1, 12), Position(1, 1, 7), Position(2, 0, 99)]) == 13
    assert state.lag_entries([]) == 30
    assert msgspec.json.encode(state)
