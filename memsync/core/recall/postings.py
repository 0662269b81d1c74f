"""Which rows of one scope hold which terms; what that says of a row: `bm25`. Pure; numpy only.

A posting is 32 bits (row << 8 | count, counts above 255 count as 255). Most of them lie in
segments: the terms as sorted 64-bit hashes, and for each its postings in ascending order of rows,
16 bytes a term and 4 a posting, with no object of Python's for either. Rows that are appended one
by one go to a dictionary of small arrays first, which becomes a segment when it is large enough,
and segments are merged as they grow, so that there are few. Nothing is kept per row but its length,
so a removed row is passed over by whoever asks (`visible`) until `compact` takes it out.

Terms are told apart by Python's own hash of a string, good inside this process: two of a hundred
thousand terms share one with a probability of 3 in 10^10.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.core.recall.bm25 import (
    Counts,
    LexicalScores,
    Matches,
    Population,
    Sums,
    matches_of,
    population_of,
)

COUNT_BITS = 8
COUNT_MAX = (1 << COUNT_BITS) - 1
ROWS_MAX = 1 << (32 - COUNT_BITS)
TAIL_POSTINGS_MAX = 16_384  # then the tail becomes a segment, in about 2 ms
SEGMENT_GROWTH = 4  # a segment is at least so many times as large as the next
TAIL_TERM_BYTES = 270  # what Python takes for a term in the dictionary, beside its postings
MERGED_POSTINGS_MAX = 4_000_000  # about 30 ms; more are merged by `seal` only
TABLE_CELLS_MAX = 1 << 20  # of terms x sessions, or terms x rows, reckoned at once
# Of a question, so that it costs at most about 2 ms: the postings whose neighbours are looked at.
# Each word has its share of it; one that more rows hold tells little, and counts where it stands.
SPREAD_POSTINGS_MAX = 32_768
MATCHES_MAX = 1_000_000  # postings of a question in a scope that is searched approximately: 20 ms


class _Segment(msgspec.Struct, frozen=True):
    """`terms` (t,) int64 ascending; the postings of term i are packed[starts[i]:starts[i + 1]]."""

    terms: NDArray[np.int64]
    starts: NDArray[np.int64]
    packed: NDArray[np.uint32]

    def find(self, terms: NDArray[np.int64]) -> list[tuple[int, int, int]]:
        """(place among the asked, start, end of its postings) of each of these terms that it
        has."""
        if not len(self.terms):
            return []
        at = self.terms.searchsorted(terms)
        here = (self.terms.take(at, mode="clip") == terms).nonzero()[0]
        at = at[here]
        starts, ends = self.starts[at].tolist(), self.starts[at + 1].tolist()
        return list(zip(here.tolist(), starts, ends, strict=True))


class Postings:
    """The lexical index of one scope; rows are numbered from 0 in the order of `append`."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []  # rows ascending from one to the next
        self._tail: dict[int, array[int]] = {}
        self._tail_postings = 0
        self._lengths = array("f")

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        segments = sum(16 * len(part.terms) + part.packed.nbytes for part in self._segments)
        tail = len(self._tail) * TAIL_TERM_BYTES + self._tail_postings * 5
        return segments + tail + len(self._lengths) * 5

    @property
    def postings_total(self) -> int:
        """How many (term, row) pairs there are."""
        return sum(len(segment.packed) for segment in self._segments) + self._tail_postings

    def append(self, terms: Mapping[str, int]) -> int:
        """Take in a text; returns its row."""
        row = len(self._lengths)
        assert row < ROWS_MAX
        base = row << COUNT_BITS
        tail = self._tail
        for term, count in terms.items():
            packed = base | min(count, COUNT_MAX)
            if (known := tail.get(hash(term))) is None:
                tail[hash(term)] = array("I", (packed,))
            else:
                known.append(packed)
        self._lengths.append(sum(terms.values()))
        self._tail_postings += len(terms)
        if self._tail_postings > TAIL_POSTINGS_MAX:
            self._close_tail(merged_max=MERGED_POSTINGS_MAX)
        return row

    def extend(self, texts: Sequence[Mapping[str, int]]) -> None:
        """Take in many texts: as `append` for each, several times faster. `seal` after the last."""
        self._close_tail(merged_max=0)
        first = len(self._lengths)
        assert first + len(texts) <= ROWS_MAX
        sizes = [len(terms) for terms in texts]
        total = sum(sizes)
        terms = np.fromiter(map(hash, chain.from_iterable(texts)), np.int64, total)
        counts = np.fromiter(
            chain.from_iterable(terms.values() for terms in texts), np.uint32, total
        )
        self._lengths.extend(float(sum(terms.values())) for terms in texts)
        rows = np.repeat(np.arange(first, first + len(texts), dtype=np.uint32), sizes)
        packed = (rows << np.uint32(COUNT_BITS)) | np.minimum(counts, COUNT_MAX).astype(np.uint32)
        self._segments.append(_segment_of(terms, packed))
        self._merge(merged_max=ROWS_MAX << COUNT_BITS)

    def seal(self) -> None:
        """Make one segment of all, for as quick a search as can be."""
        self._close_tail(merged_max=0)
        while len(self._segments) > 1:
            self._merge_last()

    def population(
        self,
        visible: NDArray[np.bool_],
        sessions: NDArray[np.int32],
        sessions_total: int,
        *,
        previous: NDArray[np.int32],
        following: NDArray[np.int32],
    ) -> Population:
        """What `score` needs of the rows together; good until a row comes, goes, or stops being
        visible. `sessions`, `previous`, `following` (n,), -1 is none."""
        return population_of(
            np.frombuffer(self._lengths, np.float32),
            visible,
            sessions,
            sessions_total,
            previous=previous,
            following=following,
        )

    def rarest(self, terms: Collection[str], most: int) -> Collection[str]:
        """At most so many of the terms: of those that rows hold the rarest, then the others."""
        if len(terms) <= most:
            return terms
        hashes = np.fromiter(map(hash, terms), np.int64, len(terms))
        held = np.array([len(self._tail.get(term, ())) for term in hashes.tolist()], np.int64)
        for segment in self._segments:
            for place, start, end in segment.find(hashes):
                held[place] += end - start
        order = np.argsort(np.where(held > 0, held, ROWS_MAX), kind="stable")
        listed = list(terms)
        return [listed[place] for place in order[:most].tolist()]

    def score(self, terms: Iterable[str], among: Population) -> LexicalScores:
        """BM25 of every row, (n,), counting only the visible ones."""
        rows_total, sessions_total = len(self._lengths), len(among.session_norms)
        everything = Sums(rows_total, among)
        hashes = np.fromiter(map(hash, terms), np.int64)
        at_once = max(1, TABLE_CELLS_MAX // (max(sessions_total, rows_total) + 1))
        spread_max = SPREAD_POSTINGS_MAX // max(1, len(hashes))
        for first in range(0, len(hashes), at_once):
            matches = self._matches(hashes[first : first + at_once], among, spread_max=spread_max)
            everything.add(matches, before=among.before, after=among.after)
        return everything.scores()

    def matches(self, terms: Iterable[str], among: Population) -> Matches:
        """Where the terms are, for scopes that are too large to score every row: the rarest terms
        first, as many as `MATCHES_MAX` postings hold and a table of sessions has room for, one at
        least."""
        hashes = np.fromiter(map(hash, terms), np.int64)
        sizes = np.zeros(len(hashes), np.int64)
        for segment in self._segments:
            for place, start, end in segment.find(hashes):
                sizes[place] += end - start
        order = np.argsort(sizes, kind="stable")
        fits = np.cumsum(sizes[order]) <= MATCHES_MAX
        fits[4 * TABLE_CELLS_MAX // (len(among.session_norms) + 1) :] = False
        fits[:1] = True
        spread_max = SPREAD_POSTINGS_MAX // max(1, len(hashes))
        return self._matches(hashes[order[fits]], among, spread_max=spread_max)

    def score_rows(
        self,
        matches: Matches,
        among: Population,
        place: NDArray[np.int32],
        *,
        before: NDArray[np.intp],
        after: NDArray[np.intp],
    ) -> LexicalScores:
        """As `score`, for some rows only: `place` (n,) says where in the result each is, -1 for the
        others; `before` and `after` (places + 1,) are places as those of `Population` are rows.
        Sessions are scored from all of their rows.
        """
        sums = Sums(len(before) - 1, among)
        sums.add(matches, before=before, after=after, place=place)
        return sums.scores()

    def _matches(self, terms: NDArray[np.int64], among: Population, *, spread_max: int) -> Matches:
        rows, term_of, counts = self._found(terms, among)
        return matches_of(
            rows,
            term_of,
            counts,
            terms_total=len(terms),
            among=among,
            spread_max=spread_max,
        )

    def _found(
        self, terms: NDArray[np.int64], among: Population
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Counts]:
        """The visible rows that hold the terms, the place of the term, and how often it occurs."""
        pieces: list[NDArray[np.uint32]] = []
        owners: list[int] = []
        for segment in self._segments:
            for place, start, end in segment.find(terms):
                pieces.append(segment.packed[start:end])
                owners.append(place)
        for place, term in enumerate(terms.tolist() if self._tail else ()):
            if (known := self._tail.get(term)) is not None:
                # A copy: an array that somebody looks into cannot grow.
                pieces.append(np.array(known, np.uint32))
                owners.append(place)
        packed = np.concatenate(pieces) if pieces else np.zeros(0, np.uint32)
        term_of = np.repeat(np.array(owners, np.intp), [len(piece) for piece in pieces])
        rows = (packed >> np.uint32(COUNT_BITS)).astype(np.intp)
        counts = (packed & np.uint32(COUNT_MAX)).astype(np.float32)
        if not among.is_whole:
            seen = among.visible[rows]
            rows, term_of, counts = rows[seen], term_of[seen], counts[seen]
        return rows, term_of, counts

    def compact(self, moved: NDArray[np.int64]) -> None:
        """Renumber the rows: `moved` (n,) gives each row its new number, ascending, or -1 to drop
        it.
        """
        self.seal()
        self._lengths = array("f", np.frombuffer(self._lengths, np.float32)[moved >= 0].tobytes())
        self._segments = [_renumbered(segment, moved) for segment in self._segments]

    def _close_tail(self, *, merged_max: int) -> None:
        """Make a segment of the tail, and merge segments that have grown alike."""
        if not self._tail:
            return
        names = np.fromiter(self._tail, np.int64, len(self._tail))
        order = np.argsort(names)
        arrays = list(self._tail.values())
        sizes = np.array([len(arrays[place]) for place in order.tolist()], np.int64)
        packed = np.frombuffer(b"".join(arrays[place] for place in order.tolist()), np.uint32)
        self._segments.append(_Segment(names[order], _starts(sizes), packed))
        self._tail, self._tail_postings = {}, 0
        self._merge(merged_max=merged_max)

    def _merge(self, *, merged_max: int) -> None:
        while len(self._segments) > 1:
            larger, last = (len(segment.packed) for segment in self._segments[-2:])
            if larger >= SEGMENT_GROWTH * last or larger + last > merged_max:
                return
            self._merge_last()

    def _merge_last(self) -> None:
        self._segments[-2:] = [_merged(*self._segments[-2:])]


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))


def _segment_of(terms: NDArray[np.int64], packed: NDArray[np.uint32]) -> _Segment:
    """A segment of (p,) postings in any order."""
    names, place, sizes = np.unique(terms, return_inverse=True, return_counts=True)
    # By term and row at once: one sort of integers, which is far quicker than a stable one.
    ordered = np.sort(place.astype(np.uint64) << np.uint64(32) | packed)
    return _Segment(names, _starts(sizes), ordered.astype(np.uint32))


def _merged(one: _Segment, other: _Segment) -> _Segment:
    """Both; the rows of `other` are above those of `one`."""
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
    return _Segment(terms, starts, packed)


def _renumbered(segment: _Segment, moved: NDArray[np.int64]) -> _Segment:
    rows = moved[segment.packed >> np.uint32(COUNT_BITS)]
    kept = rows >= 0
    counts = segment.packed[kept] & np.uint32(COUNT_MAX)
    packed = (rows[kept].astype(np.uint32) << np.uint32(COUNT_BITS)) | counts
    ends = _starts(kept.astype(np.int64))[segment.starts]
    sizes = np.diff(ends)
    used = sizes > 0
    return _Segment(segment.terms[used], _starts(sizes[used]), packed)
