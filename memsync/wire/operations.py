"""What the log carries: frames of writes of operations. The format is final; `SCHEMA` names it.

    Frame      one log message: the writes of several callers, from one coordinator (group commit)
      Write    one caller's request: atomic, with its operation key, stamp, actor and reason
        Operation   a small partial record, to be joined into the record of the same key

All structs are msgpack arrays: field order is the format. An unknown field, tag or length is an
error, never skipped: a replica that skips what it does not know diverges. Golden bytes are kept in
`tests/unit/wire/golden/`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from memsync.ids import OperationKey, Position, RecordKey, Scope

SCHEMA = 1
KEY_ID_CLEAR = 0  # envelopes that are not sealed


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """How every part of the format is encoded. What is read from bytes holds no cycle, so the
    garbage collector need not look at it."""


class Stamp(_Array, frozen=True, order=True):
    """When and by whom a register was written: compared by time, then by incarnation.

    `time` is a hybrid logical clock: milliseconds since 1970 in the upper bits, a 16-bit counter
    below.
    """

    time: int
    incarnation: int


class Envelope(_Array, frozen=True):
    """A person's content: msgpack bytes, sealed with the key `key_id`, or clear where it is 0."""

    key_id: int
    data: bytes


class Vector(_Array, frozen=True):
    """An embedding with the name of its model; `values` is little-endian float16, (dim,)."""

    model: str
    values: bytes


class Content(_Array, frozen=True):
    """What an `Envelope` of a memory holds. `terms` are stemmed words with their counts."""

    text: str
    metadata: dict[str, Any] | None = None
    summary: str | None = None
    terms: dict[str, int] | None = None
    vector: Vector | None = None


class MemoryOrigin(_Array, frozen=True, tag="memory"):
    """A memory as it was created. Times are milliseconds since 1970; `place` is in its bulk."""

    operation_key: OperationKey
    request_hash: bytes
    content: Envelope
    text_hash: bytes
    created_at_ms: int
    occurred_at_ms: int | None
    expires_at_ms: int | None
    place: int
    client_ref: str | None
    session_id: str | None
    role: str | None
    source: str | None
    event_type: str | None
    tags: list[str]
    importance: float
    is_summary: bool


class ApiKeyOrigin(_Array, frozen=True, tag="api_key"):
    """An API key as it was created. `hash` is that of the secret; `project` "" is any project."""

    hash: bytes
    prefix: str
    name: str
    environment: str
    scopes: list[str]
    project: str
    tier: str
    created_at_ms: int
    expires_at_ms: int | None


class OrganisationOrigin(_Array, frozen=True, tag="organisation"):
    """An organisation as it was created."""

    slug: str
    name: str
    created_at_ms: int


class ProjectOrigin(_Array, frozen=True, tag="project"):
    """A project of an organisation as it was created; `slug` is what `X-Project-ID` says."""

    slug: str
    name: str
    created_at_ms: int


class MembershipOrigin(_Array, frozen=True, tag="membership"):
    """The members of a cell as it was founded; one record in each cell."""

    founders: list[str]


Origin: TypeAlias = (
    MemoryOrigin | ApiKeyOrigin | OrganisationOrigin | ProjectOrigin | MembershipOrigin
)

# The registers of each kind of record, beside its origin, and what their values decode to. A name
# that is not here is unknown; a value of another type has no valid form.
REGISTERS: dict[str, dict[str, Any]] = {
    "memory": {
        "deleted": bool,
        "event_type": str | None,
        "expires_at_ms": int | None,
        "importance": float,
        "metadata": Envelope,
        "source": str | None,
        "summary": Envelope,
        "tags": list[str],
        "tier": str,
        "vector": Envelope,
    },
    "api_key": {
        "expires_at_ms": int | None,
        "limits": dict[str, int],
        "name": str,
        "revoked": bool,
        "scopes": list[str],
    },
    "organisation": {"ack": str, "name": str},
    "project": {"archived": bool, "name": str},
    "membership": {"members": list[str], "removed": list[str]},
}


class Relation(_Array, frozen=True):
    """An element `relations` of a memory: it stands to the memory of record `to` as `type` says,
    with `confidence` 0..1. `metadata` is an envelope of a mapping. Of two with the same end and
    type the one with the later stamp counts."""

    stamp: Stamp
    to: RecordKey
    type: str
    confidence: float
    metadata: Envelope | None


class Signal(_Array, frozen=True):
    """An element `signals` of a memory: what a caller thought of it. `comment` is an envelope of a
    string."""

    stamp: Stamp
    signal: str
    comment: Envelope | None


# The add-only sets of each kind of record and what their elements decode to, as for registers.
ELEMENTS: dict[str, dict[str, Any]] = {"memory": {"relations": Relation, "signals": Signal}}


class Create(_Array, frozen=True, tag=1):
    """Make a record, known by these ids."""

    record: RecordKey
    scope: Scope
    ids: list[int]
    origin: Origin


class Update(_Array, frozen=True, tag=2):
    """Write registers; each value is the msgpack of what it becomes."""

    record: RecordKey
    scope: Scope
    kind: str
    registers: dict[str, bytes]


class Purge(_Array, frozen=True, tag=3):
    """Take a record's content away for good; nothing brings it back."""

    record: RecordKey
    scope: Scope
    kind: str


class Count(_Array, frozen=True, tag=4):
    """Raise counters (name -> store incarnation, decimal -> count so far) and maxima (name ->
    value)."""

    record: RecordKey
    scope: Scope
    kind: str
    counters: dict[str, dict[str, int]]
    maxima: dict[str, int]


class Attach(_Array, frozen=True, tag=5):
    """Add elements to add-only sets: name -> operation key -> msgpack of the element."""

    record: RecordKey
    scope: Scope
    kind: str
    elements: dict[str, dict[str, bytes]]


Operation: TypeAlias = Create | Update | Purge | Count | Attach


class ItemOutcome(_Array, frozen=True):
    """What became of one item of a request: status, the ids it is answered with, and why."""

    status: str
    ids: list[int]
    reason: str | None = None


class Write(_Array, frozen=True):
    """One caller's request: joined whole or not at all.

    `key` is its operation key, looked up before anything else when it is repeated within `kept_s`
    seconds of the stamp; `request_hash` tells a repeat from another request with the same key;
    `outcome` is what a repeat is answered from.
    """

    key: OperationKey
    request_hash: bytes
    kept_s: int
    scope: Scope
    actor: str
    reason: str
    stamp: Stamp
    outcome: list[ItemOutcome]
    operations: list[Operation]


class Frame(_Array, frozen=True):
    """One log message. (`incarnation`, `number`) is unique for ever and is its `Nats-Msg-Id`."""

    schema: int
    incarnation: int
    number: int
    writes: list[Write]


class RawMessage(msgspec.Struct, frozen=True, gc=False):
    """A log message as it lies in a stripe, not yet decoded, with its `Nats-Msg-Id`."""

    position: Position
    data: bytes
    message_id: str


def frame_id(frame: Frame) -> str:
    """The `Nats-Msg-Id` of a frame, the same in every stripe that it is tried on."""
    return f"{frame.incarnation:x}.{frame.number:x}"


def incarnation_in(message_id: str) -> int:
    """The incarnation of the process that made the frame with this id; 0 where it names none."""
    try:
        return int(message_id.partition(".")[0], 16)
    except ValueError:
        return 0
