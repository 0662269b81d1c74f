"""`scripts/bench scale` from end to end, in small: a store that is filled beside the API, a peer
that starts on it, recalls in every scope, and each figure told. What the figures are means nothing
here; how far approximate search agrees with exact search has a test in tests/unit/bench."""

from __future__ import annotations

import json

import pytest

from tests.bench import scale

MEMORIES, USERS, LARGE, MIDDLE, SMALL = 600, 40, 200, 40, 5


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "MIDDLE", MIDDLE)
    monkeypatch.setattr(scale, "SMALL", SMALL)
    monkeypatch.setattr(scale, "RECALLS", 20)


def test_each_figure_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--memories", str(MEMORIES), "--users", str(USERS), "--large", str(LARGE)]
    assert scale.main([*arguments, "--json"]) == 0
    figures = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert figures["memories"]["value"] == MEMORIES
    assert figures["scopes"]["value"] == figures["loaded scopes"]["value"] == USERS
    # Processor time comes in ticks of 10 ms, and a peer that holds so little is hardly larger.
    coarse = ("processor time of the peer", "times reckoned")
    assert all(one["value"] > 0 for name, one in figures.items() if not name.endswith(coarse))
    recalls = {
        f"recall in a scope of {size}, {what}"
        for size in (SMALL, MIDDLE, LARGE)
        for what in (
            "p50", "p95", "the peer's own share, p50", "processor time of the peer",
            "p50 times a raw request's",
        )
    }  # fmt: skip
    assert set(figures) == recalls | {
        "memories",
        "scopes",
        "filling the store",
        "store per memory",
        "first answer after the start of the process",
        *(f"first touch of a scope of {size}, median" for size in (SMALL, MIDDLE, LARGE)),
        "resident, all scopes asked once",
        "resident, the most ever",
        "loaded scopes",
        "loaded scopes take, as reckoned",
        "answers and memories that are kept take, as reckoned",
        "resident above an idle peer's, times reckoned",
    }
    assert {one["goal"] for one in figures.values()} >= {"5 s", "2,500 MB", "5 ms", "1 ms"}
    most = figures["resident, the most ever"]["value"]
    assert 50 < figures["resident, all scopes asked once"]["value"] <= most < 2_500


def test_too_few_memories_are_refused_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        scale.main(["--memories", "100", "--users", "40", "--large", str(LARGE)])
    assert ended.value.code == 2
    assert "100 memories are too few for these scopes" in capsys.readouterr().err
