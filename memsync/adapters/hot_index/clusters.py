"""What the memories of a scope are about, coarsely: clusters of their vectors, made when needed.

Spherical k-means over a sample of the rows (Dhillon and Modha, 2001; a few rounds from rows evenly
spread, so that the same rows give the same clusters), sqrt(rows / 2) clusters. They are made again
when the rows have doubled; until then a new row joins the nearest one. So a scope that grows pays
for them a few times in its life: 3 ms at 1,000 rows, 11 ms at 10,000, 51 ms at 100,000; and only
where a caller weighs them, by the first search that does.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index.columns import Columns
from memsync.adapters.hot_index.vectors import Vectors

ROWS_MIN = 16  # fewer are one topic or none
CLUSTERS_MAX = 64
SAMPLE_ROWS = 2_048
ROUNDS = 3
ROWS_AT_ONCE = 8_192
UNKNOWN = -1  # the cluster of a row without a vector of the model

Floats = NDArray[np.float32]


class Clusters:
    """The clusters of the vectors of one model in one scope."""

    def __init__(self) -> None:
        self._model = ""
        self._centroids: Floats = np.zeros((0, 0), np.float32)
        self._rows_then = 0  # how many had a vector when they were made
        self._of = np.zeros(0, np.int16)  # (rows,) as far as they were looked at
        self._changed: set[int] = set()  # of these

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return self._centroids.nbytes + self._of.nbytes

    def forget(self) -> None:
        """Rows were renumbered: make them anew."""
        self._model = ""

    def changed(self, row: int) -> None:
        """A row has another vector: it may be about something else."""
        if row < len(self._of):
            self._changed.add(row)

    def part(
        self,
        model: str,
        vector: Floats,
        vectors: Vectors,
        columns: Columns,
        rows: NDArray[np.intp] | None = None,
    ) -> Floats | None:
        """(rows,) 0..1, of these rows or of all: the cosine of the question's vector with the
        centroid of each row's cluster, (1 + cosine) / 2; rows without one have the mean. None where
        there are too few."""
        used = vectors.used_of(model)
        if used < ROWS_MIN:
            return None
        if model != self._model or used >= 2 * self._rows_then:
            self._make(model, vectors, columns)
        elif columns.rows > len(self._of) or self._changed:
            first = len(self._of)
            self._of = np.append(self._of, np.full(columns.rows - first, UNKNOWN, np.int16))
            self._assign([*range(first, columns.rows), *self._changed], vectors, columns)
        near = (1 + self._centroids @ vector) / 2
        table: Floats = np.append(near, near.mean(dtype=np.float64)).astype(np.float32)
        return table.take(self._of if rows is None else self._of[rows])

    def _make(self, model: str, vectors: Vectors, columns: Columns) -> None:
        rows = np.flatnonzero(columns["model"] == vectors.names.index(model))
        self._model, self._rows_then = model, len(rows)
        chosen = rows[:: math.ceil(len(rows) / SAMPLE_ROWS)]
        self._centroids = centroids_of(vectors.taken(model, columns["slot"][chosen]))
        self._of = np.full(columns.rows, UNKNOWN, np.int16)
        self._assign(rows.tolist(), vectors, columns)

    def _assign(self, rows: list[int], vectors: Vectors, columns: Columns) -> None:
        """Say of these rows which cluster is the nearest."""
        self._changed.clear()
        numbers = np.array(rows, np.intp)
        self._of[numbers] = UNKNOWN
        numbers = numbers[columns["model"][numbers] == vectors.names.index(self._model)]
        for start in range(0, len(numbers), ROWS_AT_ONCE):
            part = numbers[start : start + ROWS_AT_ONCE]
            taken = vectors.taken(self._model, columns["slot"][part])
            self._of[part] = np.argmax(taken @ self._centroids.T, axis=1)


def centroids_of(sample: Floats) -> Floats:
    """(clusters, dimensions) of length 1, for (n, dimensions) vectors of length 1 or 0, n > 0."""
    count = min(CLUSTERS_MAX, max(1, round(math.sqrt(len(sample) / 2))))
    centroids = sample[np.linspace(0, len(sample) - 1, count).astype(np.intp)].copy()
    for _ in range(ROUNDS):
        belongs = np.zeros((len(sample), count), np.float32)
        belongs[np.arange(len(sample)), np.argmax(sample @ centroids.T, axis=1)] = 1
        sums = belongs.T @ sample
        lengths = np.linalg.norm(sums, axis=1)
        is_used = lengths > 0
        centroids[is_used] = sums[is_used] / lengths[is_used, np.newaxis]
    return centroids
