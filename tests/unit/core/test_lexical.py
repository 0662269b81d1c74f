"""Words, and BM25 against a model that scores one document at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core import lexical
from memsync.core.lexical import Postings, has_content, moment_terms, terms_of, text_hash
from memsync.ids import ScopeKey

WORDS = st.sampled_from(["ant", "bee", "cat", "dog", "elk", "fox"])
DOCUMENT = st.dictionaries(WORDS, st.integers(1, 5), max_size=5)
SCOPE, OTHER = ScopeKey(b"a" * 16), ScopeKey(b"b" * 16)


def test_stop_words_go_and_stems_are_counted() -> None:
    assert terms_of("The dogs were running, and a dog ran.") == {"dog": 2, "run": 1, "ran": 1}


def test_forms_of_one_word_are_one_term() -> None:
    assert terms_of("Ｃａｆｅ CAFE cafe") == {"cafe": 3}
    assert terms_of("STRASSE straße") == {"strass": 2}


def test_punctuation_and_underscores_separate() -> None:
    assert list(terms_of("user_id=42; Anna's bike")) == ["user", "id", "42", "anna", "bike"]


def test_a_text_of_stop_words_keeps_them() -> None:
    assert terms_of("The Who") == {"the": 1, "who": 1}
    assert not lexical.is_telling("What is it?")
    assert lexical.is_telling("What is jazz?")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("猫", {"猫"}),
        ("東京都", {"東", "京", "都", "東京", "京都"}),
        ("我用Python3写", {"我", "用", "我用", "python3", "写"}),
        ("हिन्दी भाषा", {"हिन्दी", "भाषा"}),
        ("привет Мир", {"привет", "мир"}),
        ("I \u2764\ufe0f snake_case’s tea", {"snake", "case", "tea"}),
    ],
)
def test_scripts(text: str, terms: set[str]) -> None:
    assert set(terms_of(text)) == terms


def test_long_runs_are_cut() -> None:
    (term,) = terms_of("x" * 8_000)
    assert len(term) == lexical.TERM_CHARS_MAX


@pytest.mark.parametrize("text", ["", "  ", "!?…", "🎂🎉", "___", "\u0301"])
def test_without_a_letter_or_digit_there_is_no_content(text: str) -> None:
    assert not has_content(text)


@pytest.mark.parametrize("text", ["a", "7", "!é!", "猫", "①", "the"])
def test_with_one_there_is(text: str) -> None:
    assert has_content(text)


def test_identical_texts_have_one_hash() -> None:
    assert text_hash(SCOPE, " caf\u00e9\n") == text_hash(SCOPE, "cafe\u0301")
    assert len(text_hash(SCOPE, "x")) == 8


def test_other_texts_and_other_scopes_have_others() -> None:
    hashes = {text_hash(SCOPE, text) for text in ("cafe", "Cafe", "caf\u00e9", "ca fe")}
    assert len(hashes | {text_hash(OTHER, "cafe")}) == 5


def test_a_date_is_found_by_its_words() -> None:
    at_ms = 1_778_198_400_000
    assert moment_terms(at_ms) == terms_of("8 May 2026")


@pytest.mark.parametrize("at_ms", [-(1 << 46), 1 << 60])
def test_a_date_out_of_all_calendars_is_no_error(at_ms: int) -> None:
    assert sum(moment_terms(at_ms).values()) == 3


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


@given(
    rows=st.lists(st.tuples(DOCUMENT, st.booleans(), st.integers(-1, 2)), min_size=1, max_size=12),
    question=st.lists(WORDS, unique=True, max_size=4),
)
def test_scores_are_those_of_the_slow_model(
    rows: list[tuple[dict[str, int], bool, int]], question: list[str]
) -> None:
    postings = Postings()
    for document, _, _ in rows:
        postings.append(document)
    visible = np.array([is_visible for _, is_visible, _ in rows])
    sessions = np.array([session for _, _, session in rows], np.int32)
    scores = postings.score(question, visible, sessions, 3)

    seen = [row for row, is_visible in enumerate(visible) if is_visible]
    expected = slow_bm25(question, [rows[row][0] for row in seen]) if seen else []
    assert scores.rows[seen] == pytest.approx(expected, abs=1e-5)
    assert not scores.rows[~visible].any()
    for row in seen:
        held = [term for term in question if term in rows[row][0]]
        assert (scores.coverage[row] > 0) == bool(held)
        assert (scores.coverage[row] > 1 - 1e-5) == (bool(question) and held == question)

    as_one = [merged([rows[row][0] for row in seen if rows[row][2] == s]) for s in range(3)]
    filled = [session for session in range(3) if as_one[session]]
    expected = slow_bm25(question, [as_one[s] for s in filled]) if filled else []
    assert scores.sessions[filled] == pytest.approx(expected, abs=1e-5)


@given(
    rows=st.lists(st.tuples(DOCUMENT, st.booleans()), min_size=1, max_size=12),
    question=st.lists(WORDS, unique=True, min_size=1, max_size=4),
)
def test_compaction_equals_a_rebuilt_index(
    rows: list[tuple[dict[str, int], bool]], question: list[str]
) -> None:
    compacted, rebuilt = Postings(), Postings()
    for document, is_kept in rows:
        compacted.append(document)
        if is_kept:
            rebuilt.append(document)
    kept = np.array([is_kept for _, is_kept in rows])
    compacted.compact(np.where(kept, np.cumsum(kept) - 1, -1))
    everything = np.ones(int(kept.sum()), np.bool_)
    none = np.full(int(kept.sum()), -1, np.int32)
    ours = compacted.score(question, everything, none, 0)
    theirs = rebuilt.score(question, everything, none, 0)
    assert np.array_equal(ours.rows, theirs.rows)
    assert compacted.postings_total == rebuilt.postings_total
    assert compacted.terms_total == rebuilt.terms_total


def test_counts_above_255_count_as_255() -> None:
    postings = Postings()
    for count in (255, 4_000):
        postings.append({"ant": count, "bee": 4_000 - count} if count < 4_000 else {"ant": count})
    scores = postings.score(["ant"], np.ones(2, np.bool_), np.full(2, -1, np.int32), 0).rows
    assert scores[0] == scores[1]
