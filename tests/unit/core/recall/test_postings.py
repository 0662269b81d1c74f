"""BM25 over a scope against the textbook, whichever way the rows came in."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall import postings as postings_module
from memsync.core.recall.postings import LexicalScores, Postings
from tests.fakes.sessions import links

WORDS = st.sampled_from(["ant", "bee", "cat", "dog", "elk", "fox"])
DOCUMENT = st.dictionaries(WORDS, st.integers(1, 5), max_size=5)
# How each row comes: alone, at the end of some that come together, or before a `seal`.
WAY = st.sampled_from(["append", "extend", "wait", "seal"])


@pytest.fixture(autouse=True, scope="module")
def _small_limits() -> Iterator[None]:
    """The tail becomes a segment after a few postings, and long questions are reckoned in parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings_module, "TAIL_POSTINGS_MAX", 4)
        patch.setattr(postings_module, "TABLE_CELLS_MAX", 8)
        yield


def slow_bm25(question: list[str], documents: list[dict[str, int]]) -> list[float]:
    """BM25 as in the textbook; a document without words counts as one that is there."""
    total = sum(sum(document.values()) for document in documents)
    mean = total / len(documents) if total else 1.0
    scores = []
    for document in documents:
        norm = 1.2 * (1 - 0.75 + 0.75 * sum(document.values()) / mean)
        score = 0.0
        for term in question:
            holders = sum(1 for other in documents if term in other)
            idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            count = document.get(term, 0)
            score += idf * count * 2.2 / (count + norm) if count else 0.0
        scores.append(score)
    return scores


def merged(documents: list[dict[str, int]]) -> dict[str, int]:
    """The documents as one."""
    counts: dict[str, int] = {}
    for document in documents:
        for term, count in document.items():
            counts[term] = counts.get(term, 0) + count
    return counts


def built(rows: list[tuple[dict[str, int], str]]) -> Postings:
    """The postings of these documents, come in their ways."""
    postings, waiting = Postings(), list[dict[str, int]]()
    for document, way in rows:
        waiting.append(document)
        if way == "extend":
            postings.extend(waiting)
            waiting = []
        elif way != "wait":
            for each in waiting:
                postings.append(each)
            waiting = []
        if way == "seal":
            postings.seal()
    postings.extend(waiting)
    return postings


def scores_of(
    postings: Postings, question: list[str], visible: list[bool], sessions: list[int]
) -> LexicalScores:
    previous, following = links(sessions)
    population = postings.population(
        np.array(visible, np.bool_),
        np.array(sessions, np.int32),
        3,
        previous=previous,
        following=following,
    )
    return postings.score(question, population)


def slow_near(
    question: list[str], gains: dict[tuple[int, str], float], sessions: list[int]
) -> list[float]:
    """Of every row, from what each term gains in each row that is seen."""
    scores = []
    for row, session in enumerate(sessions):
        line = [other for other, number in enumerate(sessions) if number == session >= 0] or [row]
        at = line.index(row)
        worth = {row: 1.0}
        for distance in (1, 2):
            if at >= distance:
                worth[line[at - distance]] = 0.8**distance
            if at + distance < len(line):
                worth[line[at + distance]] = 0.4**distance
        scores.append(
            sum(max(w * gains.get((r, term), 0.0) for r, w in worth.items()) for term in question)
        )
    return scores


def test_without_sessions_no_word_comes_from_the_turns_around() -> None:
    postings = built(
        [({"cat": 1}, "append"), ({"dog": 2}, "append"), ({"cat": 1, "dog": 1}, "seal")]
    )
    scores = scores_of(postings, ["cat", "dog"], [True] * 3, [-1] * 3)
    assert scores.near.tolist() == scores.rows.tolist()
    assert scores.near.min() > 0
    assert not scores.sessions.any()


@given(
    rows=st.lists(
        st.tuples(DOCUMENT, WAY, st.booleans(), st.integers(-1, 2)), min_size=1, max_size=16
    ),
    question=st.lists(WORDS, unique=True, max_size=6),
)
def test_scores_are_those_of_the_slow_model(
    rows: list[tuple[dict[str, int], str, bool, int]], question: list[str]
) -> None:
    visible = [is_visible for _, _, is_visible, _ in rows]
    postings = built([(document, way) for document, way, _, _ in rows])
    scores = scores_of(postings, question, visible, [session for _, _, _, session in rows])

    seen = [row for row, is_visible in enumerate(visible) if is_visible]
    expected = slow_bm25(question, [rows[row][0] for row in seen]) if seen else []
    assert scores.rows[seen] == pytest.approx(expected, abs=1e-5)
    assert not scores.rows[~np.array(visible)].any()
    gains = {
        (row, term): slow_bm25([term], [rows[other][0] for other in seen])[place]
        for place, row in enumerate(seen)
        for term in question
    }
    near = slow_near(question, gains, [session for _, _, _, session in rows])
    assert scores.near == pytest.approx(near, abs=1e-5)
    for row in seen:
        held = [term for term in question if term in rows[row][0]]
        assert (scores.coverage[row] > 0) == bool(held)
        assert (scores.coverage[row] > 1 - 1e-5) == (bool(question) and held == question)

    idf = [
        math.log(1 + (len(seen) - held + 0.5) / (held + 0.5))
        for term in question
        for held in [sum(1 for row in seen if term in rows[row][0])]
    ]
    assert scores.information == pytest.approx(sum(idf), rel=1e-5)

    as_one = [merged([rows[row][0] for row in seen if rows[row][3] == s]) for s in range(3)]
    filled = [session for session in range(3) if as_one[session]]
    expected = slow_bm25(question, [as_one[s] for s in filled]) if filled else []
    assert scores.sessions[filled] == pytest.approx(expected, abs=1e-5)


@given(
    rows=st.lists(st.tuples(DOCUMENT, WAY, st.booleans()), min_size=1, max_size=16),
    question=st.lists(WORDS, unique=True, min_size=1, max_size=6),
)
def test_compaction_equals_a_rebuilt_index(
    rows: list[tuple[dict[str, int], str, bool]], question: list[str]
) -> None:
    compacted = built([(document, way) for document, way, _ in rows])
    rebuilt = built([(document, way) for document, way, is_kept in rows if is_kept])
    kept = np.array([is_kept for _, _, is_kept in rows])
    compacted.compact(np.where(kept, np.cumsum(kept) - 1, -1))
    everything, none = [True] * int(kept.sum()), [-1] * int(kept.sum())
    ours = scores_of(compacted, question, everything, none)
    theirs = scores_of(rebuilt, question, everything, none)
    assert ours.rows == pytest.approx(theirs.rows, abs=1e-6)
    assert compacted.postings_total == rebuilt.postings_total
    rebuilt.seal()
    assert compacted.size_bytes == rebuilt.size_bytes


def test_counts_above_255_count_as_255() -> None:
    postings = Postings()
    postings.append({"ant": 255, "bee": 3_745})
    postings.append({"ant": 4_000})
    postings.extend([{"ant": 4_000}])
    scores = scores_of(postings, ["ant"], [True] * 3, [-1] * 3).rows
    assert scores[0] == scores[1] == scores[2]


def test_words_that_too_many_rows_hold_count_where_they_stand() -> None:
    postings = Postings()
    for words in ("ant bee", "cat", "ant"):
        postings.append(dict.fromkeys(words.split(), 1))
    everywhere = scores_of(postings, ["ant", "bee"], [True] * 3, [0] * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings_module, "SPREAD_POSTINGS_MAX", 2)
        scores = scores_of(postings, ["ant", "bee"], [True] * 3, [0] * 3)
    assert scores.rows == pytest.approx(everywhere.rows)
    assert everywhere.near[1] > scores.near[1] > 0  # only "bee" reaches the row of the cat
    assert scores.near[2] > scores.rows[2]


def test_a_dictionary_of_terms_costs_more_than_a_segment() -> None:
    """Which is why a load ends with `seal`, and a long tail becomes a segment."""
    rows = [{f"term{row}-{i}": 1 for i in range(4)} for row in range(50)]
    postings, alone = Postings(), Postings()
    postings.extend(rows)
    postings.seal()
    alone.append(rows[0])
    assert postings.size_bytes < 50 * alone.size_bytes / 5
