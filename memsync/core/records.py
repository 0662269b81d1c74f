"""Records and their join: the one idea of memsync. Pure.

A `Record` is everything that is known of one fact. `join_operation` takes one operation into a
record, `join` merges two versions of a record; both are commutative, associative and idempotent, so
the state of a peer is a function of the SET of operations it has seen. Nothing here reads a clock.

How each part joins:

    origin      what a create wrote; the smallest stamp stays (first come), so that a second create
                with the same `client_ref` changes nothing; equal stamps: the larger bytes
    registers   what updates wrote, by name; the largest stamp wins; equal stamps: the larger bytes.
                A register hides the origin's field of its name: a create ranks below any update
    ids         the union: two creates of one record are both answered, and both ids resolve
    counters    by store incarnation; the maximum of each; the count is their sum
    maxima      the maximum
    elements    add-only sets keyed by operation key; equal keys: the larger bytes
    purged      remove-wins and final: content is gone, ids stay so that it is known to be gone

Every well-formed operation joins into every record (an update may come before its create: the
record is then there but not visible). What is not well-formed raises `InvariantBroken`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, TypeVar, assert_never, get_args

import msgspec

from memsync.errors import InvariantBroken
from memsync.ids import RecordKey, Scope
from memsync.wire import codec
from memsync.wire.exchange import Row
from memsync.wire.operations import (
    ELEMENTS,
    REGISTERS,
    Attach,
    Count,
    Create,
    Operation,
    Origin,
    Purge,
    Stamp,
    Update,
)

# The registers of each kind that its readers see; tier and use of a memory do not count.
VERSIONED = {
    "memory": (
        "deleted", "event_type", "expires_at_ms", "importance", "metadata", "source", "summary",
        "tags",
    ),
    "api_key": ("expires_at_ms", "limits", "name", "revoked", "scopes"),
    "organisation": ("ack", "name"),
    "project": ("archived", "name"),
    "membership": ("members", "removed"),
}  # fmt: skip

# The kind of record that an origin makes is the tag by which it travels.
_KINDS = {origin: str(origin.__struct_config__.tag) for origin in get_args(Origin)}
K = TypeVar("K")
V = TypeVar("V")


class Register(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """A value (as msgpack) and the stamp that wrote it; ordered by stamp, then by bytes."""

    stamp: Stamp
    value: bytes


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """All that is known of one fact. `origin` is None while only later operations have arrived."""

    kind: str
    key: RecordKey
    scope: Scope
    ids: list[int] = []
    origin_stamp: Stamp | None = None
    origin: Origin | None = None
    registers: dict[str, Register] = {}
    counters: dict[str, dict[str, int]] = {}
    maxima: dict[str, int] = {}
    elements: dict[str, dict[str, bytes]] = {}
    purged: Stamp | None = None


class Change(msgspec.Struct, frozen=True, gc=False):
    """A record before and after a batch was joined in."""

    before: Record | None
    after: Record


def kind_of(operation: Operation) -> str:
    """The kind of record that an operation speaks of."""
    return _KINDS[type(operation.origin)] if isinstance(operation, Create) else operation.kind


def as_record(operation: Operation, stamp: Stamp) -> Record:
    """The operation as the partial record that it is."""
    kind = kind_of(operation)
    if kind not in REGISTERS:
        raise InvariantBroken(f"operation on a record of unknown kind {kind!r}")
    of = (kind, operation.record, operation.scope)
    match operation:
        case Create():
            ids = sorted(set(operation.ids))
            return Record(*of, ids=ids, origin_stamp=stamp, origin=operation.origin)
        case Update():
            for name, value in operation.registers.items():
                _check_register(kind, name, value)
            written = {name: Register(stamp, value) for name, value in operation.registers.items()}
            return Record(*of, registers=written)
        case Purge():
            return Record(*of, purged=stamp)
        case Count():
            return Record(*of, counters=operation.counters, maxima=operation.maxima)
        case Attach():
            for name, by_key in operation.elements.items():
                for value in by_key.values():
                    _element(kind, name, value)
            return Record(*of, elements=operation.elements)
        case _:
            assert_never(operation)


def _check_register(kind: str, name: str, value: bytes) -> None:
    if name not in REGISTERS[kind]:
        raise InvariantBroken(f"unknown register of {kind}: {name!r}")
    try:
        codec.unpack(value, REGISTERS[kind][name])
    except msgspec.DecodeError as error:
        raise InvariantBroken(f"register {name} of {kind} has no valid form: {error}") from error


def _element(kind: str, name: str, value: bytes) -> Any:
    if name not in ELEMENTS.get(kind, {}):
        raise InvariantBroken(f"unknown element of {kind}: {name!r}")
    try:
        return codec.unpack(value, ELEMENTS[kind][name])
    except msgspec.DecodeError as error:
        raise InvariantBroken(f"element {name} of {kind} has no valid form: {error}") from error


def join_operation(record: Record | None, operation: Operation, stamp: Stamp) -> Record:
    """`record` with `operation` joined in; `record` itself where that changes nothing."""
    partial = as_record(operation, stamp)
    return partial if record is None else join(record, partial)


def join(one: Record, other: Record) -> Record:
    """The least record that knows what both know. Raises where they are not of one fact."""
    if (one.kind, one.key, one.scope) != (other.kind, other.key, other.scope):
        raise InvariantBroken(
            f"record {one.key.hex()}: kind or scope differ ({one.kind} / {other.kind})"
        )
    ids = sorted({*one.ids, *other.ids})
    purged = _later(one.purged, other.purged)
    if purged is not None:
        return Record(one.kind, one.key, one.scope, ids=ids, purged=purged)
    origin_stamp, origin = _first_origin(one, other)
    return Record(
        kind=one.kind,
        key=one.key,
        scope=one.scope,
        ids=ids,
        origin_stamp=origin_stamp,
        origin=origin,
        registers=_join_maps(one.registers, other.registers, max),
        counters=_join_maps(one.counters, other.counters, _join_counts),
        maxima=_join_maps(one.maxima, other.maxima, max),
        elements=_join_maps(one.elements, other.elements, _join_elements),
    )


def row_hash(state: bytes) -> int:
    """64 bits over a record's canonical bytes (`codec.pack`); equal records hash equally
    everywhere."""
    return int.from_bytes(blake2b(state, digest_size=8).digest(), "big")


def received(row: Row) -> Record:
    """The record of another peer's row; raises `InvariantBroken` for one that is not what its hash
    says."""
    if row_hash(row.state) != row.hash:
        raise InvariantBroken(f"received row {row.key.hex()}: not what its hash says")
    try:
        record = codec.unpack(row.state, Record)
    except msgspec.DecodeError as error:
        raise InvariantBroken(f"received row {row.key.hex()}: {error}") from error
    if record.key != row.key:
        raise InvariantBroken(f"received row {row.key.hex()}: its record is another")
    return record


def stamps_of(record: Record) -> list[Stamp]:
    """Every stamp in the record; an update must be stamped above all of them."""
    own = [record.origin_stamp, record.purged, *(r.stamp for r in record.registers.values())]
    own += [e.stamp for name in record.elements for e in elements_of(record, name).values()]
    return [stamp for stamp in own if stamp is not None]


def elements_of(record: Record, name: str) -> dict[str, Any]:
    """The add-only set `name`, decoded: operation key -> element."""
    by_key = record.elements.get(name, {})
    return {key: _element(record.kind, name, value) for key, value in by_key.items()}


def version_of(record: Record) -> str:
    """An opaque string that changes with every change of what `VERSIONED` names for its kind; what
    `if_version` is compared with."""
    names = VERSIONED[record.kind]
    stamps = [(name, record.registers[name].stamp) for name in names if name in record.registers]
    return blake2b(codec.pack((record.origin_stamp, stamps)), digest_size=9).hexdigest()


def value_of(record: Record, name: str, default: Any = None) -> Any:
    """What the register `name` holds, else the origin's field of that name, else `default`."""
    register = record.registers.get(name)
    if register is not None:
        return msgspec.msgpack.decode(register.value)
    return getattr(record.origin, name, default)


def _later(one: Stamp | None, other: Stamp | None) -> Stamp | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


def _first_origin(one: Record, other: Record) -> tuple[Stamp | None, Origin | None]:
    if one.origin_stamp is None:
        return other.origin_stamp, other.origin
    if other.origin_stamp is None or one.origin_stamp < other.origin_stamp:
        return one.origin_stamp, one.origin
    if other.origin_stamp < one.origin_stamp:
        return other.origin_stamp, other.origin
    if one.origin == other.origin:
        return one.origin_stamp, one.origin
    return one.origin_stamp, max(one.origin, other.origin, key=codec.pack)


def _join_maps(one: dict[K, V], other: dict[K, V], join_values: Any) -> dict[K, V]:
    if not other:
        return one
    if not one:
        return other
    joined = dict(one)
    for name, value in other.items():
        joined[name] = join_values(joined[name], value) if name in joined else value
    return joined


def _join_counts(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return _join_maps(one, other, max)


def _join_elements(one: dict[str, bytes], other: dict[str, bytes]) -> dict[str, bytes]:
    return _join_maps(one, other, max)
