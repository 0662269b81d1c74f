"""The embed stage: texts to vectors through the one chain that questions and writes share.

A provider that fails or hangs costs its share of the time and never an answer: without a vector a
question is recalled by words, and a memory is stored without one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.ports import Embedder
from memsync.telemetry import logger
from memsync.wire.operations import Vector

WRITE_TIMEOUT_S = 0.5  # of a write's budget; its vector can follow later


class Embedding:
    """An embedder with a cache for questions, and with failure as an answer: None."""

    def __init__(self, embedder: Embedder | None) -> None:
        self._embedder = embedder
        # Vectors by the hash of the question, so that the cache holds no person's words.
        self._cache: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    @property
    def model(self) -> str:
        """The name that vectors carry; "" where there is no embedder."""
        return self._embedder.name if self._embedder is not None else ""

    async def of_question(
        self, text: str, *, timeout_s: float
    ) -> tuple[NDArray[np.float32] | None, bool]:
        """The vector (dim,) float32 of a question, and whether the stage did its work: a question
        without a known word has no vector either, and nothing is wrong then."""
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        vector = self._cache.get(key)
        if vector is None:
            embedded = await self._embed([text], timeout_s)
            if embedded is None:
                return None, False
            vector = self._cache[key] = embedded[0]
            if len(self._cache) > limits.QUERY_CACHE_ENTRIES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return (vector if vector.any() else None), True

    async def for_write(self, texts: Sequence[str]) -> list[Vector | None]:
        """The vectors that the memories with these texts are stored with; all None where no
        provider answers in time, None for a text without a known word."""
        embedded = await self._embed(texts, WRITE_TIMEOUT_S) if texts else None
        if embedded is None:
            return [None] * len(texts)
        halves = embedded.astype("<f2")
        return [Vector(self.model, half.tobytes()) if half.any() else None for half in halves]

    async def _embed(self, texts: Sequence[str], timeout_s: float) -> NDArray[np.float32] | None:
        if self._embedder is None or timeout_s <= 0:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                vectors = await self._embedder.embed(texts)
        except Exception as error:  # noqa: BLE001 - providers fail in any way; words are left
            logger().warning("embedding.failed", error=type(error).__name__, texts=len(texts))
            return None
        is_sound = vectors.shape == (len(texts), self._embedder.dimensions)
        return vectors if is_sound and np.isfinite(vectors).all() else None
