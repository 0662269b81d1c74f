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
    "speaker": np.int64,  # this and the next three: core/recall/traits.py
    "asks": np.float32,
    "content": np.float32,
    "is_dated": np.bool_,
    "is_assistant": np.bool_,  # what a model said, not a person
    "usage": np.float32,
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
            room = self.rows + max(self.rows // 2, CAPACITY_MIN)
            self._arrays = {name: grown(held, room) for name, held in self._arrays.items()}
        row = self.rows
        self.rows += 1
        self.set(row, {**_EMPTY, **values})
        return row

    def extend(self, values: Mapping[str, NDArray[Any]], count: int) -> int:
        """Add `count` rows, each of `values` being (count,); returns the number of the first."""
        first, end = self.rows, self.rows + count
        if end > self.capacity:
            room = max(end, self.rows + self.rows // 4)
            self._arrays = {name: grown(held, room) for name, held in self._arrays.items()}
        for name, held in self._arrays.items():
            held[first:end] = values.get(name, _EMPTY.get(name, 0))
        self.rows = end
        return first

    def set(self, row: int, values: Mapping[str, Any]) -> None:
        """Write some columns of one row."""
        for name, value in values.items():
            self._arrays[name][row] = value

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drop the rows that are not `kept` (rows,); the others move up."""
        self._arrays = {name: held[: self.rows][kept] for name, held in self._arrays.items()}
        self.rows = int(np.count_nonzero(kept))
        if self.rows < CAPACITY_MIN:
            self._arrays = {name: grown(held, CAPACITY_MIN) for name, held in self._arrays.items()}


def grown(held: NDArray[Any], room: int) -> NDArray[Any]:
    """A copy with room for so many, zeros where there is nothing yet."""
    copy = np.zeros(room, held.dtype)
    copy[: len(held)] = held
    return copy


_EMPTY: dict[str, Any] = dict.fromkeys(
    ("session", "previous", "following", "slot", "model"), NO_ROW
)
