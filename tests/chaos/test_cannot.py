"""What keeps a run from being judged is no pass; and histories as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import history
from tests.chaos.checking import judge
from tests.chaos.figures import figures_of
from tests.chaos.forging import LATE, PEERS, Forge, clean
from tests.chaos.history import Digest, Fault, HistoryError, Note, Recorder


@pytest.fixture
def forge() -> Forge:
    return Forge()


# What cannot be judged


def test_no_pass_without_the_last_state_of_every_peer(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.read("list", LATE, [forge.seen("r1", made)], final=("peer-1", "healed"))
    verdict = forge.judged()
    assert verdict.anomalies == []
    assert [line.partition(":")[0] for line in verdict.cannot] == ["peer-2", "peer-3"]


def test_no_pass_with_too_few_operations(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.end(forge.seen("r1", made))
    assert len(judge(forge.recorder.history()).cannot) == 2


def test_no_pass_where_the_driver_says_so(forge: Forge) -> None:
    forge.end()
    forge.add(Note(at=LATE, text="the cluster did not start", is_blocking=True))
    assert forge.judged().cannot == ["the cluster did not start"]


def test_a_peer_that_did_not_come_back_is_no_loss_and_no_pass(forge: Forge) -> None:
    made = forge.write("add", 1, 2)
    forge.end(forge.seen("r1", made), peer_1=[])
    forge.add(Note(at=LATE, text="not ready: peer-1", is_blocking=True, unready=["peer-1"]))
    verdict = forge.judged()
    assert verdict.anomalies == []
    assert verdict.cannot == ["not ready: peer-1"]
    assert verdict.unjudged["last reads of peers that were not ready"] == 1


def test_stores_at_different_positions_are_counted_not_compared(forge: Forge) -> None:
    forge.end()
    for number, peer in enumerate(PEERS):
        forge.add(Digest(at=LATE, peer=peer, positions={"0.0": number}, sums={"1": number}))
    verdict = forge.judged()
    clean(verdict)
    assert verdict.unjudged["pairs of stores at different positions"] == 2


# Histories as files


def test_a_history_is_the_same_after_it_was_saved(forge: Forge, tmp_path: Path) -> None:
    made = forge.write("add", 1, 2)
    forge.write("forget", 3, None)
    forge.end(forge.seen("r1", made))
    path = tmp_path / "history.jsonl"
    with path.open("wb") as file:
        saved = Recorder(file)
        for event in forge.recorder.events:
            saved.add(event)
    assert history.read(path) == forge.recorder.history()


@pytest.mark.parametrize("text", ["{}\n", "no json\n", '{"type":"ok","at":1,"n":3}\n'])
def test_a_file_that_is_no_history_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(HistoryError):
        history.read(path)


# Stores that cannot be read, faults that did nothing


def test_no_pass_where_a_store_could_not_be_read_at_the_end(forge: Forge) -> None:
    forge.end()
    for peer in PEERS[:2]:
        forge.add(Digest(at=LATE, peer=peer, positions={"0.0": 5}, sums={"1": 7}))
    forge.add(Digest(at=LATE, peer=PEERS[2], problem="peer-3: file is not a database"))
    verdict = forge.judged()
    assert verdict.anomalies == []
    why = "the store could not be read at the end: peer-3: file is not a database"
    assert verdict.cannot == [why]


def test_the_store_of_a_peer_that_did_not_come_back_need_not_be_read(forge: Forge) -> None:
    forge.end()
    forge.add(Note(at=LATE, text="not ready: peer-3", is_blocking=True, unready=["peer-3"]))
    forge.add(Digest(at=LATE, peer=PEERS[2], problem="peer-3: file is not a database"))
    assert forge.judged().cannot == ["not ready: peer-3"]


def fault(**more: object) -> Fault:
    """A fault of the nemesis; it took effect unless `more` says otherwise."""
    fields: dict[str, object] = {
        "at": 40.0, "kind": "kill peer", "targets": ["peer-1"], "began": 30.0, "taken_back": 30.0,
        "ready": 31.0,
    }  # fmt: skip
    return Fault(**(fields | more))  # type: ignore[arg-type]


def test_a_fault_that_did_nothing_is_no_fault_and_no_pass(forge: Forge) -> None:
    forge.end()
    forge.add(fault())
    clean(forge.judged())
    assert len(figures_of(forge.recorder.history(), forge.judged()).suffered) == 1
    forge.add(fault(began=50.0, without_effect="nothing was seen of it"))
    verdict = forge.judged()
    assert verdict.cannot == ["kill peer at 50 s had no effect: nothing was seen of it"]
    assert len(figures_of(forge.recorder.history(), verdict).suffered) == 1


def test_a_fault_that_could_not_be_made_here_is_skipped(forge: Forge) -> None:
    forge.end()
    forge.add(fault(skipped="no disk of its own here"))
    verdict = forge.judged()
    clean(verdict)
    assert figures_of(forge.recorder.history(), verdict).suffered == []
