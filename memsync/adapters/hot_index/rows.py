"""What a loaded scope keeps of a memory: a record as the values of its row. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from memsync.adapters.hot_index.columns import NEVER
from memsync.adapters.hot_index.facets import facet
from memsync.core import memories
from memsync.core.feedback import importance_of
from memsync.core.recall.lexical import moment_terms, regular_terms, terms_of
from memsync.core.recall.traits import names_of, traits_of
from memsync.core.records import Record, value_of
from memsync.core.relations import strengths_of
from memsync.core.usage import usage_of
from memsync.ids import RecordKey
from memsync.wire.operations import Content, Vector
from memsync.wire.requests import TIERS

FACETS_REMEMBERED = 4_096
ASSISTANT = "assistant"  # the role of what a model said


class Row(msgspec.Struct, frozen=True):
    """A memory's row. `fixed` and `changeable` are columns by name; an update changes none of the
    former. `fixed["origin"]` tells one create of the memory from another. `related` are the
    memories that it names, with how strongly. The first `said` of the terms are those of the text
    itself, and the first `named` of these are names in it."""

    fixed: dict[str, Any]
    changeable: dict[str, Any]
    terms: Mapping[str, int]
    said: int
    named: int
    facets: list[int]
    vector: Vector | None
    session_id: str | None
    related: Mapping[RecordKey, float]


# Tags and sources are few, and come again and again.
_common_facet = lru_cache(maxsize=FACETS_REMEMBERED)(facet)


def is_kept(record: Record) -> bool:
    """Whether it may be seen at all; one past its time to live is passed over by every search."""
    return (
        record.kind == "memory"
        and record.origin is not None
        and record.purged is None
        and not value_of(record, "deleted", False)
    )


def row_of(record: Record) -> Row:
    """The row of a record that is kept."""
    origin, stamp = memories.origin_of(record), record.origin_stamp
    assert stamp is not None
    content = memories.content_of(record)
    moment_ms = memories.session_order(record)[0]
    expires_at_ms = value_of(record, "expires_at_ms")
    tier = value_of(record, "tier", TIERS[0])
    terms = terms_of(content.text) if content.terms is None else regular_terms(content.terms)
    names = [term for term in names_of(content.text) if term in terms]
    traits = traits_of(content.text, terms, in_session=origin.session_id is not None)
    return Row(
        fixed={
            "created_at_ms": origin.created_at_ms,
            "moment_ms": moment_ms,
            "stamp_time": stamp.time,
            # 64 bits, good inside this process: another text or another place, another hash.
            "origin": hash((stamp.time, stamp.incarnation, origin.place, origin.text_hash)),
            "place": origin.place,
            "is_summary": origin.is_summary,
            "speaker": traits.speaker,
            "asks": traits.asks,
            "content": traits.content,
            "is_dated": traits.is_dated,
            "is_assistant": origin.role == ASSISTANT,
        },
        changeable={
            "expires_at_ms": NEVER if expires_at_ms is None else expires_at_ms,
            **figures_of(record),
            "tier": TIERS.index(tier) if tier in TIERS else 0,
        },
        terms=_with_moment(terms, names, moment_ms),
        said=len(terms),
        named=len(names),
        facets=_facets_of(record, content),
        vector=content.vector,
        session_id=origin.session_id,
        related=strengths_of(record),
    )


def figures_of(record: Record) -> dict[str, Any]:
    """The columns that also change with what is attached and counted."""
    return {"importance": importance_of(record), "usage": usage_of(record)}


def _with_moment(
    terms: Mapping[str, int], names: Sequence[str], moment_ms: int
) -> Mapping[str, int]:
    """The terms, the names first, and then those of the moment that are not among them."""
    counts = {name: terms[name] for name in names}
    counts.update(terms)
    for term, count in moment_terms(moment_ms).items():
        counts[term] = counts.get(term, 0) + count
    return counts


def _facets_of(record: Record, content: Content) -> list[int]:
    facets = [_common_facet("tag", tag) for tag in value_of(record, "tags")]
    source = value_of(record, "source")
    if source is not None:
        facets.append(_common_facet("source", source))
    metadata = content.metadata or {}
    return facets + [facet("metadata", name, value) for name, value in metadata.items()]
