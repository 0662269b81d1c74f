"""What `memsync dev` runs and where: one server, one peer, a home that is found without asking."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsync import config
from memsync.cli import dev as command
from memsync.client.finding import find, find_home, starter
from memsync.config import PeerSettings
from memsync.errors import ConfigurationError
from memsync.local import dev, processes, progress
from memsync.local.home import Home
from memsync.local.ports import Ports
from memsync.local.prepare import prepared

PORTS = Ports(11_000, peers=1, servers=1, gateways=0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that `memsync dev` prepared once, where it does so by default."""
    made = dev.home_for({}, tmp_path / ".memsync")
    with prepared(made, PORTS):
        return made


def test_the_home_is_the_named_one_or_that_of_the_environment_or_of_the_user(
    tmp_path: Path,
) -> None:
    environment = {"MEMSYNC_HOME": "/of/environment", "HOME": str(tmp_path)}
    assert dev.home_for(environment, Path("/named")).path == Path("/named")
    assert dev.home_for(environment, None).path == Path("/of/environment")
    assert dev.home_for({"HOME": str(tmp_path)}, None).path == tmp_path / ".memsync"
    assert dev.home_for({}, Path("here")).path == Path.cwd() / "here"
    with pytest.raises(ConfigurationError, match="HOME is not set"):
        dev.home_for({}, None)


def test_the_offset_is_the_given_one_or_that_of_the_environment() -> None:
    environment = {"MEMSYNC_PORT_OFFSET": "300"}
    assert dev.ports_for(environment, 0).offset == 0
    assert dev.ports_for(environment, None).offset == 300
    assert dev.ports_for({}, None) == Ports(peers=1, servers=1, gateways=0)


def test_the_peer_listens_where_gateways_would() -> None:
    assert list(PORTS.named()) == [("nats-1", 15_222), ("peer-1", 19_080)]
    assert PORTS.http == PORTS.peer(1)


def test_two_processes_of_the_one_procfile_are_run() -> None:
    assert processes.names(PORTS) == ["nats-1", "peer-1"]
    assert [part.name for part in progress.parts(PORTS)] == ["nats-1", "peer-1"]
    cluster = processes.Cluster(print, on_started=lambda: None)
    processes.load(cluster, {}, processes.names(PORTS))
    assert list(cluster._processes) == ["nats-1", "peer-1"]


def test_every_process_has_an_entry_in_the_procfile() -> None:
    cluster = processes.Cluster(print, on_started=lambda: None)
    processes.load(cluster, {}, processes.names(Ports()))
    assert len(cluster._processes) == 7


def test_the_settings_are_those_of_a_single_server(home: Home) -> None:
    assert sorted(path.name for path in home.config("").iterdir()) == ["nats-1.conf", "peer-1.toml"]
    settings = config.load(home.config("peer-1.toml"), PeerSettings)
    assert (settings.http_port, settings.log_replicas) == (19_080, 1)
    assert settings.nats.servers == ["nats://127.0.0.1:15222"]


def test_callers_find_it_by_its_home_alone(home: Home, tmp_path: Path) -> None:
    target = find({"HOME": str(tmp_path)})
    assert target.url == "http://127.0.0.1:19080"
    assert target.api_key == home.key.read_text().strip()


def test_the_command_that_starts_it_again_names_a_home_that_is_not_the_default(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMSYNC_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert starter(home) == "memsync dev"
    monkeypatch.setenv("HOME", "/elsewhere")
    assert starter(home) == f"memsync dev --home {home.path}"
    home.config("gateway-1.toml").touch()
    assert starter(home) == f"MEMSYNC_HOME={home.path} scripts/up"
    monkeypatch.setenv("MEMSYNC_HOME", str(home.path))
    assert starter(home) == "scripts/up"


def test_a_home_of_another_size_is_refused_and_kept(home: Home) -> None:
    before = home.genesis.read_bytes()
    with pytest.raises(ConfigurationError, match="a cluster of 1 peers, and 3 would be started"):
        prepared(home, Ports(11_000)).__enter__()
    assert home.genesis.read_bytes() == before
    with prepared(home, Ports(11_000), fresh=True):
        assert home.genesis.read_bytes() != before


def test_the_line_says_how_others_find_it_where_they_would_not(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMSYNC_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert command._hint(home) == "stop: Ctrl-C"
    nearer = tmp_path / "here" / ".memsync"
    nearer.mkdir(parents=True)
    (nearer / "dev.key").touch()
    monkeypatch.chdir(nearer.parent)
    assert f"MEMSYNC_HOME={home.path}" in command._hint(home)
    monkeypatch.setenv("HOME", "/elsewhere")
    assert f"MEMSYNC_HOME={home.path}" in command._hint(home)
    assert find_home({"MEMSYNC_HOME": str(home.path)}) == home


def test_a_brief_reporter_leaves_out_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    for is_brief in (True, False):
        tell = progress.PlainReporter(is_brief=is_brief)
        tell.step("on the way")
        tell.line("there")
    assert capsys.readouterr().out.splitlines() == ["there", "on the way", "there"]
