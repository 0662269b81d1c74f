"""Explanations: made with each answer, written after it, dropped and told where no room is."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from memsync import limits
from memsync.engine.recall import Explanations, Following, explaining
from memsync.errors import Unavailable
from memsync.ids import Scope
from memsync.wire import codec
from memsync.wire.replies import Explanation
from memsync.wire.requests import QueryFilters
from tests.conditions import eventually
from tests.fakes.explanations import MemoryExplanations
from tests.fakes.memories import NOW_MS, SCOPE, create
from tests.fakes.recall_bench import Bench, HandClock, LetterModel

BOB = Scope(SCOPE.organisation, SCOPE.project, SCOPE.environment, "bob")


class Explained(Bench):
    """A recall with explanations, which nobody writes but the test."""

    def __init__(self) -> None:
        self.model = LetterModel()
        super().__init__(self.model)
        self.disk = MemoryExplanations()
        self.explanations = Explanations("peer-9", self.disk, self.clock)
        self.recall = self.recalling(Following(explanations=self.explanations))

    async def found(self, query_id: str, scope: Scope = SCOPE) -> Explanation | None:
        body = await self.recall.explanation(scope, query_id)
        return None if body is None else codec.from_json(body, Explanation)


@pytest.fixture
async def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    bench = Explained()
    running = asyncio.create_task(bench.recall._loader.run())
    await asyncio.sleep(0)
    await bench.write(
        create("tea", "Ada drinks green tea", identifier=1),
        create("dog", "Ada has a dog", identifier=2, tags=["pet"]),
    )
    yield bench
    running.cancel()


async def test_an_answer_is_explained_to_who_asks_for_it(made: Explained) -> None:
    filters = QueryFilters(tags=["pet"])
    answer = await made.ask("what dog", filters=filters, k=3, explain=True, session_id="s")
    told = answer.explanation
    assert isinstance(told, Explanation)
    assert (told.query_id, told.member, told.k) == (answer.query_id, "peer-9", 3)
    assert answer.query_id.endswith(".peer-9")
    assert told.query_intent == answer.query_intent
    assert told.filters == ["tags"]
    assert told.models == ["letters"]
    assert {stage.stage for stage in told.stages} >= {"load", "embed", "search", "read", "answer"}
    assert sum(told.weights.values()) == pytest.approx(1.0, abs=1e-5)
    [memory] = answer.memories
    [candidate] = told.candidates
    assert (candidate.memory_id, candidate.rank, candidate.score) == (2, 1, memory.score)
    assert candidate.parts == memory.scoring
    weighed = sum(told.weights[name] * candidate.parts[name] for name in told.weights)
    assert weighed == pytest.approx(memory.score, abs=1e-4)
    assert await made.found(answer.query_id) == told
    assert b"Ada" not in codec.to_json(told)


class Ticking(HandClock):
    """Wall time goes on at each look."""

    now_ms = NOW_MS

    def wall_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms


async def test_later_ids_come_behind_earlier_ones() -> None:
    """So the store writes them side by side."""
    explanations = Explanations("peer-9", MemoryExplanations(), Ticking())
    made = [explanations.new_id() for _ in range(300)]
    assert sorted(made) == made
    assert len({one[14:26] for one in made}) == 300  # the rest of it is chance


async def test_another_answer_is_explained_afterwards(made: Explained) -> None:
    answer = await made.ask("green tea")
    assert answer.explanation is msgspec.UNSET
    assert b"explanation" not in codec.to_json(answer)
    assert made.disk.kept == {}
    before = await made.found(answer.query_id)
    assert before is not None
    await made.explanations.finish()
    assert list(made.disk.kept) == [answer.query_id]
    assert await made.found(answer.query_id) == before
    assert await made.found(answer.query_id, BOB) is None
    assert await made.found("q_" + "0" * 24 + ".peer-9") is None


async def test_the_age_of_the_oldest_that_is_kept_is_told(made: Explained) -> None:
    await made.ask("green tea")
    await made.explanations.finish()
    (first,) = made.disk.kept.values()
    before_ms = made.clock.wall_ms() - 3 * 86_400_000
    made.disk.kept[first.query_id] = msgspec.structs.replace(first, at_ms=before_ms)
    await made.ask("green tea")
    await made.explanations.finish()
    age_s = REGISTRY.get_sample_value("memsync_explanations_oldest_age_seconds")
    assert age_s == 3 * 86_400


async def test_nothing_that_a_caller_wrote_is_in_it(made: Explained) -> None:
    """It outlives a forget and a purge."""
    secret = "hidden" * 20
    filters = QueryFilters(
        memory_type=secret, source=secret, sources=[secret] * 32, tags=[secret], session_id=secret,
        metadata={secret: secret},
    )  # fmt: skip
    answer = await made.ask(secret, filters=filters, session_id=secret)
    await made.explanations.finish()
    body = made.disk.kept[answer.query_id].body
    assert b"hidden" not in body
    told = codec.from_json(body, Explanation)
    assert set(told.filters) == {
        "memory_type", "source", "sources", "tags", "session_id", "metadata"
    }  # fmt: skip


async def test_it_is_not_its_scopes_while_it_waits_either(made: Explained) -> None:
    answer = await made.ask("green tea")
    assert await made.found(answer.query_id, BOB) is None


async def test_a_fallback_stands_in_its_stage(made: Explained) -> None:
    made.model.error = Unavailable("down")
    told = (await made.ask("green tea", explain=True)).explanation
    assert isinstance(told, Explanation)
    assert told.degraded_components == ["embedding"]
    assert [s.lacking for s in told.stages if s.stage == "embed"] == [["embedding"]]
    assert told.models == []


async def test_without_room_the_answer_says_so(
    made: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXPLANATIONS_QUEUED_MAX", 2)
    answers = [await made.ask("green tea", explain=True) for _ in range(3)]
    assert [answer.degraded_components for answer in answers] == [[], [], ["explainability"]]
    assert isinstance(answers[2].explanation, Explanation)  # it was asked for, and is told
    assert [memory.id for memory in answers[2].memories] == [m.id for m in answers[0].memories]
    assert await made.found(answers[2].query_id) is None
    await made.explanations.finish()
    assert len(made.disk.kept) == 2
    assert (await made.ask("green tea")).degraded_components == []


async def test_a_disk_that_does_not_take_them_fills_the_queue(
    made: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXPLANATIONS_QUEUED_MAX", 1)
    monkeypatch.setattr(explaining, "WRITE_EVERY_S", 0.001)
    monkeypatch.setattr(explaining, "RETRY_S", 0.001)
    made.disk.fault = Unavailable("full")
    running = asyncio.create_task(made.explanations.run())
    first = await made.ask("green tea")
    assert not await made.explanations.finish()
    assert (await made.ask("green tea")).degraded_components == ["explainability"]
    made.disk.fault = None

    async def is_written() -> bool:
        return first.query_id in made.disk.kept and made.explanations.has_room()

    await eventually(is_written, "the first is written")
    assert (await made.ask("green tea")).degraded_components == []
    running.cancel()


async def test_one_that_is_too_large_is_cut(
    made: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made.write(*(create(f"t{n}", f"tea number {n}", identifier=9 + n) for n in range(40)))
    monkeypatch.setattr(limits, "EXPLANATION_BYTES_MAX", 4_000)
    answer = await made.ask("tea", k=40)
    await made.explanations.finish()
    assert len(made.disk.kept[answer.query_id].body) <= 4_000
    told = await made.found(answer.query_id)
    assert told is not None
    assert told.truncated
    assert 0 < len(told.candidates) < 40
    assert [one.memory_id for one in told.candidates] == [
        memory.id for memory in answer.memories[: len(told.candidates)]
    ]
