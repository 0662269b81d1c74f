"""Which rows of one scope hold which terms; what that says of a row: `bm25`. Pure; numpy only.

A posting is 32 bits (row << 8 | count, counts above 255 count as 255). Most of them lie in
segments (`segments`), which also say which terms a row holds. Rows that are appended one by one go
to a dictionary of small arrays first, which becomes a segment when it is large enough, and segments
are merged as they grow, so that there are few. A removed row is passed over by whoever asks
(`visible`) until `compact` takes it out.

Terms are told apart by Python's own hash of a string, good inside this process: two of a hundred
thousand terms share one with a probability of 3 in 10^10.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
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
from memsync.core.recall.words.segments import (
    COUNT_BITS,
    COUNT_MAX,
    SAID_MAX,
    Hashes,
    Holders,
    Packed,
    Segment,
    Sizes,
    merged,
    renumbered,
    segment_of,
)
from memsync.core.recall.words.tail import Tail

ROWS_MAX = 1 << (32 - COUNT_BITS)
TAIL_POSTINGS_MAX = 16_384  # then the tail becomes a segment, in about 2 ms
SEGMENT_GROWTH = 4  # a segment is at least so many times as large as the next
MERGED_POSTINGS_MAX = 4_000_000  # about 30 ms; more are merged by `seal` only
TABLE_CELLS_MAX = 1 << 20  # of terms x sessions, or terms x rows, reckoned at once
# Of a question, so that it costs at most about 2 ms: the postings whose neighbours are looked at.
# Each word has its share of it; one that more rows hold tells little, and counts where it stands.
SPREAD_POSTINGS_MAX = 32_768
MATCHES_MAX = 1_000_000  # postings of a question in a scope that is searched approximately: 20 ms


class Spoken(msgspec.Struct, frozen=True):
    """What the texts of some rows say, and what they name: each term as often as there are such
    rows; as places of terms in `part`, where that is all there is, or else as hashes."""

    said: Packed | Hashes
    named: Packed | Hashes
    part: Segment | None


class Postings:
    """The lexical index of one scope; rows are numbered from 0 in the order of `append`."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []  # rows ascending from one to the next
        self._tail = Tail(0)
        self._lengths = array("f")

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        segments = sum(part.size_bytes for part in self._segments)
        return segments + self._tail.size_bytes + len(self._lengths) * 5

    @property
    def postings_total(self) -> int:
        """How many (term, row) pairs there are."""
        return sum(len(segment.packed) for segment in self._segments) + self._tail.postings

    def append(self, terms: Mapping[str, int], said: int | None = None, named: int = 0) -> int:
        """Take in a text; returns its row. The first `said` of the terms, all if None, are those of
        the text itself, and the first `named` of these are names: `terms_of` tells them."""
        row = len(self._lengths)
        assert row < ROWS_MAX
        self._tail.append(terms, len(terms) if said is None else said, named)
        self._lengths.append(sum(terms.values()))
        if self._tail.postings > TAIL_POSTINGS_MAX:
            self._close_tail(merged_max=MERGED_POSTINGS_MAX)
        return row

    def extend(
        self,
        texts: Sequence[Mapping[str, int]],
        said: Sequence[int] | None = None,
        named: Sequence[int] | None = None,
    ) -> None:
        """Take in many texts: as `append` for each, several times faster. `seal` after the last."""
        self._close_tail(merged_max=0)
        first = len(self._lengths)
        assert first + len(texts) <= ROWS_MAX
        held = [len(terms) for terms in texts]
        total = sum(held)
        terms = np.fromiter(map(hash, chain.from_iterable(texts)), np.int64, total)
        counts = np.fromiter(
            chain.from_iterable(terms.values() for terms in texts), np.uint32, total
        )
        self._lengths.extend(float(sum(terms.values())) for terms in texts)
        rows = np.repeat(np.arange(first, first + len(texts), dtype=np.uint32), held)
        packed = (rows << np.uint32(COUNT_BITS)) | np.minimum(counts, COUNT_MAX).astype(np.uint32)
        sizes = Sizes(
            np.array(held, np.int64),
            np.minimum(held if said is None else said, SAID_MAX).astype(np.int64),
            np.minimum([0] * len(held) if named is None else named, SAID_MAX).astype(np.uint8),
        )
        self._append(segment_of(terms, packed, sizes, first=first))
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
        held = np.array([self._tail.held(term) for term in hashes.tolist()], np.int64)
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

    def spoken(self, rows: Sequence[int]) -> Spoken:
        """What the texts of these rows say."""
        if not self._tail.rows and len(self._segments) == 1:
            return Spoken(*self._segments[0].spoken(rows), self._segments[0])
        parts = []
        if own := [row for row in rows if row >= self._tail.first]:
            parts.append(self._tail.spoken(own))
            rows = [row for row in rows if row < self._tail.first]
        for segment in reversed(self._segments):
            if own := [row for row in rows if row >= segment.first]:
                said, named = segment.spoken(own)
                parts.append((segment.terms.take(said), segment.terms.take(named)))
                rows = [row for row in rows if row < segment.first]
        return Spoken(
            np.concatenate([said for said, _ in parts]),
            np.concatenate([named for _, named in parts]),
            None,
        )

    def holders(
        self,
        words: Mapping[int, int],
        part: Segment | None,
        among: Population,
        *,
        without: Container[int],
        bounds: tuple[int, int],
    ) -> list[Holders]:
        """The visible rows that hold each of the words, given as `Spoken` gives them, with what the
        mapping says; not of those whose hash is among `without`, nor of those that fewer or more
        rows hold than the bounds say."""
        least, most = bounds
        hidden = len(self._lengths) - among.rows_total
        # Of what more hold, visible or not, too many are visible.
        found = (
            part.holding(words, without, least=least, most=most + hidden)
            if part is not None
            else self._holding(words, without)
        )
        if part is not None and not hidden:
            return found
        kept = []
        for value, pieces in found:
            if hidden:
                pieces = [own[among.visible[own >> COUNT_BITS]] for own in pieces]
            if least <= sum(map(len, pieces)) <= most:
                kept.append((value, pieces))
        return kept

    def _holding(self, words: Mapping[int, int], without: Container[int]) -> list[Holders]:
        """As `Segment.holding`, by hashes, of all parts."""
        hashes = np.array([word for word in words if word not in without], np.int64)
        pieces: list[list[Packed]] = [[] for _ in hashes]
        for segment in self._segments:
            for place, start, end in segment.find(hashes):
                pieces[place].append(segment.packed[start:end])
        for place, own in self._tail.find(hashes):
            pieces[place].append(own)
        return [
            (words[word], own) for word, own in zip(hashes.tolist(), pieces, strict=True) if own
        ]

    def _found(
        self, terms: Hashes, among: Population
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], Counts]:
        """The visible rows that hold the terms, the place of the term, and how often it occurs."""
        pieces: list[NDArray[np.uint32]] = []
        owners: list[int] = []
        for segment in self._segments:
            for place, start, end in segment.find(terms):
                pieces.append(segment.packed[start:end])
                owners.append(place)
        for place, postings in self._tail.find(terms):
            pieces.append(postings)
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
        self._segments = [renumbered(segment, moved) for segment in self._segments]
        self._tail = Tail(len(self._lengths))

    def _close_tail(self, *, merged_max: int) -> None:
        """Make a segment of the tail, and merge segments that have grown alike."""
        if not self._tail.rows:
            return
        self._append(self._tail.segment())
        self._merge(merged_max=merged_max)

    def _append(self, segment: Segment) -> None:
        """Take the segment of the last rows; the next ones go to a new tail."""
        self._segments.append(segment)
        self._tail = Tail(len(self._lengths))

    def _merge(self, *, merged_max: int) -> None:
        while len(self._segments) > 1:
            larger, last = (len(segment.packed) for segment in self._segments[-2:])
            if larger >= SEGMENT_GROWTH * last or larger + last > merged_max:
                return
            self._merge_last()

    def _merge_last(self) -> None:
        self._segments[-2:] = [merged(*self._segments[-2:])]
