"""The embed stage: texts to vectors, through providers that may each fail or hang.

The first provider is the primary: its model is the model of the memories. Behind it stand the
others in their order. What they are good for depends on their models, since vectors of two models
are never compared:

- A provider of the same model (a second endpoint) takes the primary's place whole: it is asked when
  the primary failed, or was silent for half of the time. Nothing is missing then.
- A provider of another model helps those memories only that carry vectors of that model: the ones
  that were written while the primary did not answer, or before the model was changed. A question is
  embedded by every model that the memories of its scope carry, side by side.
- A write takes the first answer. What then carries another model's vector, or none, is embedded
  again later (`engine.recall.reembedding`).

A question lacks `embedding` if the primary's model did not embed it, or if memories of its scope
carry a model's vectors that it could not be compared with. It lacks `cache` if the cache of
questions failed or is left alone after failing. Whatever fails costs its share of the time and
never an answer: without any vector a question is recalled by words.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.clock import Clock
from memsync.engine.recall import metrics
from memsync.engine.recall.breakers import Breakers, Ticket
from memsync.errors import NoRoom, Unavailable
from memsync.ports import Embedder
from memsync.telemetry import describe, logger
from memsync.wire.operations import Vector

Floats = NDArray[np.float32]

CACHE = "question-cache"  # as the name of a provider, for its breaker
# Behind a provider's name, for the breaker of its writes: they wait for less than a recall does, so
# a provider that is too slow for them is no worse for recalls.
FOR_WRITES = " for writes"
NOBODYS = 0  # the organisation of what this peer does for the cell
PATIENCE_SHARE = 0.5  # of the time that is left, before the next provider is asked beside one
# Shorter waits end without a verdict: 40 ms, all that a recall of tier low can wait, is too short
# for many a provider that serves the other tiers well.
JUDGED_S = 0.1


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """An embedder as it is configured. `is_inline` answers at once and on the event loop: there is
    nothing to wait for. `is_local` computes in this process: slow is not broken, and no breaker
    counts it. It takes `batch` texts at a time, so that others have their turn. `timeout_s` bounds
    every call; a question or a write may have less time."""

    name: str
    embedder: Embedder
    is_inline: bool = False
    is_local: bool = False
    batch: int = limits.REEMBED_BATCH
    timeout_s: float = limits.EMBED_TIMEOUT_S

    @property
    def model(self) -> str:
        """The name that its vectors carry."""
        return self.embedder.name


class QuestionCache(Protocol):
    """Vectors of questions by key. May fail; then questions are embedded each time."""

    def get(self, key: bytes) -> Floats | None:
        """The vector of `put`, while it is kept."""
        ...

    def put(self, key: bytes, vector: Floats) -> None:
        """Keep a vector for a while."""
        ...


class LeastRecentlyUsed:
    """The cache in this process: at most `limits.QUERY_CACHE_ENTRIES` vectors."""

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, Floats] = OrderedDict()

    def get(self, key: bytes) -> Floats | None:
        """The vector, which is the one used last from now on."""
        vector = self._held.get(key)
        if vector is not None:
            self._held.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: Floats) -> None:
        """Keep a vector; the longest unused one goes."""
        self._held[key] = vector
        if len(self._held) > limits.QUERY_CACHE_ENTRIES:
            self._held.popitem(last=False)


class Embedding:
    """Texts to vectors, with failure as an answer."""

    def __init__(
        self,
        providers: Sequence[Provider],
        breakers: Breakers,
        clock: Clock,
        cache: QuestionCache | None = None,
    ) -> None:
        self.providers = tuple(providers)
        self.model = providers[0].model if providers else ""
        self._by_model: dict[str, list[Provider]] = {}
        for provider in providers:
            self._by_model.setdefault(provider.model, []).append(provider)
        self._breakers = breakers
        self._clock = clock
        self._cache: QuestionCache = cache or LeastRecentlyUsed()
        for name in (CACHE, *(provider.name for provider in providers)):
            breakers.show_state(name)
        for provider in providers:
            breakers.show_state(provider.name + FOR_WRITES)

    async def of_question(
        self,
        text: str,
        *,
        organisation: int,
        models: Collection[str],
        until_s: float,
        lacking: set[str],
    ) -> dict[str, Floats]:
        """The vectors (dim,) float32 of a question, by the primary's model and those that memories
        of its scope carry, by `until_s` (steady clock). A question without a known word has none,
        and lacks nothing. `lacking` takes the components that failed."""
        wanted = [self.model, *(model for model in models if model != self.model)]
        found: dict[str, Floats] = {}
        missing: list[str] = []
        for model in wanted:
            if model not in self._by_model:
                lacking.add("embedding")
                continue
            vector = self._cached(organisation, model, text, lacking)
            if vector is None:
                missing.append(model)
            else:
                found[model] = vector
        if missing:
            embedded = await self._embed_all(missing, text, organisation, until_s)
            for model in missing:
                vectors = embedded.get(model)
                if vectors is None:
                    lacking.add("embedding")
                else:
                    found[model] = vectors[0]
                    self._keep(organisation, model, text, vectors[0], lacking)
        return {model: vector for model, vector in found.items() if vector.any()}

    async def for_write(self, texts: Sequence[str], *, organisation: int) -> list[Vector | None]:
        """The vectors that the memories with these texts are stored with, of the first provider
        that answers: all None where none does in time, None for a text without a known word."""
        if not texts or not self.providers:
            return [None] * len(texts)
        until_s = self._clock.steady_s() + limits.EMBED_WRITE_S
        found: list[Vector | None] = []
        for part in self._batches(texts):
            embedded = await self._first(
                self.providers, part, organisation, until_s, purpose=FOR_WRITES
            )
            if embedded is None:
                found += [None] * len(part)
            else:
                model = embedded[0].model
                found += [packed(model, one) if one.any() else None for one in embedded[1]]
        return found

    def _batches(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        size = self.providers[0].batch
        for start in range(0, len(texts), size):
            yield texts[start : start + size]

    async def by_primary(self, texts: Sequence[str]) -> Floats | None:
        """(n, dim) float32 by the primary's model, for memories that lack a vector of it; None
        where no provider of it answers."""
        until_s = self._clock.steady_s() + limits.EMBED_TIMEOUT_S
        providers = self._by_model[self.model]
        found = []
        for part in self._batches(texts):
            embedded = await self._first(providers, part, NOBODYS, until_s)
            if embedded is None:
                return None
            found.append(embedded[1])
        return np.concatenate(found)

    @property
    def models(self) -> Collection[str]:
        """Of all providers: what a memory may be embedded with that is written here."""
        return self._by_model.keys()

    @property
    def dimensions(self) -> int:
        """Of the primary's vectors; 0 without a provider."""
        return self.providers[0].embedder.dimensions if self.providers else 0

    # The cache.

    def _cached(self, organisation: int, model: str, text: str, lacking: set[str]) -> Floats | None:
        ticket = self._breakers.ask(organisation, CACHE)
        if ticket is None:
            lacking.add("cache")
            return None
        try:
            vector = self._cache.get(_key(model, text))
        except Exception as error:  # noqa: BLE001 - a part of a recall stage: embedded again, tagged
            self._cache_failed(ticket, error, lacking)
            return None
        if vector is not None:
            self._breakers.succeeded(ticket)
        else:
            self._breakers.given_up(ticket)  # `_keep` follows, and tells
        return vector

    def _keep(
        self, organisation: int, model: str, text: str, vector: Floats, lacking: set[str]
    ) -> None:
        ticket = None if "cache" in lacking else self._breakers.ask(organisation, CACHE)
        if ticket is None:
            return
        try:
            self._cache.put(_key(model, text), vector)
        except Exception as error:  # noqa: BLE001 - a part of a recall stage: embedded again, tagged
            self._cache_failed(ticket, error, lacking)
            return
        self._breakers.succeeded(ticket)

    def _cache_failed(self, ticket: Ticket, error: Exception, lacking: set[str]) -> None:
        self._breakers.failed(ticket)
        lacking.add("cache")
        metrics.PROVIDER_FAILURES.labels(CACHE).inc()
        logger().warning("question_cache.failed", error=type(error).__name__)

    # The providers.

    async def _embed_all(
        self, models: Sequence[str], text: str, organisation: int, until_s: float
    ) -> dict[str, Floats]:
        """The question by each of these models, side by side where they have to be waited for."""
        found: dict[str, Floats] = {}

        async def embed(model: str) -> None:
            embedded = await self._first(self._by_model[model], [text], organisation, until_s)
            if embedded is not None:
                found[model] = embedded[1]

        if len(models) == 1:
            await embed(models[0])
            return found
        async with asyncio.TaskGroup() as group:
            for model in models:
                group.create_task(embed(model), name=f"embed by {model}")
        return found

    async def _first(
        self,
        providers: Sequence[Provider],
        texts: Sequence[str],
        organisation: int,
        until_s: float,
        *,
        purpose: str = "",
    ) -> tuple[Provider, Floats] | None:
        """The first answer; each provider is asked when the one before it failed, or beside it
        when that has been silent for its share of the time."""
        if len(providers) == 1 or providers[0].is_inline:
            vectors = await self._ask(providers[0], texts, organisation, until_s, purpose)
            if vectors is not None or len(providers) == 1:
                return None if vectors is None else (providers[0], vectors)
            providers = providers[1:]
        async with asyncio.TaskGroup() as group:
            asked: dict[asyncio.Task[Floats | None], Provider] = {}
            answer = None
            for number, provider in enumerate(providers):
                work = self._ask(provider, texts, organisation, until_s, purpose)
                if provider.is_inline:
                    vectors = await work
                    answer = None if vectors is None else (provider, vectors)
                    if answer is not None:
                        break
                    continue
                asked[group.create_task(work, name=f"embed with {provider.name}")] = provider
                share = PATIENCE_SHARE if number < len(providers) - 1 else 1.0
                answer = await self._answer_of(asked, until_s, share=share)
                if answer is not None:
                    break
            for task in asked:
                task.cancel()
        return answer

    async def _answer_of(
        self, asked: Mapping[asyncio.Task[Floats | None], Provider], until_s: float, *, share: float
    ) -> tuple[Provider, Floats] | None:
        """What the first of these came back with; None once all have failed, or after a share of
        the time that is left."""
        patient_until_s = self._clock.steady_s() + share * (until_s - self._clock.steady_s())
        waiting = {task for task in asked if not task.done()}
        while waiting:
            left_s = max(0.0, patient_until_s - self._clock.steady_s())
            done, waiting = await asyncio.wait(
                waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if (vectors := task.result()) is not None:
                    return asked[task], vectors
            if not done:
                return None
        return None

    async def _ask(
        self,
        provider: Provider,
        texts: Sequence[str],
        organisation: int,
        until_s: float,
        purpose: str,
    ) -> Floats | None:
        """(n, dim) float32 of one provider, by `until_s` and within its time-out; None where it
        does not answer, answers what is no vector, or is left alone."""
        began_s = self._clock.steady_s()
        timeout_s = min(until_s - began_s, provider.timeout_s)
        has_time = timeout_s > 0 or provider.is_inline
        name = provider.name + purpose
        ticket = self._breakers.ask(organisation, name) if has_time else None
        if ticket is None:
            return None
        try:
            if provider.is_inline:
                vectors = await provider.embedder.embed(texts)
            else:
                async with asyncio.timeout(timeout_s):
                    vectors = await provider.embedder.embed(texts)
            check_sound(vectors, len(texts), provider.embedder.dimensions)
        except (asyncio.CancelledError, TimeoutError) as error:
            if provider.is_local or self._clock.steady_s() - began_s < JUDGED_S:
                self._breakers.given_up(ticket)
            else:
                self._note_failure(ticket, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return None
        except NoRoom:
            self._breakers.given_up(ticket)  # our overload, maybe by another organisation
            return None
        except Exception as error:  # noqa: BLE001 - providers fail in any way; words are left
            self._note_failure(ticket, error)
            return None
        self._breakers.succeeded(ticket)
        return vectors

    def _note_failure(self, ticket: Ticket, error: BaseException) -> None:
        self._breakers.failed(ticket)
        metrics.PROVIDER_FAILURES.labels(ticket.provider).inc()
        told = describe(error) if isinstance(error, Unavailable) else {}  # others may quote texts
        told = told or {"error": type(error).__name__}
        logger().warning("embedding.failed", provider=ticket.provider, **told)


def packed(model: str, vector: Floats) -> Vector:
    """A vector as memories carry it."""
    return Vector(model, vector.astype("<f2").tobytes())


def check_sound(vectors: Floats, count: int, dimensions: int) -> None:
    """Raise `Unavailable` for what is not (count, dimensions) finite numbers."""
    if vectors.shape != (count, dimensions):
        raise Unavailable(f"vectors of shape {vectors.shape}, not {(count, dimensions)}")
    if not np.isfinite(vectors).all():
        raise Unavailable("vectors that are no numbers")


def _key(model: str, text: str) -> bytes:
    """By hash, so that the cache holds no person's words."""
    content = f"{model}\0{text}".encode("utf-8", "surrogatepass")
    return blake2b(content, digest_size=16).digest()
