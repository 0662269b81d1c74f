"""The vectors of a scope, by model; models are never compared.

They lie in blocks of float32 that never move once they are full, so that a scope that grows copies
at most one block. Every cosine is reckoned with one call of BLAS a block: `faiss.IndexFlatIP` is no
faster (both read all of the memory once), and its search sorts what ranking needs unsorted.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.adapters.hot_index.coarse import NO_SLOT, Coarse, Source
from memsync.core.recall.ranking import Moments
from memsync.wire.operations import Vector

BLOCK_ROWS = 16_384
BLOCK_ROWS_MIN = 16
FRESH_MAX = 512  # vectors that the coarse copies lack: reckoned exactly; then added, in about 3 ms
RENEWED_AT = 1.25  # times the slots that the coarse copies were learnt from; then they are renewed
STALE_MAX = 4_096  # slots with another vector than the coarse copies know; then these are renewed
PLACE_BYTES = 12  # of a vector, beside its values


class Beside(msgspec.Struct, frozen=True):
    """How rows lie beside each other: `slots` (rows,) of their vectors; `linked`, the rows before
    and after each in its session. All -1 where there is none."""

    slots: NDArray[np.int32]
    linked: tuple[NDArray[np.int32], NDArray[np.int32]]


class ModelVectors:
    """The vectors of one model. Slot i belongs to row `row_of[i]`, or to none where that is -1."""

    def __init__(self, model: str, dimensions: int) -> None:
        self.model = model
        self.dimensions = dimensions
        self.row_of = array("i")
        self.used = 0  # slots that belong to a row
        self._blocks: list[NDArray[np.float32]] = []
        self._is_aligned = True  # slot i belongs to row i, and none is empty
        self._coarse: Coarse | None = None
        self._stale: set[int] = set()  # slots that `_coarse` knows with another vector
        self._replaced: set[int] = set()  # slots with another vector since the last `snapshot`

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        blocks = sum(block.nbytes for block in self._blocks)
        coarse = self._coarse.size_bytes if self._coarse is not None else 0
        return blocks + len(self.row_of) * PLACE_BYTES + coarse

    def add(self, row: int, values: bytes) -> int:
        slot = len(self.row_of)
        self._reserve(slot + 1)
        self._blocks[slot // BLOCK_ROWS][slot % BLOCK_ROWS] = np.frombuffer(values, "<f2")
        self.row_of.append(row)
        self.used += 1
        self._is_aligned = self._is_aligned and row == slot
        return slot

    def extend(self, rows: NDArray[np.int32], values: bytes) -> NDArray[np.int32]:
        """Add many at once, `values` being their float16 one after the other; returns the slots."""
        first = len(self.row_of)
        self._reserve(first + len(rows))
        self.used += len(rows)
        self.row_of.frombytes(rows.astype(np.int32).tobytes())
        slots = np.arange(first, len(self.row_of), dtype=np.int32)
        halves = np.frombuffer(values, "<f2").reshape(-1, self.dimensions)
        done = 0
        while done < len(rows):
            block, offset = divmod(first + done, BLOCK_ROWS)
            count = min(len(rows) - done, BLOCK_ROWS - offset)
            self._blocks[block][offset : offset + count] = halves[done : done + count]
            done += count
        self._is_aligned = self._is_aligned and bool((slots == rows).all())
        return slots

    def replace(self, slot: int, values: bytes) -> None:
        if self.used > limits.EXACT_ROWS_MAX:
            self._stale.add(slot)
            self._replaced.add(slot)
        self._blocks[slot // BLOCK_ROWS][slot % BLOCK_ROWS] = np.frombuffer(values, "<f2")

    def remove(self, slot: int) -> None:
        self.row_of[slot] = -1
        self.used -= 1
        self._is_aligned = False

    def kept(self, new_rows: NDArray[np.int32]) -> ModelVectors:
        """The same without the slots whose new row is -1."""
        kept = ModelVectors(self.model, self.dimensions)
        rows = new_rows[new_rows >= 0]
        kept._reserve(len(rows))
        kept.row_of = array("i", rows.tobytes())
        kept.used = len(rows)
        slots = np.flatnonzero(new_rows >= 0)
        for first in range(0, len(slots), BLOCK_ROWS):
            part = self.take(slots[first : first + BLOCK_ROWS])
            kept._blocks[first // BLOCK_ROWS][: len(part)] = part
        kept._is_aligned = bool((rows == np.arange(len(rows))).all())
        return kept

    def take(self, slots: NDArray[np.intp]) -> NDArray[np.float32]:
        """(slots, dimensions) float32, a copy."""
        return _taken(self._blocks, slots, self.dimensions)

    def nearest(
        self, vector: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Rows that have, with the turns beside them, about the most in common with a question, and
        about how much: `count` of them or somewhat fewer; and those that the coarse copies do not
        know yet, with infinity."""
        assert self._coarse is not None
        slots, products = self._coarse.search(vector, count)
        fresh = np.arange(self._coarse.slots, len(self.row_of))
        stale = np.fromiter(self._stale, np.int64, len(self._stale))
        slots = np.concatenate((slots, fresh, stale))
        unknown = np.full(len(fresh) + len(stale), np.inf, np.float32)
        rows = np.frombuffer(self.row_of, np.int32)[slots]
        used = rows >= 0
        return rows[used].astype(np.intp), np.concatenate((products, unknown))[used]

    def moments(self, vector: NDArray[np.float32]) -> Moments:
        """The mean and deviation of the cosines of all rows."""
        assert self._coarse is not None
        return self._coarse.moments(vector)

    @property
    def is_coarse(self) -> bool:
        """Whether `nearest` can be asked."""
        return self._coarse is not None

    def needs_coarse(self) -> bool:
        """Whether it should be built, or again: it has much to make up for."""
        if self.used <= limits.EXACT_ROWS_MAX:
            return False
        if self._coarse is None or len(self._stale) > STALE_MAX:
            return True
        return len(self.row_of) > RENEWED_AT * self._coarse.built_slots

    def snapshot(self, beside: Beside) -> Source:
        """What a `Coarse` is built from. Vectors may come and be replaced until `adopt`."""
        self._replaced = set()
        blocks = list(self._blocks)
        before, after = (self._slots_beside(linked, beside.slots) for linked in beside.linked)
        return Source(lambda slots: _taken(blocks, slots, self.dimensions), before, after)

    def adopt(self, coarse: Coarse) -> None:
        """Search by these copies of the last `snapshot` from now on."""
        self._coarse, self._stale = coarse, self._replaced
        self._replaced = set()

    def follow(self, beside: Beside) -> None:
        """Give the coarse copies what they lack, once it is so much."""
        coarse = self._coarse
        if coarse is None or len(self.row_of) - coarse.slots < FRESH_MAX:
            return
        before, after = (self._slots_beside(linked, beside.slots) for linked in beside.linked)
        coarse.add(Source(self.take, before, after), np.arange(coarse.slots, len(self.row_of)))

    def _slots_beside(
        self, linked: NDArray[np.int32], slots: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """(slots,): the slot of the row that is beside each slot's row; NO_SLOT without one."""
        row_of = np.frombuffer(self.row_of, np.int32)
        row = np.where(row_of >= 0, linked[row_of], -1)
        return np.where(row >= 0, slots[row], NO_SLOT).astype(np.int32)

    def is_of_all(self, rows: int) -> bool:
        """Whether each of so many rows has one."""
        return self._is_aligned and len(self.row_of) == rows

    def cosines(self, vector: NDArray[np.float32], into: NDArray[np.float32]) -> None:
        """Write the cosine of every row that has one."""
        slots = len(self.row_of)
        scores = into if self._is_aligned else np.empty(slots, np.float32)
        for number, block in enumerate(self._blocks):
            first = number * BLOCK_ROWS
            used = min(slots - first, BLOCK_ROWS)
            np.dot(block[:used], vector, out=scores[first : first + used])
        if not self._is_aligned:
            row_of = np.frombuffer(self.row_of, np.int32)
            kept = row_of >= 0
            into[row_of[kept]] = scores[kept]

    def _reserve(self, slots: int) -> None:
        """Have room: the last block grows by half until it is full, then there is another."""
        while (room := sum(len(block) for block in self._blocks)) < slots:
            last = len(self._blocks[-1]) if self._blocks else BLOCK_ROWS
            wanted = slots - room + (last if last < BLOCK_ROWS else 0)
            rows = max(wanted, last + last // 2 if last < BLOCK_ROWS else BLOCK_ROWS_MIN)
            rows = min(rows, BLOCK_ROWS)
            block = np.empty((rows, self.dimensions), np.float32)
            if last < BLOCK_ROWS:
                block[:last] = self._blocks.pop()
            self._blocks.append(block)


def _taken(
    blocks: Sequence[NDArray[np.float32]], slots: NDArray[np.intp], dimensions: int
) -> NDArray[np.float32]:
    if len(blocks) == 1:
        return blocks[0][slots]
    order = np.argsort(slots, kind="stable")
    ends = np.searchsorted(slots[order], np.arange(len(blocks) + 1) * BLOCK_ROWS)
    taken = np.empty((len(slots), dimensions), np.float32)
    for number in np.flatnonzero(np.diff(ends)).tolist():
        here = order[ends[number] : ends[number + 1]]
        taken[here] = blocks[number][slots[here] - number * BLOCK_ROWS]
    return taken


class Vectors:
    """The vectors of the rows of one scope, by number of their model."""

    def __init__(self) -> None:
        self._models: list[ModelVectors] = []

    @property
    def size_bytes(self) -> int:
        """What the vectors take."""
        return sum(held.size_bytes for held in self._models)

    def put(self, row: int, vector: Vector, *, model: int, slot: int) -> tuple[int, int]:
        """Give a row its vector, in the place of the one at (model, slot) if these are not -1;
        returns the new place. One of length 0 or of a strange size is no vector: (-1, -1)."""
        number = self._number_of(vector)
        if model >= 0 and model == number:
            self._models[model].replace(slot, vector.values)
            return model, slot
        self.remove(model=model, slot=slot)
        if number < 0:
            return -1, -1
        return number, self._models[number].add(row, vector.values)

    def extend(
        self, rows: list[int], vectors: list[Vector]
    ) -> list[tuple[int, NDArray[np.int32], NDArray[np.int32]]]:
        """Give many rows theirs, which had none; returns (model, rows, slots) by model."""
        by_model: dict[int, tuple[list[int], list[bytes]]] = {}
        for row, vector in zip(rows, vectors, strict=True):
            number = self._number_of(vector)
            if number >= 0:
                own = by_model.setdefault(number, ([], []))
                own[0].append(row)
                own[1].append(vector.values)
        placed = []
        for number, (own_rows, values) in by_model.items():
            numbers = np.array(own_rows, np.int32)
            slots = self._models[number].extend(numbers, b"".join(values))
            placed.append((number, numbers, slots))
        return placed

    def remove(self, *, model: int, slot: int) -> None:
        """Let go of a place."""
        if model >= 0:
            self._models[model].remove(slot)

    @property
    def models(self) -> Collection[str]:
        """The names of the models that rows have vectors of."""
        return [held.model for held in self._models if held.used]

    def used_of(self, model: str) -> int:
        """How many rows have a vector of a model."""
        return sum(held.used for held in self._models if held.model == model)

    def taken(self, model: str, slots: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """(slots, dimensions) float32, a copy; of a model that rows have vectors of."""
        held = next(held for held in self._models if held.model == model and held.used)
        return held.take(slots.astype(np.intp))

    @property
    def names(self) -> list[str]:
        """The name of each model by its number, also of those that no row has a vector of now."""
        return [held.model for held in self._models]

    def cosines(self, asked: Mapping[str, NDArray[np.float32]], rows: int) -> NDArray[np.float32]:
        """(rows,) float32: cosine of each row's vector with the question's of the same model, NaN
        where either is missing."""
        comparable = [
            (held, vector)
            for held in self._models
            if held.used
            and (vector := asked.get(held.model)) is not None
            and held.dimensions == len(vector)
        ]
        if any(held.is_of_all(rows) for held, _ in comparable):
            result = np.empty(rows, np.float32)
        else:
            result = np.full(rows, np.nan, np.float32)
        for held, vector in comparable:
            held.cosines(vector, result)
        return result

    def only(self, asked: Mapping[str, NDArray[np.float32]]) -> ModelVectors | None:
        """The vectors of the only model that there is, where a question is embedded by it and they
        can be searched approximately."""
        used = [held for held in self._models if held.used]
        if len(used) != 1 or not used[0].is_coarse:
            return None
        vector = asked.get(used[0].model)
        return used[0] if vector is not None and len(vector) == used[0].dimensions else None

    def to_build(self) -> ModelVectors | None:
        """A model whose coarse copies should be built."""
        return next((held for held in self._models if held.needs_coarse()), None)

    def follow(self, beside: Beside) -> None:
        """Let approximate search know of the vectors that came."""
        for held in self._models:
            held.follow(beside)

    def holds(self, model: ModelVectors) -> bool:
        """Whether these are still the vectors of that model: `renumber` makes new ones."""
        return any(held is model for held in self._models)

    def renumber(
        self, moved: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Give rows their new numbers and drop what no row needs; returns (rows, slots) by
        model.
        """
        places = []
        for number, held in enumerate(self._models):
            rows = np.frombuffer(held.row_of, np.int32)
            new = np.where(rows >= 0, moved[rows], -1).astype(np.int32)
            self._models[number] = held.kept(new)
            kept = new[new >= 0]
            places.append((kept, np.arange(len(kept), dtype=np.int32)))
        return places

    def _number_of(self, vector: Vector) -> int:
        dimensions = len(vector.values) // 2
        if not dimensions or len(vector.values) % 2 or not any(vector.values):
            return -1
        for number, held in enumerate(self._models):
            if (held.model, held.dimensions) == (vector.model, dimensions):
                return number
        self._models.append(ModelVectors(vector.model, dimensions))
        return len(self._models) - 1
