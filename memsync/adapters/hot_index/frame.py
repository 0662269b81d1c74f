"""Which rows of a scope a question is ranked among: all of them, or those that can matter.

In a scope of up to `limits.EXACT_ROWS_MAX` rows, and in a larger one while its coarse vectors are
not built, that is every row: exact. In a large one it is

- the rows whose words, or whose lift (who speaks, when it was), speak most for them, and the most
  recent, important or used ones, where that is what counts,
- the rows that the coarse vectors tell (`coarse.py`), those of the asking session,
- the rows that names in the first of these lead to (`links`),
- the turns beside any of these, as a turn's neighbours speak for it,
- and some at random. They stand for all others (`shares`): what a word, a cosine or a session is
  worth depends on its mean and deviation over the scope.

All evidence of these rows is exact. So a row is missed only if neither its words nor its vector
nor its neighbours' are among the first few hundred, and means are off by what a sample is off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index.columns import NO_ROW
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.adapters.hot_index.vectors import ModelVectors
from memsync.core.recall.bm25 import LexicalScores, Matches, Population
from memsync.core.recall.ranking import (
    WORDS_DEVIATION_SHARE,
    Floats,
    Moments,
    Rows,
    cosine_weight,
)
from memsync.ports import Question

Mask = NDArray[np.bool_]

HOLDING_WORDS = 512  # rows that hold words themselves; they and the turns beside them
BY_WORDS = 256  # of those, with the words around
BY_LIFT = 64
BY_COLUMN = 128  # by recency, importance or use, where these weigh much
LEADING, BY_LINKS = 20, 64  # the first by words, and what names in them lead to
BY_MEANING = 512  # of ASKED that the coarse vectors tell, with their lift
ASKED = 1_536
LEAST, LEAST_ASKED = 32, 64  # of those with the least in common
OF_SESSION = 512  # of the asking session, the newest
SAMPLE = 1_024
# So few candidates of a filter are ranked whole; of more, so many are asked of the coarse vectors
# that enough of them should pass.
WHOLE_MAX = 4_096
ASKED_MAX = 32_768


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """n rows of a scope, ascending: `rows` (n,), None where it is all. `previous`, `following` (n,)
    are places in the frame, -1 where there is none; `is_all`, whether every row of the scope is a
    candidate; the rest as `ranking.Evidence`."""

    rows: Rows | None
    previous: NDArray[np.int32]
    following: NDArray[np.int32]
    visible: Mask
    candidates: Mask
    is_all: bool
    shares: Floats | None
    words: LexicalScores
    cosine: Floats
    cosine_moments: Moments | None = None

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values of these rows, of values of all rows."""
        return values if self.rows is None else values[self.rows]

    def at(self, places: Rows) -> Rows:
        """The rows at these places."""
        return places if self.rows is None else self.rows[places]

    def places(self, rows: Rows) -> Rows:
        """Where these rows are, -1 for those that are not here."""
        if self.rows is None:
            return rows
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        return np.where(self.rows[at] == rows, at, NO_ROW)


def frame_of(
    scope: LoadedScope,
    question: Question,
    terms: Collection[str],
    lift: Floats,
    candidates: Mask,
    *,
    lead: Callable[[Rows], Floats | None],
    leaning: Sequence[str] | None = (),
    also: Collection[int] = (),
) -> Frame:
    """The frame of a question: `lift` (rows,) is what speaks for a row beside words and meaning;
    `lead` tells (rows,) what leads from some rows to each; `leaning` are columns that weigh much in
    the score, None where all rows count; `also` are rows that are in it in any case."""
    population = scope.population(question.now_ms)
    coarse = scope.vectors.only(question.vectors)
    if coarse is None or leaning is None:
        columns = scope.columns
        return Frame(
            rows=None,
            previous=columns["previous"],
            following=columns["following"],
            visible=population.visible,
            candidates=candidates,
            is_all=population.is_whole and question.filters is None,
            shares=None,
            words=scope.postings.score(terms, population),
            cosine=scope.vectors.cosines(question.vectors, columns.rows),
        )
    chosen = _Chosen(scope, question, lift, candidates, population, coarse)
    return chosen.frame(terms, lead, leaning, also)


class _Chosen:
    """Finds the rows that matter to one question in a large scope."""

    def __init__(
        self,
        scope: LoadedScope,
        question: Question,
        lift: Floats,
        candidates: Mask,
        population: Population,
        coarse: ModelVectors,
    ) -> None:
        self._scope = scope
        self._question = question
        self._lift = lift
        self._candidates = candidates
        self._population = population
        self._coarse = coarse
        drawn = _drawn(len(population.visible))
        self._sample = drawn[population.visible[drawn]]
        self._vector = question.vectors[coarse.model]
        self._moments = coarse.moments(self._vector)
        self._deviation = 1.0  # of the words
        self._candidates_total = int(np.count_nonzero(candidates))

    def frame(
        self,
        terms: Collection[str],
        lead: Callable[[Rows], Floats | None],
        leaning: Sequence[str],
        also: Collection[int],
    ) -> Frame:
        scope, population = self._scope, self._population
        matches = scope.postings.matches(terms, population)
        by_words, others = self._leading(matches, lead)
        others += [self._by_column(name) for name in leaning]
        others.append(np.fromiter(also, np.intp, len(also)))
        spoken = self._marked(self._near(by_words))
        sample = self._sample
        around = np.flatnonzero(self._marked([spoken, *others, sample]))
        rows = np.flatnonzero(self._marked(self._near(around)))
        place = np.full(scope.columns.rows + 1, NO_ROW, np.int32)  # the last is that of NO_ROW
        place[rows] = np.arange(len(rows))
        links = [place.take(scope.columns[name][rows]) for name in ("previous", "following")]
        before, after = map(_ended, links)
        words = scope.postings.score_rows(
            matches, population, place[:-1], before=before, after=after
        )
        heard = np.flatnonzero((spoken & self._candidates)[rows])
        near = words.near[heard] + np.float32(self._deviation) * self._lift[rows[heard]]
        ranked = self._marked([rows[heard[_greatest(near, BY_WORDS)]], *others])
        own = ranked[rows] & population.visible[rows]
        drawn = np.zeros(len(rows), np.bool_)
        drawn[place[sample]] = True
        drawn &= ~own
        left = population.rows_total - int(np.count_nonzero(own))
        share = left / max(1, int(np.count_nonzero(drawn)))
        compared = self._marked(self._near(np.flatnonzero(ranked)))
        cosine = np.full(len(rows), np.nan, np.float32)
        is_compared = compared[rows] | drawn
        cosine[is_compared] = self._compare(rows[is_compared])
        return Frame(
            rows=rows,
            previous=links[0],
            following=links[1],
            visible=population.visible[rows],
            candidates=self._candidates[rows] & (own | drawn),
            is_all=False,
            shares=np.where(drawn, np.float32(share), own).astype(np.float32),
            words=words,
            cosine=cosine,
            cosine_moments=self._moments,
        )

    def _marked(self, rows: Sequence[Rows | Mask]) -> Mask:
        """(rows of the scope,): those that are in any of these."""
        marked = np.zeros(self._scope.columns.rows, np.bool_)
        for each in rows:
            marked[each] = True
        return marked

    def _near(self, rows: Rows) -> list[Rows]:
        """The rows, and those up to two turns away."""
        found = [rows]
        for name in ("previous", "following"):
            linked, at = self._scope.columns[name], rows
            for _ in range(2):
                at = linked[at]
                at = at[at != NO_ROW]
                found.append(at)
        return found

    def _leading(
        self, matches: Matches, lead: Callable[[Rows], Floats | None]
    ) -> tuple[Rows, list[Rows]]:
        """Candidates by words; and by lift, by meaning, because their session asks, or because the
        first by words name what they are about."""
        among = self._candidates
        if self._candidates_total <= WHOLE_MAX:
            return _NO_ROWS, [np.flatnonzero(among)]
        bm25 = np.bincount(matches.rows, weights=matches.gains, minlength=len(among))
        least = WORDS_DEVIATION_SHARE * float(matches.idf.sum())
        mean = float(bm25.sum()) / len(bm25)
        square = float(bm25 @ bm25) / len(bm25) - mean * mean
        self._deviation = max(math.sqrt(max(square, 0.0)), least) or 1.0
        holding = np.flatnonzero(bm25 > 0)
        holding = holding[among[holding]]
        worth = bm25[holding] + self._deviation * self._lift[holding]
        others = [self._near_meaning(), self._far_from_meaning(), self._of_session()]
        if self._lift is not self._scope.bearing():  # else it tells rows apart for every question
            lift = np.where(among, self._lift, np.float32(-np.inf))
            others.append(_greatest(lift, BY_LIFT))
        if (led := lead(holding[_greatest(worth, LEADING)])) is not None:
            others.append(self._linked(led, bm25))
        return holding[_greatest(worth, HOLDING_WORDS)], others

    def _near_meaning(self) -> Rows:
        """The candidates that the question has most in common with: by the coarse vectors, or
        exactly where a filter lets too few of those through."""
        among = self._candidates
        asked = int(ASKED * len(among) / self._candidates_total)
        if asked <= ASKED_MAX:
            rows, products = self._coarse.nearest(self._vector, asked)
            passing = among[rows]
            rows, products = rows[passing], products[passing]
            if len(rows) >= BY_MEANING or self._population.is_whole:
                return rows[_greatest(self._worth(rows, products), BY_MEANING)]
        exact = self._scope.vectors.cosines(self._question.vectors, len(among))
        exact = np.where(among & np.isfinite(exact), exact, -np.inf)
        return _greatest(exact, BY_MEANING)

    def _linked(self, led: Floats, bm25: NDArray[Any]) -> Rows:
        """The candidates that links lead to, those for which most speaks."""
        rows = ((led > 0) & self._candidates).nonzero()[0]
        worth = led[rows] + bm25[rows] / self._deviation + self._lift[rows]
        return rows[_greatest(worth, BY_LINKS)]

    def _by_column(self, name: str) -> Rows:
        """The candidates with most of something; of some that have as much, the newest."""
        rows = np.flatnonzero(self._candidates)
        values = self._scope.columns[name][rows]
        if len(rows) <= BY_COLUMN:
            return rows
        least = np.partition(values, len(values) - BY_COLUMN)[len(values) - BY_COLUMN]
        reaching = rows[values >= least]
        newest = np.argsort(self._scope.columns["moment_ms"][reaching], kind="stable")
        above = rows[values > least]
        return np.concatenate((above, reaching[newest[-BY_COLUMN:]]))

    def _far_from_meaning(self) -> Rows:
        """Some of those that nothing speaks for: relevance begins with the least."""
        rows, products = self._coarse.nearest(-self._vector, LEAST_ASKED)
        return rows[_greatest(-self._worth(rows, -products), LEAST)]

    def _worth(self, rows: Rows, products: Floats) -> Floats:
        """About what meaning and lift add up to, in deviations of the words."""
        weight = cosine_weight(self._coarse.model) / max(self._moments.deviation, 1e-6)
        worth: Floats = np.float32(weight) * products + self._lift[rows]
        return worth

    def _of_session(self) -> Rows:
        asking = self._question.session_id
        return self._scope.members(asking)[-OF_SESSION:] if asking is not None else _NO_ROWS

    def _compare(self, rows: Rows) -> Floats:
        """(rows,) float32: the cosines, NaN where there is no vector."""
        cosines = np.full(len(rows), np.nan, np.float32)
        slots = self._scope.columns["slot"][rows]
        known = slots != NO_ROW
        cosines[known] = self._coarse.take(slots[known].astype(np.intp)) @ self._vector
        return cosines


@lru_cache(maxsize=64)
def _drawn(total: int) -> Rows:
    """Rows at random, ascending; the same as long as there are as many."""
    drawn = np.sort(np.random.default_rng(total).integers(0, total, SAMPLE))
    different: Rows = drawn[np.append(True, drawn[1:] != drawn[:-1])]
    return different


_NO_ROWS = np.zeros(0, np.intp)


def _greatest(values: Floats, count: int) -> Rows:
    """The places of the greatest values, in no order."""
    if len(values) <= count:
        return np.arange(len(values))
    places: Rows = np.argpartition(values, len(values) - count)[-count:]
    return places


def _ended(linked: NDArray[np.int32]) -> NDArray[np.intp]:
    """(n + 1,): with n for none, and a place n that leads nowhere."""
    ended = np.append(linked, np.int32(NO_ROW)).astype(np.intp)
    ended[ended < 0] = len(linked)
    return ended
