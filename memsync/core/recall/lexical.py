"""Words: how a text becomes terms. Pure; Snowball only. How terms find rows: `postings`.

A text is folded (NFKC, casefold) and cut into runs of letters, digits and marks. Runs in scripts
that put no spaces between words (Han, Kana, Hangul, Thai, Lao, Khmer, Burmese) become their
characters and their pairs of neighbours, so that a question of one character finds something and a
longer one ranks well. Other runs lose English stop words and become Snowball stems; irregular
forms ("went") become the stem of their word ("go"). A text of nothing but stop words ("The Who")
keeps them.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import pairwise
from types import MappingProxyType

import Stemmer

from memsync.core.recall.irregular import BASE_OF
from memsync.ids import ScopeKey

MS_PER_DAY = 86_400_000
DAYS_REMEMBERED = 4_096
TERM_CHARS_MAX = 64  # the rest of a longer run (a key, a blob) tells nothing more

# Words that say nothing about what a memory is about: articles, pronouns, auxiliaries,
# prepositions, question words; the pieces that an apostrophe leaves ("don't", "it's") are among
# them.
STOP_WORDS = frozenset(
    """
    a about above after again against all am an and any are aren as at be because been before being
    below between both but by can cannot could couldn d did didn do does doesn doing don down during
    each few for from further had hadn has hasn have haven having he her here hers herself him
    himself his how i if in into is isn it its itself just ll m me mightn more most mustn my myself
    needn no nor not now o of off on once only or other our ours ourselves out over own re s same
    shan she should shouldn so some such t than that the their theirs them themselves then there
    these they this those through to too under until up ve very was wasn we were weren what when
    where which while who whom whose why will with won would wouldn y you your yours yourself
    yourselves
    """.split()  # noqa: SIM905 - easier to read and to change
)

_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_spaceless_runs = re.compile(f"([{_SPACELESS}]+)")
_ascii_words = re.compile("[a-z0-9]+")
_local = threading.local()

# Not strftime: that would follow the machine's language.
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip


def fold(text: str) -> str:
    """The text as it is compared: compatibility forms unified, case removed."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def has_content(text: str) -> bool:
    """Whether there is any letter or digit in it (after NFKC)."""
    return any(character.isalnum() for character in unicodedata.normalize("NFKC", text))


def text_hash(scope: ScopeKey, text: str) -> bytes:
    """8 bytes, equal for identical texts of one scope; spaces at the ends and NFC forms do not
    count.
    """
    normalised = unicodedata.normalize("NFC", text.strip()).encode("utf-8", "surrogatepass")
    return blake2b(normalised, digest_size=8, key=scope).digest()


def terms_of(text: str) -> dict[str, int]:
    """The terms of a text, with how often each occurs, in the order of their first occurrence."""
    words = _words(fold(text))
    telling = [word for word in words if word not in STOP_WORDS] or words
    counts: dict[str, int] = {}
    regular = _regular_stems()
    for stem in _stemmer().stemWords(telling):
        term = regular.get(stem, stem)
        counts[term] = counts.get(term, 0) + 1
    return counts


def regular_terms(terms: Mapping[str, int]) -> dict[str, int]:
    """Terms that were told apart from their irregular forms when they were written, as `terms_of`
    tells them today."""
    regular = _regular_stems()
    if regular.keys().isdisjoint(terms):
        return dict(terms)
    counts: dict[str, int] = {}
    for stem, count in terms.items():
        term = regular.get(stem, stem)
        counts[term] = counts.get(term, 0) + count
    return counts


def moment_terms(at_ms: int) -> Mapping[str, int]:
    """The terms of a date (day, month, year in UTC): what "in May 2026" in a question finds."""
    return _day_terms(at_ms // MS_PER_DAY)


@lru_cache(maxsize=DAYS_REMEMBERED)
def _day_terms(day: int) -> Mapping[str, int]:
    first, last = -719_162, 2_932_896  # the years 1 to 9999
    moment = datetime.fromtimestamp(min(max(day, first), last) * 86_400, UTC)
    terms = terms_of(f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}")
    return MappingProxyType(terms)


def is_telling(text: str) -> bool:
    """Whether there is a word in it that is not a stop word."""
    return any(word not in STOP_WORDS for word in _words(fold(text)))


def _words(folded: str) -> list[str]:
    if folded.isascii():
        return [word[:TERM_CHARS_MAX] for word in _ascii_words.findall(folded)]
    words: list[str] = []
    for run in _word_pattern().findall(folded.replace("_", " ")):
        if run.isascii():
            words.append(run[:TERM_CHARS_MAX])
            continue
        for place, part in enumerate(_spaceless_runs.split(run)):
            if place % 2:
                words += part
                words += [one + other for one, other in pairwise(part)]
            elif part:
                words.append(part[:TERM_CHARS_MAX])
    return words


@cache
def _word_pattern() -> re.Pattern[str]:
    """Runs of letters, digits and the marks on them (Indic vowel signs, Arabic points)."""
    marks = "".join(chr(c) for c in range(0x300, 0x1F000) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(f"\\w[\\w{re.escape(marks)}]*")


@cache
def _regular_stems() -> Mapping[str, str]:
    """The stem of each irregular form to that of its word."""
    stem = _stemmer().stemWord
    return {stem(form): stem(word) for form, word in BASE_OF.items()}


def _stemmer() -> Stemmer.Stemmer:
    """One for each thread: a stemmer has state, and loading may run beside questions."""
    try:
        return _local.stemmer
    except AttributeError:
        _local.stemmer = Stemmer.Stemmer("english", maxCacheSize=10_000)
        return _local.stemmer
