"""Words: what becomes of a text."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from memsync.core.recall import lexical
from memsync.core.recall.irregular import BASE_OF
from memsync.core.recall.lexical import (
    has_content,
    moment_terms,
    regular_terms,
    terms_of,
    text_hash,
)
from memsync.ids import ScopeKey

WORDS = st.sampled_from(["ant", "bee", "cat", "dog", "elk", "fox"])
DOCUMENT = st.dictionaries(WORDS, st.integers(1, 5), max_size=5)
SCOPE, OTHER = ScopeKey(b"a" * 16), ScopeKey(b"b" * 16)


def test_stop_words_go_and_stems_are_counted() -> None:
    assert terms_of("The dogs were running, and a dog ran.") == {"dog": 2, "run": 2}


@pytest.mark.parametrize(
    ("one", "other"),
    [("went", "going"), ("Children", "child"), ("they bought", "buys"), ("saw", "see")],
)
def test_irregular_forms_are_those_of_their_word(one: str, other: str) -> None:
    assert terms_of(one) == terms_of(other)


def test_terms_of_before_are_made_those_of_today() -> None:
    assert regular_terms({"went": 2, "go": 1, "graz": 1}) == {"go": 3, "graz": 1}
    for text in ("The dogs went and ate with the children", "Graz 2022"):
        assert regular_terms(terms_of(text)) == terms_of(text)


def test_no_irregular_form_leads_on_to_another() -> None:
    assert not BASE_OF.keys() & BASE_OF.values()


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
