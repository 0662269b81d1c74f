"""Which cluster is meant: option, environment, home; and where a key may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsync.client.finding import find
from memsync.errors import ConfigurationError, NoCluster
from memsync.local import settings
from memsync.local.home import Home
from memsync.local.ports import Ports
from tests.unit.cli.conftest import Shell

SECRET = "ms_dev_" + "1" * 48


def made_home(path: Path, offset: int = 0) -> Home:
    """A home as scripts/up leaves it, as far as it matters here."""
    home = Home(path)
    (path / "config").mkdir(parents=True)
    home.key.write_text(SECRET + "\n")
    home.credentials("client").write_text('{"user": "client", "password": "p"}')
    settings.write(home, Ports(offset), stripe_bytes=1 << 24)
    return home


def test_the_address_is_the_options_then_the_environments_then_the_homes(tmp_path: Path) -> None:
    home = made_home(tmp_path / "home", offset=7)
    environment = {"MEMSYNC_HOME": str(home.path), "MEMSYNC_PORT_OFFSET": "99"}
    assert find(environment).url == "http://127.0.0.1:8087"
    environment["MEMSYNC_URL"] = "http://localhost:9000/"
    assert find(environment).url == "http://localhost:9000"
    assert find(environment, url="http://127.0.0.1:9001").url == "http://127.0.0.1:9001"
    chosen = find(environment, servers="nats://127.0.0.1:4229")
    assert (chosen.url, chosen.nats_servers) == (None, ("nats://127.0.0.1:4229",))


def test_homes_are_looked_for_nearest_first(nowhere: Path) -> None:
    own = made_home(nowhere / "own" / ".memsync", offset=3)
    environment = {"HOME": str(own.path.parent)}
    assert find(environment).home == own
    near = made_home(nowhere / ".memsync", offset=2)
    assert find(environment).home == near
    named = made_home(nowhere / "named", offset=1)
    assert find(environment | {"MEMSYNC_HOME": str(named.path)}).home == named
    assert find(environment, home=named.path).home == named


def test_a_named_home_without_a_cluster_is_not_replaced_by_another(nowhere: Path) -> None:
    made_home(nowhere / ".memsync")
    with pytest.raises(NoCluster, match=r"absent.*scripts/up"):
        find({"MEMSYNC_HOME": str(nowhere / "absent")})


def test_without_settings_the_port_follows_the_offset(tmp_path: Path) -> None:
    home = made_home(tmp_path / "home")
    home.config("gateway-1.toml").unlink()
    home.config("peer-1.toml").unlink()
    environment = {"MEMSYNC_HOME": str(home.path), "MEMSYNC_PORT_OFFSET": "20"}
    assert find(environment).url == "http://127.0.0.1:8100"


def test_a_damaged_home_is_named(tmp_path: Path) -> None:
    home = made_home(tmp_path / "home")
    home.config("gateway-1.toml").write_text("name = ")
    with pytest.raises(ConfigurationError, match=r"gateway-1\.toml"):
        find({"MEMSYNC_HOME": str(home.path)})


def test_the_key_of_a_home_stays_on_this_machine(tmp_path: Path) -> None:
    environment = {"MEMSYNC_HOME": str(made_home(tmp_path / "home").path)}
    assert find(environment, url="http://[::1]:8080").api_key == SECRET
    for address in ("http://10.0.0.1:8080", "https://memory.example", "http://127.0.0.1.evil.tld"):
        with pytest.raises(ConfigurationError, match="MEMSYNC_API_KEY"):
            find(environment, url=address)
    given = environment | {"MEMSYNC_API_KEY": "ms_live_2"}
    assert find(given, url="https://memory.example").api_key == "ms_live_2"
    assert find(given).api_key == "ms_live_2"


def test_credentials_of_the_bus_are_the_homes_unless_the_address_has_some(tmp_path: Path) -> None:
    home = made_home(tmp_path / "home")
    environment = {"MEMSYNC_HOME": str(home.path), "MEMSYNC_API_KEY": SECRET}
    assert find(environment, servers="nats://127.0.0.1").credentials == home.credentials("client")
    assert find(environment, servers="nats://10.0.0.1:4222").credentials is None
    named = find(environment, servers="nats://me:secret@127.0.0.1:4222,nats://127.0.0.1:4223")
    assert named.credentials is None
    assert "secret" not in named.name


@pytest.mark.parametrize("is_reversed", [False, True])
def test_one_foreign_server_in_a_list_keeps_the_homes_secrets_here(
    tmp_path: Path, is_reversed: bool
) -> None:
    environment = {"MEMSYNC_HOME": str(made_home(tmp_path / "home").path)}
    servers = sorted(["nats://127.0.0.1:4222", "nats://10.0.0.1:4222"], reverse=is_reversed)
    with pytest.raises(ConfigurationError, match="MEMSYNC_API_KEY"):
        find(environment, servers=servers)
    target = find(environment, servers=servers, api_key="ms_live_2")
    assert (target.credentials, target.is_local) == (None, False)
    own = find(environment, servers="nats://127.0.0.1:4222,nats://localhost:4223")
    assert (own.api_key, own.is_local) == (SECRET, True)
    assert own.credentials is not None


@pytest.mark.parametrize(
    "address",
    ["", "ftp://x", "127.0.0.1:8080", "http://", "http://h:99999", "http://a b", "http://u:p@h",
     "http://h/?q=1", "http://h:0"],
)  # fmt: skip
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises((ConfigurationError, NoCluster)):
        find({"MEMSYNC_API_KEY": SECRET}, url=address)


def test_two_addresses_are_one_too_many() -> None:
    with pytest.raises(ConfigurationError, match="only one"):
        find({}, url="http://h", servers="nats://h")
    with pytest.raises(ConfigurationError, match="both set"):
        find({"MEMSYNC_URL": "http://h", "MEMSYNC_NATS_URL": "nats://h"})


@pytest.mark.parametrize(
    "servers",
    ["nuts://me:secret@host", "me:secret@host", "nats://me:secret/1@host", "nats://me:secret@h:x",
     "nats://me:secret#@h:x", "nats://me:secret@h\u2100", "nats://me:secret[@host", "//a:secret@h",
     "nats://me:1,secret@host", "nats://me:secret,1@host", "nats://me:1@secret@h:x"],
)  # fmt: skip
def test_a_password_in_a_wrong_address_is_not_repeated(servers: str) -> None:
    with pytest.raises(ConfigurationError, match="not an address") as caught:
        find({}, servers=servers)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        find({}, url=servers.replace("nats:", "http:"))
    assert "secret" not in str(caught.value)


def test_nothing_found_says_how_to_start_one(shell: Shell) -> None:
    ended = shell("recall", "tea", "--json")
    assert ended.code == 3
    assert "scripts/up" in ended.err
    assert ended.document["error"]["code"] == "NO_CLUSTER"


def test_a_home_whose_cluster_is_down_says_so(shell: Shell, nowhere: Path) -> None:
    made_home(nowhere / ".memsync", offset=50_000)
    ended = shell("list")
    assert ended.code == 3
    assert "does not run: start it with scripts/up" in ended.err
    assert shell("status").code == 3
    bus = shell("list", "--nats-url", "nats://127.0.0.1:54222")
    assert bus.code == 3
    assert "no NATS server" in bus.err
