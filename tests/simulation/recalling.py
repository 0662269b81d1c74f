"""The recall of a process: the real one in every second seed, in the others one by words.

Of the real one hot index, loading of scopes, kept answers and shown memories are the product's, so
that an answer that they give although something has changed since is seen by the judge. It was
measured: a seed with it takes 22 % more of the processor (0.250 s, not 0.205 s), which is cheap
enough for half of them. What stands on models, writes to disk or is counted once a minute (vectors,
explanations, uses) is left out. The numbers of FAISS and of the ranking are not judged, only which
memories an answer shows.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index import FaissHotIndex
from memsync.clock import Clock
from memsync.engine.recall import (
    Breakers,
    Embedding,
    Following,
    Provider,
    Reasoning,
    Recall,
    Results,
    Shown,
)
from memsync.ports import Change, Store
from tests.fakes.recall import WordRecall

INDEX_BYTES_MAX = 1 << 28


class Recalling(msgspec.Struct, frozen=True):
    """A recall, what runs beside it, and what is told of every batch of changes that its process
    applies."""

    recall: Recall | WordRecall
    run: Callable[[], Coroutine[Any, Any, None]]
    derived: list[Callable[[Sequence[Change]], None]]


class _Wordless:
    """A model to which no word is known: nothing is missing without its vectors, so that answers
    are kept."""

    name = "wordless"
    dimensions = 4

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, 4) float32 of zeros."""
        return np.zeros((len(texts), self.dimensions), np.float32)


def by_words(store: Store, clock: Clock) -> Recalling:
    """It looks through the store."""
    return Recalling(WordRecall(store, clock), _nothing, [])


def real(store: Store, clock: Clock) -> Recalling:
    """As `nodes.peer` joins it, but for what is left out."""
    breakers = Breakers(clock)
    provider = Provider(name=_Wordless.name, embedder=_Wordless(), is_inline=True)
    index, results, shown = FaissHotIndex(INDEX_BYTES_MAX), Results(clock, breakers), Shown()
    recall = Recall(
        store,
        index,
        Embedding([provider], breakers, clock),
        Reasoning(None, breakers, clock),
        clock,
        breakers=breakers,
        following=Following(results=results, shown=shown),
    )
    return Recalling(recall, recall.run, [index.apply, results.apply, shown.apply])


async def _nothing() -> None:
    """Nothing runs beside it."""
