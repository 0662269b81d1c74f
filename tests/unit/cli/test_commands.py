"""Each command against a served fake: what it sends, what it shows, how it ends."""

from __future__ import annotations

import getpass
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from memsync import __version__, errors
from memsync.client import patience
from memsync.ports import Answer
from memsync.wire import codec
from tests.fakes.backend import KEY
from tests.unit.cli.conftest import USER, Shell
from tests.unit.cli.serving import ClusterBackend

pytestmark = pytest.mark.usefixtures("url")


def sent(backend: ClusterBackend) -> dict[str, object]:
    """The body of the last request."""
    body: dict[str, object] = json.loads(backend.calls[-1].body)
    return body


def test_version_and_help(shell: Shell) -> None:
    assert shell("--version").out == f"memsync {__version__}\n"
    assert shell().out == shell("--help").out
    told = shell("--help").out
    for word in ("scripts/up", "recall", "MEMSYNC_URL", "4 outcome unknown", "130"):
        assert word in told


@pytest.mark.parametrize(
    "command",
    [
        "add",
        "recall",
        "get",
        "update",
        "forget",
        "list",
        "relate",
        "feedback",
        "graph",
        "explain",
        "import",
        "status",
        "init",
        "keys create",
        "org show",
        "org set",
    ],
)
def test_every_command_has_help_and_json(shell: Shell, command: str) -> None:
    ended = shell(*command.split(), "--help")
    assert ended.code == 0
    assert "--json" in ended.out


def test_add_prints_the_id_and_sends_what_was_said(shell: Shell, backend: ClusterBackend) -> None:
    ended = shell(
        "add", "tea", "--tag", "a", "--tag", "b", "--source", "chat", "--session", "s", "--role",
        "user", "--importance", "0.9", "--metadata", '{"n": 1}', "--client-ref", "c",
        "--ttl-minutes", "5", "--occurred-at", "2026-01-02", "--event-type", "note",
        "--no-deduplicate", "--idempotency-key", "k1", "--project", "web",
    )  # fmt: skip
    assert (ended.code, ended.out, ended.err) == (0, "1\n", "")
    assert sent(backend) == {
        "text": "tea", "tags": ["a", "b"], "source": "chat", "session_id": "s", "role": "user",
        "importance": 0.9, "metadata": {"n": 1}, "client_ref": "c", "ttl_minutes": 5,
        "occurred_at": "2026-01-02", "event_type": "note", "deduplicate": False,
        "end_user_id": USER,
    }  # fmt: skip
    headers = backend.calls[-1].headers
    assert headers["Idempotency-Key"] == "k1"
    assert headers["X-Project-ID"] == "web"
    assert headers["X-API-Key"] == KEY
    assert headers["X-End-User-ID"] == USER


def test_relate_and_feedback(shell: Shell, backend: ClusterBackend) -> None:
    one, other = [shell("add", text).out.strip() for text in ("tea", "more of tea")]
    made = shell("relate", other, "detail_of", one, "--confidence", "0.5", "--metadata", '{"n": 1}')
    assert (made.code, made.out, made.err) == (0, f"{backend.relations[0].id}\n", "")
    assert sent(backend) == {
        "to_memory_id": int(one), "relationship_type": "detail_of", "confidence": 0.5,
        "metadata": {"n": 1}, "end_user_id": USER,
    } | {"memory_id": int(other)}  # fmt: skip
    judged = shell("feedback", one, "ignored", "--comment", "old", "--idempotency-key", "k")
    assert (judged.code, judged.out) == (0, "0.5\n")
    assert sent(backend)["comment"] == "old"
    assert backend.calls[-1].headers["Idempotency-Key"] == "k"
    assert json.loads(shell("feedback", one, "positive", "--json").out)["signal"] == "positive"
    assert json.loads(shell("relate", one, "similar", other, "--json").out)["from_memory_id"] == 1
    calls = len(backend.calls)
    for arguments in [("relate", one, "hates", other), ("feedback", one, "meh"), ("relate", one)]:
        assert shell(*arguments).code == 2
    assert len(backend.calls) == calls
    assert shell("relate", one, "similar", "99").code == 1


def test_graph_lists_relations(shell: Shell, backend: ClusterBackend) -> None:
    one, other = [shell("add", text).out.strip() for text in ("tea", "more of tea")]
    assert (shell("graph").out, shell("graph").code) == ("", 0)
    shell("relate", other, "detail_of", one, "--confidence", "0.5")
    assert shell("graph").out == f"{other}\tdetail_of\t{one}\t0.5\n"
    whole = json.loads(shell("graph", one, "--depth", "1", "--limit", "7", "--json").out)
    assert [node["text"] for node in whole["nodes"]] == ["tea", "more of tea"]
    assert sent(backend) == {
        "memory_id": int(one), "depth": 1, "limit": 7, "end_user_id": USER
    }  # fmt: skip
    assert shell("graph", one, "--depth", "4").code == 2


def test_explain_shows_the_parts_of_each_score(shell: Shell, backend: ClusterBackend) -> None:
    shell("add", "tea")
    assert shell("explain", "q_1").out == "1\t0.500\t0.4\n"
    assert sent(backend) == {"query_id": "q_1", "end_user_id": USER}
    assert json.loads(shell("explain", "q_1", "--json").out)["member"] == "peer-1"
    assert shell("explain", "q/2").code == 1


@pytest.mark.parametrize("arguments", [["add"], ["add", "-"]])
def test_add_reads_standard_input(
    shell: Shell, backend: ClusterBackend, arguments: list[str]
) -> None:
    assert shell(*arguments, stdin="grüner Tee\n".encode()).code == 0
    assert backend.texts(USER) == ["grüner Tee"]


def test_input_that_is_not_text_is_refused(shell: Shell, backend: ClusterBackend) -> None:
    assert shell("add", stdin=b"\xff\xfe").code == 2
    assert shell("add", "broken \udcff").code == 2
    assert not backend.calls


def test_every_write_has_a_key_of_its_own(shell: Shell, backend: ClusterBackend) -> None:
    shell("add", "one")
    shell("add", "two")
    keys = {call.headers["Idempotency-Key"] for call in backend.calls}
    assert len(keys) == 2


def test_add_says_why_nothing_new_was_stored(shell: Shell, backend: ClusterBackend) -> None:
    def answer(**fields: object) -> None:
        backend.answers.append(Answer(200, {}, codec.to_json(fields)))

    answer(status="skipped", reason="duplicate", memory_ids=[7])
    there = shell("add", "tea")
    assert (there.code, there.out) == (0, "7\n")
    assert "duplicate" in there.err
    answer(status="skipped", reason="no_high_value_content", memory_ids=[])
    assert shell("add", "...").code == 1
    answer(status="ok")
    over = shell("add", "tea")
    assert (over.code, over.out) == (1, "")
    assert "quota" in over.err


def test_recall_shows_score_time_id_and_text(shell: Shell, backend: ClusterBackend) -> None:
    shell("add", "green tea")
    ended = shell(
        "recall", "which tea", "-k", "3", "--tag", "x", "--since", "2026-01-01",
        "--now", "2026-02-02",
    )  # fmt: skip
    assert ended.out == "1.000\t2026-01-01T00:00:00.000+00:00\t1\tgreen tea\n"
    assert sent(backend) == {
        "query": "which tea", "k": 3, "end_user_id": USER, "now": "2026-02-02",
        "filters": {"tags": ["x"], "since": "2026-01-01"},
    }  # fmt: skip
    assert shell("recall", "which tea", "--json").document["memories"][0]["id"] == 1
    nothing = shell("recall", "coffee")
    assert (nothing.code, nothing.out) == (0, "")


def test_a_degraded_answer_names_what_was_missing(shell: Shell, backend: ClusterBackend) -> None:
    body = json.loads(shell("recall", "x", "--json").out)
    body |= {"degraded": True, "degraded_components": ["embedding", "replication"]}
    backend.answers += [Answer(200, {}, codec.to_json(body))] * 2
    assert "embedding, replication" in shell("recall", "x").err
    told = shell("recall", "x", "--json")
    assert told.document["degraded"] is True
    assert "embedding, replication" in told.err


def test_get_shows_one_memory(shell: Shell) -> None:
    shell("add", "green tea", "--tag", "tea")
    lines = dict(line.split("\t") for line in shell("get", "1").out.splitlines())
    assert (lines["id"], lines["text"], lines["tags"]) == ("1", "green tea", "tea")
    assert shell("get", "1", "--json").document["text"] == "green tea"
    absent = shell("get", "99")
    assert (absent.code, absent.out) == (1, "")
    assert "NOT_FOUND" in absent.err
    assert shell("get", "0").code == shell("get", "tea").code == 2


def test_update_changes_what_is_named(shell: Shell, backend: ClusterBackend) -> None:
    shell("add", "tea", "--tag", "old")
    changed = shell("update", "1", "--tag", "new", "--importance", "0.7", "--json")
    assert (changed.document["tags"], changed.document["importance"]) == (["new"], 0.7)
    assert shell("update", "1", "--no-tags", "--json").document["tags"] == []
    assert shell("update", "1").code == 2
    assert shell("update", "1", "--tag", "a", "--no-tags").code == 2
    backend.faults.append(errors.VersionConflict("another version"))
    assert shell("update", "1", "--source", "s", "--if-version", "v").code == 1


def test_forget_by_id(shell: Shell, backend: ClusterBackend) -> None:
    shell("add", "tea")
    dry = shell("forget", "1", "--dry-run")
    assert (dry.out, backend.texts(USER)) == ("1\n", ["tea"])
    ended = shell("forget", "1", "99", "--reason", "asked")
    assert (ended.code, ended.out) == (1, "1\n")
    assert "not found: 99" in ended.err
    assert sent(backend)["reason"] == "asked"
    assert backend.texts(USER) == []


def test_forget_by_filters(shell: Shell, backend: ClusterBackend) -> None:
    shell("add", "tea")
    ended = shell("forget", "--tag", "a", "--before", "2026-01-01", "--json")
    assert (ended.code, ended.document) == (0, [1])
    assert sent(backend)["filters"] == {"tags": ["a"], "before": "2026-01-01"}
    assert shell("forget").code == shell("forget", "1", "--tag", "a").code == 2


def test_list_pages_the_newest_first(shell: Shell) -> None:
    for text in ("one", "two", "three"):
        shell("add", text)
    lines = shell("list", "--limit", "2", "--offset", "1").out.splitlines()
    assert [line.split("\t")[3] for line in lines] == ["two", "one"]
    assert shell("list", "--json").document["total"] == 3
    assert shell("list", "--limit", "0").code == 2


def test_keys_are_made_listed_and_revoked(shell: Shell, backend: ClusterBackend) -> None:
    made = shell(
        "keys", "create", "--name", "ci", "--org", "acme", "--project", "web", "--env", "staging",
        "--scope", "memory:read", "--scope", "memory:add", "--tier", "free",
    )  # fmt: skip
    assert made.out == "ms_dev_1\n"
    assert "shown this once" in made.err
    assert sent(backend) == {
        "name": "ci", "organisation": "acme", "project_id": "web", "environment": "staging",
        "scopes": ["memory:read", "memory:add"], "rate_limit_tier": "free",
    }  # fmt: skip
    assert shell("keys", "create", "--json").document["key"] == "ms_dev_1"
    assert len(shell("keys", "list").out.splitlines()) == 2
    assert shell("keys", "list", "--json").document["total"] == 2
    assert shell("keys", "revoke", "1").out == "1\trevoked\n"
    assert shell("keys", "revoke", "77").code == 1
    assert shell("keys", "create", "--scope", "bogus").code == 1


def test_a_key_of_an_earlier_try_is_not_shown_as_empty(
    shell: Shell, backend: ClusterBackend
) -> None:
    body = shell("keys", "create", "--json").document | {"key": None}
    backend.answers.append(Answer(201, {}, codec.to_json(body)))
    ended = shell("keys", "create", "--idempotency-key", "again")
    assert (ended.out, "revoke 1" in ended.err) == ("", True)


def test_the_user_is_the_option_then_the_environment_then_the_login_name(
    shell: Shell, backend: ClusterBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("add", "tea", "--user", "Zoë")
    assert backend.texts("Zoë") == ["tea"]
    shell("list", "--user", "Zoë")
    assert backend.calls[-1].operation == "memory.list"
    assert sent(backend)["end_user_id"] == "Zoë"
    monkeypatch.delenv("MEMSYNC_END_USER")
    shell("add", "tea")
    assert backend.texts(getpass.getuser()) == ["tea"]


def test_what_the_server_says_becomes_the_exit_code(shell: Shell, backend: ClusterBackend) -> None:
    backend.faults.append(errors.NoQuorum("1 of 3 alive"))
    refused = shell("add", "tea")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "memsync: NO_QUORUM: 1 of 3 alive: see memsync status for what is down, and try again\n"
    )
    backend.faults.append(errors.OutcomeUnknown("lost it"))
    unknown = shell("add", "tea", "--idempotency-key", "k9", "--json")
    assert unknown.code == 4
    assert "--idempotency-key k9" in unknown.err
    assert unknown.document["error"]["code"] == "OUTCOME_UNKNOWN"
    assert unknown.document["error"]["definite"] is False
    assert unknown.document["error"]["exit_code"] == 4


def test_a_wrong_key_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMSYNC_API_KEY", "ms_dev_wrong")
    ended = shell("list")
    assert ended.code == 1
    assert "INVALID_API_KEY" in ended.err


def test_wrong_usage_is_told_in_one_line(shell: Shell) -> None:
    for arguments in (["bogus"], ["add", "--nope"], ["get"], ["keys"], ["list", "--limit", "x"]):
        ended = shell(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.splitlines()) == 1
        assert "--help" in ended.err
    assert shell("get", "--json").document["error"]["code"] == "USAGE"


def test_a_fault_of_ours_is_one_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("memsync.cli.memories.json_object", fail)
    ended = shell("add", "tea")
    assert ended.code == 1
    assert "RuntimeError: a fault" in ended.err


@pytest.fixture
def hanging_up() -> Iterator[str]:
    """A server that reads a request and ends the connection without an answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.recv(65_536)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_a_broken_connection_leaves_a_write_unknown(
    shell: Shell, hanging_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "BACKOFF_S_MAX", 0.001)
    write = shell("add", "tea", "--url", hanging_up)
    assert write.code == 4
    assert "--idempotency-key cli-" in write.err
    assert shell("list", "--url", hanging_up).code == 3


def test_an_answer_of_somebody_else_is_no_cluster(shell: Shell, backend: ClusterBackend) -> None:
    for status, body in ((200, b"<html>"), (404, b"not here"), (302, b""), (500, b"{}")):
        backend.answers.append(Answer(status, {}, body))
        ended = shell("list")
        assert ended.code == 3
        assert "memsync API" in ended.err


def test_the_default_ack_is_shown_and_set(shell: Shell, backend: ClusterBackend) -> None:
    assert "Ack\tquorum\n" in shell("org", "show").out
    assert "Ack\tall\n" in shell("org", "set", "--ack", "all").out
    assert sent(backend) == {"ack": "all"}
    assert json.loads(shell("org", "show", "--json").out)["ack"] == "all"
    ended = shell("org", "set")
    assert (ended.code, ended.err) == (
        2,
        "memsync: nothing to set: give --ack quorum or --ack all\n",
    )
    assert "'log' is not one of quorum, all" in shell("org", "set", "--ack", "log").err
