"""Filling a peer's store: many memories at once, through the store's own code and nobody else's.

What a coordinator does to a memory before it publishes it (terms, vector, hash) is done here in
processes beside this one, with the same functions; the rows then go in by `Store.join`, as those of
another peer do. A million take a few minutes, over HTTP an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import msgspec

from memsync import ids
from memsync.adapters.models import static
from memsync.adapters.sqlite.store import open_store
from memsync.core.recall.lexical import terms_of, text_hash
from memsync.core.records import Record, join_operation, row_hash
from memsync.ids import OperationKey, Scope
from memsync.wire import codec
from memsync.wire.exchange import Row
from memsync.wire.operations import Content, Create, MemoryOrigin, Stamp, Vector
from tests.bench.corpus import Corpus

PART = 2_000  # memories of one scope that are made and joined at once
INCARNATION = 1
APART_MS = 60_000  # from one memory of a scope to the next
PROCESSES = 2
WAITING_MAX = 2 * PROCESSES


class Part(msgspec.Struct, frozen=True):
    """Memories of one scope, next to each other: `first` is the number of the first in the whole
    store, `place` its place in the scope, which will have `total`."""

    scope: Scope
    first: int
    place: int
    count: int
    total: int
    now_ms: int


def parts_of(sizes: Sequence[tuple[Scope, int]], now_ms: int) -> Iterator[Part]:
    """All that is to be made for scopes of these sizes."""
    number = 0
    for scope, total in sizes:
        for place in range(0, total, PART):
            count = min(PART, total - place)
            yield Part(scope, number, place, count, total, now_ms)
            number += count


async def fill(folder: Path, cell: str, parts: Sequence[Part], told: Callable[[int], None]) -> int:
    """Put all parts into the store in `folder`; `told` hears how many there are so far. Returns the
    size of the store in bytes."""
    done, waiting = 0, list[Row]()
    async with open_store(folder, cell=cell) as store:
        async for rows in _made(parts):
            waiting += rows
            if len(waiting) >= PART:  # small scopes: many parts in one transaction
                await store.join(waiting, [], [], INCARNATION)
                done += len(waiting)
                told(done)
                waiting = []
        await store.join(waiting, [], [], INCARNATION)
        await store.sync()
    return _size_of(folder)


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


async def _made(parts: Sequence[Part]) -> AsyncIterator[list[Row]]:
    """The rows of each part, in order, while processes make the next ones."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        waiting: list[Future[list[Row]]] = []
        for part in parts:
            waiting.append(pool.submit(make, part))
            if len(waiting) >= WAITING_MAX:
                yield await asyncio.wrap_future(waiting.pop(0))
        for future in waiting:
            yield await asyncio.wrap_future(future)


def make(part: Part) -> list[Row]:
    """The rows of a part; the same part gives the same rows."""
    model, corpus = _model(), _corpus()
    memories = corpus.memories(part.first, part.count)
    vectors = asyncio.run(model.embed([memory.text for memory in memories])).astype("<f2")
    scope_key = ids.scope_key(part.scope)
    rows = []
    for offset, (memory, halves) in enumerate(zip(memories, vectors, strict=True)):
        number, place = part.first + offset, part.place + offset
        key = OperationKey(f"bench-{number}")
        at_ms = part.now_ms - (part.total - place) * APART_MS
        content = Content(
            text=memory.text,
            metadata={"channel": f"c{number % 20}"},
            terms=terms_of(memory.text),
            vector=Vector(model.name, halves.tobytes()),
        )
        origin = MemoryOrigin(
            operation_key=key, request_hash=b"", content=codec.seal(content),
            text_hash=text_hash(scope_key, memory.text), created_at_ms=at_ms, occurred_at_ms=None,
            expires_at_ms=None, place=0, client_ref=None, session_id=f"session-{memory.session}",
            role="user", source="chat", event_type=None, tags=[f"tag{number % 7}"],
            importance=0.5, is_summary=False,
        )  # fmt: skip
        record_key = ids.record_key_of_operation("memory", part.scope, key, b"", 0)
        block, place_in_block = divmod(number, ids.NUMBERS_PER_BLOCK)
        identifier = ids.memory_id(0, 1 + block, place_in_block)
        create = Create(record=record_key, scope=part.scope, ids=[identifier], origin=origin)
        stamp = Stamp(time=at_ms << 16 | offset & 0xFFFF, incarnation=INCARNATION)
        state = codec.pack(join_operation(None, create, stamp))
        rows.append(Row(record_key, row_hash(state), state))
    return rows


_held: dict[str, object] = {}  # of a process that makes rows: its model and its corpus


def _model() -> static.StaticModel:
    if "model" not in _held:
        _held["model"] = static.load()
    model = _held["model"]
    assert isinstance(model, static.StaticModel)
    return model


def _corpus() -> Corpus:
    if "corpus" not in _held:
        _held["corpus"] = Corpus()
    corpus = _held["corpus"]
    assert isinstance(corpus, Corpus)
    return corpus


def record_of(row: Row) -> Record:
    """The record that a row is the bytes of."""
    return codec.unpack(row.state, Record)
