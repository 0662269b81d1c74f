"""Recall as a whole, over the fake store and the real index."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from memsync import limits
from memsync.core.recall import calibration
from memsync.engine.recall.pipeline import SEARCHES_MAX
from memsync.errors import Unavailable
from memsync.ids import ScopeKey, scope_key
from memsync.ports import Hit, Question, Store
from memsync.wire import codec
from memsync.wire.operations import Purge, Update
from memsync.wire.replies import QueryAnswer
from memsync.wire.requests import QueryFilters, format_moment
from tests.conditions import eventually
from tests.fakes.memories import NOW_MS, SCOPE, create, frame
from tests.fakes.recall_bench import Bench, LetterModel, bench, texts
from tests.fakes.store import MemoryStore


async def test_a_question_is_answered() -> None:
    async with bench(LetterModel()) as b:
        await b.write(
            create("tea", "Green tea every morning", identifier=5, session_id="s"),
            create("car", "The car is blue", identifier=6, occurred_at_ms=NOW_MS - 86_400_000),
        )
        answer = await b.ask("What colour is the car?", session_id="s", computation_tier="high")
    assert texts(answer)[0] == "The car is blue"
    best = answer.memories[0]
    assert (best.id, best.end_user_id) == (6, "ada")
    assert 0 < best.score <= 1
    assert best.scoring["bm25"] > 0
    assert answer.context.splitlines()[0] == "- [2026-05-27] The car is blue"
    assert 0 < answer.confidence <= 1
    assert (answer.degraded, answer.degraded_components) == (False, [])
    assert (answer.session_id, answer.query_intent) == ("s", "factual")
    assert answer.query_id.startswith("q_")
    assert (answer.sla_target_ms, answer.sla_met) == (2_000, True)
    assert answer.freshness.source == "peer"
    assert not answer.truncated


async def test_writes_appear_and_disappear() -> None:
    async with bench() as b:
        assert texts(await b.ask("car")) == []
        made = create("car", "The car is blue")
        await b.write(made)
        assert texts(await b.ask("car")) == ["The car is blue"]
        await b.write(Update(made.record, SCOPE, "memory", {"deleted": codec.pack(True)}))
        assert texts(await b.ask("car")) == []


async def test_what_went_between_search_and_reading_does_not_appear() -> None:
    async with bench() as b:
        made = create("car", "The car is blue")
        await b.write(made, create("cart", "A cart for the car"))
        assert len((await b.ask("car")).memories) == 2
        gone = Purge(made.record, SCOPE, "memory")
        await b.store.apply([frame(gone, sequence=99)], {})  # the index has not heard of it
        assert texts(await b.ask("car")) == ["A cart for the car"]


async def test_other_users_see_nothing() -> None:
    async with bench() as b:
        await b.write(create("car", "The car is blue"))
        for part in ({"end_user": "ben"}, {"environment": "staging"}, {"project": "p"},
                     {"organisation": 8}):  # fmt: skip
            scope = msgspec.structs.replace(SCOPE, **part)
            assert texts(await b.ask("car", scope=scope)) == []


@pytest.mark.parametrize(("k", "count"), [(0, 1), (-3, 1), (2, 2), (500, 60)])
async def test_k_is_clamped(k: int, count: int) -> None:
    async with bench() as b:
        await b.write(*[create(f"m{i}", f"car {i}", identifier=i) for i in range(60)])
        assert len((await b.ask("car", k=k)).memories) == min(count, limits.RECALL_K_MAX)


async def test_filters_reach_the_search() -> None:
    async with bench() as b:
        await b.write(create("a", "car", tags=["x"]), create("b", "car car"))
        assert texts(await b.ask("car", filters=QueryFilters(tags=["x"]), k=1)) == ["car"]


async def test_dates_are_relative_to_the_moment_that_the_question_gives() -> None:
    day_ms = 86_400_000
    async with bench() as b:
        for n in range(20):
            occurred_at_ms = NOW_MS - n * day_ms
            await b.write(create(f"m{n}", f"car {n}", identifier=n, occurred_at_ms=occurred_at_ms))
        asked = {"": 3, format_moment(NOW_MS - 9 * day_ms): 12}
        for now, n in asked.items():
            answer = await b.ask("car three days ago", now=now or None)
            assert texts(answer)[0] == f"car {n}"


async def test_confidence_follows_what_is_found() -> None:
    async with bench() as b:
        await b.write(*[create(f"c{i}", f"plain car {i}", identifier=i) for i in range(20)])
        await b.write(create("tea", "Ada drinks green tea from Uji", identifier=99))
        sure = await b.ask("Which green tea does Ada drink?")
        half = await b.ask("Which green tea did Ben pour over pancakes on holiday?")
        lost = await b.ask("zebra crossing marmalade")
    assert sure.confidence > half.confidence > lost.confidence
    assert sure.confidence > 0.9
    assert lost.confidence < 0.05
    assert sure.degraded_components == ["embedding"]


async def test_a_calibration_that_fails_leaves_raw_scores_and_is_tagged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "BASE", math.nan)
    async with bench(LetterModel()) as b:
        await b.write(create("tea", "green tea"), create("car", "car", identifier=2))
        answer = await b.ask("green tea with milk")
    assert (answer.degraded, answer.degraded_components) == (True, ["calibration"])
    assert texts(answer)[0] == "green tea"
    assert 0 < answer.confidence < 1


async def test_without_an_embedder_recall_is_lexical_and_tagged() -> None:
    async with bench(None) as b:
        await b.write(create("car", "The car is blue"))
        answer = await b.ask("car", degraded=["replication"])
    assert texts(answer) == ["The car is blue"]
    assert answer.degraded
    assert answer.degraded_components == ["embedding", "replication"]


@pytest.mark.parametrize("error", [Unavailable("down"), ValueError("odd")])
async def test_a_failing_embedder_costs_no_answer(error: Exception) -> None:
    model = LetterModel()
    model.error = error
    async with bench(model) as b:
        await b.write(create("car", "The car is blue"))
        answer = await b.ask("car")
        assert texts(answer) == ["The car is blue"]
        assert answer.degraded_components == ["embedding"]
        model.error = None
        assert (await b.ask("car")).degraded_components == []


async def test_a_hanging_embedder_costs_its_share_of_the_time() -> None:
    model = LetterModel()
    model.hangs = True
    async with bench(model) as b:
        await b.write(create("car", "The car is blue"))
        await b.ask("car", within_s=0.05)  # loads the scope
        answer = await b.ask("car", within_s=0.1)
    assert texts(answer) == ["The car is blue"]
    assert answer.degraded_components == ["embedding"]
    assert answer.latency_ms < 90


async def test_a_question_is_embedded_once() -> None:
    model = LetterModel()
    async with bench(model) as b:
        for query in ("car", "tea", "car", "tea"):
            await b.ask(query)
    assert model.asked == ["car", "tea"]


async def vectors_of(b: Bench, text: str) -> set[str]:
    """What embedding a question lacks."""
    lacking: set[str] = set()
    await b.embedding.of_question(
        text, organisation=7, models=(), until_s=b.clock.steady_s() + 1, lacking=lacking
    )
    return lacking


async def test_the_question_cache_lets_the_longest_unused_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "QUERY_CACHE_ENTRIES", 2)
    model = LetterModel()
    b = Bench(model)
    for text in ("a", "b", "a", "c", "a", "b"):
        await vectors_of(b, text)
    assert model.asked == ["a", "b", "c", "b"]


async def test_a_question_without_a_known_word_is_not_degraded() -> None:
    async with bench(LetterModel()) as b:
        await b.write(create("car", "The car is blue"))
        answer = await b.ask("123")
    assert answer.degraded_components == []


async def test_an_empty_question_is_answered_with_what_is_recent() -> None:
    async with bench(LetterModel()) as b:
        await b.write(*[create(f"m{i}", f"car {i}", at_ms=NOW_MS + i) for i in range(3)])
        answer = await b.ask("")
    assert texts(answer) == ["car 2", "car 1", "car 0"]
    assert answer.query_intent == "browse"


async def test_two_at_once_share_one_load() -> None:
    async with bench() as b:
        await b.store.apply([frame(create("car", "The car is blue"))], {})
        b.store.gate.clear()
        asking = [asyncio.create_task(b.ask("car")) for _ in range(3)]
        await b.store.loading.wait()
        b.store.gate.set()
        answers = await asyncio.gather(*asking)
        assert b.store.loads == 1
        assert [texts(answer) for answer in answers] == [["The car is blue"]] * 3


async def test_a_load_that_takes_longer_goes_on_behind_an_empty_answer() -> None:
    async with bench(LetterModel()) as b:
        await b.store.apply([frame(create("car", "The car is blue"))], {})
        b.store.gate.clear()
        answer = await b.ask("car", within_s=0.02)
        assert (answer.memories, answer.degraded_components) == ([], ["search"])
        b.store.gate.set()

        async def is_loaded() -> bool:
            return b.index.is_loaded(scope_key(SCOPE))

        await eventually(is_loaded, "the load that nobody waits for ends")
        assert texts(await b.ask("car")) == ["The car is blue"]
        assert b.store.loads == 1


@pytest.mark.parametrize("evictions", [1, 2, 3, 100])
async def test_a_scope_that_goes_before_it_is_searched_is_loaded_again(
    evictions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The load of another scope, in its thread, evicts it. Empty and untagged would be a lie."""
    async with bench(LetterModel()) as b:
        await b.write(create("car", "The car is blue"))
        await b.ask("car")
        search, left = b.index.search, [None] * evictions

        def evicted(scope: ScopeKey, question: Question, *told: Any) -> list[Hit]:
            if left:
                left.pop()
                b.index.drop(scope)
            return search(scope, question, *told)

        monkeypatch.setattr(b.index, "search", evicted)
        answer = await b.ask("car")
        if evictions < SEARCHES_MAX:
            assert (texts(answer), answer.degraded_components) == (["The car is blue"], [])
        else:
            assert (answer.memories, answer.degraded_components) == ([], ["search"])
            assert len(left) == evictions - SEARCHES_MAX


async def test_what_was_used_last_is_loaded_at_the_start() -> None:
    async with bench(runs=False) as b:
        await b.store.apply([frame(create("car", "The car is blue"))], {})
        running = asyncio.create_task(b.recall.run())

        async def is_loaded() -> bool:
            return b.index.is_loaded(scope_key(SCOPE))

        await eventually(is_loaded, "the scope is loaded though nobody asked")
        running.cancel()
        await asyncio.wait({running})


async def test_writes_during_a_load_are_found() -> None:
    async with bench() as b:
        b.store.gate.clear()
        asking = asyncio.create_task(b.ask("car"))
        await b.store.loading.wait()
        await b.write(create("car", "The car is blue"))
        b.store.gate.set()
        assert texts(await asking) == ["The car is blue"]


async def test_a_failing_store_is_tagged_and_tried_again() -> None:
    async with bench(LetterModel()) as b:
        await b.store.apply([frame(create("car", "The car is blue"))], {})
        b.store.error = Unavailable("disk")
        answer = await b.ask("car")
        assert (answer.memories, answer.degraded_components) == ([], ["search"])
        b.store.error = None
        assert texts(await b.ask("car")) == ["The car is blue"]


async def test_a_store_that_cannot_read_the_texts_is_tagged() -> None:
    async with bench(LetterModel()) as b:
        await b.write(create("car", "The car is blue"))
        await b.ask("car")
        b.store.error = Unavailable("disk")
        answer = await b.ask("car")
    assert (answer.memories, answer.degraded_components) == ([], ["search"])
    assert answer.context == ""
    assert answer.confidence == 0


async def test_before_it_runs_answers_are_empty_and_tagged() -> None:
    async with bench(LetterModel(), runs=False) as b:
        answer = await b.ask("car")
    assert (answer.memories, answer.degraded_components) == ([], ["search"])


async def test_a_cancelled_caller_does_not_end_the_load_of_others() -> None:
    async with bench() as b:
        await b.store.apply([frame(create("car", "The car is blue"))], {})
        b.store.gate.clear()
        first, second = (asyncio.create_task(b.ask("car")) for _ in range(2))
        await b.store.loading.wait()
        first.cancel()
        await asyncio.wait({first})
        b.store.gate.set()
        assert texts(await second) == ["The car is blue"]
        assert first.cancelled()


async def test_a_late_answer_says_so() -> None:
    model = LetterModel()
    async with bench(model) as b:
        embed = model.embed

        async def slow(texts: Sequence[str]) -> NDArray[np.float32]:
            b.clock.ahead_s += 0.2
            return await embed(texts)

        model.embed = slow  # type: ignore[method-assign]
        answer = await b.ask("car", computation_tier="low")
    assert answer.latency_ms > answer.sla_target_ms == 100
    assert not answer.sla_met


async def test_the_context_is_cut_at_whole_memories() -> None:
    async with bench() as b:
        long = "car " * 1_900
        await b.write(*[create(f"m{i}", long + str(i), identifier=i) for i in range(8)])
        answer = await b.ask("car", k=8)
    assert len(answer.memories) == 8
    assert 0 < len(answer.context.encode()) <= limits.CONTEXT_BYTES_MAX
    assert answer.context.count("- [") == 4
    assert not answer.truncated


async def test_an_answer_that_would_be_too_large_is_truncated() -> None:
    async with bench() as b:
        filler = "\U0001f382" * 7_000
        metadata = {"note": "\u00fc" * 8_000}
        await b.write(*[create(f"m{i}", f"car {i} {filler}", metadata=metadata) for i in range(50)])
        whole = await b.ask("car", k=50)
        cut = await ask_within(b, 500_000)
    assert (len(whole.memories), whole.truncated) == (50, False)
    assert 0 < len(cut.memories) < 50
    assert cut.truncated
    assert len(codec.to_json(cut)) < 500_000


async def ask_within(b: Bench, bytes_max: int) -> QueryAnswer:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "ANSWER_BYTES_MAX", bytes_max)
        return await b.ask("car", k=50)


async def test_vectors_for_writes() -> None:
    model = LetterModel()
    recall = Bench(model).recall
    first, nothing = await recall.embed_for_write(["ab", "123"], organisation=7)
    assert first is not None
    assert first.model == "letters"
    assert np.frombuffer(first.values, "<f2")[:2] == pytest.approx([0.7071, 0.7071], abs=1e-3)
    assert nothing is None
    assert await recall.embed_for_write([], organisation=7) == []
    model.error = Unavailable("down")
    assert await recall.embed_for_write(["ab", "cd"], organisation=7) == [None, None]


async def test_a_vector_that_is_no_number_is_none() -> None:
    class BrokenModel(LetterModel):
        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.full((len(texts), 26), np.nan, np.float32)

    assert await Bench(BrokenModel()).recall.embed_for_write(["ab"], organisation=7) == [None]


def test_the_fake_store_is_a_store() -> None:
    store: Store = MemoryStore()
    assert store.incarnation == 1
