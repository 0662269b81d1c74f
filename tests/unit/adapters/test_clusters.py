"""Clusters: made when needed, the same for the same rows, and near what is near."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memsync.adapters.hot_index import clusters as clusters_module
from memsync.adapters.hot_index.clusters import ROWS_MIN, Clusters, centroids_of
from memsync.adapters.hot_index.columns import Columns
from memsync.adapters.hot_index.vectors import Vectors
from memsync.wire.operations import Vector

AXES = np.eye(8, dtype=np.float32)


def around(axis: int, count: int, *, seed: int = 0) -> NDArray[np.float32]:
    """(count, 8) of length 1, near an axis."""
    vectors = np.random.default_rng(seed + axis).normal(0, 0.05, (count, 8))
    vectors[:, axis] += 1
    found: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found.astype(np.float32)


class Rows:
    """Rows of a scope with their vectors, and the clusters of these."""

    def __init__(self, *parts: NDArray[np.float32]) -> None:
        self.vectors, self.columns, self.clusters = Vectors(), Columns(), Clusters()
        for part in parts:
            self.add(part)

    def add(self, more: NDArray[np.float32]) -> None:
        """Append rows."""
        for values in more:
            row = self.columns.append({})
            self.give(row, values)

    def give(self, row: int, values: NDArray[np.float32]) -> None:
        """Another vector for a row."""
        held = Vector("m", values.astype("<f2").tobytes())
        place = {name: int(self.columns[name][row]) for name in ("model", "slot")}
        model, slot = self.vectors.put(row, held, **place)
        self.columns.set(row, {"model": model, "slot": slot})
        self.clusters.changed(row)

    def part(self, vector: NDArray[np.float32], model: str = "m") -> NDArray[np.float32]:
        """The part of these rows, of which there are enough."""
        found = self.clusters.part(model, vector, self.vectors, self.columns)
        assert found is not None
        return found


def test_rows_of_one_topic_have_one_part_and_the_asked_topic_the_highest() -> None:
    part = Rows(around(0, 40), around(1, 40), around(2, 40)).part(AXES[1])
    assert part[40:80].min() > 0.9 > part[:40].max()
    assert part[:40] == pytest.approx(0.5, abs=0.1)
    assert part[80:] == pytest.approx(0.5, abs=0.1)


def test_the_same_rows_have_the_same_clusters() -> None:
    one, other = (Rows(around(0, 90), around(3, 70)).part(AXES[0]) for _ in range(2))
    assert (one == other).all()


def test_too_few_have_none_nor_has_another_model() -> None:
    few, enough = Rows(around(0, ROWS_MIN - 1)), Rows(around(0, ROWS_MIN))
    few.columns.append({})
    assert few.clusters.part("m", AXES[0], few.vectors, few.columns) is None
    assert enough.clusters.part("n", AXES[0], enough.vectors, enough.columns) is None
    assert len(enough.part(AXES[0])) == ROWS_MIN


def test_a_row_without_a_vector_has_the_mean() -> None:
    rows = Rows(around(0, 40), around(1, 40))
    rows.columns.append({})
    part = rows.part(AXES[0])
    assert part[:80].min() < part[80] < part[:80].max()
    rows.columns.append({})
    assert rows.part(AXES[0])[81] == part[80]


def test_new_rows_join_and_after_a_doubling_all_is_made_anew() -> None:
    rows = Rows(around(0, 40))
    rows.part(AXES[5])
    rows.add(around(5, 30))
    assert rows.part(AXES[5]).max() < 0.7  # there is no cluster yet of what came
    rows.add(around(5, 30))
    assert rows.part(AXES[5])[40:].min() > 0.9


def test_a_row_with_another_vector_changes_its_cluster() -> None:
    rows = Rows(around(0, 40), around(1, 40))
    assert rows.part(AXES[1])[3] < 0.7
    rows.give(3, AXES[1])
    part = rows.part(AXES[1])
    assert part[3] > 0.9
    assert np.delete(part[:40], 3).max() < 0.7


def test_what_is_forgotten_is_made_anew() -> None:
    rows = Rows(around(0, 40), around(1, 40))
    rows.part(AXES[1])
    rows.vectors.renumber(np.concatenate((np.full(40, -1), np.arange(40))))
    rows.columns.keep(np.arange(80) >= 40)
    rows.columns["slot"][:] = np.arange(40)
    rows.clusters.forget()
    assert rows.part(AXES[1]).min() > 0.9


def test_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters_module, "SAMPLE_ROWS", 32)
    monkeypatch.setattr(clusters_module, "ROWS_AT_ONCE", 7)
    part = Rows(around(0, 200), around(1, 200)).part(AXES[0])
    assert part[:200].min() > 0.9 > part[200:].max()


def test_centroids_have_length_one() -> None:
    found = centroids_of(np.concatenate((around(0, 50), around(1, 50), np.zeros((3, 8), "f4"))))
    lengths = np.linalg.norm(found, axis=1)
    assert ((np.abs(lengths - 1) < 1e-5) | (lengths == 0)).all()
    assert len(found) == 7
