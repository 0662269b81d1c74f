"""Members that embed with different models notice it by what they write; and what recalls answer
while memories are embedded again."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from memsync import limits
from memsync.core.memories import content_of
from memsync.core.records import Record
from memsync.engine.directory import Directory
from memsync.engine.progress import Progress
from memsync.engine.recall import Breakers, Differing, Embedding, Provider, Reembedding, said_of
from memsync.engine.recall.differing import SEEN_MAX
from memsync.ids import Position
from memsync.ports import Change
from memsync.wire import codec
from memsync.wire.operations import Stamp, Vector
from tests.conditions import eventually
from tests.fakes.appender import JoiningAppender
from tests.fakes.memories import NOW_MS, changed, create, key_of, memory
from tests.fakes.recall_bench import Bench, HandClock, LetterModel, bench, letters
from tests.fakes.store import MemoryStore
from tests.unit.engine.recall.test_reembedding import Alive

OTHERS = {9: "peer-2", 8: "peer-3"}  # 9 writes what the fakes write


def vector(model: str, text: str = "x") -> Vector:
    return Vector(model, letters([text])[0].astype("<f2").tobytes())


def embedding(*models: str) -> Embedding:
    """One whose primary has the first of these models."""
    providers = [Provider(name=name, embedder=LetterModel(name)) for name in models]
    return Embedding(providers, Breakers(HandClock()), HandClock())


def again(record: Record, model: str) -> Record:
    """The record after it was embedded again."""
    return changed(record, vector=codec.seal(vector(model)))


def written(record: Record, incarnation: int) -> Record:
    """The record as another process would have created it."""
    return msgspec.structs.replace(record, origin_stamp=Stamp(NOW_MS << 16, incarnation))


def said(own: Embedding, *records: Record, others: dict[int, str] | None = None) -> str | None:
    differing = Differing(own)
    for record in records:
        differing.apply([Change(None, record)])
    return differing.said(OTHERS if others is None else others)


TEA = memory("tea", "Green tea", vector=vector("static"))
MINILM = memory("car", "A car", vector=vector("minilm"))


def test_a_vector_of_a_model_that_this_peer_lacks_is_told_with_what_to_do() -> None:
    told = said(embedding("static"), TEA, MINILM)
    assert told is not None
    assert told.startswith("WARNING: peer-2 embeds with minilm, this peer with static: ")
    assert "set the same embedder and embedder_secondary on every peer" in told


@pytest.mark.parametrize("models", [("static", "minilm"), ("minilm", "static")])
def test_the_same_models_are_no_news_whoever_answered(models: tuple[str, ...]) -> None:
    """A fallback writes vectors of a model behind the primary."""
    bare = memory("digits", "1 2 3")
    assert said(embedding(*models), TEA, MINILM, bare) is None


@pytest.mark.parametrize(
    ("own", "is_told"), [(("minilm", "static"), True), (("static", "minilm"), False)]
)
def test_memories_are_embedded_again_with_the_primary_only(
    own: tuple[str, ...], is_told: bool
) -> None:
    assert (said(embedding(*own), again(MINILM, "static")) is not None) == is_told


def test_of_two_that_differ_one_sees_it_at_the_least() -> None:
    """Two whose primaries differ: the other members of their chains may be the same."""
    chains = [
        ("static",), ("static", "minilm"), ("minilm", "static"), ("x", "static"),
        ("x", "minilm", "static"), ("minilm", "x", "static"),
    ]  # fmt: skip
    for one in chains:
        for other in chains:
            seen = []
            for own, writer in ((one, other), (other, one)):
                made = memory("m", "A car", vector=vector(writer[0]))
                seen += [said(embedding(*own), made), said(embedding(*own), again(made, writer[0]))]
            assert any(seen) == (one[0] != other[0]), (one, other)


def test_without_an_embedder_that_others_have_one_is_told() -> None:
    told = said(embedding(), TEA)
    assert told is not None
    assert "peer-2 embeds with static, this peer with none" in told


def test_a_process_that_has_ended_says_nothing_any_more() -> None:
    assert said(embedding("static"), MINILM, others={8: "peer-2"}) is None
    older = written(MINILM, 7)
    assert said(embedding("static"), older) is None
    assert said(embedding("static"), older, again(written(MINILM, 8), "static")) is None


def test_each_that_differs_is_named() -> None:
    told = said(embedding("static"), MINILM, written(memory("x", "x", vector=vector("x")), 8))
    assert told is not None
    assert "peer-2 embeds with minilm, peer-3 embeds with x" in told


def test_one_memory_of_each_writer_is_looked_at_in_a_batch() -> None:
    """It is on the way of every write that is applied."""
    differing = Differing(embedding("static"))
    batch = [TEA, MINILM, written(memory("x", "x", vector=vector("x")), 8)]
    differing.apply([Change(None, record) for record in batch])
    assert set(differing._seen) == {8}


def test_only_so_many_processes_are_remembered() -> None:
    records = [written(MINILM, 100 + n) for n in range(2 * SEEN_MAX)]
    differing = Differing(embedding("static"))
    differing.apply([Change(None, record) for record in records])
    assert len(differing._seen) == SEEN_MAX
    assert differing.said({100 + 2 * SEEN_MAX - 1: "last"}) is not None
    assert differing.said({100: "first"}) is None


async def test_it_stands_in_ready_and_is_no_failure() -> None:
    own, clock = embedding("static"), HandClock()
    differing, reembedding = Differing(own), Reembedding(MemoryStore(), own, clock)
    differing.apply([Change(None, MINILM)])
    told = said_of(own, Breakers(clock), reembedding, differing, OTHERS)
    assert told.startswith("ok: WARNING: peer-2 embeds with minilm")
    assert "WARNING" not in said_of(own, Breakers(clock), reembedding, differing, {})


# Recalls while memories are embedded again.

TEXTS = [f"The blue car number {word}" for word in ("one", "two", "three", "four")]


def changing(b: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[Reembedding, JoiningAppender]:
    """What embeds again, one memory at a time, each when the gate is opened."""
    monkeypatch.setattr(limits, "REEMBED_BATCH", 1)
    reembedding = Reembedding(b.store, b.embedding, b.clock, look_s=0.01)
    apply = b.store.apply

    async def applied(frames: Any, positions: dict[int, Position]) -> Any:
        changes = await apply(frames, positions)
        b.index.apply(changes)
        return changes

    monkeypatch.setattr(b.store, "apply", applied)
    appender = JoiningAppender(b.store, Directory(), Progress(b.clock), b.clock)
    appender.gate.clear()
    return reembedding, appender


async def carry(b: Bench, model: str) -> int:
    """How many memories carry a vector of this model by now."""
    records = await b.store.records([key_of(text) for text in TEXTS])
    vectors = [content_of(record).vector for record in records.values()]
    return sum(one is not None and one.model == model for one in vectors)


@pytest.mark.parametrize("is_old_there", [True, False])
async def test_a_recall_meanwhile_answers_by_both_models(
    is_old_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the old model is a provider still, each memory is compared by its own and nothing is
    lacking; where it is not, the old ones are found by words, and that is tagged."""
    new, old = LetterModel("new"), LetterModel("old")
    providers = [Provider(name="new", embedder=new)]
    if is_old_there:
        providers.append(Provider(name="old", embedder=old))
    async with bench(providers=providers) as b:
        for number, text in enumerate(TEXTS):
            await b.write(create(text, text, identifier=number + 1, vector=vector("old", text)))
        reembedding, appender = changing(b, monkeypatch)
        running = asyncio.create_task(
            reembedding.run(appender, Alive())  # type: ignore[arg-type]
        )
        for done in range(len(TEXTS)):
            await appender.arrival()  # the next one waits at the gate
            assert (await carry(b, "new"), await carry(b, "old")) == (done, len(TEXTS) - done)
            answer = await b.ask("blue car")
            assert {one.text for one in answer.memories} == set(TEXTS)
            compared = sum("cosine" in one.scoring for one in answer.memories)
            if is_old_there:
                assert (compared, answer.degraded_components) == (len(TEXTS), [])
            else:
                assert (compared, answer.degraded_components) == (done, ["embedding"])
            appender.gate.set()
            appender.gate.clear()

        async def is_done() -> bool:
            return await carry(b, "new") == len(TEXTS)

        await eventually(is_done, "all are embedded again")
        answer = await b.ask("blue car")
        assert all("cosine" in one.scoring for one in answer.memories)
        assert answer.degraded_components == []
        running.cancel()
        await asyncio.wait({running})
