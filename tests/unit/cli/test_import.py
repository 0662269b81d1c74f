"""`memsync import` against a served fake: resumed, interrupted, repeated, stopped at bad lines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memsync import errors
from memsync.cli.importing import sending
from memsync.ports import Answer
from tests.conditions import wait_until
from tests.unit.cli.conftest import USER, Shell
from tests.unit.cli.serving import ClusterBackend

pytestmark = pytest.mark.usefixtures("url")
ENDED_S = 20.0
WriteLines = Callable[..., str]


@pytest.fixture
def write_lines(tmp_path: Path) -> WriteLines:
    """Writes lines into a file, dictionaries as JSON; its path."""

    def write(*lines: object) -> str:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path = tmp_path / "notes.jsonl"
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long before trying again."""
    monkeypatch.setattr(sending, "BACKOFF_S", 0.001)


def notes(count: int) -> list[dict[str, str]]:
    """Different items."""
    return [{"text": f"note {number}"} for number in range(count)]


def imported(shell: Shell, path: str, *options: str) -> dict[str, object]:
    """Import a file that has nothing wrong; the summary."""
    ended = shell("import", path, "--json", *options)
    assert ended.code == 0, ended.err
    summary: dict[str, object] = ended.document
    return summary


def test_a_file_becomes_memories_in_bulks(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    lines = [*notes(120), "", {"text": "tagged", "tags": ["x"], "session_id": "s"}]
    summary = imported(shell, write_lines(*lines))
    assert (summary["created"], summary["ended"]) == (121, "complete")
    assert sorted(backend.texts(USER)) == sorted([f"note {n}" for n in range(120)] + ["tagged"])
    bodies = [json.loads(call.body) for call in backend.calls]
    assert sorted(len(body["items"]) for body in bodies) == [21, 50, 50]
    assert {body["deduplicate"] for body in bodies} == {False}
    assert backend.in_flight_max <= sending.IN_FLIGHT_MAX


def test_running_it_twice_adds_nothing_twice(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    path = write_lines(*notes(60), {"text": "same"}, {"text": "same"})
    assert imported(shell, path)["created"] == 62
    again = imported(shell, path)
    assert (again["created"], again["skipped"]) == (0, 62)
    longer = imported(shell, write_lines({"text": "same"}, {"text": "new"}, *notes(60)[::-1]))
    assert (longer["created"], longer["skipped"]) == (1, 61)
    assert sorted(backend.texts(USER)).count("same") == 2


def test_the_summary_for_a_person_is_one_line(shell: Shell, write_lines: WriteLines) -> None:
    ended = shell("import", write_lines(*notes(3)))
    assert ended.out.startswith("3 created, 0 skipped, 0 rejected, 0 bad in ")
    assert len(ended.out.splitlines()) == 1


def test_a_bad_line_stops_after_what_stands_before_it(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    ended = shell("import", write_lines(*notes(55), "nonsense", {"text": "after"}), "--json")
    assert ended.code == 2
    assert ended.document["ended"] == "bad_line"
    assert [problem["line"] for problem in ended.document["problems"]] == [56]
    assert "line 56: not JSON" in ended.err
    assert len(backend.texts(USER)) == 55
    mended = imported(shell, write_lines(*notes(55), {"text": "mended"}, {"text": "after"}))
    assert (mended["created"], mended["skipped"]) == (2, 55)


def test_bad_lines_can_be_skipped(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    path = write_lines({"text": "a"}, "nonsense", {"txt": "b"}, {"text": ""}, {"text": "c"})
    ended = shell("import", path, "--on-error", "skip", "--json")
    assert ended.code == 1
    told = ended.document
    assert (told["created"], told["bad"], told["rejected"]) == (2, 2, 1)
    assert sorted(problem["line"] for problem in told["problems"]) == [2, 3, 4]
    assert backend.texts(USER) == ["a", "c"]


def test_many_problems_are_not_all_shown(shell: Shell, write_lines: WriteLines) -> None:
    ended = shell("import", write_lines(*["nonsense"] * 150), "--on-error", "skip")
    assert len(ended.err.splitlines()) == 21
    assert "and 130 more" in ended.err


def test_what_may_help_is_tried_again(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    backend.faults += [
        errors.NoQuorum("1 of 3"),
        errors.RateLimited("too fast", retry_after_s=0.001),
        errors.OutcomeUnknown("lost"),
    ]
    summary = imported(shell, write_lines(*notes(10)))
    assert (summary["created"], summary["retries"]) == (10, 3)


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    backend.lost = 1
    summary = imported(shell, write_lines(*notes(10)))
    assert (summary["created"], summary["skipped"], summary["retries"]) == (10, 0, 1)
    assert len(backend.texts(USER)) == 10


def test_an_import_gives_up_in_the_end(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending.Importer.__init__, "__kwdefaults__", {"retry_for_s": 0.05})
    backend.faults += [errors.OutcomeUnknown("lost")] * 1_000
    ended = shell("import", write_lines(*notes(10)), "--json")
    assert ended.code == 4
    assert (ended.document["ended"], ended.document["created"]) == ("failed", 0)
    assert "the same command goes on from here" in ended.err
    backend.faults[:] = [errors.NoQuorum("1 of 3")] * 1_000
    assert shell("import", write_lines(*notes(10))).code == 1


def test_a_refusal_stops_at_once(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMSYNC_API_KEY", "ms_dev_wrong")
    ended = shell("import", write_lines(*notes(1_000)), "--json")
    assert ended.code == 1
    assert ended.document["error"].startswith("INVALID_API_KEY")
    assert len(backend.calls) <= 2 * sending.IN_FLIGHT_MAX


def test_a_used_up_quota_is_said(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.answers += [Answer(200, {}, b'{"status":"ok"}')]
    ended = shell("import", write_lines(*notes(3)))
    assert ended.code == 1
    assert "quota" in ended.err


def test_no_cluster_is_said_at_once(shell: Shell, write_lines: WriteLines) -> None:
    path = write_lines(*notes(3))
    ended = shell("import", path, "--url", "http://127.0.0.1:1", "--json")
    assert (ended.code, ended.document["ended"]) == (3, "failed")


def test_files_that_cannot_be_read(shell: Shell, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", "a\0b", "/proc/self/mem"):
        assert shell("import", str(path)).code == 2


def test_an_empty_file_is_nothing_to_do(shell: Shell, write_lines: WriteLines) -> None:
    assert imported(shell, write_lines())["created"] == 0


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from memsync.cli.main import main; main()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_standard_input_is_a_file_too(backend: ClusterBackend) -> None:
    process = start("import", "-", "--json")
    out, err = process.communicate('{"text": "a"}\n{"text": "b"}', timeout=ENDED_S)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["created"] == 2
    assert backend.texts(USER) == ["a", "b"]


def test_an_interrupted_import_says_how_far_it_got_and_can_go_on(
    shell: Shell, backend: ClusterBackend, write_lines: WriteLines
) -> None:
    path = write_lines(*notes(1_000))
    backend.gate.clear()
    process = start("import", path, "--json")
    wait_until(lambda: len(backend.calls) == sending.IN_FLIGHT_MAX, "four bulks in flight", ENDED_S)
    process.send_signal(signal.SIGINT)
    backend.gate.set()
    out, err = process.communicate(timeout=ENDED_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command goes on from here" in err
    told = json.loads(out)
    stored = len(backend.texts(USER))
    assert told["ended"] == "interrupted"
    assert told["created"] == stored < 1_000
    rest = imported(shell, path)
    assert (rest["created"], rest["skipped"]) == (1_000 - stored, stored)
    assert len(backend.texts(USER)) == 1_000


def test_an_import_that_waits_for_its_input_can_be_interrupted(backend: ClusterBackend) -> None:
    process = start("import", "-")
    assert process.stdin is not None
    process.stdin.write("".join(json.dumps(note) + "\n" for note in notes(51)))
    process.stdin.flush()
    wait_until(lambda: len(backend.texts(USER)) == 50, "the first bulk stored", ENDED_S)
    process.send_signal(signal.SIGINT)
    assert process.wait(ENDED_S) == 130
    process.communicate()
