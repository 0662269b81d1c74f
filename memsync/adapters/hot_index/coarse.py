"""Approximate search over very many vectors of one model: FAISS, four bits for every two values.

Every copy is scanned for every question, with instructions that look up 32 of them at once: 0.13 ms
for 100,000 vectors of 256 values, where the vectors themselves take 3.4 ms. What comes out is a
list of likely rows; the caller reckons their cosines from the vectors themselves, so that only a
row that is not on the list can be missed. Clusters (IVF) miss far more: the vectors of short texts
lie in no clusters, least of all those of questions (decisions/0027).

What is copied is not a turn's own vector but its context, as ranking weighs it: the vector and the
shares of those of the turns beside it (`ranking.NEIGHBOUR_WEIGHT`). The cosine is linear, so the
context's product with a question is what the turn and its neighbours together have in common with
it. A context is that of the time when it was copied.

A `Coarse` is built beside the event loop and follows later. It knows nothing of rows: what it finds
are slots, removed and replaced ones among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import faiss
import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.core.recall.ranking import NEIGHBOUR_WEIGHT, Moments

TRAINED_MAX = 16_384  # vectors to learn from; 0.6 s for 256 values
ADDED_AT_ONCE = 4_096  # between two of them others get the interpreter
BITS = 4
NO_SLOT = -1

Vectors = NDArray[np.float32]
Slots = NDArray[np.intp]


class Source(msgspec.Struct, frozen=True):
    """Where contexts come from: `take` gives the vectors of slots, (n, dimensions) float32;
    `before`, `after` (slots,) are the slots of the turns beside each, NO_SLOT where there is none.
    """

    take: Callable[[Slots], Vectors]
    before: NDArray[np.int32]
    after: NDArray[np.int32]

    def contexts(self, slots: Slots, centre: Vectors) -> Vectors:
        """(n, dimensions) float32 of these slots. What all vectors share (`centre`) is taken out:
        it tells none of them apart, and a turn without neighbours must not lack it."""
        sums = self.take(slots) - centre
        for linked in (self.before, self.after):
            at, weight = slots, NEIGHBOUR_WEIGHT
            for _ in range(2):
                at = np.where(at != NO_SLOT, linked[at], NO_SLOT)
                there = at != NO_SLOT
                sums[there] += np.float32(weight) * (self.take(at[there]) - centre)
                weight /= 2
        return sums


class Coarse:
    """Copies of contexts by slot, in ascending order from 0."""

    def __init__(self, source: Source) -> None:
        """Learn from all slots of the source, and copy them. About 0.6 s and 10 microseconds a
        slot; lets others run."""
        total = len(source.before)
        chosen = np.arange(0, total, max(1, total // TRAINED_MAX))
        vectors = source.take(chosen)
        self._centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        dimensions = int(vectors.shape[1])
        parts = dimensions // 2 if dimensions % 2 == 0 else dimensions
        self._index = faiss.IndexPQFastScan(dimensions, parts, BITS, faiss.METRIC_INNER_PRODUCT)
        self._index.pq.cp.min_points_per_centroid = 1  # in tests they are few
        self._index.train(source.contexts(chosen, self._centre))
        self._bytes_each = parts // 2
        self._sum = np.zeros(dimensions)
        self._products = np.zeros((dimensions, dimensions))  # of each value with each, summed
        self._mean_products = np.zeros((dimensions, dimensions), np.float32)
        self.built_slots = total
        for first in range(0, total, ADDED_AT_ONCE):
            self.add(source, np.arange(first, min(first + ADDED_AT_ONCE, total)))

    @property
    def slots(self) -> int:
        """How many it holds."""
        slots: int = self._index.ntotal
        return slots

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        dimensions = len(self._centre)
        return self.slots * self._bytes_each + 12 * dimensions * dimensions + (1 << 16)

    def add(self, source: Source, slots: Slots) -> None:
        """Copy the contexts of the next slots."""
        vectors = source.take(slots)
        self._sum += vectors.sum(axis=0, dtype=np.float64)
        self._products += vectors.T @ vectors
        self._mean_products = (self._products / (self.slots + len(slots))).astype(np.float32)
        self._index.add(source.contexts(slots, self._centre))

    def moments(self, vector: Vectors) -> Moments:
        """Those of the products of all vectors with this one: exact, but for what was removed or
        replaced since."""
        mean = float(self._sum @ vector) / max(1, self.slots)
        square = float(vector @ (self._mean_products @ vector))
        return Moments(mean, math.sqrt(max(0.0, square - mean * mean)))

    def search(self, vector: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
        """About the `count` slots with the greatest products, and about these; best first."""
        products, slots = self._index.search(vector[np.newaxis, :], min(count, self.slots))
        is_found = slots[0] >= 0
        found: tuple[NDArray[np.int64], Vectors] = (slots[0][is_found], products[0][is_found])
        return found
