"""The vectors of a scope: one FAISS flat index for each model; models are never compared."""

from __future__ import annotations

from array import array

import faiss
import numpy as np
from numpy.typing import NDArray

from memsync.wire.operations import Vector

PENDING_MAX = 1_024  # vectors that wait to be handed to FAISS in one call


class _ModelVectors:
    """The vectors of one model. Slot i belongs to row `row_of[i]`, or to none where that is -1."""

    def __init__(self, model: str, dimensions: int) -> None:
        self.model = model
        self.dimensions = dimensions
        self.row_of = array("i")
        self._index = faiss.IndexFlatIP(dimensions)
        self._pending: list[bytes] = []

    def add(self, row: int, values: bytes) -> int:
        self.row_of.append(row)
        self._pending.append(values)
        if len(self._pending) >= PENDING_MAX:
            self.flush()
        return len(self.row_of) - 1

    def replace(self, slot: int, values: bytes) -> None:
        self.flush()
        self.view()[slot] = np.frombuffer(values, "<f2")

    def flush(self) -> None:
        if self._pending:
            joined = np.frombuffer(b"".join(self._pending), "<f2").astype(np.float32)
            self._index.add(joined.reshape(-1, self.dimensions))
            self._pending = []

    def kept(self, new_rows: NDArray[np.int32]) -> _ModelVectors:
        """The same without the slots whose new row is -1."""
        kept = _ModelVectors(self.model, self.dimensions)
        if len(new_rows):
            self.flush()
            kept._index.add(self.view()[new_rows >= 0])
            kept.row_of = array("i", new_rows[new_rows >= 0].tobytes())
        return kept

    def view(self) -> NDArray[np.float32]:
        """(slots, dimensions) float32, FAISS's own memory, good until the next `flush`."""
        slots: int = self._index.ntotal
        flat = faiss.rev_swig_ptr(self._index.get_xb(), slots * self.dimensions)
        view: NDArray[np.float32] = flat.reshape(slots, self.dimensions)
        return view


class Vectors:
    """The vectors of the rows of one scope, by number of their model."""

    def __init__(self) -> None:
        self._models: list[_ModelVectors] = []

    @property
    def size_bytes(self) -> int:
        """What the vectors take, without the room that FAISS keeps to grow."""
        return sum(len(m.row_of) * (4 * m.dimensions + 12) for m in self._models)

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

    def remove(self, *, model: int, slot: int) -> None:
        """Let go of a place."""
        if model >= 0:
            self._models[model].row_of[slot] = -1

    def cosines(self, model: str, vector: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
        """(rows,) float32: cosine with each row's vector of this model, NaN where there is none."""
        result = np.full(rows, np.nan, np.float32)
        for held in self._models:
            if held.model == model and held.dimensions == len(vector) and held.row_of:
                held.flush()
                # Every score at once: `search(k=n)` would sort them too and takes ten times as
                # long.
                scores = faiss.pairwise_distances(
                    vector[np.newaxis, :], held.view(), faiss.METRIC_INNER_PRODUCT
                )[0]
                row_of = np.frombuffer(held.row_of, np.int32).astype(np.intp)
                kept = row_of >= 0
                result[row_of[kept]] = scores[kept]
        return result

    def renumber(self, moved: NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """Give rows their new numbers and drop what no row needs; returns (row, model, slot) of
        all.
        """
        places = []
        for number, held in enumerate(self._models):
            rows = np.frombuffer(held.row_of, np.int32)
            new = np.where(rows >= 0, moved[rows], -1).astype(np.int32)
            self._models[number] = held.kept(new)
            places += [(row, number, slot) for slot, row in enumerate(self._models[number].row_of)]
        return places

    def _number_of(self, vector: Vector) -> int:
        dimensions = len(vector.values) // 2
        if not dimensions or len(vector.values) % 2 or not any(vector.values):
            return -1
        for number, held in enumerate(self._models):
            if (held.model, held.dimensions) == (vector.model, dimensions):
                return number
        self._models.append(_ModelVectors(vector.model, dimensions))
        return len(self._models) - 1
