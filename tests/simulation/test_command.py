"""`scripts/simulate` itself: which faults are too rare, what it exits with, and its line for a seed
that failed."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec
import pytest

from tests.simulation.breaks import BREAKS
from tests.simulation.command import (
    FAULT_SHARE_MIN,
    FAULT_SHARES_FROM,
    Summary,
    exit_code,
    main,
    report,
)
from tests.simulation.faults import FAULTS, KINDS
from tests.simulation.judge import Violation
from tests.simulation.simulation import Result, simulate

EVENLY = dict.fromkeys(KINDS, 100)
BROKEN, CAUGHT_WITHIN = "drop-tombstones", 20


def summary(**more: Any) -> Summary:
    """Of many seeds that went well."""
    fields: dict[str, Any] = {
        "first": 1, "seeds": FAULT_SHARES_FROM, "break_name": "", "failed": [], "faults": EVENLY,
        "faults_least": FAULTS, "planned": EVENLY, "operations": {}, "outcomes": {},
        "fresh_reads": 0, "tagged_reads": 0, "virtual_s": 0.0, "seconds": 0.0, "digests": {},
    }  # fmt: skip
    return Summary(**(fields | more))


def failed(seed: int) -> Result:
    """A seed in which something was lost."""
    return Result(
        seed=seed, violations=[Violation("lost", "peer-1: m1x")], faults=[], planned=[],
        operations={}, outcomes={}, fresh_reads=0, tagged_reads=0, virtual_s=0.0, callbacks=0,
        digest="",
    )  # fmt: skip


def faults(share: float) -> dict[str, int]:
    """10,000 faults, of which this share are of the first kind."""
    first, *others = KINDS
    count = round(10_000 * share)
    return {first: count} | dict.fromkeys(others, (10_000 - count) // len(others))


def test_a_fault_of_less_than_5_percent_is_too_rare() -> None:
    assert FAULT_SHARE_MIN == 0.05
    assert summary(faults=faults(0.0502)).rare == []
    rare = summary(faults=faults(0.0498))
    assert rare.rare == [KINDS[0]]
    assert exit_code(rare) == 1
    assert f"    too rare: {KINDS[0]}" in report(rare)


def test_a_fault_that_never_took_effect_is_too_rare() -> None:
    without = {kind: count for kind, count in EVENLY.items() if kind != KINDS[3]}
    assert summary(faults=without).rare == [KINDS[3]]


def test_of_few_seeds_shares_say_nothing() -> None:
    few = summary(faults=faults(0.01), seeds=FAULT_SHARES_FROM - 1)
    assert few.rare == []
    assert exit_code(few) == 0


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, 0),
        ({"failed": [failed(17)]}, 1),
        ({"faults_least": FAULTS - 1}, 1),
        ({"break_name": BROKEN, "failed": [failed(17)]}, 0),
        ({"break_name": BROKEN}, 1),
    ],
)
def test_the_exit_code(more: dict[str, Any], code: int) -> None:
    assert exit_code(summary(**more)) == code


def test_the_report_names_each_seed_that_failed_by_the_line_that_shows_it_again() -> None:
    lines = list(report(summary(failed=[failed(17), failed(23)])))
    assert lines[0] == "seed 17: scripts/simulate --seed 17 --trace"
    assert lines[1] == "    lost: peer-1: m1x"
    assert lines[2] == "seed 23: scripts/simulate --seed 23 --trace"
    assert lines[-1] == "2 seeds failed"


def test_the_line_shows_the_same_violations_again(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--break", BROKEN, "--seeds", str(CAUGHT_WITHIN), "--jobs", "1"]
    assert main([*asked, "--json"]) == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Summary)
    [first] = found.failed
    line = next(report(found)).partition(": ")[2]
    program, *arguments = shlex.split(line)
    assert program == "scripts/simulate"
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "client-" in shown  # all that happened
    for violation in first.violations:
        assert f"    {violation.kind}: {violation.what}" in shown
    assert f"{BROKEN}: caught by seed {first.seed}" in shown


def test_a_break_that_no_seed_catches_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A seed without the fault that it takes."""
    name = "trust-a-recreated-stream"
    seed = next(one for one in range(1, 20) if "stream" not in simulate(one).planned)
    assert main(["--break", name, "--seed", str(seed)]) == 1
    assert f"{name}: NOT CAUGHT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["--break", "nothing"], ["--seeds", "0"], ["--jobs", "0"], ["--trace"], ["--sed", "x"]],
)
def test_a_wrong_argument_is_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_the_breaks_of_the_issue_are_all_there() -> None:
    assert {
        "acknowledge-before-cover", "ignore-leases", "serve-after-the-lease", "skip-a-gap",
        "reuse-a-frame-id", "stamp-without-catching-up", "ignore-operation-keys", "split-a-bulk",
        "drop-tombstones", "trust-a-recreated-stream",
    } <= BREAKS.keys()  # fmt: skip
