"""`scripts/bench` on real clusters: each case is answered as it should be, each line gets its
figure, and a gate that finds the product slower says so. Blocks are as short as they can be, so the
figures themselves mean nothing here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import uvloop

from tests.bench.speed import (
    blocks,
    cases,
    catching_up,
    gate,
    goals,
    growth,
    machine,
    rig,
    standing,
)
from tests.bench.speed.gate import Baseline, Measured
from tests.system.conftest import Cluster

BLOCK_S = 0.1
SIZES = {"bench-a": 100, "bench-b": 100}


def told(_message: str) -> None:
    """Nobody looks."""


def test_each_case_is_answered_and_each_line_has_its_figure(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    cluster = own_cluster  # what a copy grows by is told by the files of one that is new

    async def measure() -> dict[str, blocks.Figure]:
        async with rig.opened(cluster, web_connections=64) as loaded:
            await loaded.make_keys()
            before, content = standing.disk_of(cluster), standing.content_of(SIZES)
            await loaded.fill(SIZES, told)
            disk = standing.disk_lines(before, standing.disk_of(cluster), content)
            await loaded.warm(list(SIZES), told)
            await loaded.wait_built(0, told)
            made = cases.Cases(loaded, None, tmp_path)
            users = list(SIZES)
            chosen = [
                *made.limits([100]), *made.write(), *made.recall(users), *made.http(users),
                *made.sizes({100: "bench-a"}),
            ]  # fmt: skip
            once = cases.once_each(chosen)
            assert len({one.name for one in chosen}) == len(once)
            watch = machine.Watch(loaded.usage)
            found = await blocks.in_turns(once, rounds=1, seconds=BLOCK_S, told=told)
            assert watch.noise().others is not None
            resident = standing.memory_lines(loaded, content)
            assert all(line.value is not None and line.value > 0 for line in [*disk, *resident])
        return found

    figures = uvloop.run(measure())
    for name, figure in figures.items():
        assert 0 < figure.p50_ms <= figure.p95_ms <= figure.p99_ms, name
    assert figures[cases.ADD].cpu_ms.keys() == {*rig.PROCESSES, "load"}
    lines = goals.lines_of(figures)
    unmeasured = {line.measure for line in lines if line.value is None}
    assert unmeasured == {line.measure for line in lines if line.note == goals.NO_POSTGRES}
    assert len(lines) - len(unmeasured) == 7


def test_an_idle_cluster_takes_something(cluster: Cluster) -> None:
    (line,) = uvloop.run(standing.idle_lines(cluster, 0, told, seconds=1.0))
    assert line.value is not None
    assert 0.0 < line.value < 200.0


def test_a_peer_that_was_away_and_one_that_lost_its_store(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    async def measure() -> list[goals.Line]:
        async with rig.opened(own_cluster) as loaded:
            found = await catching_up.lines(loaded, 300, tmp_path, told)
            await loaded.fill(catching_up.scopes_to_rebuild(300), told)
            return [*found, *await catching_up.rebuilt_lines(loaded, 600, told)]

    own_cluster.wait_ready()
    lines = uvloop.run(measure())
    assert [line.unit for line in lines] == ["/s", "s", "s"]
    assert all(line.figure is not None and line.figure > 0.0 for line in lines)
    assert "has 600 memories" in lines[-1].measure
    own_cluster.wait_ready()


def test_few_and_many_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "ROUNDS", 2)
    monkeypatch.setattr(growth, "COUNT", 5)
    warm, touch = uvloop.run(growth.lines(tmp_path, 12, told))
    assert warm.ratio is not None
    assert touch.figure is not None
    assert touch.figure > 0.0


def test_the_gate_passes_what_is_as_recorded_and_fails_what_is_slower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("ROUNDS", 1), ("SECONDS", BLOCK_S), ("USERS", 2), ("MEMORIES", 50)):
        monkeypatch.setattr(gate, name, value)
    baseline = tmp_path / "baseline.json"
    generous = {rule.name: 1e6 for rule in gate.RULES}
    baseline.write_bytes(msgspec.json.encode(Baseline(0.0, generous, "never")))
    assert gate.main(["--baseline", str(baseline), "--json"]) == 0
    result = tmp_path / "result.json"
    result.write_text(capsys.readouterr().out)
    measured = msgspec.json.decode(result.read_bytes(), type=Measured)
    assert measured.ratios.keys() == generous.keys()
    faster = {name: ratio / 10 for name, ratio in measured.ratios.items()}
    baseline.write_bytes(msgspec.json.encode(Baseline(0.0, faster, "never")))
    assert gate.main(["--baseline", str(baseline), "--result", str(result)]) == 1
    assert "10.00 times what was recorded" in capsys.readouterr().out
