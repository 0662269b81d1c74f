"""The rows of postings that came one by one and are in no segment yet: by term, and by row. Pure.

A dictionary of small arrays costs much for each term, so it becomes a segment before it is large.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np

from memsync.core.recall.words.segments import (
    COUNT_BITS,
    COUNT_MAX,
    SAID_MAX,
    Hashes,
    Packed,
    Segment,
    Sizes,
    segment_of,
)

TERM_BYTES = 270  # what Python takes for a term in the dictionary, beside its postings
POSTING_BYTES = 17
ROW_BYTES = 9


class Tail:
    """Rows from `first` on, each as it was appended."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._by_term: dict[int, array[int]] = {}
        # Posting by posting, row after row: what `segment_of` is made from.
        self._terms = array("q")
        self._packed = array("I")
        self._ends = array("I", (0,))
        self._said = array("I")  # these two: of each row
        self._named = bytearray()

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self._said)

    @property
    def postings(self) -> int:
        """How many postings there are."""
        return len(self._packed)

    @property
    def size_bytes(self) -> int:
        """About what it takes."""
        by_term = len(self._by_term) * TERM_BYTES
        return by_term + self.postings * POSTING_BYTES + self.rows * ROW_BYTES

    def append(self, terms: Mapping[str, int], said: int, named: int) -> None:
        """Take the next row; see `Postings.append`."""
        base, by_term = (self.first + self.rows) << COUNT_BITS, self._by_term
        hashes, packed = self._terms, self._packed
        for name, count in terms.items():
            term, posting = hash(name), base | (count if count < COUNT_MAX else COUNT_MAX)
            hashes.append(term)
            packed.append(posting)
            if (known := by_term.get(term)) is None:
                by_term[term] = array("I", (posting,))
            else:
                known.append(posting)
        self._ends.append(len(packed))
        self._said.append(min(said, SAID_MAX))
        self._named.append(min(named, SAID_MAX))

    def held(self, term: int) -> int:
        """How many rows hold a term."""
        return len(self._by_term.get(term, ()))

    def find(self, terms: Hashes) -> list[tuple[int, Packed]]:
        """(place among the asked, its postings) of each of these terms that it has."""
        if not self._by_term:
            return []
        found = [(place, self._by_term.get(term)) for place, term in enumerate(terms.tolist())]
        # Copies: an array that somebody looks into cannot grow.
        return [(place, np.array(own, np.uint32)) for place, own in found if own is not None]

    def spoken(self, rows: Iterable[int]) -> tuple[Hashes, Hashes]:
        """What these rows say, and what they name, as hashes, row after row."""
        said, named = array("q"), array("q")
        for row in rows:
            at = row - self.first
            begin = self._ends[at]
            said += self._terms[begin : begin + self._said[at]]
            named += self._terms[begin : begin + self._named[at]]
        return np.array(said, np.int64), np.array(named, np.int64)

    def segment(self) -> Segment:
        """All of it as one segment."""
        ends = np.array(self._ends, np.int64)
        sizes = Sizes(
            ends[1:] - ends[:-1], np.array(self._said, np.int64), np.array(self._named, np.uint8)
        )
        terms, packed = np.array(self._terms, np.int64), np.array(self._packed, np.uint32)
        return segment_of(terms, packed, sizes, first=self.first)
