"""`memsync import` of conversations: what becomes of a turn, whose it is, files of other form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memsync.cli.exits import UsageProblem
from memsync.cli.importing import locomo
from memsync.wire.requests import AddItem
from tests.unit.cli.conftest import USER, Shell
from tests.unit.cli.serving import ClusterBackend

OWN = Path(__file__).parents[2] / "data" / "conversations.json"
Write = Callable[[object], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a document into a file; its path."""

    def write_document(document: object) -> str:
        path = tmp_path / "conversations.json"
        text = document if isinstance(document, str) else json.dumps(document)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_document


def documents() -> list[dict[str, Any]]:
    """Our own conversations."""
    found: list[dict[str, Any]] = json.loads(OWN.read_bytes())
    return found


def turn(**fields: object) -> dict[str, object]:
    """A turn with these fields instead of the usual ones."""
    return {"speaker": "Ada", "dia_id": "D1:1", "text": "Hello"} | fields


def conversation(*turns: object, time: object = "1:56 pm on 8 May, 2023") -> dict[str, Any]:
    """A conversation of one session."""
    return {"conversation": {"session_1": list(turns), "session_1_date_time": time}}


def items(found: dict[str, Any]) -> list[AddItem]:
    """What becomes of a conversation."""
    return [*locomo.items_of(locomo.read_conversation(found), "ada")]


def test_each_turn_becomes_a_memory_with_session_speaker_and_time() -> None:
    made = items(documents()[0])
    assert len(made) == 8
    assert msgspec.to_builtins(made[2]) == msgspec.to_builtins(
        AddItem(
            text="Ines: Look what hangs above my desk. [old whaling print]",
            session_id="lighthouse/session_1",
            occurred_at="2025-03-03T09:05:00.002+00:00",
            client_ref="lighthouse/D1:3",
            end_user_id="ada",
            metadata={
                "speaker": "Ines",
                "dia_id": "D1:3",
                "image_caption": "a drawing of a whale beside a boat",
                "image_query": "old whaling print",
            },
        )
    )


def test_sessions_come_by_number_and_turns_in_their_order() -> None:
    made = items(documents()[0])
    assert [item.client_ref for item in made][-3:] == [
        "lighthouse/D2:3", "lighthouse/D10:1", "lighthouse/D10:2",
    ]  # fmt: skip
    times = [item.occurred_at or "" for item in made]
    assert times == sorted(set(times))
    assert times[-2].startswith("2025-06-02T00:04:00.000")  # 12:04 am


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Ada: Hello"),
        ({"query": "a boat"}, "Ada: Hello [a boat]"),
        ({"blip_caption": "a red boat"}, "Ada: Hello"),
        ({"text": "", "blip_caption": "a red boat"}, "Ada: [a red boat]"),
        ({"text": "", "blip_caption": "a red boat", "query": "a boat"}, "Ada: [a boat]"),
    ],
)
def test_how_a_turn_is_written_down(fields: dict[str, str], text: str) -> None:
    assert [item.text for item in items(conversation(turn(**fields)))] == [text]


def test_a_dia_id_that_stands_twice_loses_nothing() -> None:
    made = items(conversation(turn(), turn(text="Again")))
    references = [item.client_ref or "" for item in made]
    assert [one.rpartition("/")[2] for one in references] == ["D1:1", "D1:1 (2)"]


def test_a_conversation_without_a_name_keeps_the_one_it_gets_as_it_grows() -> None:
    short, longer = conversation(turn()), conversation(turn(), turn(dia_id="D1:2"))
    other = conversation(turn(text="Good evening"))
    names = [locomo.read_conversation(one).name for one in (short, longer, other)]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("conversation-")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "without any conversation"),
        ([{"text": "a"}], "entry 1 of 1 is no LoCoMo conversation"),
        ([conversation(turn()), 7], "entry 2 of 2 is no LoCoMo conversation"),
        ({"conversation": {"session_1": "x"}}, "no LoCoMo conversation"),
        (conversation({"speaker": "Ada"}), "session_1: Object missing required field `dia_id`"),
        (conversation(turn(text=7)), "session_1: Expected `str`"),
        (conversation(turn(), time=None), "session_1_date_time: None is not a time"),
        (conversation(turn(), time="8 May"), "session_1_date_time: '8 May' is not a time"),
        ([conversation(turn()), conversation(turn())], "2 conversations have the sample_id"),
    ],
)
def test_what_is_wrong_with_a_document_is_said(document: object, reason: str) -> None:
    with pytest.raises(UsageProblem, match=re.escape(reason)):
        locomo.read_conversations(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"[", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_said(data: bytes) -> None:
    with pytest.raises(UsageProblem, match=r"^not JSON"):
        locomo.read_conversations(data)


@pytest.mark.usefixtures("url")
def test_each_conversation_becomes_a_user_and_a_repeat_adds_nothing(
    shell: Shell, backend: ClusterBackend
) -> None:
    first = shell("import", str(OWN), "--json")
    assert first.code == 0, first.err
    assert (first.document["created"], first.document["skipped"]) == (11, 0)
    assert len(backend.texts("lighthouse")) == 8
    assert backend.texts("allotment")[0] == "Marit: The beans on the allotment froze last night."
    again = shell("import", str(OWN), "--json", "--format", "locomo").document
    assert (again["created"], again["skipped"]) == (0, 11)
    prefixed = shell("import", str(OWN), "--json", "--user-prefix", "test-").document
    assert prefixed["created"] == 11
    assert len(backend.texts("test-allotment")) == 3
    assert not backend.texts(USER)


@pytest.mark.usefixtures("url")
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_bare", [False, True])
def test_one_conversation_alone_may_be_of_any_user(
    shell: Shell, backend: ClusterBackend, write: Write, indent: int | None, is_bare: bool
) -> None:
    found = documents()[1]
    found = found["conversation"] if is_bare else found
    path = write(json.dumps(found, indent=indent))
    assert shell("import", path, "--user", "grace").code == 0
    assert len(backend.texts("grace")) == 3


@pytest.mark.usefixtures("url")
def test_options_that_do_not_go_together_are_refused(shell: Shell, write: Write) -> None:
    def refused(*arguments: str) -> str:
        ended = shell("import", *arguments)
        assert (ended.code, ended.out) == (2, "")
        return ended.err

    assert "2 conversations" in refused(str(OWN), "--user", "grace")
    one = write(documents()[1])
    assert "only one of them" in refused(one, "--user", "a", "--user-prefix", "b")
    assert "end_user_id" in refused(write('{"text": "a"}\n'), "--user-prefix", "b")


@pytest.mark.usefixtures("url")
def test_a_file_of_another_format_is_refused(
    shell: Shell, backend: ClusterBackend, write: Write
) -> None:
    others = ["text,tags\ntea,green\n", "[1, 2]", '{\n "notes": []\n}', "[", "%PDF-1.7\n%x\n"]
    for other in others:
        ended = shell("import", write(other))
        assert ended.code == 2, other
        assert "neither JSON lines nor a LoCoMo conversation" in ended.err, other
    assert shell("import", write('{"text": "a"}'), "--format", "locomo").code == 2
    assert shell("import", str(OWN), "--format", "jsonl").code == 2
    assert not backend.calls


@pytest.mark.usefixtures("url")
def test_a_turn_that_is_too_long_is_said_by_its_number(
    shell: Shell, backend: ClusterBackend, write: Write
) -> None:
    path = write(conversation(turn(), turn(dia_id="D1:2", text="x" * 9_000)))
    ended = shell("import", path, "--json", "--user", "grace")
    assert ended.code == 2
    assert [problem["line"] for problem in ended.document["problems"]] == [2]
    assert backend.texts("grace") == ["Ada: Hello"]


@pytest.mark.usefixtures("url")
def test_json_lines_that_begin_like_a_document_stay_lines(
    shell: Shell, backend: ClusterBackend, write: Write
) -> None:
    lines = '\n\n{"text": "a", "metadata": {"conversation": {"session_1": []}}}\n{"text": "b"}\n'
    assert shell("import", write(lines)).code == 0
    assert backend.texts(USER) == ["a", "b"]


def test_a_session_is_numbered_without_zeros() -> None:
    found = conversation(turn())
    found["conversation"]["session_01"] = [turn(dia_id="D2:1")]
    assert [one.name for one in locomo.read_conversation(found).sessions] == ["session_1"]
    assert not locomo.is_conversation({"conversation": {"session_01": [turn()]}})
