"""The installed command against a real cluster, over HTTP and over the bus."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conditions import wait_until
from tests.system.conftest import Cluster

COMMAND = Path(sys.executable).with_name("memsync")
ENDED_S = 60.0
SAMPLES_MAX = 120


class Person:
    """Somebody who types commands, for an end user of this test's own."""

    def __init__(self, cluster: Cluster, name: str, *options: str) -> None:
        self.cluster = cluster
        self.name = name
        self.options = options

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """A command's standard output; it must end with `code`."""
        ended = subprocess.run(
            [COMMAND, *arguments],
            env=self.cluster.environment | {"MEMSYNC_END_USER": self.name},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=ENDED_S,
        )
        assert ended.returncode == code, ended.stderr + ended.stdout
        assert "Traceback" not in ended.stderr
        return ended.stdout

    def ask(self, *arguments: str) -> Any:
        """A command's JSON."""
        return json.loads(self.run(*arguments, "--json", *self.options))


@pytest.fixture(params=["http", "nats"])
def person(request: pytest.FixtureRequest, cluster: Cluster) -> Person:
    """The same person, over HTTP and over the bus."""
    options = ("--nats-url", cluster.nats_url(1)) if request.param == "nats" else ()
    return Person(cluster, f"cli-{request.param}", *options)


def test_the_life_of_a_memory(person: Person) -> None:
    made = person.ask("add", "Ada drinks green tea every morning", "--tag", "tea")
    identifier = str(made["id"])
    person.ask("add", "The car is parked on level three")
    found = person.ask("recall", "What does Ada drink?", "-k", "1")["memories"]
    assert [memory["id"] for memory in found] == [made["id"]]
    changed = person.ask(
        "update", identifier, "--importance", "0.9", "--if-version", made["version"]
    )
    assert changed["importance"] == 0.9
    person.run("update", identifier, "--importance", "0.1", "--if-version", made["version"],
               *person.options, code=1)  # fmt: skip
    assert person.ask("get", identifier) == changed
    assert person.ask("list")["total"] == 2
    assert person.ask("forget", identifier, "--reason", "test") == [made["id"]]
    person.run("get", identifier, *person.options, code=1)


def test_an_import_can_be_repeated(person: Person, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    lines = [{"text": f"imported note {number}", "tags": ["i"]} for number in range(230)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"text": "same"}] * 2))
    first = person.ask("import", str(path))
    assert (first["created"], first["skipped"]) == (462, 0)
    again = person.ask("import", str(path))
    assert (again["created"], again["skipped"]) == (0, 462)


def test_keys(person: Person) -> None:
    made = person.ask("keys", "create", "--org", f"org-{person.name}", "--env", "staging",
                      "--scope", "memory:read")  # fmt: skip
    assert made["key"].startswith("ms_test_")
    own = person.ask("keys", "create", "--name", "own", "--project", "web")
    listed = {key["id"]: key for key in person.ask("keys", "list")["items"]}
    assert listed[own["id"]]["key"] is None
    assert made["id"] not in listed
    assert person.ask("keys", "revoke", str(own["id"]))["status"] == "revoked"


def test_status_knows_every_process(cluster: Cluster) -> None:
    cluster.wait_ready()

    def shown_as_ready() -> Any:
        """What is shown once all are ready: one that the machine keeps waiting is not."""
        ended = subprocess.run(
            [COMMAND, "status", "--json"],
            env=cluster.environment,
            capture_output=True,
            check=False,
            timeout=ENDED_S,
        )
        shown = json.loads(ended.stdout)
        assert shown["ready"] is (ended.returncode == 0), ended
        return shown if shown["ready"] else None

    report = wait_until(shown_as_ready, "status shows everything as ready", 30)
    assert [one["name"] for one in report["gateways"]] == ["gateway-1", "gateway-2"]
    assert [one["name"] for one in report["peers"]] == ["peer-1", "peer-2", "peer-3"]
    assert all(one["positions"] is not None for one in report["peers"])
    assert [stripe["stripe"] for stripe in report["stripes"]] == [0, 1, 2]
    assert all(stripe["leader"] for stripe in report["stripes"])


def test_top_counts_what_is_asked(cluster: Cluster) -> None:
    person = Person(cluster, "cli-top")
    samples: list[Any] = []
    with subprocess.Popen(
        [COMMAND, "top", "--json", "--count", str(SAMPLES_MAX), "--interval", "0.5"],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        for line in watch.stdout:
            samples.append(json.loads(line))
            if len(samples) == 1:
                person.ask("add", "Ada wears blue socks")
            if "memory.add" in [one["operation"] for one in samples[-1]["operations"]]:
                break
        watch.terminate()
    assert 1 < len(samples) < SAMPLES_MAX
    loads = {one["name"]: one for one in samples[-1]["processes"]}
    assert {"gateway-1", "gateway-2", "peer-1", "peer-2", "peer-3", "nats-1"} <= set(loads)
    assert loads["peer-1"]["lag_entries"] is not None
    assert loads["peer-1"]["writes_in_flight"] is not None
    assert all(loads[name]["memory_bytes"] > 0 for name in loads)
    assert [one["stripe"] for one in samples[-1]["stripes"]] == [0, 1, 2]


def test_add_and_recall_as_the_readme_has_them(cluster: Cluster) -> None:
    person = Person(cluster, "cli-readme")
    identifier = person.run("add", "-", stdin="Ada prefers green tea\n").strip()
    assert identifier.isdecimal()
    [line] = person.run("recall", "what does Ada prefer?").splitlines()
    score, _, found, text = line.split("\t")
    assert 0 < float(score) <= 1
    assert (found, text) == (identifier, "Ada prefers green tea")


def test_who_is_not_let_in_is_told_so(cluster: Cluster) -> None:
    person = Person(cluster, "cli-stranger")
    wrong = cluster.nats_url(1).replace("nats://", "nats://client:wrong@")
    person.run("list", "--nats-url", wrong, code=1)
    person.run("list", "--nats-url", "nats://127.0.0.1:1", code=3)
    person.run("list", "--url", cluster.nats_url(1).replace("nats", "http"), code=3)
    person.run("list", "--project", "unknown", code=1)
    cluster.environment["MEMSYNC_API_KEY"] = "ms_dev_wrong"
    try:
        person.run("list", code=1)
    finally:
        del cluster.environment["MEMSYNC_API_KEY"]
