"""The regression gate: what it lets pass, what it does not, and what it says then."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.bench import __main__ as command
from tests.bench.speed import blocks, gate
from tests.bench.speed.blocks import Block, Figure
from tests.bench.speed.gate import RULES, Baseline, Measured, Rule

RECORDED = {rule.name: 10.0 for rule in RULES}
BASELINE = Baseline(0.0, RECORDED, "2026-11-20")
PROCESSOR = Rule("ours", gate.PROCESSOR, ("a",))
LATENCY = Rule("ours", gate.LATENCY, ("a", "b"))


def figure(name: str, *pairs: tuple[float, float]) -> Figure:
    """Blocks of a hundred operations by (processor milliseconds each, p50 in milliseconds)."""

    async def measure(_seconds: float) -> Block:
        raise AssertionError

    made = [
        Block(
            count=100, seconds=1.0, p50_ms=p50_ms, p95_ms=p50_ms, p99_ms=p50_ms,
            cpu_s={"peer-1": cpu_ms / 20, "nats-1": cpu_ms / 20, "load": 5.0},
        )
        for cpu_ms, p50_ms in pairs
    ]  # fmt: skip
    return blocks.figure(blocks.Case(name, 1, measure), made)


def test_a_ratio_is_of_medians_and_the_load_does_not_count() -> None:
    figures = {
        "ours": figure("ours", (9.0, 21.0), (3.0, 12.0), (6.0, 90.0)),
        "a": figure("a", (0.5, 1.0), (0.1, 9.0), (0.2, 2.0)),
        "b": figure("b", (0.5, 3.0), (0.5, 5.0), (0.5, 9.0)),
        gate.IDLE: figure(gate.IDLE, (0.0, 1.0)),
    }
    assert PROCESSOR.ratio(figures) == pytest.approx(30.0)
    assert LATENCY.ratio(figures) == pytest.approx(3.0)


def test_what_an_idle_cluster_takes_is_not_the_operations() -> None:
    figures = {
        "ours": figure("ours", (5.0, 1.0)),
        "a": figure("a", (2.5, 1.0)),
        gate.PUBLISH_16: figure(gate.PUBLISH_16, (2.5, 1.0)),
        gate.IDLE: figure(gate.IDLE, (2.0, 1.0), (2.0, 1.0), (90.0, 1.0)),
    }  # 100 operations a second: 2 ms each are 0.2 cores
    assert PROCESSOR.ratio(figures) == pytest.approx((5.0 - 2.0) / (2.5 - 2.0))
    idle = Rule(gate.IDLE, gate.PROCESSOR, (gate.PUBLISH_16,))
    assert idle.ratio(figures) == pytest.approx(200.0 / 0.5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_ratio_that_is_worse_fails_alone(
    rule: Rule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A doctored result: the same as recorded but for one operation, which takes longer."""
    slower = RECORDED | {rule.name: 10.0 * rule.margin * 1.01}
    assert run(tmp_path, slower) == 1
    told = capsys.readouterr()
    assert told.out.count("worse:") == 1
    said = f"{rule.name}: {rule.margin * 1.01:.2f} times what was recorded"
    assert said in told.out
    assert f"at most {rule.margin:g} times" in told.out
    assert "scripts/bench gate --record" in told.err


def test_within_the_margins_and_faster_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = {rule.name: 10.0 * rule.margin * 0.99 for rule in RULES}
    assert run(tmp_path, noisy) == 0
    assert run(tmp_path, {rule.name: 1.0 for rule in RULES}) == 0
    assert "worse" not in capsys.readouterr().out


def test_a_ratio_that_nobody_recorded_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = RULES[0].name
    without = Baseline(0.0, {k: v for k, v in RECORDED.items() if k != name}, "2026-11-20")
    assert run(tmp_path, RECORDED, without) == 1
    assert f"{name}: the baseline has no such ratio" in capsys.readouterr().out


def test_the_better_of_two_attempts_counts() -> None:
    first = RECORDED | {RULES[0].name: 99.0}
    second = {rule.name: 11.0 for rule in RULES}
    found = gate.best_of([Measured(0.5, first), Measured(0.1, second)])
    assert found == Measured(0.1, RECORDED | {RULES[0].name: 11.0})


def test_latencies_of_a_busy_machine_are_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = {rule.name: 90.0 if rule.kind == gate.LATENCY else 10.0 for rule in RULES}
    assert run(tmp_path, slower) == 1
    assert run(tmp_path, slower, others=gate.OTHERS_MAX + 0.1) == 0
    assert "latencies are not judged" in capsys.readouterr().out
    assert run(tmp_path, {rule.name: 90.0 for rule in RULES}, others=1.9) == 1


def test_what_is_recorded_is_what_is_judged(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_bytes(msgspec.json.encode(Baseline(0.0, {}, "never")))
    measured = Measured(0.1, {rule.name: 3.14159 for rule in RULES})
    result = tmp_path / "result.json"
    result.write_bytes(msgspec.json.encode(measured))
    arguments = ["gate", "--baseline", str(baseline), "--result", str(result)]
    assert command.main(arguments) == 1
    assert command.main([*arguments, "--record"]) == 0
    assert command.main(arguments) == 0
    kept = msgspec.json.decode(baseline.read_bytes(), type=Baseline)
    assert kept.ratios == {rule.name: 3.142 for rule in RULES}


def test_the_baseline_of_the_repository_has_each_ratio() -> None:
    kept = msgspec.json.decode(gate.BASELINE.read_bytes(), type=Baseline)
    assert kept.ratios.keys() == {rule.name for rule in RULES}
    assert all(ratio > 0.0 for ratio in kept.ratios.values())


def run(
    folder: Path, ratios: dict[str, float], baseline: Baseline = BASELINE, *, others: float = 0.0
) -> int:
    """The exit code of the command for ratios that were measured earlier."""
    kept, result = folder / "baseline.json", folder / "result.json"
    kept.write_bytes(msgspec.json.encode(baseline))
    result.write_bytes(msgspec.json.encode(Measured(others, ratios)))
    return command.main(["gate", "--baseline", str(kept), "--result", str(result)])
