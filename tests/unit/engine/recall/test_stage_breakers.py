"""The stages that are reckoned in this process have breakers, too: what fails at each question of
an organisation is left out for a while, tagged, and comes back by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from memsync.core.recall import graph, ranking
from memsync.core.recall.breaker import COOLDOWN_S, FAILURES_TO_OPEN
from memsync.engine.recall import Explanations, Following, explaining, said_of
from memsync.engine.recall.reembedding import Reembedding
from memsync.ids import Scope, scope_key
from memsync.wire import codec
from memsync.wire.operations import Attach, Relation
from memsync.wire.replies import Explanation, QueryAnswer
from tests.fakes.explanations import MemoryExplanations
from tests.fakes.memories import NOW_MS, SCOPE, create, key_of, stamp
from tests.fakes.recall_bench import Bench, LetterModel, bench, texts

OTHERS = Scope(SCOPE.organisation + 1, "", "development", "bob")
CAR, TEA = "The car is blue", "Green tea every morning"
# What an answer lacks without the stage; what is not ranked has no calibrated confidence, either.
LACKS = {
    "expand": ["expansion"],
    "rank": ["ranking", "calibration"],
    "explain": ["explainability"],
}
EACH_STAGE = pytest.mark.parametrize("stage", LACKS)


def related(scope: Scope) -> Attach:
    """The car and the tea of this scope belong together."""
    tea = key_of(f"tea {scope.end_user}")
    relation = Relation(
        stamp=stamp(NOW_MS + 1), to=tea, type="extends", confidence=1.0, metadata=None
    )
    elements = {"relations": {"one": codec.pack(relation)}}
    return Attach(key_of(f"car {scope.end_user}"), scope, "memory", elements)


@pytest.fixture
async def made() -> AsyncIterator[Bench]:
    """A recall with explanations that nobody writes, and two organisations with the same two
    memories, which are related."""
    async with bench(LetterModel()) as b:
        explanations = Explanations("peer-9", MemoryExplanations(), b.clock)
        loader = b.recall._loader
        b.recall = b.recalling(Following(explanations=explanations))
        b.recall._loader = loader
        for number, scope in enumerate((SCOPE, OTHERS)):
            car, tea = f"car {scope.end_user}", f"tea {scope.end_user}"
            await b.write(
                create(car, CAR, scope=scope, identifier=10 * number + 1),
                create(tea, TEA, scope=scope, identifier=10 * number + 2),
            )
            await b.write(related(scope))
        yield b


@contextmanager
def broken(stage: str) -> Iterator[None]:
    """A recall in which one stage fails."""
    with pytest.MonkeyPatch.context() as patched:
        match stage:
            case "expand":
                patched.setattr(graph, "SEEDS", "many")
            case "rank":
                patched.setattr(ranking, "relevance_of", None)
            case "explain":
                patched.setattr(explaining, "format_moment", None)
        yield


def failures_of(stage: str) -> float:
    value = REGISTRY.get_sample_value("memsync_provider_failures_total", {"provider": stage})
    return value or 0.0


def state_of(stage: str, state: str) -> float | None:
    labels = {"provider": stage, "state": state}
    return REGISTRY.get_sample_value("memsync_breaker_state", labels)


def stages(answer: QueryAnswer) -> dict[str, list[str]]:
    """What the stages of an answer report that they lack."""
    assert isinstance(answer.explanation, Explanation)
    return {one.stage: one.lacking for one in answer.explanation.stages}


@EACH_STAGE
async def test_what_fails_five_times_is_left_out_and_comes_back_by_itself(
    stage: str, made: Bench
) -> None:
    assert (await made.ask("blue car")).degraded_components == []
    before = failures_of(stage)
    with broken(stage):
        for _ in range(FAILURES_TO_OPEN):
            assert made.breakers.troubled() == {}
            answer = await made.ask("blue car")
            assert (texts(answer)[0], answer.degraded_components) == (CAR, LACKS[stage])
    assert made.breakers.troubled() == {stage: {"open": 1}}
    assert failures_of(stage) - before == FAILURES_TO_OPEN
    # It would work again; it is left alone, for this organisation only.
    answer = await made.ask("blue car")
    assert (texts(answer)[0], answer.degraded_components) == (CAR, LACKS[stage])
    assert (await made.ask("blue car", scope=OTHERS)).degraded_components == []
    made.clock.ahead_s += COOLDOWN_S - 1
    assert (await made.ask("blue car")).degraded_components == LACKS[stage]
    made.clock.ahead_s += 1
    assert (await made.ask("blue car")).degraded_components == []
    assert made.breakers.troubled() == {}
    assert failures_of(stage) - before == FAILURES_TO_OPEN


@EACH_STAGE
async def test_an_open_one_is_not_tried(stage: str, made: Bench) -> None:
    """What would fail is not even begun, so it costs nothing and logs nothing."""
    with broken(stage):
        for _ in range(FAILURES_TO_OPEN):
            await made.ask("blue car")
        before = failures_of(stage)
        for _ in range(3):
            assert (await made.ask("blue car")).degraded_components == LACKS[stage]
    assert failures_of(stage) == before


@EACH_STAGE
async def test_a_success_between_failures_keeps_it_closed(stage: str, made: Bench) -> None:
    for _ in range(2):
        with broken(stage):
            for _ in range(FAILURES_TO_OPEN - 1):
                await made.ask("blue car")
        assert (await made.ask("blue car")).degraded_components == []
    assert made.breakers.troubled() == {}


@EACH_STAGE
async def test_it_is_told_in_metrics_and_status(stage: str, made: Bench) -> None:
    reembedding = Reembedding(made.store, made.embedding, made.clock)
    with broken(stage):
        for _ in range(FAILURES_TO_OPEN):
            await made.ask("blue car")
    told = said_of(made.embedding, made.breakers, reembedding)
    assert f"{stage} left alone for 1 organisations" in told
    assert (state_of(stage, "open"), state_of(stage, "probing")) == (1.0, 0.0)
    made.clock.ahead_s += COOLDOWN_S
    assert (state_of(stage, "open"), state_of(stage, "probing")) == (0.0, 1.0)


async def test_each_part_of_a_search_has_a_report_of_its_own(made: Bench) -> None:
    assert (await made.ask("blue car", explain=True)).degraded_components == []
    for part in ("expand", "rank"):
        with broken(part):
            told = stages(await made.ask("blue car", explain=True))
        assert told[part] == LACKS[part][:1]
        assert told["search"] == []


async def test_the_times_of_parts_are_told() -> None:
    def counted() -> dict[str, float | None]:
        return {
            stage: REGISTRY.get_sample_value("memsync_recall_seconds_count", {"stage": stage})
            for stage in ("search", "expand", "rank")
        }

    async with bench(LetterModel()) as b:
        await b.write(create("car ada", CAR))
        before = counted()
        await b.ask("blue car")
        told = counted()
        assert {name: (told[name] or 0) - (before[name] or 0) for name in told} == {
            "search": 1, "expand": 0, "rank": 1,  # there is nothing that it could lead to
        }  # fmt: skip
        for more in (create("tea ada", TEA, identifier=2), related(SCOPE)):
            told = counted()
            await b.write(more)
            await b.ask("blue car")
            assert (counted()["expand"] or 0) - (told["expand"] or 0) == 1


async def test_what_was_not_tried_says_nothing(made: Bench) -> None:
    """A question in a scope where nothing leads anywhere is no success of expanding, nor is one
    that leaves it out for want of time a failure."""
    alone = msgspec.structs.replace(SCOPE, end_user="alone")
    await made.write(create("car alone", CAR, scope=alone, identifier=99))
    await made.recall._loader.ensure(scope_key(SCOPE), deadline_s=made.clock.steady_s() + 1)
    for _ in range(FAILURES_TO_OPEN):
        answer = await made.ask("blue car", within_s=0.004)
        assert answer.degraded_components == ["expansion"]
    assert made.breakers.troubled() == {}
    with broken("expand"):
        for _ in range(FAILURES_TO_OPEN):
            await made.ask("blue car")
            assert (await made.ask("blue car", scope=alone)).degraded_components == []
    assert made.breakers.troubled() == {"expand": {"open": 1}}


async def test_without_explaining_nothing_is_recorded(made: Bench) -> None:
    with broken("explain"):
        answers: list[Any] = [await made.ask("blue car", explain=True) for _ in range(6)]
    for answer in answers:
        assert answer.explanation is msgspec.UNSET
        assert await made.recall.explanation(SCOPE, answer.query_id) is None
