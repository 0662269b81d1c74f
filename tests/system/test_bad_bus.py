"""One peer against a bus that will not do, and processes whose configuration is wrong.

The peer has a memory from a better day. Whatever the bus is like, it says what is wrong with it,
takes no write that it could lose, and recalls.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from memsync.local.ports import is_free
from memsync.nodes import gateway as gateway_node
from memsync.nodes import peer as peer_node
from memsync.wire import genesis
from tests.conditions import wait_until
from tests.system.local_bus import TOP, free_ports

NATS = Path(sys.executable).with_name("nats-server")
ENDED_WITHIN_S = 20.0
STARTED_WITHIN_S = 20.0
PASSWORD = "a-password"
SERVER = """
server_name: solo
listen: "127.0.0.1:{port}"
{jetstream}
system_account: SYS
accounts {{
  SYS {{ users: [{{ user: system, password: "a-password" }}] }}
  MEMSYNC {{ {account} users: [{{ user: node, password: "a-password" }}] }}
}}
"""
ALWAYS = 'jetstream {{ store_dir: "{store}", sync_interval: always }}'
LAZY = 'jetstream {{ store_dir: "{store}" }}'


class Solo(msgspec.Struct, frozen=True):
    """A cell of one peer, and the server that it is told to use."""

    path: Path
    nats_port: int
    http_port: int
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.key, "X-End-User-ID": "ada", "Memsync-Deadline-Ms": "2000"}

    def settings(
        self, *, profile: str = "production", password: str = PASSWORD, system: bool = True
    ) -> Path:
        """Write the peer's settings and its credentials."""
        for user, word in (("node", password), ("system", PASSWORD)):
            text = f'{{"user": "{user}", "password": "{word}", "inbox_prefix": "_INBOX_{user}"}}'
            (self.path / f"{user}.creds").write_text(text)
        path = self.path / "peer-1.toml"
        path.write_text(
            f'name = "peer-1"\nprofile = "{profile}"\nlog_replicas = 1\n'
            f"stripe_bytes_max = {16 << 20}\n"
            f'genesis = "{self.path}/genesis.json"\ndata_dir = "{self.path}/data"\n'
            f'http_port = {self.http_port}\nlog_dir = "{self.path}/logs"\n'
            f'[nats]\nservers = ["nats://127.0.0.1:{self.nats_port}"]\n'
            f'credentials = "{self.path}/node.creds"\n'
            + (f'system_credentials = "{self.path}/system.creds"\n' if system else "")
        )
        return path

    @contextmanager
    def server(self, jetstream: str) -> Iterator[None]:
        """A nats-server; `jetstream` is its block, "" for none."""
        config = self.path / "nats.conf"
        account = "jetstream: enabled," if jetstream else ""
        block = jetstream.format(store=self.path / "jetstream")
        config.write_text(SERVER.format(port=self.nats_port, jetstream=block, account=account))
        log = self.path / "nats.log"
        process = subprocess.Popen([NATS, "--config", str(config), "--log", str(log)])
        try:
            wait_until(lambda: not is_free(self.nats_port), "the server listens")
            yield
        finally:
            process.kill()
            process.wait(ENDED_WITHIN_S)

    @contextmanager
    def peer(self, settings: Path) -> Iterator[None]:
        """The peer's process, as soon as it answers."""
        process = subprocess.Popen(
            [sys.executable, "-m", "memsync.nodes.peer", "--config", str(settings)], cwd=TOP
        )
        try:

            def answers() -> bool:
                assert process.poll() is None, (self.path / "logs" / "peer-1.log").read_text()
                try:
                    return httpx.get(self.url + "/healthz").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(answers, "the peer answers", STARTED_WITHIN_S)
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENDED_WITHIN_S) == 0
        finally:
            process.kill()
            process.wait(ENDED_WITHIN_S)

    def ready(self) -> tuple[int, dict[str, str]]:
        answer = httpx.get(self.url + "/ready")
        return answer.status_code, answer.json()["checks"]

    def add(self, text: str) -> httpx.Response:
        return httpx.post(
            self.url + "/memory/add", json={"text": text}, headers=self.headers, timeout=5.0
        )

    def recall(self) -> dict[str, Any]:
        """A recall, which is always answered."""
        answer = httpx.post(
            self.url + "/memory/query", json={"query": "what tea?"}, headers=self.headers
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def check_not_ready(self, check: str, told: str) -> None:
        """It says soon, and goes on saying, what is wrong; recalls go on; adds are refused."""

        def says_so() -> bool:
            status, checks = self.ready()
            return status == 503 and told in checks[check]

        wait_until(says_so, f"/ready says {told!r} ({self.ready()})", 15.0)
        answer = self.add("refused")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["definite"]) == (503, "NO_QUORUM", True)
        assert told in error["message"], error
        found = self.recall()
        assert [memory["text"] for memory in found["memories"]] == ["Ada drinks green tea"]
        assert httpx.get(self.url + "/health").status_code == 200
        listed = httpx.get(self.url + "/memory/list", headers=self.headers).json()
        assert [item["text"] for item in listed["items"]] == ["Ada drinks green tea"]
        assert says_so()


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Solo:
    """A peer that was stopped with one memory in its store, written in profile production."""
    ports = free_ports(servers=1, peers=1)
    path = tmp_path_factory.mktemp("seeded")
    document, key = genesis.found(
        cell="cell", region="local", members=["peer-1"], environment="development", founded_at_ms=1
    )
    genesis.write(path / "genesis.json", document)
    solo = Solo(path, ports.nats(1), ports.peer(1), key)
    with solo.server(ALWAYS), solo.peer(solo.settings()):
        wait_until(lambda: solo.ready()[0] == 200, f"ready ({solo.ready()})", 15.0)
        assert solo.add("Ada drinks green tea").status_code == 201
        assert solo.recall()["degraded"] is False
    return solo


@pytest.fixture
def solo(seeded: Solo, tmp_path: Path) -> Solo:
    """The same peer, on a copy of its store, before an empty bus."""
    shutil.copytree(seeded.path / "data", tmp_path / "data")
    shutil.copy(seeded.path / "genesis.json", tmp_path)
    return msgspec.structs.replace(seeded, path=tmp_path)


def test_a_server_without_jetstream_is_named(solo: Solo) -> None:
    with solo.server(""), solo.peer(solo.settings()):
        solo.check_not_ready("sync", "solo has no JetStream")
        assert solo.recall()["memories"]  # and all that was ever acknowledged: it is the only peer


def test_a_server_that_syncs_late_is_named_in_production(solo: Solo) -> None:
    with solo.server(LAZY), solo.peer(solo.settings()):
        solo.check_not_ready("sync", "solo acknowledges before it syncs")


def test_a_server_that_syncs_late_will_do_in_development(solo: Solo) -> None:
    with solo.server(LAZY), solo.peer(solo.settings(profile="development")):
        wait_until(lambda: solo.ready()[0] == 200, f"ready ({solo.ready()})", 15.0)
        assert solo.add("and coffee").status_code == 201
        texts = {memory["text"] for memory in solo.recall()["memories"]}
        assert texts == {"Ada drinks green tea", "and coffee"}


def test_servers_that_cannot_be_asked_are_not_trusted_in_production(solo: Solo) -> None:
    with solo.server(ALWAYS), solo.peer(solo.settings(system=False)):
        solo.check_not_ready("sync", "system_credentials")


def test_a_wrong_password_is_named(solo: Solo) -> None:
    with solo.server(ALWAYS), solo.peer(solo.settings(password="wrong")):
        solo.check_not_ready("bus", "Authorization Violation")
        assert "replication" in solo.recall()["degraded_components"]


def test_no_server_at_all(solo: Solo) -> None:
    with solo.peer(solo.settings()):
        solo.check_not_ready("bus", "no connection to a NATS server")
        assert "replication" in solo.recall()["degraded_components"]
        with solo.server(ALWAYS):  # and nobody has to act when there is one
            wait_until(lambda: solo.ready()[0] == 200, f"ready ({solo.ready()})", 15.0)
            assert solo.add("and coffee").status_code == 201


# Configurations


PEER = {
    "name": '"peer-1"',
    "genesis": '"{path}/genesis.json"',
    "data_dir": '"{path}/data"',
    "http_port": "{port}",
    "nats": '{{ servers = ["nats://127.0.0.1:1"], credentials = "{path}/node.creds" }}',
}
GATEWAY = {
    "name": '"gateway-1"',
    "http_port": "{port}",
    "peers": '{{ peer-1 = "http://127.0.0.1:1" }}',
    "nats": PEER["nats"],
}
BUS = 'servers = ["nats://127.0.0.1:1"]'
BOTH: list[tuple[str, str | None]] = [
    ("frobnicate", "1"),
    ("name", None),
    ("name", "7"),
    ("name", '"Peer 1"'),
    ("name", '""'),
    ("name", '"a.b"'),
    ("name", '"a>"'),
    ("http_port", '"8080"'),
    ("http_port", "0"),
    ("http_port", "65536"),
    ("http_port", "8080.5"),
    ("http_host", "1"),
    ("http_host", '"256.0.0.1"'),
    ("http_host", '"no such host"'),
    ("log_dir", "1"),
    ("log_dir", '"{path}/genesis.json"'),
    ("nats", None),
    ("nats", '"nats://127.0.0.1:1"'),
    ("nats.servers", "{{ }}"),
    ("nats.servers", "{{ servers = [] }}"),
    ("nats.servers", '{{ servers = "nats://127.0.0.1:1" }}'),
    ("nats.servers", '{{ servers = ["127.0.0.1:1"] }}'),
    ("nats.servers", '{{ servers = ["nats://127.0.0.1"] }}'),
    ("nats.servers", '{{ servers = ["nats://127.0.0.1:99999"] }}'),
    ("nats.servers", '{{ servers = ["nats://127.0.0.1:1", "http://[::1"] }}'),
    ("nats.servers[0]", "{{ servers = [1] }}"),
    ("nats.password", "{{ " + BUS + ', password = "x" }}'),
    ("nats.credentials", "{{ " + BUS + ", credentials = 1 }}"),
    ("nats.credentials", "{{ " + BUS + ', credentials = "/nowhere" }}'),
    ("nats.credentials", "{{ " + BUS + ', credentials = "{path}" }}'),
    ("nats.credentials", "{{ " + BUS + ', credentials = "{path}/list.creds" }}'),
    ("nats.credentials", "{{ " + BUS + ', credentials = "{path}/half.creds" }}'),
    ("nats.credentials", "{{ " + BUS + ', credentials = "{path}/number.creds" }}'),
]
PEER_ONLY: list[tuple[str, str | None]] = [
    ("genesis", None),
    ("genesis", "1"),
    ("data_dir", None),
    ("data_dir", "1"),
    ("profile", '"prod"'),
    ("log_replicas", "0"),
    ("log_replicas", "6"),
    ("stripe_bytes_max", "1"),
    ("hot_index_bytes_max", "0"),
    ("embedder", '"magic"'),
    ("void_positions", '"1.0.5"'),
    ("void_positions", '["1.0"]'),
    ("void_positions", '["3.0.5"]'),
    ("clock_offset_s", "3.5"),
    ("clock_offset_s", "inf"),
    ("clock_offset_s", "nan"),
    ("clock_offset_s", '"late"'),
    ("nats.system_credentials", "{{ " + BUS + ', system_credentials = "/nowhere" }}'),
    ("nats.system_credentials", "{{ " + BUS + ', system_credentials = "{path}/list.creds" }}'),
]
GATEWAY_ONLY: list[tuple[str, str | None]] = [
    ("peers", None),
    ("peers", "{{ }}"),
    ("peers", '"http://127.0.0.1:1"'),
    ("peers.peer-1", '{{ peer-1 = "nonsense" }}'),
    ("peers.peer-1", '{{ peer-1 = "http://[::1" }}'),
    ("peers.peer-1", '{{ peer-1 = "http://127.0.0.1" }}'),
    ("region", '"a.b"'),
    ("cell", '"*"'),
    ("id_space", "32"),
    ("id_space", "-1"),
]
KINDS: dict[str, tuple[dict[str, str], list[tuple[str, str | None]]]] = {
    "peer": (PEER, BOTH + PEER_ONLY),
    "gateway": (GATEWAY, BOTH + GATEWAY_ONLY),
}
WRONG = [(kind, field, value) for kind, (_, rows) in KINDS.items() for field, value in rows]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a founding document and several credentials."""
    document, _ = genesis.found(
        cell="cell", region="local", members=["peer-1"], environment="development", founded_at_ms=1
    )
    genesis.write(tmp_path / "genesis.json", document)
    (tmp_path / "node.creds").write_text('{"user": "node", "password": "x"}')
    (tmp_path / "list.creds").write_text('["node", "x"]')
    (tmp_path / "half.creds").write_text('{"user": "node"}')
    (tmp_path / "number.creds").write_text('{"user": "node", "password": 5}')
    return tmp_path


Run = Callable[[str, Path], tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a node's `main` in this process, as far as it comes with a wrong configuration."""
    monkeypatch.delenv("MEMSYNC_LISTEN_FD", raising=False)
    umask, interval = os.umask(0o077), sys.getswitchinterval()

    def run_one(kind: str, path: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [kind, "--config", str(path)])
        code = peer_node.main() if kind == "peer" else gateway_node.main()
        return code, capsys.readouterr().err

    yield run_one
    os.umask(umask)
    sys.setswitchinterval(interval)


def write_settings(place: Path, kind: str, field: str = "", value: str | None = None) -> Path:
    """Settings that are good but for one field; None leaves it out."""
    fields = dict(KINDS[kind][0])
    if field:
        fields.pop(field.split(".")[0], None)
        if value is not None:
            fields[field.split(".")[0]] = value
    path = place / f"{kind}-1.toml"
    port = free_ports(servers=1, peers=1).http
    lines = [f"{name} = {text.format(path=place, port=port)}\n" for name, text in fields.items()]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize(("kind", "field", "value"), WRONG)
def test_a_wrong_field_is_named(
    place: Path, run: Run, kind: str, field: str, value: str | None
) -> None:
    code, said = run(kind, write_settings(place, kind, field, value))
    assert code == 2
    [line] = said.splitlines()
    assert line.startswith(f"{kind}: ")
    assert field in line.replace("`", "").split("toml", 1)[-1], line


@pytest.mark.parametrize("kind", ["peer", "gateway"])
@pytest.mark.parametrize("content", [None, b"name = ", b"name = '\xff'", b"\x00", b"a\n[b"])
def test_a_file_that_is_no_toml_is_named(
    place: Path, run: Run, kind: str, content: bytes | None
) -> None:
    path = place / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    code, said = run(kind, path)
    assert code == 2
    [line] = said.splitlines()
    assert str(path) in line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, b""),
        (None, b"\xff\xff"),
        (None, b"[]"),
        (b'"schema": 1', b'"schema": 2'),
        (b'"members"', b'"membres"'),
        (b'["peer-1"]', b"[]"),
        (b'["peer-1"]', b'["peer-1", "peer-1"]'),
        (b'["peer-1"]', b'["peer-1", "peer.2"]'),
        (b'"id_space": 0', b'"id_space": 32'),
        (b'"cell": "cell"', b'"cell": "a.b"'),
        (b'"founded_at_ms": 1', b'"founded_at_ms": "1"'),
    ],
)
def test_a_damaged_genesis_is_named(place: Path, run: Run, old: bytes | None, new: bytes) -> None:
    path = place / "genesis.json"
    content = path.read_bytes()
    compact = content.replace(b'[\n    "peer-1"\n  ]', b'["peer-1"]')
    damaged = new if old is None else compact.replace(old, new)
    assert damaged != compact
    path.write_bytes(damaged)
    code, said = run("peer", write_settings(place, "peer"))
    assert code == 2
    [line] = said.splitlines()
    assert str(path) in line
    path.unlink()
    code, said = run("peer", write_settings(place, "peer"))
    assert (code, len(said.splitlines())) == (2, 1)
    assert f"{path}: cannot be read" in said


@pytest.mark.parametrize("kind", ["peer", "gateway"])
def test_a_keeper_does_not_loop_on_it(place: Path, kind: str) -> None:
    """With the real processes; the port is taken, which shows latest of all."""
    from memsync.gateway.server import listen

    settings = write_settings(place, kind)
    port = int(settings.read_text().split("http_port = ")[1].split()[0])
    with listen("127.0.0.1", port):
        command = [sys.executable, "-m", f"memsync.nodes.{kind}", "--config", str(settings)]
        keeper = [sys.executable, "-I", "-S", str(TOP / "memsync" / "nodes" / "keeper.py")]
        ended = subprocess.run(
            [*keeper, "--name", f"{kind}-1", "--", *command],
            cwd=TOP,
            env=os.environ | {"MEMSYNC_HOME": str(place / "home")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=ENDED_WITHIN_S,
        )
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert first.startswith(f"{kind}: http_host, http_port: cannot listen on 127.0.0.1:{port}")
    assert second == (
        f"keeper: {kind}-1 ended (exit code 2: wrong configuration); it is not started again"
    )
