"""The join: commutative, associative, idempotent, total; and it agrees with a deliberately dumb
model."""

from __future__ import annotations

import itertools
from functools import reduce
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core import records
from memsync.core.records import Record, as_record, join, join_operation, row_hash, value_of
from memsync.errors import InvariantBroken
from memsync.ids import Scope
from memsync.wire import codec
from memsync.wire.operations import Attach, Count, Create, Operation, Purge, Stamp, Update
from tests import strategies
from tests.strategies import stamped_on_one_record

Stamped = tuple[Operation, Stamp]


def joined(operations: list[Stamped]) -> Record:
    """All of them, in this order."""
    record: Record | None = None
    for operation, stamp in operations:
        record = join_operation(record, operation, stamp)
    assert record is not None
    return record


def same(one: Record, other: Record) -> None:
    assert one == other
    assert codec.pack(one) == codec.pack(other)


@given(stamped_on_one_record(2))
def test_join_is_commutative(operations: list[Stamped]) -> None:
    one, other = (as_record(*stamped) for stamped in operations)
    same(join(one, other), join(other, one))


@given(stamped_on_one_record(3))
def test_join_is_associative(operations: list[Stamped]) -> None:
    a, b, c = (as_record(*stamped) for stamped in operations)
    same(join(join(a, b), c), join(a, join(b, c)))


@given(stamped_on_one_record(4))
def test_join_of_joined_records_is_a_semilattice(operations: list[Stamped]) -> None:
    one, other = joined(operations[:2]), joined(operations[2:])
    same(join(one, other), join(other, one))
    same(join(one, one), one)
    both = join(one, other)
    same(join(both, one), both)
    same(join(both, other), both)


@given(stamped_on_one_record(1))
def test_join_is_idempotent_for_every_operation(operations: list[Stamped]) -> None:
    record = joined(operations)
    same(joined(operations * 3), record)


@given(stamped_on_one_record(4))
def test_every_order_and_repetition_ends_in_one_record(operations: list[Stamped]) -> None:
    expected = joined(operations)
    for order in itertools.permutations(operations):
        same(joined([*order, order[0]]), expected)


@given(stamped_on_one_record(6))
def test_join_agrees_with_the_dumb_model(operations: list[Stamped]) -> None:
    """The model looks at the whole set at once; it shares no code with the join."""
    record = joined(operations)
    purges = [stamp for op, stamp in operations if isinstance(op, Purge)]
    created = [(op, stamp) for op, stamp in operations if isinstance(op, Create)]
    assert record.ids == sorted({i for op, _ in created for i in op.ids})
    assert record.purged == (max(purges) if purges else None)
    if purges:
        assert (record.origin, record.registers, record.elements) == (None, {}, {})
        return
    _assert_origin(record, created)
    _assert_registers(record, operations)
    _assert_sums(record, operations)


def _assert_origin(record: Record, created: list[Any]) -> None:
    if not created:
        assert record.origin is None
        return
    first = min(stamp for _, stamp in created)
    rivals = [op.origin for op, stamp in created if stamp == first]
    assert record.origin_stamp == first
    assert codec.pack(record.origin) == max(codec.pack(origin) for origin in rivals)


def _assert_registers(record: Record, operations: list[Stamped]) -> None:
    written: dict[str, list[tuple[Stamp, bytes]]] = {}
    for op, stamp in operations:
        if isinstance(op, Update):
            for name, value in op.registers.items():
                written.setdefault(name, []).append((stamp, value))
    assert {n: (r.stamp, r.value) for n, r in record.registers.items()} == {
        name: max(values) for name, values in written.items()
    }


def _assert_sums(record: Record, operations: list[Stamped]) -> None:
    counts: dict[tuple[str, str], int] = {}
    maxima: dict[str, int] = {}
    elements: dict[tuple[str, str], bytes] = {}
    for op, _ in operations:
        if isinstance(op, Count):
            for name, by_store in op.counters.items():
                for store, n in by_store.items():
                    counts[name, store] = max(n, counts.get((name, store), 0))
            for name, value in op.maxima.items():
                maxima[name] = max(value, maxima.get(name, 0))
        if isinstance(op, Attach):
            for name, by_key in op.elements.items():
                for key, element in by_key.items():
                    elements[name, key] = max(element, elements.get((name, key), b""))
    assert {(n, s): c for n, by in record.counters.items() for s, c in by.items()} == counts
    assert record.maxima == maxima
    assert {(n, k): e for n, by in record.elements.items() for k, e in by.items()} == elements


def test_a_second_create_changes_nothing_but_the_ids() -> None:
    key, scope = strategies.record_of("memory", 0)
    first = Create(key, scope, [7], strategies._memory("first", 0.1))
    second = Create(key, scope, [9], strategies._memory("second", 0.9))
    record = joined([(second, Stamp(5, 1)), (first, Stamp(4, 2))])
    assert record.origin == first.origin
    assert record.ids == [7, 9]


def test_an_update_beats_a_create_with_a_later_stamp() -> None:
    key, scope = strategies.record_of("memory", 0)
    create = Create(key, scope, [7], strategies._memory("text", 0.1))
    update = Update(key, scope, "memory", {"importance": codec.pack(0.7)})
    record = joined([(update, Stamp(1, 1)), (create, Stamp(9, 1))])
    assert value_of(record, "importance") == 0.7
    assert value_of(record, "tags") == ["x"]


def test_nothing_brings_a_purged_record_back() -> None:
    key, scope = strategies.record_of("memory", 0)
    create = Create(key, scope, [7], strategies._memory("text", 0.1))
    record = joined([(Purge(key, scope, "memory"), Stamp(1, 1)), (create, Stamp(9, 1))])
    assert record.origin is None
    assert record.ids == [7]


def test_records_of_two_scopes_are_never_joined() -> None:
    key, scope = strategies.record_of("memory", 0)
    stranger = Scope(2, scope.project, scope.environment, scope.end_user)
    one = Create(key, scope, [7], strategies._memory("text", 0.1))
    other = Create(key, stranger, [8], strategies._memory("text", 0.1))
    with pytest.raises(InvariantBroken, match="scope differ"):
        joined([(one, Stamp(1, 1)), (other, Stamp(2, 1))])


@pytest.mark.parametrize(
    "operation",
    [
        Update(b"k" * 16, strategies.SCOPES[0], "memory", {"colour": b"\xc0"}),
        Update(b"k" * 16, strategies.SCOPES[0], "dream", {"tags": b"\xc0"}),
        Purge(b"k" * 16, strategies.SCOPES[0], "dream"),
        Update(b"k" * 16, strategies.SCOPES[0], "memory", {"tags": codec.pack("x")}),
        Update(b"k" * 16, strategies.SCOPES[0], "memory", {"deleted": b"\xc1"}),
        Attach(b"k" * 16, strategies.SCOPES[0], "memory", {"dreams": {"o": b"\xc0"}}),
        Attach(b"k" * 16, strategies.SCOPES[0], "api_key", {"signals": {"o": b"\xc0"}}),
        Attach(b"k" * 16, strategies.SCOPES[0], "memory", {"signals": {"o": b"\xc0"}}),
        Attach(b"k" * 16, strategies.SCOPES[0], "memory", {"relations": {"o": b"\xc1"}}),
    ],
)
def test_what_is_not_known_is_refused_not_skipped(operation: Operation) -> None:
    with pytest.raises(InvariantBroken, match=r"unknown|no valid form"):
        as_record(operation, Stamp(1, 1))


@given(stamped_on_one_record(3))
def test_a_record_survives_its_encoding(operations: list[Stamped]) -> None:
    record = joined(operations)
    same(codec.unpack(codec.pack(record), Record), record)


@given(stamped_on_one_record(3), st.integers(0, 2))
def test_row_hash_tells_different_records_apart(operations: list[Stamped], cut: int) -> None:
    whole, part = joined(operations), joined(operations[: cut + 1])
    equal = codec.pack(whole) == codec.pack(part)
    assert (row_hash(codec.pack(whole)) == row_hash(codec.pack(part))) == equal


@given(stamped_on_one_record(5))
def test_an_update_can_be_stamped_above_everything_in_a_record(operations: list[Stamped]) -> None:
    record = joined(operations)
    above = reduce(max, records.stamps_of(record), Stamp(0, 0))
    key, scope = record.key, record.scope
    changes: dict[str, tuple[str, Any]] = {
        "memory": ("importance", 0.75),
        "membership": ("members", ["newest"]),
    }
    name, newest = changes.get(record.kind, ("name", "newest"))
    update = Update(key, scope, record.kind, {name: codec.pack(newest)})
    later = join_operation(record, update, msgspec.structs.replace(above, time=above.time + 1))
    assert later.purged is not None or value_of(later, name) == newest
