"""The format of the log is final: golden bytes are kept, and what is not known is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.records import as_record
from memsync.errors import InvariantBroken
from memsync.ids import OperationKey, RecordKey, Scope
from memsync.wire import codec
from memsync.wire.operations import (
    SCHEMA,
    ApiKeyOrigin,
    Attach,
    Content,
    Count,
    Create,
    Envelope,
    Frame,
    ItemOutcome,
    MembershipOrigin,
    MemoryOrigin,
    Operation,
    OrganisationOrigin,
    ProjectOrigin,
    Purge,
    Relation,
    Signal,
    Stamp,
    Update,
    Vector,
    Write,
    frame_id,
)
from tests.strategies import writes

GOLDEN = Path(__file__).parent / "golden" / "frame-1.hex"
SCOPE = Scope(1, "proj_0123456789abcdef", "production", "ada/√")
KEY = RecordKey(bytes(range(16)))


def golden_frame() -> Frame:
    """A frame with every kind of operation and origin, and every optional field once each way."""
    content = Content(
        text="Ada moved to Lisbon.",
        metadata={"b": [1, 2.5, None], "a": {"deep": True}},
        summary="moved",
        terms={"lisbon": 1, "ada": 2},
        vector=Vector("static", b"\x00\x3c\x00\xc0"),
    )
    memory = MemoryOrigin(
        operation_key=OperationKey("key"),
        request_hash=b"h" * 16,
        content=codec.seal(content),
        text_hash=b"t" * 8,
        created_at_ms=1_790_000_000_000,
        occurred_at_ms=1_700_000_000_000,
        expires_at_ms=None,
        place=3,
        client_ref="ref",
        session_id="session",
        role="user",
        source=None,
        event_type=None,
        tags=["a", "b"],
        importance=0.5,
        is_summary=False,
    )
    api_key = ApiKeyOrigin(
        b"s" * 32, "ms_dev_01234", "laptop", "development", ["memory:*"], "", "pro", 1, None
    )
    operations = [
        Create(KEY, SCOPE, [131_073, 131_074], memory),
        Create(KEY, SCOPE, [1], api_key),
        Create(KEY, SCOPE, [2], OrganisationOrigin("default", "default", 1)),
        Create(KEY, SCOPE, [3], ProjectOrigin("web", "Web", 1)),
        Update(KEY, SCOPE, "memory", {"tags": codec.pack(["c"]), "deleted": codec.pack(True)}),
        Purge(KEY, SCOPE, "memory"),
        Count(KEY, SCOPE, "api_key", {"uses": {"4611686018427387904": 7}}, {"last_used_ms": 9}),
        Attach(KEY, SCOPE, "memory", {"relations": {"key": b"\xc0"}}),
    ]
    write = Write(
        key=OperationKey("key"),
        request_hash=b"h" * 16,
        kept_s=86_400,
        scope=SCOPE,
        actor="key:2",
        reason="why",
        stamp=Stamp(1_790_000_000_000 << 16, 2),
        outcome=[ItemOutcome("created", [131_073]), ItemOutcome("rejected", [], "text: empty")],
        operations=operations,
    )
    return Frame(SCHEMA, 2, 1, [write])


def test_the_bytes_of_a_frame_are_those_of_every_version() -> None:
    """A change here is a new format: it needs a new SCHEMA, a reader of the old one, a new file."""
    golden = bytes.fromhex(GOLDEN.read_text())
    assert codec.pack(golden_frame()).hex() == golden.hex()
    assert codec.decode_frame(golden) == golden_frame()


def membership_frame() -> Frame:
    """A founding and a change of the membership; the kind came after the golden frame was kept."""
    scope = Scope(0, "", "", "")
    registers = {"members": codec.pack(["peer-1", "peer-4"]), "removed": codec.pack(["peer-2"])}
    operations: list[Operation] = [
        Create(KEY, scope, [], MembershipOrigin(["peer-1", "peer-2"])),
        Update(KEY, scope, "membership", registers),
    ]
    [write] = golden_frame().writes
    return Frame(SCHEMA, 2, 2, [msgspec.structs.replace(write, operations=operations)])


def elements_frame() -> Frame:
    """A relation and a signal; what elements are made of came after the golden frame was kept."""
    stamp, end = Stamp(1_790_000_000_000 << 16, 2), RecordKey(bytes(range(16, 32)))
    relations = {
        "whole": codec.pack(Relation(stamp, end, "detail_of", 0.75, codec.seal({"page": 3}))),
        "bare": codec.pack(Relation(stamp, end, "similar", 1.0, None)),
    }
    signals = {
        "told": codec.pack(Signal(stamp, "negative", codec.seal("outdated"))),
        "bare": codec.pack(Signal(stamp, "retrieved", None)),
    }
    attach = Attach(KEY, SCOPE, "memory", {"relations": relations, "signals": signals})
    as_record(attach, stamp)  # it can be joined
    [write] = golden_frame().writes
    return Frame(SCHEMA, 2, 3, [msgspec.structs.replace(write, operations=[attach])])


def test_the_bytes_of_elements_are_those_of_every_version() -> None:
    golden = bytes.fromhex((GOLDEN.parent / "frame-1-elements.hex").read_text())
    assert codec.pack(elements_frame()).hex() == golden.hex()
    assert codec.decode_frame(golden) == elements_frame()


def test_the_bytes_of_a_membership_are_those_of_every_version() -> None:
    golden = bytes.fromhex((GOLDEN.parent / "frame-1-membership.hex").read_text())
    assert codec.pack(membership_frame()).hex() == golden.hex()
    assert codec.decode_frame(golden) == membership_frame()


def test_a_frame_names_itself() -> None:
    assert frame_id(golden_frame()) == "2.1"


@given(writes())
def test_every_frame_survives_its_encoding(write: Write) -> None:
    frame = Frame(SCHEMA, 1, 1, [write])
    assert codec.decode_frame(codec.pack(frame)) == frame


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        frame = codec.decode_frame(data)
    except InvariantBroken:
        return
    assert codec.decode_frame(codec.pack(frame)) == frame


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_frame_is_read_or_refused_never_a_crash(place: int, byte: int) -> None:
    data = bytearray(codec.pack(golden_frame()))
    data[place % len(data)] = byte
    try:
        frame = codec.decode_frame(bytes(data))
    except InvariantBroken:
        return
    assert codec.decode_frame(codec.pack(frame)) == frame


def _changed(change: Any) -> bytes:
    """The golden frame as plain lists, changed, as bytes."""
    plain = msgspec.msgpack.decode(codec.pack(golden_frame()))
    change(plain)
    return msgspec.msgpack.encode(plain)


WRITE, OPERATIONS = 3, 8


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a field more in the frame", lambda f: f.append("new")),
        ("a field more in a write", lambda f: f[WRITE][0].append("new")),
        ("a field more in an operation", lambda f: f[WRITE][0][OPERATIONS][0].append("new")),
        ("a field more in an origin", lambda f: f[WRITE][0][OPERATIONS][0][4].append("new")),
        ("an operation of another kind", lambda f: f[WRITE][0][OPERATIONS][5].__setitem__(0, 99)),
        ("an origin of another kind", lambda f: f[WRITE][0][OPERATIONS][0][4].__setitem__(0, "x")),
        ("another schema", lambda f: f.__setitem__(0, SCHEMA + 1)),
        ("a field less", lambda f: f[WRITE][0].pop()),
        ("another type", lambda f: f[WRITE][0].__setitem__(2, "600")),
    ],
)
def test_what_is_not_known_is_refused(name: str, change: Any) -> None:
    with pytest.raises(InvariantBroken, match="frame"):
        codec.decode_frame(_changed(change))


def test_equal_content_is_equal_bytes_whatever_the_order_of_its_keys() -> None:
    one = codec.seal(Content(text="t", metadata={"a": 1, "b": {"c": 1, "d": 2}}))
    other = codec.seal(Content(text="t", metadata={"b": {"d": 2, "c": 1}, "a": 1}))
    assert one == other


def test_a_sealed_envelope_is_not_opened_without_its_key() -> None:
    with pytest.raises(InvariantBroken, match="key 7"):
        codec.open_content(Envelope(7, b"secret"))
