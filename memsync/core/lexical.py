"""Words and BM25: how a text becomes terms, and how terms find rows. Pure; numpy and Snowball only.

A text is folded (NFKC, casefold) and cut into runs of letters, digits and marks. Runs in scripts
that put no spaces between words (Han, Kana, Hangul, Thai, Lao, Khmer, Burmese) become their
characters and their pairs of neighbours, so that a question of one character finds something and a
longer one ranks well. Other runs lose English stop words and become Snowball stems. A text of
nothing but stop words ("The Who") keeps them.

`Postings` is the index of one scope: for each term the rows that hold it, packed into 32 bits each
(row << 8 | count, counts above 255 count as 255), in ascending order. Appending a row costs some
microseconds; nothing is kept per row but its length, so a removed row is passed over by whoever
asks (`visible`) until `compact` takes it out. Scores are exact: Robertson and Zaragoza, "The
Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the idf of Lucene (never negative).
"""

from __future__ import annotations

import re
import threading
import unicodedata
from array import array
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from itertools import pairwise

import msgspec
import numpy as np
import Stemmer
from numpy.typing import NDArray

from memsync.ids import ScopeKey

K1 = 1.2
B = 0.75
COUNT_BITS = 8
COUNT_MAX = (1 << COUNT_BITS) - 1
ROWS_MAX = 1 << (32 - COUNT_BITS)
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
    for term in _stemmer().stemWords(telling):
        counts[term] = counts.get(term, 0) + 1
    return counts


def moment_terms(at_ms: int) -> dict[str, int]:
    """The terms of a date (day, month, year in UTC): what "in May 2026" in a question finds."""
    first_s, last_s = -62_135_596_800, 253_402_300_799  # the years 1 to 9999
    moment = datetime.fromtimestamp(min(max(at_ms // 1000, first_s), last_s), UTC)
    return terms_of(f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}")


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


def _stemmer() -> Stemmer.Stemmer:
    """One for each thread: a stemmer has state, and loading may run beside questions."""
    try:
        return _local.stemmer
    except AttributeError:
        _local.stemmer = Stemmer.Stemmer("english", maxCacheSize=10_000)
        return _local.stemmer


class LexicalScores(msgspec.Struct, frozen=True):
    """What words say. All are 0 for rows and sessions that share no word with the question.

    `rows` (n,) float32 BM25; `coverage` (n,) float32 0..1, the share of the question's information
    (idf) that the row holds; `sessions` (sessions,) float32, the BM25 of each session as one
    document.
    """

    rows: NDArray[np.float32]
    coverage: NDArray[np.float32]
    sessions: NDArray[np.float32]


class Postings:
    """The lexical index of one scope; rows are numbered from 0 in the order of `append`."""

    def __init__(self) -> None:
        self._postings: dict[str, array[int]] = {}
        self._lengths = array("I")
        self.postings_total = 0

    @property
    def terms_total(self) -> int:
        """How many different terms there are."""
        return len(self._postings)

    def append(self, terms: Mapping[str, int]) -> int:
        """Take in a text; returns its row."""
        row = len(self._lengths)
        assert row < ROWS_MAX
        base = row << COUNT_BITS
        postings = self._postings
        for term, count in terms.items():
            packed = base | min(count, COUNT_MAX)
            if (known := postings.get(term)) is None:
                postings[term] = array("I", (packed,))
            else:
                known.append(packed)
        self._lengths.append(sum(terms.values()))
        self.postings_total += len(terms)
        return row

    def score(
        self,
        terms: Iterable[str],
        visible: NDArray[np.bool_],
        sessions: NDArray[np.int32],
        sessions_total: int,
    ) -> LexicalScores:
        """BM25 of every row, (n,), counting only the visible ones; `sessions` (n,), -1 is none."""
        lengths = np.frombuffer(self._lengths, np.uint32).astype(np.float32)
        rows_total = int(np.count_nonzero(visible))
        by_row = _Tally(lengths, rows_total, float(lengths[visible].sum()))
        member = visible & (sessions >= 0)
        session_lengths = np.bincount(
            sessions[member], weights=lengths[member], minlength=sessions_total
        ).astype(np.float32)
        by_session = _Tally(
            session_lengths, int(np.count_nonzero(session_lengths)), float(session_lengths.sum())
        )
        for term in terms:
            rows, counts = self._rows_with(term, visible)
            by_row.add(rows, counts)
            by_session.add(*_per_session(sessions[rows], counts, sessions_total))
        return LexicalScores(by_row.scores, by_row.coverage(), by_session.scores)

    def _rows_with(
        self, term: str, visible: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        packed = np.frombuffer(self._postings.get(term, b""), np.uint32)
        rows = (packed >> COUNT_BITS).astype(np.intp)
        counts = (packed & COUNT_MAX).astype(np.float32)
        seen = visible[rows]
        return (rows, counts) if seen.all() else (rows[seen], counts[seen])

    def compact(self, moved: NDArray[np.int64]) -> None:
        """Renumber the rows: `moved` (n,) gives each row its new number, ascending, or -1 to drop
        it.
        """
        kept_lengths = np.frombuffer(self._lengths, np.uint32)[moved >= 0]
        names = list(self._postings)
        sizes = [len(posting) for posting in self._postings.values()]
        packed = np.frombuffer(b"".join(self._postings.values()), np.uint32)
        rows = moved[packed >> COUNT_BITS]
        kept = rows >= 0
        packed = (rows[kept] << COUNT_BITS).astype(np.uint32) | (packed[kept] & COUNT_MAX)
        ends = np.concatenate(([0], np.cumsum(kept)))[np.cumsum(sizes, dtype=np.intp)]
        starts = np.concatenate(([0], ends))[:-1].astype(np.intp)
        self._postings = {
            name: array("I", packed[start:end].tobytes())
            for name, start, end in zip(names, starts.tolist(), ends.tolist(), strict=True)
            if start < end
        }
        self._lengths = array("I", kept_lengths.tobytes())
        self.postings_total = len(packed)


class _Tally:
    """BM25 of one set of documents, added up term by term."""

    def __init__(self, lengths: NDArray[np.float32], documents: int, length_sum: float) -> None:
        self.scores = np.zeros(len(lengths), np.float32)
        self._covered = np.zeros(len(lengths), np.float32)
        self._information = 0.0
        self._documents = documents
        mean = length_sum / documents if length_sum else 1.0
        self._norms = np.float32(K1) * (np.float32(1 - B) + np.float32(B / mean) * lengths)

    def add(self, documents: NDArray[np.intp], counts: NDArray[np.float32]) -> None:
        """One term: the documents that hold it, and how often each does."""
        found = len(documents)
        idf = np.float32(np.log1p((self._documents - found + 0.5) / (found + 0.5)))
        self._information += float(idf)
        if found:
            gain = idf * np.float32(K1 + 1)
            self.scores[documents] += gain * counts / (counts + self._norms[documents])
            self._covered[documents] += idf

    def coverage(self) -> NDArray[np.float32]:
        """The share 0..1 of the terms' information that each document holds."""
        return self._covered / np.float32(self._information or 1.0)


def _per_session(
    sessions: NDArray[np.int32], counts: NDArray[np.float32], sessions_total: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    member = sessions >= 0
    sums = np.bincount(sessions[member], weights=counts[member], minlength=sessions_total)
    found = np.flatnonzero(sums)
    return found, sums[found].astype(np.float32)
