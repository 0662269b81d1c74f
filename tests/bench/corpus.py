"""Texts like those that agents keep, as many as are asked for: for measuring, not for quality.

Words come from the built-in model's own vocabulary, so that vectors mean something. Frequencies
follow Zipf's law. A session is about one subject out of a few hundred, as conversations are: words
of a subject come together, and its memories' vectors lie near each other. The same number is the
same text for ever.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.adapters.models import static
from memsync.core.recall.lexical import STOP_WORDS

SUBJECTS = 400
SUBJECT_WORDS = 120
SESSION_TURNS = 24
FUNCTION_WORDS = """
    i the a to and of in my we was that for it is on with you at have she he this but they had me
    about so be our just from really as when what were been her will his there then
    """.split()  # noqa: SIM905 - easier to read
WORDS_MIN, WORDS_MAX = 8, 26
CHUNK = 4_096


class Memory(msgspec.Struct, frozen=True):
    """One text, and the session that it was said in."""

    text: str
    session: int


class Corpus:
    """Texts and questions by number."""

    def __init__(self, seed: int = 1) -> None:
        self._seed = seed
        random = np.random.default_rng(seed)
        self._words = np.array(_vocabulary(), object)
        random.shuffle(self._words)
        total = len(self._words)
        self._frequency = np.cumsum(_zipf(total))
        self._subject_frequency = np.cumsum(_zipf(SUBJECT_WORDS))
        self._subjects = random.integers(0, total, (SUBJECTS, SUBJECT_WORDS))
        self._function = np.array(FUNCTION_WORDS, object)
        self._kept: tuple[int, list[Memory]] = (-1, [])  # the last chunk that was made

    def memories(self, first: int, count: int) -> list[Memory]:
        """The memories numbered from `first` on."""
        made: list[Memory] = []
        while count > 0:
            chunk, offset = divmod(first, CHUNK)
            if self._kept[0] != chunk:
                self._kept = (chunk, self._chunk(chunk))
            part = self._kept[1][offset : offset + count]
            made += part
            first, count = first + len(part), count - len(part)
        return made

    def question(self, number: int) -> str:
        """A question about the memory with this number: three of its telling words."""
        random = np.random.default_rng((self._seed, 2, number))
        (memory,) = self.memories(number, 1)
        telling = [word for word in memory.text.split() if word not in STOP_WORDS]
        chosen = random.choice(telling or ["nothing"], min(3, len(telling) or 1), replace=False)
        return "What did I say about " + " and ".join(chosen) + "?"

    def _chunk(self, chunk: int) -> list[Memory]:
        random = np.random.default_rng((self._seed, 1, chunk))
        lengths = random.integers(WORDS_MIN, WORDS_MAX + 1, CHUNK)
        sessions = (chunk * CHUNK + np.arange(CHUNK)) // SESSION_TURNS
        subjects = (sessions * 7919 + self._seed) % SUBJECTS
        of_word = np.repeat(np.arange(CHUNK), lengths)
        kinds, spread = random.random(len(of_word)), random.random(len(of_word))
        rank = np.minimum(np.searchsorted(self._subject_frequency, spread), SUBJECT_WORDS - 1)
        words = self._words[self._subjects[subjects[of_word], rank]]
        common = np.minimum(np.searchsorted(self._frequency, spread), len(self._words) - 1)
        words = np.where(kinds < 0.65, self._words[common], words)
        function = (spread * len(self._function)).astype(np.intp)
        words = np.where(kinds < 0.4, self._function[function], words)
        ends = np.cumsum(lengths).tolist()
        starts = [0, *ends[:-1]]
        spoken = words.tolist()
        return [
            Memory(" ".join(spoken[start:end]), session)
            for start, end, session in zip(starts, ends, sessions.tolist(), strict=True)
        ]


def _vocabulary() -> list[str]:
    """The whole words that the built-in model knows, about 9,000."""
    path = Path(str(metadata.distribution(static.DISTRIBUTION).locate_file(static.TOKENIZER_FILE)))
    tokens = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    words = {token[1:] for token in tokens if token[0] == "\u2581"}
    return sorted(w for w in words if w.isascii() and w.isalpha() and w.islower() and len(w) > 3)


def _zipf(count: int) -> NDArray[np.float64]:
    weights = 1.0 / (np.arange(count) + 2.7)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares
