"""The command of the evaluation: its tasks, its chart, and how it ends where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import chart, evaluation, questioning
from tests.bench.scoring import Row
from tests.system.local_bus import free_ports

OWN = Path(__file__).parents[2] / "data" / "conversations.json"
PNG_START = b"\x89PNG\r\n\x1a\n"


def test_a_task_is_what_an_import_writes_and_what_is_asked() -> None:
    first, second = questioning.read_tasks(OWN)
    assert first.user.startswith("eval-")
    assert first.user.endswith("-lighthouse")
    assert first.user == questioning.read_tasks(OWN)[0].user
    assert (len(first.items), len(first.asks.questions)) == (8, 5)
    assert (first.asks.without_evidence, first.asks.unknown_labels) == (1, 2)
    assert first.asks.questions[1].evidence == {"D10:1", "D10:2"}
    assert {item["end_user_id"] for item in second.items} == {second.user}
    assert second.items[0]["text"] == "Marit: The beans on the allotment froze last night."


def test_other_turns_are_of_another_user(tmp_path: Path) -> None:
    changed = tmp_path / "changed.json"
    changed.write_text(OWN.read_text().replace("nine hundred", "ninety"))
    before, after = questioning.read_tasks(OWN), questioning.read_tasks(changed)
    assert before[0].user != after[0].user
    assert before[1] == after[1]


def test_what_lacks_a_vector_is_read_from_metrics() -> None:
    text = "# TYPE memsync_memories_to_embed gauge\nmemsync_memories_to_embed 12.0\nother 3.0\n"
    assert questioning.unembedded_in(text) == 12
    assert questioning.unembedded_in("other 3.0\n") == 0


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    rows = [Row("temporal", 2, {5: 0.5, 10: 1.0}, 0.4), Row("overall", 2, {5: 0.5, 10: 1.0}, 0.4)]
    path = tmp_path / "chart.png"
    chart.draw(rows, [5, 10], "two questions", path)
    assert path.read_bytes().startswith(PNG_START)


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command line and what it says; nothing is on standard output."""
    code = evaluation.main(arguments)
    out, err = capsys.readouterr()
    assert not out
    return code, err


def test_a_file_that_is_none_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = ended(capsys, str(tmp_path / "nothing.json"))
    assert (code, "cannot be read" in said) == (2, True)
    code, said = ended(capsys, str(tmp_path))
    assert (code, "cannot be read" in said) == (2, True)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ('{"text": "a"}', "no LoCoMo conversation"),
        ('{"text": "a"}\n{"text": "b"}', "not JSON"),
        ("text,tags\n", "not JSON"),
        (json.dumps(json.loads(OWN.read_text())[1]["conversation"]), "no question"),
        (OWN.read_text().replace('"category": 4', '"category": "four"'), "Expected `int`"),
    ],
)
def test_a_file_of_another_form_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, document: str, reason: str
) -> None:
    path = tmp_path / "conversations.json"
    path.write_text(document)
    code, said = ended(capsys, str(path))
    assert code == 2
    assert reason in said


def test_a_cluster_that_is_not_there_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_ports().http}"
    code, said = ended(capsys, str(OWN), "--url", url, "--api-key", "ms_dev_x")
    assert (code, "no cluster answers" in said) == (3, True)
    monkeypatch.delenv("MEMSYNC_API_KEY", raising=False)
    code, said = ended(capsys, str(OWN), "--url", "http://memsync.invalid:1")
    assert (code, "no API key" in said) == (2, True)


@pytest.mark.parametrize(
    "options",
    [
        ["--k", "0"],
        ["--k", "5,51"],
        ["--k", "x"],
        ["--plot", "/nowhere/chart.png"],
        ["--api-key", "ms_dev_x"],
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        evaluation.main([str(OWN), *options])
    assert refused.value.code == 2
