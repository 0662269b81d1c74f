"""BM25 from the places where the terms of a question were found (`postings`): what words say of
rows, of the turns around them, and of whole sessions. Pure; numpy only.

In a conversation the words of a question are spread over the turns: "Where did you go?" and "To
Graz" are one answer. So `near` lets each word count from the nearest turn of the session that holds
it, at most two away: what was said before a turn is asked or meant by it (0.8 of its worth, 0.64
two turns before), what is said after it less often (0.4, 0.16). It counts once, from where it is
worth most, as a document of these five turns would count it. Measured in decisions/0024.

Scores are exact: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond"
(2009), with the idf of Lucene (never negative). What does not depend on the question (how many
rows, how long they are) is a `Population`, reckoned once for as many questions as it holds.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.75
SAID_BEFORE = 0.8  # what a word is worth to the turn after the one that holds it
SAID_AFTER = 0.4  # and to the turn before it
REACH_TURNS = 2

Counts = NDArray[np.float32]

_NOWHERE = np.zeros(0, np.intp)
# Of the turns after, the nearest first, and of those before.
_DAMPING = np.array(
    [[by**turns] for by in (SAID_BEFORE, SAID_AFTER) for turns in range(1, REACH_TURNS + 1)],
    np.float32,
)


class LexicalScores(msgspec.Struct, frozen=True):
    """What words say. All are 0 for rows and sessions that share no word with the question.

    `rows` (n,) float32 BM25; `near` (n,) float32, the same with the words of the turns around,
    never less (the very array where no row is in a session); `coverage` (n,) float32 0..1, the
    share of the question's information (idf) that the row holds; `sessions` (sessions,) float32,
    the BM25 of each session as one document; `information` the sum of the terms' idf, of those that
    no row holds, too.
    """

    rows: Counts
    near: Counts
    coverage: Counts
    sessions: Counts
    information: float


class Population(msgspec.Struct, frozen=True, kw_only=True):
    """What BM25 needs to know of all visible rows together.

    `visible` (n,) bool, `is_whole` where that is all; `norms` (n,) float32, what a row's length
    does to a count in it; `sessions` (n,) int32, -1 is none; `has_sessions`, whether any visible
    row is in one: without, nothing comes from the turns around; `session_norms` (sessions,)
    float32, as `norms`; `before`, `after` (n + 1,) intp, the rows beside each in its session, n
    where there is none; (0,) without sessions.
    """

    visible: NDArray[np.bool_]
    is_whole: bool
    rows_total: int
    norms: Counts
    sessions: NDArray[np.int32]
    has_sessions: bool
    sessions_total: int
    session_norms: Counts
    before: NDArray[np.intp]
    after: NDArray[np.intp]


class Matches(msgspec.Struct, frozen=True, kw_only=True):
    """Where t terms of a question were found, m times in all. Each (m,): `rows` intp, `term_of`
    intp, `counts` and `gains` float32, what it adds to BM25, `idfs` that of its term. Each (t,):
    `idf` float32, `spread` bool, whether the term counts for the turns around, too.
    """

    rows: NDArray[np.intp]
    term_of: NDArray[np.intp]
    counts: Counts
    gains: Counts
    idfs: Counts
    idf: Counts
    spread: NDArray[np.bool_]


def population_of(
    lengths: Counts,
    visible: NDArray[np.bool_],
    sessions: NDArray[np.int32],
    sessions_total: int,
    *,
    previous: NDArray[np.int32],
    following: NDArray[np.int32],
) -> Population:
    """Of rows with these lengths (n,), in terms. `sessions`, `previous`, `following` (n,), -1 is
    none."""
    is_whole = bool(visible.all())
    shown = lengths if is_whole else lengths * visible
    rows_total = len(lengths) if is_whole else int(np.count_nonzero(visible))
    has_sessions = bool((visible & (sessions >= 0)).any())
    # One place more, at the end, for rows that are in no session (number -1).
    sums = np.bincount(
        np.where(sessions < 0, sessions_total, sessions),
        weights=shown,
        minlength=sessions_total + 1,
    )[:sessions_total].astype(np.float32)
    return Population(
        visible=visible,
        is_whole=is_whole,
        rows_total=rows_total,
        norms=_norms(lengths, _mean(float(shown.sum(dtype=np.float64)), rows_total)),
        sessions=sessions,
        has_sessions=has_sessions,
        sessions_total=int(np.count_nonzero(sums)),
        session_norms=_norms(sums, _mean(float(sums.sum()), int(np.count_nonzero(sums)))),
        before=_ended(previous) if has_sessions else _NOWHERE,
        after=_ended(following) if has_sessions else _NOWHERE,
    )


def matches_of(
    rows: NDArray[np.intp],
    term_of: NDArray[np.intp],
    counts: Counts,
    *,
    terms_total: int,
    among: Population,
    spread_max: int,
) -> Matches:
    """Terms as they were found (m,), each counted for the turns around unless more than so many
    rows hold it."""
    held = np.bincount(term_of, minlength=terms_total)
    idf = _idf(held, among.rows_total)
    idfs = idf.take(term_of)
    return Matches(
        rows=rows,
        term_of=term_of,
        counts=counts,
        gains=idfs * _saturated(counts, among.norms.take(rows)),
        idfs=idfs,
        idf=idf,
        spread=held <= spread_max,
    )


class Sums:
    """What the terms of a question add up to, some of them at a time."""

    def __init__(self, rows: int, among: Population) -> None:
        self._among = among
        self._bm25 = np.zeros(rows, np.float32)
        self._near = np.zeros(rows, np.float32) if among.has_sessions else self._bm25
        self._covered = np.zeros(rows, np.float32)
        self._sessions = np.zeros(len(among.session_norms), np.float32)
        self._information = 0.0

    def add(
        self,
        matches: Matches,
        *,
        before: NDArray[np.intp],
        after: NDArray[np.intp],
        place: NDArray[np.int32] | None = None,
    ) -> None:
        """`place` (n,) says where a row is summed up, -1 nowhere; None where all are."""
        self._information += float(matches.idf.sum())
        if not len(matches.rows):
            return
        rows, term_of, gains, idfs = matches.rows, matches.term_of, matches.gains, matches.idfs
        if place is not None:
            rows = place.take(rows).astype(np.intp)
            is_here = rows >= 0
            rows, term_of = rows[is_here], term_of[is_here]
            gains, idfs = gains[is_here], idfs[is_here]
        width = len(self._bm25)
        self._bm25 += np.bincount(rows, weights=gains, minlength=width)
        self._covered += np.bincount(rows, weights=idfs, minlength=width)
        if self._among.has_sessions:
            self._sessions += _session_scores(self._among, matches)
            self._near += _near(
                rows, term_of, gains, spread=matches.spread, before=before, after=after
            )

    def scores(self) -> LexicalScores:
        """All that was added."""
        self._covered /= np.float32(self._information or 1.0)
        return LexicalScores(
            self._bm25, self._near, self._covered, self._sessions, self._information
        )


def _mean(total: float, count: int) -> float:
    return total / count if total else 1.0


def _norms(lengths: Counts, mean: float) -> Counts:
    norms: Counts = np.float32(K1 * B / mean) * lengths + np.float32(K1 * (1 - B))
    return norms


def _saturated(counts: Counts, norms: Counts) -> Counts:
    saturated: Counts = counts * np.float32(K1 + 1) / (counts + norms)
    return saturated


def _idf(held: NDArray[np.intp], documents: int) -> Counts:
    """(terms,) float32, of terms that so many (terms,) of the documents hold."""
    # Terms are few: this is quicker than five steps over an array.
    idf = [math.log1p((documents - own + 0.5) / (own + 0.5)) for own in held.tolist()]
    return np.array(idf, np.float32)


def _ended(linked: NDArray[np.int32]) -> NDArray[np.intp]:
    """(n + 1,): with n for none, and a row n that leads nowhere."""
    ended = np.append(linked, np.int32(-1)).astype(np.intp)
    ended[ended < 0] = len(linked)
    return ended


def _near(
    rows: NDArray[np.intp],
    term_of: NDArray[np.intp],
    gains: Counts,
    *,
    spread: NDArray[np.bool_],
    before: NDArray[np.intp],
    after: NDArray[np.intp],
) -> Counts:
    """(n,) float32: what each word adds to a row from the nearest turn, summed over the words;
    words that are not `spread` (terms,) add to the rows that hold them only."""
    width = len(before)
    table = np.zeros(len(spread) * width, np.float32)
    first_cell = term_of * width
    table[first_cell + rows] = gains
    if not spread.all():
        is_spread = spread[term_of]
        rows, gains, first_cell = rows[is_spread], gains[is_spread], first_cell[is_spread]
    cells = np.empty((2 * REACH_TURNS, len(rows)), np.intp)
    for first, neighbour in ((0, after), (REACH_TURNS, before)):
        at = rows
        for turn in range(first, first + REACH_TURNS):
            at = neighbour.take(at, out=cells[turn], mode="clip")
    cells += first_cell
    np.maximum.at(table, cells.ravel(), (_DAMPING * gains).ravel())
    summed: Counts = table.reshape(-1, width)[:, :-1].sum(axis=0)
    return summed


def _session_scores(among: Population, matches: Matches) -> Counts:
    """(sessions,) float32: the BM25 of each session as one document."""
    width, terms_total = len(among.session_norms), len(matches.idf)
    if not width:
        return np.zeros(0, np.float32)
    session, term_of, counts = among.sessions[matches.rows], matches.term_of, matches.counts
    is_in = session >= 0
    if not is_in.all():
        session, term_of, counts = session[is_in], term_of[is_in], counts[is_in]
    table = np.bincount(term_of * width + session, weights=counts, minlength=terms_total * width)
    table = table.reshape(terms_total, width)
    idf = _idf(np.count_nonzero(table, axis=1), among.sessions_total)
    scores: Counts = idf @ _saturated(table.astype(np.float32), among.session_norms)
    return scores
