"""What a text is like, whatever is asked: who speaks, whether it asks, how much it says. Pure.

    speaker   the first term of a name before a colon, as importers write turns down: "Ada: Hello";
              nobody speaks by a label ("Todo: ..."), in an address, or outside of a conversation
    asks      0..1, the share of its sentences that are questions: a question answers nothing, but
              what is said right after one often does
    content   0..1, 1 - exp(-terms / 8): "Thanks!" tells little; a long text no more than one of
              twenty terms
    is_dated  whether it says when something was or will be ("yesterday", "last May", "in 2022")
    names     the terms of what it writes with a capital letter within a sentence

The first three are general; the terms of `is_dated` are English, and names are told apart only in
scripts with capital letters, not at the beginning of a sentence (in German each noun is one).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from functools import cache, lru_cache

import msgspec

from memsync.core.recall.lexical import terms_of

CONTENT_TERMS = 8  # so many terms say 63 % of what a text can say; 6 to 16 do as well on LoCoMo
NAME_WORDS_MAX = 3
NAME_CHARS_MAX = 40
NO_SPEAKER = 0
# What people write before a colon that is nobody's name, as terms.
_LABELS = """
    reminder todo note notes recipe idea task title subject question answer summary update warning
    error fact tip topic date time place address birthday phone email password link source status
    result goal plan conclusion decision example important event meeting list name description
"""

_sentence_ends = re.compile(r"[.!?。！？؟]+")
# A letter, and up to a colon, also a full-width one, that is not an address's.
_NAME = re.compile(rf"([^\W\d_][^:：]{{0,{NAME_CHARS_MAX - 1}}})[:：](?!//)")
# Latin, Greek and Cyrillic letters. That it begins with a blank makes it five times as quick.
_CAPITALS = "A-ZÀ-ÖØ-ÞĀĂĄĆĈĊČĎĐĒĖĘĚĜĞĠĢĤĪĮİĶĹĻĽŁŃŅŇŌŐŔŘŚŜŞŠŢŤŪŮŰŲŴŶŸŹŻŽȘȚΆ-ΫА-ЯЁЄІЇҐ"
_CAPITAL = re.compile(rf" ([{_CAPITALS}]\w+)")
_WITHIN_SENTENCES = ",;)"  # these, letters and digits stand before a name
NAMES_REMEMBERED = 16_384
_QUESTION_MARKS = "?？؟"
_YEARS = range(1900, 2100)
# "May", "just" and "now" mostly say something else.
_WHEN = """
    yesterday today tonight tomorrow ago last next past week weekend fortnight month year
    monday tuesday wednesday thursday friday saturday sunday january february march april june july
    august september october november december spring summer autumn winter recently
"""


class Traits(msgspec.Struct, frozen=True):
    """Of one text. `speaker` is a hash, good inside this process; NO_SPEAKER without one."""

    speaker: int
    asks: float
    content: float
    is_dated: bool


def traits_of(text: str, terms: Mapping[str, int], *, in_session: bool) -> Traits:
    """`terms` are those of the text, as `terms_of` tells them; `in_session` whether it is a turn
    of a conversation."""
    return Traits(
        speaker=_speaker_of(text) if in_session else NO_SPEAKER,
        asks=_asks(text),
        content=1 - math.exp(-sum(terms.values()) / CONTENT_TERMS),
        is_dated=not _when_terms().isdisjoint(terms),
    )


def names_of(text: str) -> Collection[str]:
    """The terms of its names, stop words perhaps among them; a sentence's first word is none."""
    found: dict[str, None] = {}
    for match in _CAPITAL.finditer(text):
        before = text[match.start() - 1] if match.start() else ""
        if before.isalnum() or (before and before in _WITHIN_SENTENCES):
            found.update(_name_terms(match[1]))
    return found.keys()


def _speaker_of(text: str) -> int:
    found = _NAME.match(text)
    if found is None or len(found[1].split()) > NAME_WORDS_MAX:
        return NO_SPEAKER
    name = next(iter(terms_of(found[1])), "")
    return NO_SPEAKER if name in _label_terms() else hash(name)


def _asks(text: str) -> float:
    if not any(mark in text for mark in _QUESTION_MARKS):
        return 0.0
    ends = _sentence_ends.findall(text)
    asking = sum(any(mark in end for mark in _QUESTION_MARKS) for end in ends)
    return asking / len(ends)


@lru_cache(maxsize=NAMES_REMEMBERED)
def _name_terms(name: str) -> Mapping[str, None]:
    return dict.fromkeys(terms_of(name))


@cache
def _label_terms() -> frozenset[str]:
    return frozenset(terms_of(_LABELS))


@cache
def _when_terms() -> frozenset[str]:
    return frozenset(terms_of(_WHEN)) | frozenset(map(str, _YEARS))
