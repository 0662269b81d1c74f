"""The parts that postings lie in: sorted, compact, and read in both directions. Pure; numpy only.

From a term to the rows that hold it: the terms are sorted 64-bit hashes, and each has its postings
in ascending order of rows. From a row to the terms that its text says: the places of these terms,
row after row, first those that it writes as names. That is 16 bytes a term, 8 a posting and 5 a
row, with no object of Python's for any of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

COUNT_BITS = 8
COUNT_MAX = (1 << COUNT_BITS) - 1
SAID_MAX = 64  # terms of a row that are kept by row, the first: a long text is about these

Hashes = NDArray[np.int64]
Packed = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
Holders = tuple[int, list[Packed]]  # what somebody says of a term, and its postings


class Said(msgspec.Struct, frozen=True):
    """What n rows say, as places of terms: row i says places[ends[i]:ends[i + 1]], and the first
    named[i] of them are names."""

    places: Packed
    ends: Packed
    named: Bytes

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return self.places.nbytes + self.ends.nbytes + self.named.nbytes


class Sizes(msgspec.Struct, frozen=True):
    """Of each of n rows: how many terms it holds, how many of these it says, and names."""

    held: NDArray[np.int64]
    said: NDArray[np.int64]
    named: Bytes


class Segment(msgspec.Struct, frozen=True):
    """`terms` (t,) int64 ascending; the postings of term i are packed[starts[i]:starts[i + 1]],
    each row << 8 | count. Its rows are those from `first` on."""

    terms: Hashes
    starts: NDArray[np.int64]
    packed: Packed
    first: int
    said: Said

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return 16 * len(self.terms) + self.packed.nbytes + self.said.size_bytes

    def find(self, terms: Hashes) -> list[tuple[int, int, int]]:
        """(place among the asked, start, end of its postings) of each of these terms that it
        has."""
        names, starts, total = self.terms.data, self.starts.data, len(self.terms)
        at = self.terms.searchsorted(terms).tolist()
        return [
            (place, starts[i], starts[i + 1])
            for place, (i, term) in enumerate(zip(at, terms.tolist(), strict=True))
            if i < total and names[i] == term
        ]

    def spoken(self, rows: Iterable[int]) -> tuple[Packed, Packed]:
        """What rows of this segment say, and what they name, as places of terms, row after row."""
        ends, named, places = self.said.ends.data, self.said.named.data, self.said.places
        said, names = [], []
        for row in rows:
            at = row - self.first
            begin = ends[at]
            said.append(places[begin : ends[at + 1]])
            if count := named[at]:
                names.append(places[begin : begin + count])
        return np.concatenate(said), np.concatenate(names) if names else _NOTHING

    def holding(
        self, words: Mapping[int, int], without: Container[int], *, least: int, most: int
    ) -> list[Holders]:
        """The postings of each of these terms, given by their places, with what the mapping says;
        not of those whose hash is among `without`, or that fewer or more rows hold."""
        terms, starts, packed = self.terms.data, self.starts.data, self.packed
        return [
            (value, [packed[start:end]])
            for place, value in words.items()
            if least <= (end := starts[place + 1]) - (start := starts[place]) <= most
            and terms[place] not in without
        ]


def segment_of(terms: Hashes, packed: Packed, sizes: Sizes, *, first: int) -> Segment:
    """Of (p,) postings, row after row from `first` on: a row's names, what else it says, and what
    else it holds."""
    names, place, held = np.unique(terms, return_inverse=True, return_counts=True)
    # By term and row at once: one sort of integers, which is far quicker than a stable one.
    ordered = np.sort(place.astype(np.uint64) << np.uint64(32) | packed)
    begins = _starts(sizes.held)[:-1].repeat(sizes.held)
    is_said = np.arange(len(packed)) - begins < sizes.said.repeat(sizes.held)
    said = Said(
        place[is_said].astype(np.uint32), _starts(sizes.said).astype(np.uint32), sizes.named
    )
    return Segment(names, _starts(held), ordered.astype(np.uint32), first, said)


def merged(one: Segment, other: Segment) -> Segment:
    """Both; the rows of `other` follow those of `one`."""
    terms = np.union1d(one.terms, other.terms)
    sizes = np.zeros(len(terms), np.int64)
    places = [np.searchsorted(terms, segment.terms) for segment in (one, other)]
    for segment, place in zip((one, other), places, strict=True):
        sizes[place] += np.diff(segment.starts)
    starts = _starts(sizes)
    packed = np.empty(starts[-1], np.uint32)
    begins = starts[:-1].copy()
    for segment, place in zip((one, other), places, strict=True):
        own = np.diff(segment.starts)
        shift = np.repeat(begins[place] - segment.starts[:-1], own)
        packed[np.arange(len(segment.packed)) + shift] = segment.packed
        begins[place] += own
    said = [part.said for part in (one, other)]
    now = Said(
        np.concatenate([place.astype(np.uint32)[own.places]
                        for place, own in zip(places, said, strict=True)]),
        np.concatenate((said[0].ends, said[1].ends[1:] + said[0].ends[-1])),
        np.concatenate([own.named for own in said]),
    )  # fmt: skip
    return Segment(terms, starts, packed, one.first, now)


def renumbered(segment: Segment, moved: NDArray[np.int64]) -> Segment:
    """The same with new numbers of rows, ascending from 0; `moved` (rows,) says -1 of those that
    go. It holds all rows."""
    rows = moved[segment.packed >> np.uint32(COUNT_BITS)]
    kept = rows >= 0
    counts = segment.packed[kept] & np.uint32(COUNT_MAX)
    packed = (rows[kept].astype(np.uint32) << np.uint32(COUNT_BITS)) | counts
    held = np.diff(_starts(kept)[segment.starts])
    used = held > 0
    stays, sizes, said = moved >= 0, np.diff(segment.said.ends), segment.said
    place = (np.cumsum(used) - 1).astype(np.uint32)
    now = Said(
        place[said.places[stays.repeat(sizes)]],
        _starts(sizes[stays]).astype(np.uint32),
        said.named[stays],
    )
    return Segment(segment.terms[used], _starts(held[used]), packed, 0, now)


def _starts(sizes: NDArray[np.int64] | NDArray[np.bool_] | Packed) -> NDArray[np.int64]:
    """(n + 1,): where each of n parts begins that have these sizes, and where the last ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)))


_NOTHING = np.zeros(0, np.uint32)
