"""What `scripts/bench scale` measures with: texts by number, a store that is filled, agreement."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from memsync import limits
from memsync.adapters.sqlite.store import open_store
from memsync.ids import Scope, scope_key
from tests.bench import agreement, scale
from tests.bench.corpus import CHUNK, Corpus
from tests.bench.filling import PART, Part, make, parts_of
from tests.fakes.memories import NOW_MS, held

SCOPE = Scope(1, "", "development", "ada")
OTHER = Scope(1, "", "development", "bob")


def test_a_plan_shares_all_memories_out() -> None:
    plan = scale.plan_of(200_000, 100, [100_000])
    assert len(plan.all) == len({user for user, _ in plan.all}) == 100
    assert sum(size for _, size in plan.all) == 200_000
    with pytest.raises(ValueError, match="too few"):
        scale.plan_of(1_000, 100, [100_000])


def test_a_number_is_the_same_text_whoever_asks() -> None:
    corpus = Corpus()
    across = corpus.memories(CHUNK - 2, 4)
    assert across == Corpus().memories(CHUNK - 2, 2) + corpus.memories(CHUNK, 2)
    asked = corpus.question(CHUNK + 1).removeprefix("What did I say about ").rstrip("?")
    assert set(asked.split(" and ")) <= set(across[3].text.split())


def test_parts_cover_each_scope_once() -> None:
    parts = list(parts_of([(SCOPE, PART + 5), (OTHER, 3)], NOW_MS))
    assert [(part.first, part.place, part.count) for part in parts] == [
        (0, 0, PART), (PART, PART, 5), (PART + 5, 0, 3)
    ]  # fmt: skip


async def test_rows_are_what_a_store_takes_and_agreement_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXACT_ROWS_MAX", 1_000)
    async with open_store(tmp_path) as store:
        rows = await asyncio.to_thread(make, Part(SCOPE, 0, 0, 1_500, 1_500, NOW_MS))
        await store.join(rows, [], [], 1)
        assert len(await held(store, scope_key(SCOPE))) == 1_500
        damaged = [key async for part in store.scrub(rows_max=2_000) for key in part.damaged]
        assert damaged == []
        assert await store.recount() == []
    monkeypatch.setattr(agreement, "QUESTIONS", 20)
    found = await agreement.measured(tmp_path, "", SCOPE, 0, k=10)
    assert found.ranked >= 0.95
    assert found.by_cosine >= 0.95
