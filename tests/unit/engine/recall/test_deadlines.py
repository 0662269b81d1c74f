"""Each stage has its share of the budget of each tier, whatever hangs. Time is virtual: waits are
exact and cost nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from memsync import limits
from memsync.adapters.models.endpoint import Endpoint, EndpointEmbedder
from memsync.core.recall.breaker import COOLDOWN_S
from memsync.engine.recall import Provider
from memsync.wire.operations import Vector
from tests.fakes.memories import create, frame
from tests.fakes.memory_network import MemoryNetwork
from tests.fakes.model_server import FAULTS, ModelServer
from tests.fakes.recall_bench import Bench, LetterModel, bench, letters, texts

CAR, TEA = "The car is blue", "Green tea every morning"
TIERS = ("low", "medium", "high")
EACH_TIER = pytest.mark.parametrize("tier", TIERS)
# The shares of a stage: of the budget, of what is left when it begins, and beyond the deadline.
LOAD_SHARE, EMBED_SHARE, READ_S = 0.8, 0.4, 0.02
# These go on until nobody waits; the others fail at once.
LONG = ("hangs", "drips", "drips header")


@EACH_TIER
async def test_a_store_that_hangs_while_hits_are_read_costs_the_budget_and_no_more(
    tier: str,
) -> None:
    async with bench(LetterModel()) as b:
        await b.write(create("car", CAR))
        assert texts(await b.ask("car")) == [CAR]
        b.store.reads.clear()
        answer = await b.ask("car", computation_tier=tier)
        assert (answer.memories, answer.degraded_components) == ([], ["search"])
        assert answer.latency_ms == pytest.approx(limits.RECALL_BUDGET_MS[tier])
        b.store.reads.set()
        assert (await b.ask("car", computation_tier=tier)).degraded_components == []


async def test_hits_in_hand_are_waited_for_a_little_beyond_the_deadline() -> None:
    async with bench(LetterModel()) as b:
        await b.write(create("car", CAR))
        await b.ask("car")
        b.store.reads.clear()
        answer = await b.ask("car", within_s=0.001)
        assert (answer.memories, answer.degraded_components) == ([], ["search"])
        assert answer.latency_ms == pytest.approx(1000 * READ_S)


@EACH_TIER
async def test_a_load_that_takes_too_long_leaves_time_to_say_so(tier: str) -> None:
    async with bench(LetterModel()) as b:
        await b.store.apply([frame(create("car", CAR))], {})
        b.store.gate.clear()
        answer = await b.ask("car", computation_tier=tier)
        assert (answer.memories, answer.degraded_components) == ([], ["search"])
        assert answer.latency_ms == pytest.approx(LOAD_SHARE * limits.RECALL_BUDGET_MS[tier])
        assert answer.sla_met
        b.store.gate.set()
        assert texts(await b.ask("car", computation_tier=tier)) == [CAR]


@asynccontextmanager
async def faulty(fault: str) -> AsyncIterator[tuple[Bench, ModelServer]]:
    """A recall whose one provider is a server that has this fault, with a scope that is loaded."""
    server = ModelServer(fault)
    network = MemoryNetwork(server)
    endpoint = Endpoint("remote", "http://127.0.0.1:1/v1", {"Authorization": "Bearer k"}, 1.0)
    network.lead(endpoint._client)
    provider = Provider(
        name="remote", embedder=EndpointEmbedder(endpoint, "letters", 26), timeout_s=1.0
    )
    try:
        async with bench(providers=[provider]) as b:
            vectors = [
                Vector("letters", letters([t])[0].astype("<f2").tobytes()) for t in (CAR, TEA)
            ]
            await b.write(
                create("car", CAR, vector=vectors[0]), create("tea", TEA, vector=vectors[1])
            )
            yield b, server
    finally:
        await endpoint.close()
        await network.wait_idle()


@EACH_TIER
@pytest.mark.parametrize("fault", FAULTS)
async def test_whatever_goes_wrong_at_a_provider_the_answer_is_in_time_and_by_words(
    fault: str, tier: str
) -> None:
    async with faulty(fault) as (b, server):
        answer = await b.ask("car", computation_tier=tier)
        assert (texts(answer)[0], answer.degraded_components) == (CAR, ["embedding"])
        assert "cosine" not in answer.memories[0].scoring
        budget_ms = limits.RECALL_BUDGET_MS[tier]
        waited_ms = EMBED_SHARE * budget_ms if fault in LONG else 0.0
        assert answer.latency_ms == pytest.approx(waited_ms, abs=1e-3)
        assert (answer.sla_met, answer.sla_target_ms) == (True, budget_ms)
        assert server.asked == ["car"]
        server.behaviour = "well"
        well = await b.ask("car", computation_tier=tier)
        assert well.degraded_components == []
        assert "cosine" in well.memories[0].scoring


@EACH_TIER
async def test_a_wait_that_is_too_short_to_judge_opens_no_breaker(tier: str) -> None:
    """All that a recall of tier low can wait for a provider is 40 ms."""
    async with faulty("hangs") as (b, server):
        for number in range(8):
            answer = await b.ask(f"car {number}", computation_tier=tier)
            assert answer.degraded_components == ["embedding"]
        is_judged = tier != "low"
        assert b.breakers.troubled() == ({"remote": {"open": 1}} if is_judged else {})
        assert len(server.asked) == (5 if is_judged else 8)
        b.clock.ahead_s += COOLDOWN_S
        server.behaviour = "well"
        assert (await b.ask("car", computation_tier=tier)).degraded_components == []
