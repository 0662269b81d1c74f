"""Relations as records hold them: the newest of each end and type, under one id."""

from __future__ import annotations

from memsync.core.records import Record, join_operation
from memsync.core.relations import STRENGTH_MIN, relation_id, relations_of, strengths_of
from memsync.ids import ID_MAX
from memsync.wire import codec
from memsync.wire.operations import Attach, Relation
from tests.fakes import memories

OTHER, THIRD = memories.key_of("other"), memories.key_of("third")


def related(
    record: Record, key: str, to: bytes = OTHER, *, at_ms: int = 0, kind: str = "similar",
    confidence: float = 1.0,
) -> Record:  # fmt: skip
    stamp = memories.stamp(memories.NOW_MS + at_ms)
    relation = Relation(stamp, type(OTHER)(to), kind, confidence, None)
    elements = {"relations": {key: codec.pack(relation)}}
    return join_operation(record, Attach(record.key, record.scope, "memory", elements), stamp)


def test_the_newest_of_an_end_and_a_type_counts() -> None:
    record = memories.memory("m", "text")
    assert relations_of(record) == []
    record = related(record, "b", at_ms=2, confidence=0.2)
    record = related(record, "a", at_ms=1, confidence=0.9)
    record = related(record, "c", at_ms=3, kind="supports")
    record = related(record, "d", THIRD, at_ms=0)
    found = [(one.to, one.type, one.confidence) for one in relations_of(record)]
    assert found == [
        (THIRD, "similar", 1.0), (OTHER, "similar", 0.2), (OTHER, "supports", 1.0)
    ]  # fmt: skip


def test_the_strongest_relation_to_an_end_counts() -> None:
    record = related(memories.memory("m", "text"), "a", kind="similar")
    record = related(record, "b", kind="detail_of", confidence=0.9)
    record = related(record, "c", THIRD, kind="of_a_later_version", confidence=0.5)
    assert strengths_of(record) == {OTHER: 0.9, THIRD: STRENGTH_MIN / 2}


def test_an_id_names_a_relation_whoever_asks() -> None:
    record = related(memories.memory("m", "text"), "a")
    record = related(record, "b", kind="supports")
    record = related(record, "c", THIRD)
    ids = {relation_id(record.key, relation) for relation in relations_of(record)}
    assert len(ids) == 3
    assert all(0 < identifier <= ID_MAX for identifier in ids)
    again = related(record, "d", at_ms=5, confidence=0.1)
    assert {relation_id(again.key, relation) for relation in relations_of(again)} == ids
