"""memsync cluster: what it sends, what it shows, how it ends."""

from __future__ import annotations

import json

import pytest

from memsync import errors
from memsync.cli import cluster
from tests.unit.cli.conftest import Shell
from tests.unit.cli.serving import ClusterBackend

pytestmark = pytest.mark.usefixtures("url")


def test_members_are_listed(shell: Shell, backend: ClusterBackend) -> None:
    ended = shell("cluster", "members")
    assert (ended.code, ended.err) == (0, "")
    first = ended.out.splitlines()[0]
    assert first == "peer-1\talive\tyes\t0\t0.5\t4\tcurrent\t0.0.7"
    backend.dead = {"peer-3"}
    backend.observers = ["peer-4"]
    lines = shell("cluster", "members").out.splitlines()
    assert lines[2].startswith("peer-3\tsilent\t")
    assert lines[3].startswith("peer-4\tobserver")
    told = json.loads(shell("cluster", "members", "--json").out)
    assert [one["name"] for one in told["members"]] == ["peer-1", "peer-2", "peer-3"]


def test_a_cell_without_a_majority_ends_with_1(shell: Shell, backend: ClusterBackend) -> None:
    backend.dead = {"peer-2", "peer-3"}
    assert shell("cluster", "members").code == 1


def test_join_says_what_counts_now(shell: Shell, backend: ClusterBackend) -> None:
    backend.dead = {"peer-4"}
    ended = shell("cluster", "join", "peer-4", "--idempotency-key", "k1")
    assert ended.code == 0
    assert ended.out == "peer-4 is a member; 3 of 4 members alive, 3 are needed for writes\n"
    assert "peer-4 has not been heard yet: start it now" in ended.err
    assert backend.calls[-1].operation == "cluster.join"
    assert backend.calls[-1].headers["Idempotency-Key"] == "k1"
    assert json.loads(backend.calls[-1].body) == {"name": "peer-4"}


def test_a_refusal_is_told_with_what_to_do(shell: Shell) -> None:
    ended = shell("cluster", "join", "peer-2")
    assert ended.code == 1
    assert ended.err == (
        "memsync: CONFLICT: peer-2 is a member already: see memsync cluster members\n"
    )
    assert shell("cluster", "remove", "peer-8", "--yes").code == 1


def test_remove_asks_first(shell: Shell, backend: ClusterBackend) -> None:
    ended = shell("cluster", "remove", "peer-3")
    assert ended.code == 2
    assert "give --yes to remove peer-3" in ended.err
    assert not backend.calls
    ended = shell("cluster", "remove", "peer-3", "--yes")
    assert (ended.code, backend.members) == (0, ["peer-1", "peer-2"])
    assert ended.out.startswith("peer-3 is no member any more; 2 of 2 members alive")


def test_a_change_that_comes_too_early_is_tried_again(
    shell: Shell, backend: ClusterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = errors.Unavailable("the last change is 0.1 s old", retry_after_s=0.01)
    backend.faults = [early]
    assert shell("cluster", "join", "peer-4").code == 0
    assert [call.operation for call in backend.calls] == ["memory.list", "cluster.join"]
    monkeypatch.setattr(cluster, "SETTLE_S", 0.0)
    backend.faults = [early]
    ended = shell("cluster", "remove", "peer-4", "--yes")
    assert (ended.code, "the last change is 0.1 s old" in ended.err) == (1, True)
