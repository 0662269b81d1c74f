"""Answers that are kept: what a new recall would say, until anything of the scope changes."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memsync import limits
from memsync.adapters.hot_index import FaissHotIndex
from memsync.core.recall.breaker import FAILURES_TO_OPEN
from memsync.engine.recall import (
    Breakers,
    Embedding,
    Following,
    Reasoning,
    Recall,
    Reembedding,
    Results,
    Shown,
    said_of,
)
from memsync.engine.recall.kept.results import BYTES_PER_JSON_BYTE, Result
from memsync.ids import Scope, ScopeKey, scope_key
from memsync.keeping import Kept
from memsync.ports import Hit
from memsync.wire import codec
from memsync.wire.operations import Attach, Count, Purge, Signal, Update
from memsync.wire.replies import QueryAnswer
from memsync.wire.requests import QueryFilters, QueryRequest
from tests.fakes.memories import NOW_MS, SCOPE, create, frame, key_of, stamp
from tests.fakes.store import MemoryStore

SIGNAL = codec.pack(Signal(stamp(NOW_MS), "positive", None))
OTHER = Scope(7, "", "development", "bob")
QUESTIONS: list[dict[str, Any]] = [
    {"query": "green tea"},
    {"query": "green tea", "k": 2},
    {"query": "what is new?", "weights": {"recency": 1.0, "semantic": 1.0}},
    {"query": "tea", "filters": QueryFilters(tags=["a"])},
    {"query": "tea", "session_id": "s"},
]


class StillClock:
    """Time moves only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def wall_ms(self) -> int:
        return NOW_MS + round(self.now_s * 1000)

    def steady_s(self) -> float:
        return self.now_s


class CountedIndex(FaissHotIndex):
    """Counts searches: who is answered from what is kept makes none."""

    searches = 0
    is_evicting = False  # another scope's load takes the place of each that was searched

    def search(self, scope: ScopeKey, *args: Any, **kwargs: Any) -> list[Hit]:
        self.searches += 1
        hits = super().search(scope, *args, **kwargs)
        if self.is_evicting:
            self.drop(scope)
        return hits


class Fails(Kept[Result]):
    """What is kept, out of order while a test says so."""

    def __init__(self) -> None:
        super().__init__(entries_max=10, bytes_max=1 << 20, age_s_max=limits.RESULTS_AGE_S)
        self.finds = self.keeps = True

    def find(self, key: bytes, now_s: float) -> tuple[Result, float] | None:
        if not self.finds:
            raise OSError("as the test says")
        return super().find(key, now_s)

    def keep(self, key: bytes, value: Result, **named: Any) -> bool:
        if not self.keeps:
            raise OSError("as the test says")
        return super().keep(key, value, **named)


class Bench:
    """A recall that keeps answers, and one beside it that does not."""

    def __init__(self, kept: Kept[Result] | None = None) -> None:
        self.clock = StillClock()
        self.store = MemoryStore()
        self.index = CountedIndex(1 << 30)
        breakers = self.breakers = Breakers(self.clock)
        self.results = Results(self.clock, breakers, kept)
        self.embedding = Embedding([], breakers, self.clock)
        parts = (
            self.store,
            self.index,
            self.embedding,
            Reasoning(None, breakers, self.clock),
            self.clock,
        )
        self.shown = Shown()
        following = Following(results=self.results, shown=self.shown)
        self.recall = Recall(*parts, breakers=breakers, following=following)
        self.plain = Recall(*parts, breakers=breakers)
        self._sequence = 0

    async def write(self, *operations: Any) -> None:
        """Apply a write as the applier does."""
        self._sequence += 1
        at_ms = self.clock.wall_ms() + self._sequence
        written = frame(*operations, sequence=self._sequence, at_ms=at_ms)
        changes = await self.store.apply([written], {})
        self.index.apply(changes)
        self.results.apply(changes)
        self.shown.apply(changes)

    async def ask(
        self, query: str = "green tea", *, recall: Recall | None = None, **fields: Any
    ) -> QueryAnswer:
        scope, degraded = fields.pop("scope", SCOPE), fields.pop("degraded", ("embedding",))
        return await (recall or self.recall).answer(
            scope,
            QueryRequest(query=query, **fields),
            deadline_s=self.clock.steady_s() + 5.0,
            degraded=degraded,  # there is no model here, and everybody knows
        )

    async def is_kept(self, query: str = "green tea", **fields: Any) -> bool:
        """Whether a question is answered without a search."""
        before = self.index.searches
        await self.ask(query, **fields)
        return self.index.searches == before


@asynccontextmanager
async def bench(kept: Kept[Result] | None = None) -> AsyncIterator[Bench]:
    made = Bench(kept)
    running = [asyncio.create_task(one.run()) for one in (made.recall, made.plain)]
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


def tagged(name: str, **registers: Any) -> Update:
    packed = {register: codec.pack(value) for register, value in registers.items()}
    return Update(record=key_of(name), scope=SCOPE, kind="memory", registers=packed)


def added(which: int, number: int, at_ms: int, expires_at_ms: int | None) -> Any:
    """A memory of the plan."""
    return create(
        f"m{which}", f"tea {which}, green as {number}", identifier=which + 1, at_ms=at_ms,
        tags=["a"] if which % 2 else [], session_id="s" if which < 3 else None,
        expires_at_ms=expires_at_ms,
    )  # fmt: skip


def same(one: QueryAnswer, other: QueryAnswer) -> None:
    """Two answers say the same; how recent something is may have moved on by some seconds."""
    assert {m.id: m.score for m in one.memories} == pytest.approx(
        {m.id: m.score for m in other.memories}, abs=1e-4
    )
    assert {m.id: m.tags for m in one.memories} == {m.id: m.tags for m in other.memories}
    assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
    assert sorted(one.context.split("\n")) == sorted(other.context.split("\n"))
    for name in ("degraded", "degraded_components", "query_intent", "session_id", "truncated",
                 "sla_target_ms"):  # fmt: skip
        assert getattr(one, name) == getattr(other, name), name


async def test_the_same_question_is_answered_from_what_is_kept() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea every morning", identifier=5))
        first = await b.ask()
        b.clock.now_s += 2.0
        searches = b.index.searches
        again = await b.ask()
        assert b.index.searches == searches
        same(again, first)
        assert (again.freshness.source, again.freshness.age_ms) == ("peer", 2_000.0)
        assert first.freshness.age_ms == 0.0
        assert again.query_id != first.query_id
        assert again.sla_met


async def test_it_tells_which_records_it_shows() -> None:
    """So that their uses are counted each time."""
    async with bench() as b:
        await b.write(create("tea", "Green tea"), create("sun", "Green sun", identifier=2))
        shown = await b.ask()
        looked = b.results.look(SCOPE, QueryRequest(query="green tea"), set())
        assert looked is not None
        names = {1: "tea", 2: "sun"}
        assert looked.records == tuple(key_of(names[memory.id]) for memory in shown.memories)
        assert len(looked.records) == 2


async def test_it_lives_some_seconds() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask()
        b.clock.now_s += limits.RESULTS_AGE_S - 0.1
        assert await b.is_kept()
        b.clock.now_s += 0.1
        assert not await b.is_kept()


@pytest.mark.parametrize(
    "other",
    [{"k": 6}, {"filters": QueryFilters(source="x")}, {"session_id": "s"}, {"explain": True},
     {"weights": {"recency": 1.0}}, {"computation_tier": "high"}, {"traversal_depth": 3},
     {"scope": OTHER}, {"query": "green teas"}],
    ids=str,
)  # fmt: skip
async def test_another_question_is_another(other: dict[str, Any]) -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask()
        assert not await b.is_kept(**other)


async def test_a_filter_may_ask_for_any_number_of_json() -> None:
    async with bench() as b:
        for number in (2**64, -(2**63) - 1):
            filters = QueryFilters(metadata={"n": number})
            for _ in range(FAILURES_TO_OPEN + 1):
                answer = await b.ask(filters=filters)
                assert answer.degraded_components == ["embedding"]
            assert await b.is_kept(filters=filters)
        assert not await b.is_kept(filters=QueryFilters(metadata={"n": 2**64 + 1}))


async def test_who_asks_and_how_fresh_is_not_part_of_the_question() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask()
        assert await b.is_kept(
            end_user_id="ada", consistency="strong", min_position="0.0.1", user_id="x", tenant_id=1
        )


async def test_it_says_what_lacks_now_and_not_what_lacked_then() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask(degraded=("embedding", "replication"))
        again = await b.ask(degraded=("embedding",))
        assert again.degraded_components == ["embedding"]
        assert again.freshness.age_ms == 0.0
        again = await b.ask(degraded=("embedding", "replication"))
        assert again.degraded_components == ["embedding", "replication"]
        assert b.index.searches == 1


async def test_an_answer_that_lacks_something_of_its_own_is_not_kept() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask(degraded=())  # lacks `embedding`, which nobody said before
        assert not await b.is_kept(degraded=())


@pytest.mark.parametrize(
    "change",
    [create("new", "Green tea, a second one", identifier=9), tagged("tea", deleted=True),
     tagged("tea", tags=["b"]), tagged("tea", tier="warm"), Purge(key_of("tea"), SCOPE, "memory"),
     Attach(key_of("tea"), SCOPE, "memory", {"signals": {"k": SIGNAL}})],
    ids=["new", "forgotten", "tagged", "moved", "purged", "signalled"],
)  # fmt: skip
async def test_every_change_of_the_scope_drops_it(change: Any) -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask()
        await b.write(change)
        assert not await b.is_kept()


async def test_what_is_counted_or_another_scopes_does_not() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask()
        await b.write(create("bob", "Green tea", scope=OTHER, identifier=7))
        await b.write(Count(key_of("tea"), SCOPE, "memory", {"uses": {"1": 1}}, {}))
        assert await b.is_kept()


async def test_an_answer_begun_before_a_change_is_not_kept() -> None:
    async with bench() as b:
        await b.write(create("tea", "Green tea"))
        await b.ask()
        looked = b.results.look(SCOPE, QueryRequest(query="green tea", k=1), set())
        assert looked is not None
        answer = await b.ask(k=1, recall=b.plain)
        await b.write(tagged("tea", deleted=True))
        b.results.keep(looked, Result(answer, (), None), set())
        assert (await b.ask(k=1)).memories == []


async def test_an_answer_whose_scope_was_evicted_meanwhile_outlives_no_expiry() -> None:
    async with bench() as b:
        end_ms = b.clock.wall_ms() + 2_000
        await b.write(create("tea", "Green tea", expires_at_ms=end_ms))
        b.index.is_evicting = True
        assert len((await b.ask()).memories) == 1
        b.clock.now_s += 2.0
        assert (await b.ask()).memories == []


@pytest.mark.parametrize("part", ["finds", "keeps"])
async def test_a_fault_costs_no_answer(part: str) -> None:
    kept = Fails()
    async with bench(kept) as b:
        await b.write(create("tea", "Green tea"))
        setattr(kept, part, False)
        for _ in range(FAILURES_TO_OPEN + 2):
            answer = await b.ask()
            assert [memory.text for memory in answer.memories] == ["Green tea"]
            assert answer.degraded_components == ["embedding", "cache"]
        setattr(kept, part, True)
        assert (await b.ask()).degraded_components == ["embedding", "cache"]  # left alone
        reembedding = Reembedding(b.store, b.embedding, b.clock)
        said = said_of(b.embedding, b.breakers, reembedding)  # as in `memsync status`
        assert "result-cache left alone for 1 organisations" in said
        others = await b.ask(scope=Scope(8, "", "development", "x"))
        assert others.degraded_components == ["embedding"]
        b.clock.now_s += 120.0
        assert (await b.ask()).degraded_components == ["embedding"]
        assert await b.is_kept()


async def test_the_size_is_about_what_an_answer_takes() -> None:
    metadata = {"place": "kitchen", "numbers": [1, 2, 3]}
    sizes = []
    async with bench() as b:
        for n in range(20):
            text = f"Green tea number {n}, " + "and what was said of it " * 8
            await b.write(create(f"m{n}", text, identifier=n + 1, tags=["a"], metadata=metadata))
        answer = await b.ask(k=20)
        data = codec.to_json(answer)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        found = [msgspec.json.decode(data, type=QueryAnswer) for _ in range(50)]
        after, _ = tracemalloc.get_traced_memory()
        sizes.append((after - before) / len(found))
    finally:
        tracemalloc.stop()
    assert 0.4 < sizes[0] / (len(data) * BYTES_PER_JSON_BYTE) < 1.1, sizes[0] / len(data)


steps = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 5), st.sampled_from([None, 1, 4, 9])),
    st.tuples(st.just("forget"), st.integers(0, 5), st.none()),
    st.tuples(st.just("tag"), st.integers(0, 5), st.none()),
    st.tuples(st.just("wait"), st.integers(1, 4), st.none()),
    st.tuples(st.just("ask"), st.integers(0, len(QUESTIONS) - 1), st.none()),
    st.tuples(st.just("ask"), st.integers(0, len(QUESTIONS) - 1), st.none()),
    st.tuples(st.just("evict"), st.just(0), st.none()),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40))
def test_a_kept_answer_is_what_a_new_recall_says(plan: list[tuple[str, int, Any]]) -> None:
    """Over any writes, forgets, expiries and evictions: with and without what is kept, the same."""

    async def scenario() -> None:
        async with bench() as b:
            for number, (step, which, more) in enumerate(plan):
                match step:
                    case "add":
                        end = None if more is None else b.clock.wall_ms() + more * 1000
                        await b.write(added(which, number, b.clock.wall_ms(), end))
                    case "forget":
                        await b.write(tagged(f"m{which}", deleted=True))
                    case "tag":
                        await b.write(tagged(f"m{which}", tags=["a", str(number)]))
                    case "wait":
                        b.clock.now_s += which
                    case "evict":
                        b.index.drop(scope_key(SCOPE))
                    case _:
                        question = QUESTIONS[which]
                        same(await b.ask(**question), await b.ask(recall=b.plain, **question))

    asyncio.run(scenario())
