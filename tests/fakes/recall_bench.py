"""A recall with all that it stands on, for tests: a store that can be slow or fail, a model that
counts letters, a clock that can be set ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index import FaissHotIndex
from memsync.core.records import Record
from memsync.engine.recall import Breakers, Embedding, Following, Provider, Reasoning, Recall
from memsync.engine.recall.embedding import QuestionCache
from memsync.ids import RecordKey, Scope, ScopeKey, scope_key
from memsync.ports import Embedder, Reasoner
from memsync.wire.replies import QueryAnswer
from memsync.wire.requests import QueryRequest
from tests.fakes.memories import NOW_MS, SCOPE, frame
from tests.fakes.store import MemoryStore


class HandClock:
    """Time that moves when it is told to; the steady clock also moves with the loop's."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def wall_ms(self) -> int:
        return NOW_MS + 3_600_000

    def steady_s(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n, 26) float32: how often each letter is in a text, at length 1."""
    counts = np.array(
        [[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], np.float32
    )
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    vectors: NDArray[np.float32] = counts / np.maximum(lengths, 1e-9)
    return vectors


class LetterModel:
    """A vector counts letters; fails or hangs on request."""

    dimensions = 26

    def __init__(self, name: str = "letters") -> None:
        self.name = name
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.hangs = False

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        if self.error is not None:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        return letters(texts)


class SlowStore(MemoryStore):
    """A store whose scopes are read when the gate opens, whose records while `reads` is set, and
    which may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = asyncio.Event()
        self.reads.set()
        self.loading = asyncio.Event()
        self.loads = 0
        self.error: Exception | None = None

    async def memories(self, scope: ScopeKey) -> AsyncIterator[list[Record]]:
        self.loads += 1
        self.loading.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        async for memories in super().memories(scope):
            yield memories

    async def records(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Record]:
        await self.reads.wait()
        if self.error is not None:
            raise self.error
        return await super().records(keys)


class Bench:
    """A recall with all that it stands on."""

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        providers: Sequence[Provider] | None = None,
        reasoner: Reasoner | None = None,
        cache: QuestionCache | None = None,
    ) -> None:
        self.clock = HandClock()
        self.store = SlowStore()
        self.index = FaissHotIndex(1 << 30)
        if providers is None:
            providers = [Provider(name="letters", embedder=embedder)] if embedder else []
        self.breakers = Breakers(self.clock)
        self.embedding = Embedding(providers, self.breakers, self.clock, cache)
        self.reasoning = Reasoning(reasoner, self.breakers, self.clock)
        self.recall = self.recalling(Following())
        self.tier = "medium"
        self._sequence = 0

    def recalling(self, following: Following) -> Recall:
        """A recall over these parts."""
        return Recall(
            self.store,
            self.index,
            self.embedding,
            self.reasoning,
            self.clock,
            breakers=self.breakers,
            following=following,
        )

    async def write(self, *operations: Any) -> None:
        """Apply a write as the applier does: the store first, then the index."""
        self._sequence += 1
        written = frame(*operations, sequence=self._sequence, at_ms=NOW_MS + self._sequence)
        self.index.apply(await self.store.apply([written], {}))

    def key_of(self, scope: Scope) -> ScopeKey:
        """The key of a scope."""
        return scope_key(scope)

    def asking(self, query: str, **fields: Any) -> asyncio.Task[QueryAnswer]:
        """The same as `ask`, under way."""
        return asyncio.create_task(self.ask(query, **fields))

    async def ask(self, query: str, *, within_s: float = 5.0, **fields: Any) -> QueryAnswer:
        degraded = fields.pop("degraded", ())
        fields.setdefault("computation_tier", self.tier)
        return await self.recall.answer(
            fields.pop("scope", SCOPE),
            QueryRequest(query=query, **fields),
            deadline_s=self.clock.steady_s() + within_s,
            degraded=degraded,
        )


@asynccontextmanager
async def bench(
    embedder: Embedder | None = None, *, runs: bool = True, **options: Any
) -> AsyncIterator[Bench]:
    """A bench whose loads are held while the block runs; `options` are those of `Bench`."""
    made = Bench(embedder, **options)
    running = asyncio.create_task(made.recall.run()) if runs else None
    await asyncio.sleep(0)
    try:
        yield made
    finally:
        if running is not None:
            running.cancel()
            await asyncio.wait({running})


def texts(answer: QueryAnswer) -> list[str]:
    """What was recalled, best first."""
    return [memory.text for memory in answer.memories]
