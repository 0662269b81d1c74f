"""What a text is like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall.lexical import terms_of
from memsync.core.recall.traits import NO_SPEAKER, Traits, names_of, traits_of


def traits(text: str) -> Traits:
    return traits_of(text, terms_of(text), in_session=True)


@pytest.mark.parametrize(
    "text", ["Ada: Hello", "Ada Lovelace: Hello", "ada : hello", "ADA:", "Ada：你好"]
)
def test_who_speaks_is_the_first_word_before_a_colon(text: str) -> None:
    assert traits(text).speaker == hash("ada")


@pytest.mark.parametrize(
    "text",
    [
        "Hello there",
        "",
        ": so it begins",
        "12:30 is when we meet",
        "She told us what she thought: nothing",
        "https" + "x" * 40 + "://example.org",
        "http://example.org",
        "Reminder: the dentist is on Friday",
        "TODO: buy milk",
        "Recipe: flour and eggs",
    ],
)
def test_nobody_speaks(text: str) -> None:
    assert traits(text).speaker == NO_SPEAKER


def test_nobody_speaks_outside_of_a_conversation() -> None:
    assert traits_of("Graz: rain", terms_of("Graz: rain"), in_session=False).speaker == NO_SPEAKER


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Where are you?", 1.0),
        ("Nice. Where are you? I am here!", 1 / 3),
        ("Really?!... Yes.", 1 / 2),
        ("你好吗？", 1.0),
        ("No. Not at all.", 0.0),
        ("no mark", 0.0),
    ],
)
def test_asking(text: str, asks: float) -> None:
    assert traits(text).asks == pytest.approx(asks)


def test_a_longer_text_says_more_and_a_long_one_hardly_more_than_that() -> None:
    said = [traits(" ".join(f"word{n}" for n in range(count))).content for count in (0, 2, 20, 200)]
    assert said == sorted(said)
    assert said[0] == 0
    assert said[1] < 0.25
    assert said[2] > 0.9


@pytest.mark.parametrize(
    ("text", "is_dated"),
    [
        ("I went there yesterday", True),
        ("We moved in 2019", True),
        ("Built in 1899", False),
        ("Sold in 1900", True),
        ("Two weeks ago", True),
        ("on Saturdays", True),
        ("I may just go", False),
        ("room 2100 has 19 chairs", False),
        ("a chair", False),
    ],
)
def test_saying_when(text: str, *, is_dated: bool) -> None:
    assert traits(text).is_dated == is_dated


@given(st.text())
def test_any_text_has_traits(text: str) -> None:
    found = traits(text)
    assert 0 <= found.asks <= 1
    assert 0 <= found.content <= 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ada works at Globex in Graz.", {"globex", "graz"}),
        (
            "They met Anna Maria, Ben and (as ever) Mr Quist",
            {"anna", "maria", "ben", "mr", "quist"},
        ),
        ("Ada: Hello Ben! We went to the Zoo. It rained", {"ben", "zoo"}),
        ("Was it in Łódź or in Москва, or Αθήνα?", {"łódź", "москва", "αθήνα"}),
        ("i said that I'm here and I left", set()),
        ("Green tea. Tea! Tea", set()),
        (" Tea", set()),
        ("", set()),
        ("東京 大阪", set()),
    ],
)
def test_names_are_what_is_written_large_within_a_sentence(text: str, names: set[str]) -> None:
    assert set(names_of(text)) == names


@given(st.text())
def test_the_names_of_any_text_are_terms(text: str) -> None:
    assert all(name and name == name.lower() for name in names_of(text) if name.isascii())
