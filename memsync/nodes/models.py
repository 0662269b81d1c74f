"""The models of a peer, as its settings name them. What is not used is not imported."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from memsync import config, telemetry
from memsync.adapters.models import static
from memsync.clock import Clock
from memsync.config import EndpointSettings, PeerSettings
from memsync.engine.recall import (
    Breakers,
    Differing,
    Embedding,
    Following,
    MeasuredIndex,
    Provider,
    Reasoning,
    Recall,
    Reembedding,
    said_of,
)
from memsync.errors import ConfigurationError
from memsync.ports import Reasoner, Store

if TYPE_CHECKING:
    from memsync.adapters.models.endpoint import Endpoint


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer embeds and reasons with. `closers` end the connections."""

    providers: list[Provider]
    reasoner: Reasoner | None
    closers: list[Callable[[], Awaitable[None]]]


def load(settings: PeerSettings) -> Models:
    """The models; raises `ConfigurationError` where one that was asked for cannot be had."""
    closers: list[Callable[[], Awaitable[None]]] = []
    reasoner = None
    if settings.reasoner:
        from memsync.adapters.models.endpoint import EndpointReasoner

        chat = settings.endpoints[settings.reasoner]
        reasoner = EndpointReasoner(_endpoint(settings.reasoner, chat, closers), chat.model)
    providers = [
        provider
        for name in _chain(settings)
        if (provider := _provider(settings, name, closers)) is not None
    ]
    return Models(providers=providers, reasoner=reasoner, closers=closers)


class Recalling(msgspec.Struct, frozen=True, kw_only=True):
    """What recall stands on, over the models of a peer."""

    embedding: Embedding
    reasoning: Reasoning
    reembedding: Reembedding
    breakers: Breakers
    following: tuple[Reembedding, Differing]
    """What is told of every change that is applied."""
    said: Callable[[Mapping[int, str]], str]
    """How the models are, for `/ready`: "ok", or "ok: " and what to know; of the other members,
    incarnation of the process -> name."""


def recalling(models: Models, store: Store, clock: Clock) -> Recalling:
    """The parts that stand on the models; `recall_with` joins them to the rest."""
    breakers = Breakers(clock)
    embedding = Embedding(models.providers, breakers, clock)
    reembedding, differing = Reembedding(store, embedding, clock), Differing(embedding)
    return Recalling(
        embedding=embedding,
        reasoning=Reasoning(models.reasoner, breakers, clock),
        reembedding=reembedding,
        breakers=breakers,
        following=(reembedding, differing),
        said=lambda members: said_of(embedding, breakers, reembedding, differing, members),
    )


def recall_with(
    parts: Recalling, store: Store, index: MeasuredIndex, clock: Clock, *, following: Following
) -> Recall:
    """The recall pipeline of a peer."""
    return Recall(
        store,
        index,
        parts.embedding,
        parts.reasoning,
        clock,
        breakers=parts.breakers,
        following=following,
    )


def _chain(settings: PeerSettings) -> list[str]:
    """The names of all embedders, in the order of the asking."""
    if settings.embedder == config.NO_EMBEDDER:
        return []
    named = [settings.embedder, settings.embedder_secondary, config.STATIC]
    return list(dict.fromkeys(filter(None, named)))


def _provider(
    settings: PeerSettings, name: str, closers: list[Callable[[], Awaitable[None]]]
) -> Provider | None:
    """One of them. The static model may be missing: there is no wheel of it for some platforms,
    and recall then goes by words, tagged."""
    if name == config.STATIC:
        try:
            return Provider(name=name, embedder=static.load(), is_inline=True)
        except ConfigurationError as error:
            telemetry.logger().error("embedder.not_loaded", **telemetry.describe(error))
            return None
    if name == config.MINILM:
        from memsync.adapters.models import minilm

        model = minilm.load()
        return Provider(name=name, embedder=model, is_local=True, batch=minilm.TEXTS_TOGETHER)
    from memsync.adapters.models.endpoint import EndpointEmbedder

    found = settings.endpoints[name]
    embedder = EndpointEmbedder(_endpoint(name, found, closers), found.model, found.dimensions)
    return Provider(name=name, embedder=embedder, timeout_s=found.timeout_ms / 1_000)


def _endpoint(
    name: str, settings: EndpointSettings, closers: list[Callable[[], Awaitable[None]]]
) -> Endpoint:
    from memsync.adapters.models.endpoint import Endpoint

    headers = {}
    if settings.key_variable:
        key = os.environ.get(settings.key_variable, "").strip()
        if not key:
            raise ConfigurationError(
                f"endpoints.{name}.key_variable: the environment variable "
                f"{settings.key_variable} is not set"
            )
        if not key.isascii() or not key.isprintable():
            raise ConfigurationError(
                f"endpoints.{name}.key_variable: the key in {settings.key_variable} has characters "
                "that no header can carry"
            )
        headers["Authorization"] = f"Bearer {key}"
    made = Endpoint(name, settings.url, headers, settings.timeout_ms / 1_000)
    closers.append(made.close)
    return made
