"""Uses of memories: counted in memory, published seldom, never twice, never backwards."""

from __future__ import annotations

import asyncio

import pytest

from memsync import limits
from memsync.core.memories import view
from memsync.core.records import Record
from memsync.core.usage import LAST_ACCESS, uses_of
from memsync.engine.directory import Directory
from memsync.engine.progress import Progress
from memsync.engine.recall import uses as module
from memsync.engine.recall.uses import Uses
from memsync.errors import NoQuorum
from memsync.wire.operations import Count
from tests.fakes import memories
from tests.fakes.appender import JoiningAppender
from tests.fakes.store import MemoryStore
from tests.unit.service.world import START_MS, Clock


class Peer:
    """A store with some memories, and what counts them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(incarnation=77)
        self.appender = JoiningAppender(self.store, Directory(), Progress(self.clock), self.clock)
        self.uses = Uses(self.store, self.appender, self.clock)  # type: ignore[arg-type]

    async def hold(self, *names: str) -> None:
        creates = [memories.create(n, f"text {n}", identifier=i) for i, n in enumerate(names, 1)]
        await self.store.apply([memories.frame(*creates)], {})

    async def record(self, name: str) -> Record:
        found = await self.store.record(memories.key_of(name))
        assert found is not None
        return found

    async def recall(self, *names: str) -> None:
        self.uses.note([await self.record(name) for name in names], self.clock.now_ms)

    async def counted(self, name: str) -> tuple[int, int]:
        record = await self.record(name)
        return uses_of(record), record.maxima.get(LAST_ACCESS, 0)


@pytest.fixture
async def peer() -> Peer:
    made = Peer()
    await made.hold("a", "b", "c")
    return made


async def test_recalls_write_nothing_until_it_is_time(peer: Peer) -> None:
    for _ in range(5):
        await peer.recall("a", "b")
    peer.clock.advance(3)
    await peer.recall("a")
    assert peer.appender.writes == []
    before = view(await peer.record("a"))
    await peer.uses.publish()
    assert len(peer.appender.writes) == 1
    assert await peer.counted("a") == (6, START_MS + 3_000)
    assert await peer.counted("b") == (5, START_MS)
    assert await peer.counted("c") == (0, 0)
    assert view(await peer.record("a")) == before
    await peer.uses.publish()
    assert len(peer.appender.writes) == 1


async def test_counts_go_on_from_what_the_store_has(peer: Peer) -> None:
    for total in (1, 2, 3):
        await peer.recall("a")
        await peer.uses.publish()
        await peer.uses.publish()
        assert await peer.counted("a") == (total, START_MS)
    again = Uses(peer.store, peer.appender, peer.clock)  # type: ignore[arg-type]
    again.note([await peer.record("a")], START_MS + 9)  # the process was started again
    await again.publish()
    assert await peer.counted("a") == (4, START_MS + 9)


async def test_an_answer_that_is_given_again_counts_again(peer: Peer) -> None:
    await peer.recall("a")
    a, b = (await peer.record("a")).key, (await peer.record("b")).key
    peer.uses.note_again([a, b], START_MS + 5)  # of "b" nothing is known
    await peer.uses.publish()
    assert await peer.counted("a") == (2, START_MS + 5)
    assert await peer.counted("b") == (0, 0)
    peer.uses.note_again([a], START_MS + 9)
    await peer.uses.publish()
    assert await peer.counted("a") == (3, START_MS + 9)


async def test_a_record_that_was_read_before_its_count_arrived_takes_nothing_back(
    peer: Peer,
) -> None:
    early = await peer.record("a")
    await peer.recall("a")
    await peer.uses.publish()
    peer.uses.note([early], START_MS)
    await peer.uses.publish()
    assert await peer.counted("a") == (2, START_MS)


async def test_what_cannot_be_published_waits(peer: Peer) -> None:
    await peer.recall("a")
    peer.appender.fault = NoQuorum("alone")
    await peer.uses.publish()
    await peer.recall("a")
    peer.appender.fault = None
    await peer.uses.publish()
    assert await peer.counted("a") == (2, START_MS)


async def test_what_comes_while_it_is_published_is_the_next_ones(peer: Peer) -> None:
    await peer.recall("a")
    peer.appender.gate.clear()
    publishing = asyncio.create_task(peer.uses.publish())
    await peer.appender.arrival()
    await peer.recall("a")
    peer.appender.gate.set()
    await publishing
    assert await peer.counted("a") == (1, START_MS)
    await peer.uses.publish()
    assert await peer.counted("a") == (2, START_MS)


async def test_many_are_published_in_turn(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "USES_PUBLISHED_MAX", 2)
    monkeypatch.setattr(limits, "FRAME_OPERATIONS_MAX", 1)
    await peer.recall("a", "b", "c")
    await peer.uses.publish()
    assert [len(write.operations) for write in peer.appender.writes] == [1, 1]
    await peer.recall("a", "b")
    await peer.uses.publish()
    assert [await peer.counted(name) for name in "abc"] == [
        (2, START_MS), (1, START_MS), (1, START_MS)
    ]  # fmt: skip


async def test_no_more_wait_than_there_is_room_for(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "USES_KEPT_MAX", 2)
    dropped = module.metrics.USES_DROPPED._value.get()
    await peer.recall("a", "b", "c", "a")
    assert module.metrics.USES_DROPPED._value.get() == dropped + 1
    await peer.uses.publish()
    assert [(await peer.counted(name))[0] for name in "abc"] == [2, 1, 0]


async def test_counts_of_two_peers_add_up(peer: Peer) -> None:
    other = Peer()
    other.store.incarnation = 78
    await other.hold("a", "b", "c")
    for one in (peer, other):
        await one.recall("a")
        await one.recall("a")
        await one.uses.publish()
    [write] = other.appender.writes
    await peer.store.apply([memories.frame(*write.operations, sequence=9)], {})
    await peer.store.apply([memories.frame(*write.operations, sequence=9)], {})  # once more
    assert (await peer.counted("a"))[0] == 4
    assert all(isinstance(operation, Count) for operation in write.operations)
