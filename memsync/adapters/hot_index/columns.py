"""Parallel arrays that grow: what filters and ranking need of every row of a scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CAPACITY_MIN = 16
NEVER = np.iinfo(np.int64).max  # `expires_at_ms` of a memory without a time to live
DEAD = np.iinfo(np.int64).min  # `expires_at_ms` of a row that is no more
NO_ROW = -1

DTYPES: Mapping[str, Any] = {
    "created_at_ms": np.int64,
    "moment_ms": np.int64,  # occurred_at, or else created_at
    "expires_at_ms": np.int64,
    "stamp_time": np.int64,  # of the create
    "origin": np.int64,  # hash that tells one create of the memory from another
    "place": np.int32,  # in its bulk
    "session": np.int32,  # number of its session, NO_ROW without one
    "previous": np.int32,  # the row before it in its session, NO_ROW at the start
    "following": np.int32,
    "slot": np.int32,  # of its vector in the index of that model, NO_ROW without one
    "model": np.int16,  # number of the model of its vector, NO_ROW without one
    "tier": np.int8,
    "is_summary": np.bool_,
    "importance": np.float32,
}
ROW_BYTES: int = sum(np.dtype(dtype).itemsize for dtype in DTYPES.values())


class Columns:
    """Arrays by name, all of one length; `columns["session"]` is a view of the rows in use."""

    def __init__(self) -> None:
        self.rows = 0
        self._arrays = {name: np.zeros(CAPACITY_MIN, dtype) for name, dtype in DTYPES.items()}

    @property
    def capacity(self) -> int:
        """How many rows there is room for before the arrays are copied into larger ones."""
        return len(self._arrays["slot"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """(rows,), writable, good until the next `append`."""
        return self._arrays[name][: self.rows]

    def append(self, values: Mapping[str, Any]) -> int:
        """Add a row, NO_ROW or 0 where no value is given; returns its number."""
        if self.rows == self.capacity:
            self._arrays = {
                name: np.concatenate((held, np.zeros(len(held), held.dtype)))
                for name, held in self._arrays.items()
            }
        row = self.rows
        self.rows += 1
        self.set(row, {**_EMPTY, **values})
        return row

    def set(self, row: int, values: Mapping[str, Any]) -> None:
        """Write some columns of one row."""
        for name, value in values.items():
            self._arrays[name][row] = value

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the rows that are not `kept` (rows,); the others move up."""
        self._arrays = {name: held[: self.rows][kept] for name, held in self._arrays.items()}
        self.rows = int(np.count_nonzero(kept))
        if self.rows < CAPACITY_MIN:
            spare = CAPACITY_MIN - self.rows
            self._arrays = {
                name: np.concatenate((held, np.zeros(spare, held.dtype)))
                for name, held in self._arrays.items()
            }


_EMPTY: dict[str, Any] = dict.fromkeys(
    ("session", "previous", "following", "slot", "model"), NO_ROW
)
