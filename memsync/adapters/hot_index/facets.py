"""Facets: what a filter compares for equality (tags, sources, metadata), as hashes beside rows.

Two parallel arrays hold every (hash, row) pair of a scope, 12 bytes each; a filter compares the one
column with the hash that it looks for. That is 0.2 ms for half a million pairs, needs no dictionary
for values that are all different (message ids), and a row's facets are replaced without a trace.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index.columns import grown
from memsync.wire import codec

PAIR_BYTES = 12


def facet(kind: str, name: str, value: Any = None) -> int:
    """64 bits for one fact of a row, such as ("tag", "travel") or ("metadata", "lang", "de")."""
    packed = codec.pack((kind, name, _comparable(value)))
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


def _comparable(value: Any) -> Any:
    """JSON knows one kind of number: 1 and 1.0 are equal (and neither is true)."""
    match value:
        case int() if not -(1 << 63) <= value < 1 << 64:
            return str(value)  # no memory holds one: it would not fit into the log
        case float() if value.is_integer() and abs(value) < 1 << 63:
            return int(value)
        case list():
            return [_comparable(part) for part in value]
        case dict():
            return {name: _comparable(part) for name, part in value.items()}
        case _:
            return value


class Facets:
    """The facets of the rows of one scope."""

    def __init__(self) -> None:
        self.pairs = 0
        self._hashes = np.zeros(0, np.uint64)
        self._rows = np.zeros(0, np.int32)

    @property
    def capacity(self) -> int:
        """How many pairs there is room for."""
        return len(self._hashes)

    def add(self, row: int, hashes: list[int]) -> None:
        """Say that a row has these facets."""
        end = self.pairs + len(hashes)
        if end > self.capacity:
            self._reserve(max(self.capacity + self.capacity // 2, end, 16))
        self._hashes[self.pairs : end] = hashes
        self._rows[self.pairs : end] = row
        self.pairs = end

    def extend(self, rows: list[int], hashes: list[int]) -> None:
        """Say many at once: row i has facet i."""
        end = self.pairs + len(hashes)
        if end > self.capacity:
            self._reserve(max(self.capacity + self.capacity // 4, end))
        self._hashes[self.pairs : end] = hashes
        self._rows[self.pairs : end] = rows
        self.pairs = end

    def _reserve(self, room: int) -> None:
        self._hashes, self._rows = grown(self._hashes, room), grown(self._rows, room)

    def of(self, row: int) -> list[int]:
        """The facets that a row has, in the order of `add`."""
        found: list[int] = self._hashes[: self.pairs][self._rows[: self.pairs] == row].tolist()
        return found

    def remove(self, row: int) -> None:
        """Take all facets of a row away; the room is used again after `renumber`."""
        self._rows[: self.pairs][self._rows[: self.pairs] == row] = -1

    def mask(self, any_of: list[int], rows: int) -> NDArray[np.bool_]:
        """(rows,): which rows have at least one of these facets."""
        hashes = self._hashes[: self.pairs]
        wanted = np.zeros(self.pairs, np.bool_)
        for one in any_of:
            wanted |= hashes == np.uint64(one)
        found = self._rows[: self.pairs][wanted]
        mask = np.zeros(rows, np.bool_)
        mask[found[found >= 0]] = True
        return mask

    def renumber(self, moved: NDArray[np.int64]) -> None:
        """Give rows their new numbers; `moved` (rows,) holds -1 for those that are gone."""
        rows = self._rows[: self.pairs]
        new = np.where(rows >= 0, moved[rows], -1).astype(np.int32)
        self._hashes, self._rows = self._hashes[: self.pairs][new >= 0], new[new >= 0]
        self.pairs = len(self._rows)
