"""The command line without a cluster: exit codes over saved histories, and which faults are meant;
and the numbers of the report."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from tests.chaos import __main__ as command
from tests.chaos.checking import ACKNOWLEDGED_MIN, judge
from tests.chaos.faults import FAULTS, MIXES, chosen, sequence
from tests.chaos.figures import CALM, figures_of
from tests.chaos.forging import LATE, Forge
from tests.chaos.history import Fault, Recorder


def enough(forge: Forge) -> None:
    """So many operations that a run can be judged: writes of half a second, reads of a tenth."""
    rows = []
    for number in range(ACKNOWLEDGED_MIN):
        ref = f"many{number}"
        made = forge.write("add", 10 + number, 10.5 + number, refs=ref)
        rows.append(forge.seen(ref, made))
        forge.read("recall", 10.6 + number, rows[-1:], refs=ref)
    forge.end(*rows)


def saved(forge: Forge, path: Path) -> Path:
    """The history as a file."""
    with path.open("wb") as file:
        recorder = Recorder(file)
        for event in forge.recorder.events:
            recorder.add(event)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_nothing_wrong_is_0(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge = Forge()
    enough(forge)
    chart = path.with_suffix(".png")
    assert command.main(["--from-history", str(saved(forge, path)), "--plot", str(chart)]) == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "lost 0, resurrected 0" in capsys.readouterr().out


def test_a_violation_is_1(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge = Forge()
    enough(forge)
    forge.write("add", 1, 2)
    assert command.main(["--from-history", str(saved(forge, path)), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["counts"]["lost"] == 1
    assert [one["is_reached"] for one in found["figures"] if one["what"] == "lost"] == [False]


def test_what_cannot_be_judged_is_3(path: Path) -> None:
    assert command.main(["--from-history", str(saved(Forge(), path))]) == 3


@pytest.mark.parametrize("arguments", [["--faults", "kill everything"], ["--from-history", "/no"]])
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert command.main(arguments) == 2


def test_unknown_options_are_2() -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--fault", "kill peer"])
    assert ended.value.code == 2


def test_the_beginning_of_a_name_means_all_with_it() -> None:
    assert chosen("kill, link down") == ["kill peer", "kill nats", "kill gateway", "link down"]
    assert chosen("kill peer + freeze nats") == ["kill peer+freeze nats"]
    assert set(MIXES["full"]) == set(FAULTS)


def test_one_seed_gives_one_order_and_every_fault_has_its_turn() -> None:
    names = list(FAULTS)
    first, second = (
        list(islice(sequence(names, random.Random(7)), 2 * len(names))) for _ in range(2)
    )
    assert first == second
    assert {name for name, _ in first[: len(names)]} == set(names)
    for name, (targets,) in first:
        assert set(targets) <= set(FAULTS[name][1])


def test_of_several_together_each_has_its_targets() -> None:
    name, targets = next(sequence(["kill peer+gone two nats"], random.Random(7)))
    assert name == "kill peer+gone two nats"
    assert [len(one) for one in targets] == [1, 2]


def test_requests_belong_to_the_fault_that_they_met_first() -> None:
    """Two faults; one write hangs from the first into the second, one is refused under it."""
    forge = Forge()
    enough(forge)
    forge.add(
        Fault(at=40, kind="freeze peer", targets=["peer-1"], began=31, taken_back=36, ready=36.5)
    )
    forge.add(Fault(at=50, kind="kill nats", targets=["nats-1"], began=41, taken_back=41, ready=42))
    forge.write("add", 35, 45, "unknown", refs="hung")
    forge.write("add", 41.5, 41.7, "fail", refs="refused", status=503)
    history = forge.recorder.history()
    found = figures_of(history, judge(history))
    freeze, kill = found.suffered
    assert (freeze.lines["writes"].unknown, kill.lines["writes"].unknown) == (1, 0)
    assert (freeze.requests_s, freeze.ready_s) == (14, 0.5)
    assert kill.lines["writes"].refused == 1
    assert kill.requests_s == pytest.approx(0.7)
    assert found.by_kind[CALM]["writes"].availability == 1.0
    total = found.lines["writes"]
    assert (total.total, total.served) == (ACKNOWLEDGED_MIN + 2, ACKNOWLEDGED_MIN)
    assert total.nines == pytest.approx(1.04, abs=0.01)
    assert all(one.ended < LATE for one in history.operations if one.invoke.op == "add")
