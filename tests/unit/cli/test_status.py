"""`memsync status`: what is ready, what is not, and what cannot be known."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from memsync import __version__
from memsync.cli.exits import UsageProblem
from memsync.cli.output import fitting
from memsync.cli.status.bus import BusState, Stripe
from memsync.cli.status.command import age, with_members
from memsync.cli.status.processes import (
    Places,
    Process,
    check_anybody,
    other_versions,
    places_of,
)
from memsync.client.finding import find
from memsync.errors import NoCluster
from memsync.homes import Home
from memsync.ids import Position
from memsync.local.home import locked
from tests.unit.cli.conftest import Shell
from tests.unit.cli.serving import ClusterBackend
from tests.unit.cli.test_finding import made_home


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


def test_it_needs_no_key(shell: Shell, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMSYNC_API_KEY")
    told = shell("status", "--url", url, "--json")
    assert told.code == 0
    assert "only the process that answered" in told.document["limits"][0]


def test_what_is_no_cluster_is_said_to_be_none(shell: Shell, url: str) -> None:
    ended = shell("status", "--url", url + "/elsewhere")
    assert ended.code == 3
    assert "status 404, not of memsync" in ended.err
    assert "is the address right?" in ended.err


def test_over_nats_alone_the_peers_are_asked(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSYNC_API_KEY", "k")
    ended = shell("status", "--nats-url", "nats://127.0.0.1:1")
    assert ended.code == 3
    assert "no NATS server answers at nats://127.0.0.1:1" in ended.err


def test_a_home_that_does_not_answer_is_told_how_to_go_on(tmp_path: Path) -> None:
    home = Home(tmp_path)
    peers = {"peer-1": "http://127.0.0.1:1"}
    places = Places(url=None, gateways=[], peers=peers, home=home, is_local=True)
    silent = [Process(name="peer-1", url="http://127.0.0.1:1", state="unreachable")]
    with pytest.raises(NoCluster, match=r"start it with memsync dev --home"):
        check_anybody(silent, places)
    home.config("gateway-1.toml").parent.mkdir()
    home.config("gateway-1.toml").touch()
    with pytest.raises(NoCluster, match=r"start it with MEMSYNC_HOME=\S+ scripts/up"):
        check_anybody(silent, places)
    with locked(home), pytest.raises(NoCluster, match="none of its processes answers yet"):
        check_anybody(silent, places)
    check_anybody([Process(name="peer-1", url="", state="not ready")], places)


def test_another_version_is_named() -> None:
    ours = Process(name="peer-1", url="", state="ready", version=__version__)
    theirs = Process(name="peer-2", url="", state="ready", version="9.9")
    silent = Process(name="peer-3", url="", state="unreachable")
    assert other_versions([ours, theirs, silent]) == [
        f"peer-2 is version 9.9, this command is {__version__}"
    ]


def test_how_long_it_has_been_up() -> None:
    assert [age(seconds) for seconds in (None, 5, 3_700, 200_000)] == [
        None, "0m05s", "1h01m", "2d07h",
    ]  # fmt: skip


def test_a_table_that_does_not_fit_becomes_blocks() -> None:
    columns = ("Id", "Empty", "Address", "Text")
    row = (7, None, "a" * 40, "some words that may be wrapped")
    for width, heading in ((100, "Id  Address"), (60, "Id 7")):
        console = Console(width=width, color_system=None)
        with console.capture() as capture:
            console.print(fitting(columns, [row], width))
        lines = capture.get().splitlines()
        assert lines[0].startswith(heading)
        assert any("a" * 40 in line for line in lines)
        assert "Empty" not in capture.get()


def test_a_home_stands_only_for_its_own_cluster(tmp_path: Path) -> None:
    home = made_home(tmp_path / "home", offset=7)
    environment = {"MEMSYNC_HOME": str(home.path)}
    for own in (
        find(environment),
        find(environment, url="http://localhost:8087"),
        find(environment, servers="nats://127.0.0.1:4229"),
    ):
        assert places_of(own).home == home
    other = places_of(find(environment, url="http://127.0.0.1:9000"))
    assert (other.home, other.peers, other.gateways) == (None, {}, [])
    with pytest.raises(UsageProblem, match="give --url"):
        places_of(find(environment, servers="nats://127.0.0.1:4999"))


def test_the_members_are_those_that_the_cell_tells() -> None:
    found = [
        Process(name="peer-1", url="u", state="ready"),
        Process(name="peer-2", url="u", state="unreachable", failed={"http": "ConnectError"}),
        Process(name="peer-3", url="u", state="unreachable", failed={"http": "ConnectError"}),
        Process(name="peer-6", url="u", state="not ready", failed={"membership": "failed"}),
    ]
    assert with_members(found, BusState()) == found
    members = ["peer-1", "peer-3", "peer-4", "peer-5"]
    shown = with_members(found, BusState(members=members, positions={"peer-4": []}))
    assert {one.name: one.state for one in shown} == {
        "peer-1": "ready",
        "peer-2": "no member",
        "peer-3": "unreachable",
        "peer-4": "alive",
        "peer-5": "silent",
        "peer-6": "not ready",
    }
