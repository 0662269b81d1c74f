"""The built-in static model: the token vectors in the wordllama wheel, averaged.

The wheel (WordLlama, L2 Supercat, 256 dimensions; MIT licence) carries the table and the tokenizer.
We read both files and never import the package, whose own loader wants to download. A text costs
about 20 microseconds, so it is embedded in line, on the event loop. The table stays float16
and is mapped from the file: the peers of one machine share its 16 MB, and widening the few rows of
a text costs 5 microseconds more than a table of floats would, which no recall notices.

There is no wheel for some platforms (Linux on ARM). `load` says so with `ConfigurationError`; a
node then runs without an embedder, and its recalls are lexical and tagged `embedding`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.errors import ConfigurationError

DISTRIBUTION = "wordllama"
NAME = "wordllama-l2-supercat-256"
WEIGHTS_FILE = "wordllama/weights/l2_supercat_256.safetensors"
TOKENIZER_FILE = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"
TABLE = "embedding.weight"
# Of a text, in UTF-8: a rare character costs a token a byte, and 8,000 tokens take about 5 ms.
BYTES_MAX = limits.TEXT_CHARS_MAX
CHARS_IN_LINE = 4_000  # a batch lets others run after so many characters
# Of words, so long at most, the tokens are remembered: about 4 MB.
WORD_CHARS_MAX = 32
WORDS_REMEMBERED = 16_384
_words = re.compile(" +[^ ]*")


class StaticModel:
    """An `Embedder`: the mean of a text's token vectors, at length 1."""

    name = NAME

    def __init__(self, table: NDArray[np.float16], tokenizer_json: bytes) -> None:
        # Read by the tokenizers library when it first meets a batch: no threads of its own.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self._table = table
        self._tokenizer = Tokenizer.from_buffer(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.dimensions = int(table.shape[1])
        self._tokens_of_word = lru_cache(maxsize=WORDS_REMEMBERED)(self._encode)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimensions) float32, rows of length 1; a text without a token is a row of zeros.
        Only the first 8,000 bytes of a text count. Never raises `Unavailable`."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        embedded_chars = 0
        for row, text in enumerate(texts):
            if embedded_chars > CHARS_IN_LINE:
                await asyncio.sleep(0)
                embedded_chars = 0
            vectors[row] = self._embed_one(_start_of(text))
            embedded_chars += len(text)
        return vectors

    def _embed_one(self, text: str) -> NDArray[np.float32]:
        tokens = self._tokens_of(text)
        if not tokens:
            return np.zeros(self.dimensions, np.float32)
        total = self._table.take(tokens, axis=0).astype(np.float32).sum(axis=0)
        length = np.sqrt(total @ total)
        vector: NDArray[np.float32] = total / length if length > 0 else total
        return vector

    def _tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, word by word. No token of the vocabulary has a space behind another
        character, so they are those of the whole text, for a tenth of the work where its words were
        met before."""
        if text.endswith(" ") or "<" in text or "\u2581" in text:
            return list(self._encode(text))  # "<s>" is a token, and U+2581 is what a space becomes
        tokens: list[int] = []
        for word in _words.findall(f" {text}"):  # the tokenizer puts the first space back
            is_short = len(word) <= WORD_CHARS_MAX
            tokens += self._tokens_of_word(word[1:]) if is_short else self._encode(word[1:])
        return tokens

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _start_of(text: str) -> str:
    """The first BYTES_MAX bytes, in whole characters; what UTF-8 cannot hold is left out."""
    return text.encode("utf-8", "ignore")[:BYTES_MAX].decode("utf-8", "ignore")


def load() -> StaticModel:
    """The model of the installed wheel; raises `ConfigurationError` that says what is missing."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            f"embedder: the {DISTRIBUTION} wheel is not installed (there is none for Linux on "
            'ARM); set embedder = "none" to recall by words only'
        ) from error
    weights, tokenizer = (
        Path(str(distribution.locate_file(name))) for name in (WEIGHTS_FILE, TOKENIZER_FILE)
    )
    try:
        return StaticModel(map_table(weights), tokenizer.read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"embedder: {DISTRIBUTION} {distribution.version} does not hold the model of "
            f'0.4.0.post1 ({error}); install that version, or set embedder = "none"'
        ) from error


def map_table(path: Path) -> NDArray[np.float16]:
    """(tokens, dimensions) float16, mapped from a safetensors file: 8 bytes with the length of the
    header, the header (JSON: names, types, shapes, offsets), the data. The library itself would
    copy the table. Raises `OSError`, `ValueError` or `KeyError` for another file."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > 1 << 20:
            raise ValueError(f"{path.name}: not a safetensors file")
        entry = json.loads(file.read(header_bytes))[TABLE]
    if entry["dtype"] != "F16" or len(entry["shape"]) != 2:
        raise ValueError(f"{path.name}: {TABLE} is {entry['dtype']} {entry['shape']}")
    offset = 8 + header_bytes + entry["data_offsets"][0]
    mapped = np.memmap(path, "<f2", mode="r", offset=offset, shape=tuple(entry["shape"]))
    table: NDArray[np.float16] = np.asarray(mapped)
    return table
