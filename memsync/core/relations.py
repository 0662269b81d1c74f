"""Relations between memories, as their records hold them. Pure.

A relation is an element of the record that it begins at, so it lives and is purged with that
memory; its other end is named by record key, which every id of that memory resolves to. There is
one relation of a type between two memories: relating them again puts another confidence and other
metadata in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from memsync.core.records import Record, elements_of
from memsync.ids import RecordKey
from memsync.wire.operations import Relation

RELATIONS = "relations"

# How much of a memory's relevance counts for one that it is related to, by the type. Nothing was
# tuned: what tells one thing in two parts counts whole, what argues for or against a little less,
# what only points there least.
STRENGTHS: Mapping[str, float] = {
    "continuation": 1.0, "detail_of": 1.0, "summary_of": 1.0, "extends": 1.0, "derived_from": 1.0,
    "caused_by": 1.0, "supports": 0.8, "contradiction": 0.8, "similar": 0.6, "references": 0.6,
}  # fmt: skip
STRENGTH_MIN = min(STRENGTHS.values())  # of a type that a later version has added


def relations_of(record: Record) -> list[Relation]:
    """The relations that begin at this memory, oldest first: the newest of each end and type."""
    if RELATIONS not in record.elements:
        return []
    found: dict[tuple[RecordKey, str], tuple[tuple[object, str], Relation]] = {}
    for key, relation in elements_of(record, RELATIONS).items():
        place, order = (relation.to, relation.type), (relation.stamp, key)
        if place not in found or found[place][0] < order:
            found[place] = (order, relation)
    return [relation for _, relation in sorted(found.values(), key=lambda each: each[0])]


def relation_id(start: RecordKey, relation: Relation) -> int:
    """The positive integer below 2^53 that names a relation, on every peer and for ever."""
    digest = blake2b(start + relation.to + relation.type.encode(), digest_size=7).digest()
    return (int.from_bytes(digest, "big") >> 3) or 1


def strengths_of(record: Record) -> dict[RecordKey, float]:
    """What each memory that this one names has of its relevance, 0..1: the strongest relation."""
    found: dict[RecordKey, float] = {}
    for relation in relations_of(record):
        strength = STRENGTHS.get(relation.type, STRENGTH_MIN) * relation.confidence
        found[relation.to] = max(strength, found.get(relation.to, 0.0))
    return found
