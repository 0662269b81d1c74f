"""What stands before the first process starts: settings that load, secrets that fit."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest

from memsync import config, ids
from memsync.config import GatewaySettings, PeerSettings
from memsync.errors import ConfigurationError
from memsync.local import home as homes
from memsync.local import nats, secrets, settings
from memsync.local.home import Home
from memsync.local.ports import Ports
from memsync.local.prepare import prepared
from memsync.wire import genesis

MIB = 1024**2
PORTS = Ports(11_000)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that was prepared once, with stripes of 64 MiB."""
    made = Home(tmp_path / "home")
    homes.make(made)
    complete(made)
    return made


def complete(home: Home, ports: Ports = PORTS) -> None:
    """Write everything that is missing."""
    stripe_bytes = settings.stripe_bytes_max(home, ports, 64 * MIB * 9 * 2)
    secrets.keep_or_make(home, ports.peers)
    settings.write(home, ports, stripe_bytes)
    nats.write(home, ports, stripe_bytes)


def contents(home: Home) -> dict[str, bytes]:
    """Every file with its bytes."""
    files = [path for path in home.path.rglob("*") if path.is_file() and path != home.lock]
    return {str(path.relative_to(home.path)): path.read_bytes() for path in files}


def test_the_settings_of_a_peer_load(home: Home) -> None:
    loaded = config.load(home.config("peer-2.toml"), PeerSettings)
    assert loaded == PeerSettings(
        name="peer-2",
        genesis=str(home.genesis),
        data_dir=str(home.data("peer-2")),
        http_port=19_082,
        nats=config.NatsSettings(
            servers=[f"nats://127.0.0.1:{port}" for port in (15_223, 15_224, 15_222)],
            credentials=str(home.credentials("node")),
            system_credentials=str(home.credentials("system")),
        ),
        stripe_bytes_max=64 * MIB,
        log_dir=str(home.logs),
    )


def test_the_settings_of_a_gateway_load(home: Home) -> None:
    loaded = config.load(home.config("gateway-2.toml"), GatewaySettings)
    document = genesis.read(home.genesis)
    assert (loaded.region, loaded.cell) == (document.region, document.cell)
    assert loaded.id_space == document.id_space
    assert sorted(loaded.peers) == document.members == ["peer-1", "peer-2", "peer-3"]
    assert loaded.peers["peer-3"] == "http://127.0.0.1:19083"
    assert loaded.http_port == 19_080


@pytest.mark.parametrize("text", ['quote " in it', "back\\slash", "ümläut", "tab\t", "'single'"])
def test_settings_survive_being_written_as_toml(tmp_path: Path, text: str) -> None:
    made = PeerSettings(
        name="peer-1",
        genesis=text,
        data_dir=text,
        nats=config.NatsSettings(servers=["nats://a:1", "nats://b:2"], credentials=text),
        clock_offset_s=-1.5,
        profile="development",
        embedder="one",
        endpoints={
            name: config.EndpointSettings(url="http://127.0.0.1:9/v1", model=text, dimensions=3)
            for name in ("one", "two")
        },
    )
    path = tmp_path / "peer.toml"
    path.write_text(settings.to_toml(made))
    assert config.load(path, PeerSettings) == made


def test_a_second_start_changes_nothing(home: Home) -> None:
    before = contents(home)
    complete(home)
    assert contents(home) == before


def test_what_somebody_changed_is_kept_and_ports_are_put_right(home: Home) -> None:
    path = home.config("peer-1.toml")
    changed = msgspec.structs.replace(config.load(path, PeerSettings), embedder="none")
    path.write_text(settings.to_toml(changed))
    complete(home, dataclasses.replace(PORTS, offset=12_000))
    loaded = config.load(path, PeerSettings)
    assert loaded.embedder == "none"
    assert loaded.http_port == 20_081
    assert "127.0.0.1:16222" in home.config("nats-1.conf").read_text()


def test_a_changed_server_configuration_is_kept_until_it_would_be_made_otherwise(
    home: Home,
) -> None:
    path = home.config("nats-1.conf")
    path.write_text(path.read_text() + "# mine\n")
    complete(home)
    assert path.read_text().endswith("# mine\n")
    home.credentials("client").unlink()
    complete(home)
    assert not path.read_text().endswith("# mine\n")


def test_a_wrong_setting_is_named(home: Home) -> None:
    home.config("peer-1.toml").write_text('name = "Peer 1"\n')
    with pytest.raises(ConfigurationError, match=r"peer-1\.toml: "):
        complete(home)


def test_the_server_configuration_follows_the_findings(home: Home) -> None:
    text = home.config("nats-2.conf").read_text()
    for line in (
        "server_name: nats-2",
        'listen: "127.0.0.1:15223"',
        "feature_flags { js_ack_fc_v2: false }",
        "sync_interval: always",
        "max_payload: 4MB",
        f"max_file: {4 * 64 * MIB + 256 * MIB}",
        'listen: "127.0.0.1:17223"',
        'publish: { allow: ["memsync.v1.>"] }',
        'subscribe: { allow: ["_INBOX_client.>"] }',
        "logfile_size_limit: 10MB",
    ):
        assert line in text
    cluster = text[text.index("cluster {") :]
    assert 'ping_interval: "1s"' in cluster
    assert "ping_max: 2" in cluster
    assert "$" not in text


def test_a_single_server_has_no_cluster_block(home: Home) -> None:
    text = nats.render(home, Ports(servers=1), 1, 64 * MIB)
    assert "cluster {" not in text


def test_secrets_are_private_and_differ(home: Home) -> None:
    users = [secrets.credentials(home, user) for user in homes.CREDENTIALS]
    assert len({user.password for user in users}) == len(users)
    assert [user.inbox_prefix for user in users][1] == "_INBOX_client"
    files = [*home.path.glob("*.creds"), *home.path.glob("config/*"), home.key, home.genesis]
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_the_development_key_is_the_one_that_was_founded(home: Home) -> None:
    document = genesis.read(home.genesis)
    key = home.key.read_text().strip()
    assert ids.secret_hash(key) == document.key.hash
    assert key.startswith("ms_dev_")
    assert document.key.environment == "development"
    assert document.organisation.slug == "default"


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (["genesis.json"], "dev.key but no genesis.json"),
        (["dev.key"], "genesis.json but no dev.key"),
    ],
)
def test_a_home_that_lost_a_part_is_damaged(home: Home, lost: list[str], named: str) -> None:
    for name in lost:
        (home.path / name).unlink()
    with pytest.raises(ConfigurationError, match=rf"damaged: there is {named}"):
        complete(home)


def test_data_without_a_founding_is_damaged(home: Home) -> None:
    home.data("peer-1").mkdir()
    home.genesis.unlink()
    home.key.unlink()
    with pytest.raises(ConfigurationError, match=r"damaged: there is .*peer-1 but neither"):
        complete(home)


def test_a_key_of_another_cell_is_damaged(home: Home) -> None:
    homes.write_private(home.key, genesis.new_api_key("development"))
    with pytest.raises(ConfigurationError, match=r"dev\.key is not the key"):
        complete(home)


def test_lost_credentials_are_made_again(home: Home) -> None:
    before = secrets.credentials(home, "client")
    home.credentials("client").unlink()
    complete(home)
    after = secrets.credentials(home, "client")
    assert after.password != before.password
    assert after.password in home.config("nats-3.conf").read_text()


@pytest.mark.parametrize(
    ("free_bytes", "stripe_bytes"),
    [
        (288 * MIB, 16 * MIB),
        (18 * 100 * MIB + 17, 100 * MIB),
        (10_000 * config.GIB, 8 * config.GIB),
    ],
)
def test_stripes_are_a_share_of_the_free_disk(
    tmp_path: Path, free_bytes: int, stripe_bytes: int
) -> None:
    assert settings.stripe_bytes_max(Home(tmp_path), PORTS, free_bytes) == stripe_bytes


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"disk is full: 287 MiB are free, 288 MiB are"):
        settings.stripe_bytes_max(Home(tmp_path), PORTS, 288 * MIB - 1)


def test_a_full_disk_is_named_at_a_later_start(home: Home) -> None:
    with pytest.raises(ConfigurationError, match=r"disk is full: 10 MiB are free, 64 MiB are"):
        settings.stripe_bytes_max(home, PORTS, 10 * MIB)


def test_a_fresh_start_founds_anew_and_keeps_the_logs(home: Home) -> None:
    home.log("peer-1").write_text("line")
    key = home.key.read_text()
    with prepared(home, PORTS, fresh=True):
        assert home.key.read_text() != key
        assert home.log("peer-1").read_text() == "line"


def test_a_fresh_start_mends_a_damaged_home(home: Home) -> None:
    home.genesis.unlink()
    with prepared(home, PORTS, fresh=True):
        assert home.genesis.exists()


def test_a_running_cluster_is_never_cleared(home: Home) -> None:
    key = home.key.read_text()
    with (
        homes.locked(home),
        pytest.raises(ConfigurationError, match="already runs"),
        prepared(home, PORTS, fresh=True),
    ):
        raise AssertionError("two clusters in one home")
    assert home.key.read_text() == key


def test_a_folder_that_cannot_be_written_is_named(home: Home) -> None:
    shutil.rmtree(home.path / "config")
    (home.path / "config").write_text("in the way")
    with pytest.raises(ConfigurationError, match="config: File exists"), prepared(home, PORTS):
        raise AssertionError("it was prepared")


def test_the_embedder_of_new_files_is_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMSYNC_EMBEDDER", "none")
    made = Home(tmp_path / "one")
    homes.make(made)
    complete(made)
    assert config.load(made.config("peer-2.toml"), PeerSettings).embedder == "none"
    monkeypatch.setenv("MEMSYNC_EMBEDDER", "static")
    complete(made)
    assert config.load(made.config("peer-2.toml"), PeerSettings).embedder == "none"  # kept
    monkeypatch.setenv("MEMSYNC_EMBEDDER", "nosuch")
    other = Home(tmp_path / "two")
    homes.make(other)
    with pytest.raises(ConfigurationError, match="MEMSYNC_EMBEDDER: 'nosuch'"):
        complete(other)
