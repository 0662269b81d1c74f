"""A provider behind real HTTP that goes wrong: the answer is in time, exact in what it lacks, and
the breaker keeps to its organisation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from memsync import limits
from memsync.adapters.models.endpoint import Endpoint, EndpointEmbedder, EndpointReasoner
from memsync.core.recall.breaker import COOLDOWN_S, FAILURES_TO_OPEN
from memsync.engine.recall import Provider
from memsync.ids import Scope
from memsync.wire.operations import Vector
from tests.conditions import eventually
from tests.fakes.memories import SCOPE, create
from tests.fakes.model_server import FAULTS, ModelServer, serving
from tests.fakes.recall_bench import Bench, LetterModel, bench, letters, texts

pytestmark = pytest.mark.real_time

CAR, TEA = "The car is blue", "Green tea every morning"
QUICK = tuple(fault for fault in FAULTS if fault not in ("hangs", "drips", "drips header"))

# A chat model sends no numbers.
OF_NUMBERS = (
    "wrong dimensions", "wrong count", "wrong indexes", "nan", "infinite", "null", "strings",
)  # fmt: skip


def vector_of(text: str, model: str = "letters") -> Vector:
    return Vector(model, letters([text])[0].astype("<f2").tobytes())


def provider_of(endpoint: Endpoint, name: str = "remote", model: str = "letters") -> Provider:
    return Provider(name=name, embedder=EndpointEmbedder(endpoint, model, 26), timeout_s=1.0)


@asynccontextmanager
async def endpoint_of(server: ModelServer, name: str = "remote") -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(name, server.url, {"Authorization": "Bearer k"}, 1.0)
    try:
        yield endpoint
    finally:
        await endpoint.close()


@asynccontextmanager
async def remote_bench(behaviour: str, **options: Any) -> AsyncIterator[tuple[Bench, ModelServer]]:
    """A recall whose one provider is behind a server, with a scope that is loaded."""
    async with (
        serving(behaviour) as server,
        endpoint_of(server) as endpoint,
        bench(providers=[provider_of(endpoint)], **options) as b,
    ):
        b.tier = "high"  # this machine may be busy
        await b.write(
            create("car", CAR, vector=vector_of(CAR)), create("tea", TEA, vector=vector_of(TEA))
        )
        await b.recall._loader.ensure(b.key_of(SCOPE), deadline_s=b.clock.steady_s() + 5)
        yield b, server


async def test_a_provider_that_is_well_is_asked_with_the_key_and_lacks_nothing() -> None:
    async with remote_bench("well") as (b, server):
        answer = await b.ask("car")
        again = await b.ask("car")
        assert (texts(answer)[0], answer.degraded_components) == (CAR, [])
        assert again.degraded_components == []
        assert answer.memories[0].scoring["cosine"] == pytest.approx(
            float(letters(["car"])[0] @ letters([CAR])[0]), abs=1e-3
        )
        assert server.asked == ["car"]  # then the cache had it
        assert server.paths == ["/v1/embeddings"]
        assert server.keys == ["Bearer k"]
        assert await b.recall.embed_for_write([TEA, CAR], organisation=7) == [
            vector_of(TEA), vector_of(CAR)
        ]  # in the order of the texts, though the server answers backwards  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_goes_wrong_the_answer_is_in_time_and_by_words(fault: str) -> None:
    async with remote_bench(fault) as (b, server):
        answer = await b.ask("car")
        assert texts(answer)[0] == CAR
        assert answer.degraded_components == ["embedding"]
        assert answer.degraded
        assert answer.sla_met, answer.latency_ms
        assert "cosine" not in answer.memories[0].scoring
        server.behaviour = "well"
        assert (await b.ask("car")).degraded_components == []


@pytest.mark.parametrize("tier", ["low", "medium", "high"])
async def test_a_provider_that_hangs_costs_its_share_of_the_budget(tier: str) -> None:
    async with remote_bench("hangs") as (b, _):
        answer = await b.ask("car", computation_tier=tier)
    assert answer.degraded_components == ["embedding"]
    assert answer.sla_met
    budget_ms = limits.RECALL_BUDGET_MS[tier]
    assert answer.sla_target_ms == budget_ms
    assert 0.3 * budget_ms < answer.latency_ms <= budget_ms


async def test_a_server_that_is_not_there_is_a_failure() -> None:
    async with serving() as server:
        pass
    async with endpoint_of(server) as endpoint, bench(providers=[provider_of(endpoint)]) as b:
        await b.write(create("car", CAR))
        answer = await b.ask("car")
    assert (texts(answer), answer.degraded_components) == ([CAR], ["embedding"])


@pytest.mark.parametrize("fault", ["hangs", "500", "wrong dimensions"])
async def test_the_breaker_opens_for_one_organisation_and_closes_by_itself(fault: str) -> None:
    other = Scope(8, "", "development", "bob")
    async with remote_bench(fault) as (b, server):
        await b.write(create("boat", "The boat is red", scope=other, vector=vector_of("x")))
        for number in range(FAILURES_TO_OPEN):
            tier = "medium" if fault == "hangs" else "high"
            await b.ask(f"car {number}", computation_tier=tier)
        assert b.breakers.troubled() == {"remote": {"open": 1}}
        asked = len(server.asked)
        assert asked == FAILURES_TO_OPEN
        answer = await b.ask("car again")
        assert answer.degraded_components == ["embedding"]
        assert len(server.asked) == asked  # left alone
        assert (await b.ask("boat", scope=other)).degraded_components == ["embedding"]
        assert len(server.asked) == asked + 1  # the other organisation's is closed
        server.behaviour = "well"
        b.clock.ahead_s += COOLDOWN_S - 1
        assert (await b.ask("car still")).degraded_components == ["embedding"]
        b.clock.ahead_s += 1
        assert (await b.ask("car at last")).degraded_components == []
        assert b.breakers.troubled() == {}
        assert (await b.ask("car and more")).degraded_components == []


async def test_a_probe_that_fails_doubles_the_cooldown() -> None:
    async with remote_bench("500") as (b, server):
        for number in range(FAILURES_TO_OPEN):
            await b.ask(f"car {number}")
        b.clock.ahead_s += COOLDOWN_S
        await b.ask("probe")
        assert server.asked[-1] == "probe"
        server.behaviour = "well"
        b.clock.ahead_s += 2 * COOLDOWN_S - 1
        assert (await b.ask("too early")).degraded_components == ["embedding"]
        b.clock.ahead_s += 1
        assert (await b.ask("now")).degraded_components == []


async def test_short_waits_are_not_held_against_a_slow_provider() -> None:
    """All that a recall of tier low can wait is 40 ms; that says nothing for the other tiers."""
    async with remote_bench("hangs") as (b, server):
        for number in range(FAILURES_TO_OPEN + 1):
            await b.ask(f"car {number}", computation_tier="low")
        server.behaviour = "well"
        assert (await b.ask("car")).degraded_components == []


@pytest.mark.parametrize("fault", QUICK)
async def test_a_second_endpoint_of_the_same_model_takes_the_primarys_place(fault: str) -> None:
    async with (
        serving(fault) as first,
        serving() as second,
        endpoint_of(first) as primary,
        endpoint_of(second, "spare") as spare,
        bench(providers=[provider_of(primary), provider_of(spare, "spare")]) as b,
    ):
        b.tier = "high"
        await b.write(create("car", CAR, vector=vector_of(CAR)))
        answer = await b.ask("car")
        assert answer.degraded_components == []
        assert answer.memories[0].scoring["cosine"] > 0
        assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_the_second_is_asked_beside_a_primary_that_hangs() -> None:
    async with (
        serving("hangs") as first,
        serving() as second,
        endpoint_of(first) as primary,
        endpoint_of(second, "spare") as spare,
        bench(providers=[provider_of(primary), provider_of(spare, "spare")]) as b,
    ):
        b.tier = "high"
        await b.write(create("car", CAR, vector=vector_of(CAR)))
        for number in range(FAILURES_TO_OPEN):
            answer = await b.ask(f"car {number}")
            assert answer.degraded_components == []
            assert answer.sla_met
        assert b.breakers.troubled() == {"remote": {"open": 1}}
        await b.ask("car now")
        assert len(first.asked) == FAILURES_TO_OPEN


async def test_another_model_helps_those_memories_that_carry_its_vectors() -> None:
    other = LetterModel("other")
    async with (
        serving("500") as server,
        endpoint_of(server) as endpoint,
        bench(providers=[provider_of(endpoint), Provider(name="spare", embedder=other)]) as b,
    ):
        b.tier = "high"
        await b.write(
            create("car", CAR, vector=vector_of(CAR)),
            create("tea", TEA, vector=vector_of(TEA, "other")),
        )
        answer = await b.ask("tea car")
        assert answer.degraded_components == ["embedding"]  # the car could not be compared
        scoring = {memory.text: memory.scoring for memory in answer.memories}
        assert "cosine" in scoring[TEA]
        assert "cosine" not in scoring[CAR]
        assert other.asked == ["tea car"]
        server.behaviour = "well"
        answer = await b.ask("tea car")
        assert answer.degraded_components == []
        assert all("cosine" in memory.scoring for memory in answer.memories)


async def test_the_other_model_is_not_asked_for_nothing() -> None:
    other = LetterModel("other")
    async with (
        serving() as server,
        endpoint_of(server) as endpoint,
        bench(providers=[provider_of(endpoint), Provider(name="spare", embedder=other)]) as b,
    ):
        b.tier = "high"
        await b.write(create("car", CAR, vector=vector_of(CAR)))
        assert (await b.ask("car")).degraded_components == []
    assert other.asked == []


async def test_vectors_of_a_model_that_nobody_has_are_named_as_lacking() -> None:
    async with bench(LetterModel()) as b:
        await b.write(
            create("car", CAR, vector=vector_of(CAR)),
            create("tea", TEA, vector=vector_of(TEA, "gone")),
        )
        assert (await b.ask("tea")).degraded_components == ["embedding"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_write_takes_the_first_answer(fault: str) -> None:
    async with (
        serving(fault) as server,
        endpoint_of(server) as endpoint,
        bench(
            providers=[
                provider_of(endpoint),
                Provider(name="static", embedder=LetterModel("static"), is_inline=True),
            ]
        ) as b,
    ):
        began_s = b.clock.steady_s()
        assert await b.recall.embed_for_write([CAR], organisation=7) == [vector_of(CAR, "static")]
        assert b.clock.steady_s() - began_s < limits.EMBED_TIMEOUT_S
        server.behaviour = "well"

        async def is_well() -> bool:
            return await b.recall.embed_for_write([CAR], organisation=7) == [vector_of(CAR)]

        await eventually(is_well, "the provider's vectors again")


async def test_too_slow_for_writes_is_not_too_slow_for_recalls() -> None:
    """A write waits 0.15 s, a recall of tier high 0.8 s. Writes leave alone what is too slow for
    them, and recalls get its vectors."""

    class TakesTime(LetterModel):
        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            self.asked += texts
            await asyncio.sleep(0.25)  # the provider's own slowness, not a wait of the test
            return letters(texts)

    slow = TakesTime()
    static = Provider(name="static", embedder=LetterModel("static"), is_inline=True)
    async with bench(providers=[Provider(name="remote", embedder=slow), static]) as b:
        await b.write(create("car", CAR, vector=vector_of(CAR)))
        for _ in range(FAILURES_TO_OPEN + 1):
            stored = await b.recall.embed_for_write([CAR], organisation=7)
            assert stored == [vector_of(CAR, "static")]
        assert len(slow.asked) == FAILURES_TO_OPEN
        assert b.breakers.troubled() == {"remote for writes": {"open": 1}}
        answer = await b.ask("car", computation_tier="high")
        assert answer.degraded_components == []
        assert answer.memories[0].scoring["cosine"] > 0


async def test_a_write_takes_what_is_ready_and_leaves_the_rest_for_later() -> None:
    """A model in this process that is slow: no breaker opens, and nobody waits long."""

    class Slow(LetterModel):
        async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            self.asked += texts
            if len(self.asked) > 4:
                await asyncio.Event().wait()
            return letters(texts)

    slow = Provider(name="slow", embedder=Slow("slow"), is_local=True, batch=2)
    static = Provider(name="static", embedder=LetterModel("static"), is_inline=True)
    async with bench(providers=[slow, static]) as b:
        for _ in range(FAILURES_TO_OPEN + 1):
            slow.embedder.asked.clear()  # type: ignore[attr-defined]
            vectors = await b.recall.embed_for_write([CAR] * 7, organisation=7)
            models = [vector.model for vector in vectors if vector is not None]
            assert models == ["slow"] * 4 + ["static"] * 3
        assert b.breakers.troubled() == {}


async def test_huge_numbers_have_a_length_too() -> None:
    class Huge(ModelServer):
        def _embeddings(self, texts: list[str]) -> dict[str, Any]:
            rows = [[1e300, 1e300] + [0.0] * 24, [0.0] * 26]
            return {"data": [{"embedding": row} for row in rows]}

    server = Huge()
    running = await server.start()
    async with endpoint_of(server) as endpoint:
        vectors = await EndpointEmbedder(endpoint, "letters", 26).embed(["a", "b"])
    running.close()
    assert vectors[0][:3] == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert not vectors[1].any()


# The reasoner.


@asynccontextmanager
async def reasoned_bench(behaviour: str) -> AsyncIterator[tuple[Bench, ModelServer]]:
    async with serving(behaviour) as server, endpoint_of(server) as endpoint:
        reasoner = EndpointReasoner(endpoint, "chat")
        letter_model = Provider(name="letters", embedder=LetterModel(), is_inline=True)
        async with bench(providers=[letter_model], reasoner=reasoner) as b:
            await b.recall._loader.ensure(b.key_of(SCOPE), deadline_s=b.clock.steady_s() + 5)
            await b.write(
                create("car", CAR, vector=vector_of(CAR)),
                create("tea", TEA, vector=vector_of(TEA)),
            )
            yield b, server


async def test_what_the_parts_of_a_question_find_is_ranked_in() -> None:
    async with reasoned_bench("well") as (b, server):
        for number in range(6):
            await b.write(create(f"n{number}", f"note number {number}", identifier=number + 10))
        await b.write(create("q", "question of the day", identifier=20))
        plain = await b.ask("question", k=3, computation_tier="medium")
        assert texts(plain)[0] == "question of the day"
        assert len({TEA, CAR} & set(texts(plain))) < 2
        server.lines = ['1. "green tea"', "", "- the blue car"]
        answer = await b.ask("question", k=3, computation_tier="high")
        assert answer.degraded_components == []
        assert {TEA, CAR} <= set(texts(answer))
        assert answer.memories[0].text.startswith("question")
        # Words of a part are not words of the question.
        assert answer.confidence == plain.confidence
        reasoned = {memory.text: memory.scoring.get("reasoned") for memory in answer.memories}
        assert reasoned[TEA] is not None
        scores = [memory.score for memory in answer.memories]
        assert scores == sorted(scores, reverse=True)
        assert server.paths == ["/v1/chat/completions"]


@pytest.mark.parametrize("tier", ["low", "medium"])
async def test_only_tier_high_has_time_to_reason(tier: str) -> None:
    async with reasoned_bench("hangs") as (b, server):
        answer = await b.ask("tea", computation_tier=tier)
    assert (answer.degraded_components, server.asked) == ([], [])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in OF_NUMBERS])
async def test_without_its_answer_the_question_stands_as_it_is(fault: str) -> None:
    async with reasoned_bench(fault) as (b, server):
        plain = await b.ask("tea", computation_tier="medium")
        answer = await b.ask("tea", computation_tier="high")
        assert answer.degraded_components == ["reasoning"]
        assert answer.sla_met
        assert texts(answer) == texts(plain)
        server.behaviour = "well"
        assert (await b.ask("tea", computation_tier="high")).degraded_components == []


async def test_the_reasoner_has_a_breaker_of_its_own() -> None:
    async with reasoned_bench("500") as (b, server):
        for number in range(FAILURES_TO_OPEN + 2):
            answer = await b.ask(f"tea {number}", computation_tier="high")
            assert answer.degraded_components == ["reasoning"]
        assert len(server.asked) == FAILURES_TO_OPEN
        assert b.breakers.troubled() == {"reasoner": {"open": 1}}
        server.behaviour = "well"
        b.clock.ahead_s += COOLDOWN_S
        assert (await b.ask("tea", computation_tier="high")).degraded_components == []


async def test_calls_under_way_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EMBED_CALLS_MAX", 1)
    async with remote_bench("hangs") as (b, server):
        slow = b.asking("car one")

        async def is_asked() -> bool:
            return len(server.asked) == 1

        await eventually(is_asked, "the first call is under way")
        answer = await b.ask("car two")
        assert answer.degraded_components == ["embedding"]
        assert len(server.asked) == 1
        await slow


async def test_more_calls_than_have_room_open_no_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for who sends them, nor for others while one organisation's calls hang."""
    monkeypatch.setattr(limits, "EMBED_CALLS_MAX", 1)
    other = Scope(8, "", "development", "bob")
    async with remote_bench("hangs") as (b, server):
        slow = b.asking("car one")

        async def is_asked() -> bool:
            return len(server.asked) == 1

        await eventually(is_asked, "the first call is under way")
        for number in range(FAILURES_TO_OPEN + 1):
            for scope in (SCOPE, other):
                answer = await b.ask(f"car {number}", scope=scope, computation_tier="low")
                assert answer.degraded_components == ["embedding"]
        assert len(server.asked) == 1
        await slow
        assert b.breakers.troubled() == {}
        server.behaviour = "well"
        assert (await b.ask("car at last")).degraded_components == []


async def test_more_calls_than_have_room_are_not_held_against_the_reasoner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EMBED_CALLS_MAX", 0)
    async with reasoned_bench("well") as (b, server):
        for number in range(FAILURES_TO_OPEN + 1):
            answer = await b.ask(f"tea {number}", computation_tier="high")
            assert answer.degraded_components == ["reasoning"]
        assert (server.asked, b.breakers.troubled()) == ([], {})


# The cache of questions.


class BrokenCache:
    """Fails in reading, in writing, or not at all."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.calls = 0

    def get(self, key: bytes) -> None:
        self.calls += 1
        if "get" in self.failing:
            raise ConnectionError("cache")

    def put(self, key: bytes, vector: np.ndarray[Any, Any]) -> None:
        self.calls += 1
        if "put" in self.failing:
            raise ConnectionError("cache")


@pytest.mark.parametrize("failing", ["get", "put"])
async def test_a_cache_that_fails_is_named_and_left_alone(failing: str) -> None:
    cache = BrokenCache(failing)
    async with bench(LetterModel(), cache=cache) as b:
        await b.write(create("car", CAR, vector=vector_of(CAR)))
        for number in range(FAILURES_TO_OPEN):
            answer = await b.ask(f"car {number}")
            assert (texts(answer), answer.degraded_components) == ([CAR], ["cache"])
        assert b.breakers.troubled() == {"question-cache": {"open": 1}}
        calls = cache.calls
        answer = await b.ask("car")
        assert (texts(answer), answer.degraded_components) == ([CAR], ["cache"])
        assert cache.calls == calls
        cache.failing.clear()
        b.clock.ahead_s += COOLDOWN_S
        assert (await b.ask("car")).degraded_components == []
