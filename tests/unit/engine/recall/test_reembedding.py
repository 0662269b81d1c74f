"""Memories get a vector of the configured model, sooner or later, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from memsync import limits
from memsync.core.memories import content_of, view
from memsync.core.recall.vectors import lacks_vector
from memsync.engine.directory import Directory
from memsync.engine.progress import Progress
from memsync.engine.recall import Breakers, Embedding, Provider, Reembedding, said_of
from memsync.engine.recall.reembedding import FIRST_FOR_S, RIPE_MS
from memsync.errors import NoQuorum, OutcomeUnknown, Unavailable
from memsync.ids import RecordKey
from memsync.wire import codec
from memsync.wire.operations import Purge, Update, Vector
from tests.conditions import eventually
from tests.fakes.appender import JoiningAppender
from tests.fakes.memories import NOW_MS, SCOPE, create, frame, key_of
from tests.fakes.recall_bench import HandClock, LetterModel, letters
from tests.fakes.store import MemoryStore


class Alive:
    """Which member this one is."""

    def __init__(self) -> None:
        self.is_first, self.is_only = True, True

    def is_first_alive(self) -> bool:
        return self.is_first

    def has_majority(self) -> bool:
        return True

    def is_only_one(self) -> bool:
        return self.is_only


class World:
    """A store with memories, and what embeds them again."""

    def __init__(self, model: LetterModel) -> None:
        self.clock = HandClock()
        self.store = MemoryStore()
        self.model = model
        self.breakers = Breakers(self.clock)
        provider = Provider(name="letters", embedder=model)
        self.embedding = Embedding([provider], self.breakers, self.clock)
        self.members = Alive()
        self.start()
        directory, progress = Directory(), Progress(self.clock)
        self.appender = JoiningAppender(self.store, directory, progress, self.clock)

    def start(self) -> None:
        """As a new process begins."""
        self.again = Reembedding(self.store, self.embedding, self.clock, look_s=0.01)

    async def write(self, *operations: object) -> None:
        await self.store.apply([frame(*operations)], {})  # type: ignore[arg-type]

    async def lacking(self) -> set[RecordKey]:
        found, after = await self.store.vectorless(
            RecordKey(b""), model=self.model.name, dimensions=26, rows_max=10_000
        )
        assert after is None
        return set(found)

    async def has_all(self) -> bool:
        return not await self.lacking()


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(
        world.again.run(world.appender, world.members)  # type: ignore[arg-type]
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_every_memory_gets_a_vector_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REEMBED_ROWS", 7)
    monkeypatch.setattr(limits, "REEMBED_BATCH", 5)
    world = World(LetterModel())
    old = Vector("old", letters(["x"])[0].astype("<f2").tobytes())
    await world.write(
        *[create(f"m{n}", f"memory number {n}", identifier=n + 1) for n in range(20)],
        *[create(f"o{n}", f"older {n}", identifier=n + 30, vector=old) for n in range(10)],
        create("digits", "123 456", identifier=50),
        create("gone", "forgotten", identifier=51),
        create("void", "purged", identifier=52),
    )
    gone = Update(key_of("gone"), SCOPE, "memory", {"deleted": codec.pack(True)})
    await world.write(gone, Purge(key_of("void"), SCOPE, "memory"))
    before = {
        r.key: view(r) for r in (await world.store.records(list(await world.lacking()))).values()
    }
    assert len(before) == 31
    async with running(world):
        await eventually(world.has_all, "all memories have a vector")
    after = await world.store.records(list(before))
    assert {key: view(record) for key, record in after.items()} == before  # version, times, all
    for record in after.values():
        content = content_of(record)
        expected = letters([content.text])[0].astype("<f2").tobytes()
        assert content.vector == Vector("letters", expected if "123" not in content.text else b"")
    texts = [content_of(record).text for record in after.values()]
    assert sorted(world.model.asked) == sorted(texts)  # each once
    assert world.again.said() is None
    world.start()
    async with running(world):
        await eventually(lambda: looked_through(world), "the store is looked through again")
    assert len(world.model.asked) == 31  # what has a vector, or can have none, is left alone


async def looked_through(world: World) -> bool:
    return world.again._after is None


async def test_a_model_that_is_away_delays_it_and_its_return_ends_that() -> None:
    world = World(LetterModel())
    world.model.error = Unavailable("away")
    await world.write(create("a", "one"), create("b", "two", identifier=2))
    async with running(world):

        async def is_told() -> bool:
            return world.again.said() == "2 memories wait for a vector of letters"

        await eventually(is_told, "it is said what waits")
        assert "2 memories wait" in said_of(world.embedding, world.breakers, world.again)
        world.model.error = None
        await eventually(world.has_all, "the vectors follow")


class Refusing(LetterModel):
    """Refuses every batch with one text in it."""

    refused: str | None = "one too many"

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.refused in texts:
            self.asked += texts
            raise Unavailable("status 413")
        return await super().embed(texts)


async def test_a_text_that_is_refused_does_not_stop_the_others() -> None:
    model = Refusing()
    world = World(model)
    await world.write(
        create("bad", "one too many"),
        *[create(f"m{n}", f"memory {n}", identifier=n + 2) for n in range(20)],
    )
    async with running(world):

        async def are_others_done() -> bool:
            return await world.lacking() == {key_of("bad")}

        await eventually(are_others_done, "all others have a vector")
        assert world.breakers.troubled() == {}
        model.refused = None
        await eventually(world.has_all, "it is tried again")


async def test_a_model_that_is_away_is_asked_less_and_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while there is more to do than is noted."""
    monkeypatch.setattr(limits, "REEMBED_PENDING_MAX", 3)
    world = World(LetterModel())
    world.model.error = Unavailable("away")
    await world.write(*[create(f"m{n}", f"text {n}", identifier=n + 1) for n in range(20)])
    async with running(world):

        async def is_backing_off() -> bool:
            return world.again._failures >= 4

        await eventually(is_backing_off, "each failure doubles the pause")


@pytest.mark.parametrize("error", [NoQuorum("none"), OutcomeUnknown("who knows")])
async def test_a_write_that_is_refused_is_made_later(error: Exception) -> None:
    world = World(LetterModel())
    world.appender.fault = error
    await world.write(create("a", "one"))
    async with running(world):
        await eventually(lambda: is_asked(world), "the first attempt")
        assert await world.lacking()
        world.appender.fault = None
        await eventually(world.has_all, "the vector follows")


async def is_asked(world: World) -> bool:
    return bool(world.model.asked)


async def test_only_the_first_member_does_it_and_not_at_once() -> None:
    world = World(LetterModel())
    world.members.is_first = world.members.is_only = False
    await world.write(create("a", "one"))
    async with running(world):
        for _ in range(5):
            await asyncio.sleep(0)
        world.members.is_first = True
        for _ in range(5):
            await asyncio.sleep(0)
        assert not world.model.asked
        world.clock.ahead_s += FIRST_FOR_S + 1
        await eventually(world.has_all, "the first member does it")


async def test_changes_are_followed_and_a_young_memory_is_left_alone() -> None:
    world = World(LetterModel())
    async with running(world):
        await eventually(lambda: looked_through(world), "the empty store is looked through")
        young_ms = world.clock.wall_ms() - RIPE_MS + 60_000
        for name, at_ms in (("old", NOW_MS), ("young", young_ms)):
            changes = await world.store.apply([frame(create(name, name, at_ms=at_ms))], {})
            world.again.apply(changes)
        await eventually(lambda: has_vector(world, "old"), "the old one has its vector")
    assert world.model.asked == ["old"]
    assert world.again.remaining == 1


async def has_vector(world: World, name: str) -> bool:
    record = await world.store.record(key_of(name))
    return record is not None and not lacks_vector(record, "letters", 26)


async def test_what_is_too_much_to_note_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REEMBED_PENDING_MAX", 3)
    monkeypatch.setattr(limits, "REEMBED_BATCH", 2)
    world = World(LetterModel())
    await world.write(*[create(f"m{n}", f"text {n}", identifier=n + 1) for n in range(20)])
    async with running(world):
        await eventually(world.has_all, "all of them, in the end")


async def test_another_peers_work_is_noticed() -> None:
    world = World(LetterModel())
    changes = await world.store.apply([frame(create("a", "one"))], {})
    world.again.apply(changes)
    assert world.again.remaining == 1
    value = codec.pack(codec.seal(Vector("letters", letters(["one"])[0].astype("<f2").tobytes())))
    update = Update(key_of("a"), SCOPE, "memory", {"vector": value})
    world.again.apply(await world.store.apply([frame(update, sequence=2, at_ms=NOW_MS + 9)], {}))
    assert world.again.remaining == 0
