"""How the models of a peer are, in a line for people: in `/ready`, `/status`, `memsync status`."""

from __future__ import annotations

from collections.abc import Mapping

from memsync.engine.recall.breakers import Breakers
from memsync.engine.recall.differing import Differing
from memsync.engine.recall.embedding import Embedding
from memsync.engine.recall.reembedding import Reembedding


def said_of(
    embedding: Embedding,
    breakers: Breakers,
    reembedding: Reembedding,
    differing: Differing | None = None,
    members: Mapping[int, str] | None = None,
) -> str:
    """ "ok" where only the built-in model is there and nothing is to be told, else "ok: " with
    which of the `members` (incarnation of the process -> name) embed otherwise, the embedders in
    their order, whom breakers keep from being asked, and what lacks a vector. Never a failure:
    recalls and writes go on."""
    facts = []
    if differing is not None and (warning := differing.said(members or {})) is not None:
        facts.append(warning)
    if not embedding.providers:
        facts.append("no embedder, recall is by words")
    elif any(not provider.is_inline for provider in embedding.providers):
        names = (f"{provider.name} ({provider.model})" for provider in embedding.providers)
        facts.append("embedders " + ", then ".join(names))
    for name, states in sorted(breakers.troubled().items()):
        facts += [
            f"{name} {'left alone' if state == 'open' else 'tried again'} for {count} organisations"
            for state, count in sorted(states.items())
        ]
    if (waiting := reembedding.said()) is not None:
        facts.append(waiting)
    return f"ok: {'; '.join(facts)}" if facts else "ok"
