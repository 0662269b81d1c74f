"""Memories as readers see them: visibility, current values, version. Pure views over records.

And what tells the repeat of an add from a new one. Of most writes a row is kept: operation key ->
request hash, ids, outcome. A memory that is added by itself under a key of ours (an agent's every
add that names no `Idempotency-Key`) needs none: its record's key follows from the operation's key
and the request's hash, and its origin holds both. A store then has two random places less to write
to, a third of what a commit of such adds costs.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from memsync import ids
from memsync.core.feedback import importance_of
from memsync.core.records import VERSIONED, Record, value_of, version_of
from memsync.ids import MemoryId
from memsync.wire import codec, replies
from memsync.wire.operations import Content, Create, Envelope, MemoryOrigin, Write
from memsync.wire.requests import format_moment

CREATED = "created"  # what became of an item that was stored
_CONTENT_TYPES: dict[str, Any] = {one.name: one.type for one in msgspec.structs.fields(Content)}


def is_visible(record: Record, now_ms: int) -> bool:
    """Whether a reader may see it: created, not forgotten, not purged, not expired."""
    if record.origin is None or record.purged is not None or value_of(record, "deleted", False):
        return False
    expires_at_ms = value_of(record, "expires_at_ms")
    return expires_at_ms is None or expires_at_ms > now_ms


def origin_of(record: Record) -> MemoryOrigin:
    """The origin of a record that is known to be a created memory."""
    assert isinstance(record.origin, MemoryOrigin)
    return record.origin


def content_of(record: Record) -> Content:
    """The content as it is now: the origin's, with what updates put in its place."""
    content = codec.open_content(origin_of(record).content)
    changes: dict[str, Any] = {}
    for name in ("metadata", "summary", "vector"):
        if (register := record.registers.get(name)) is not None:
            envelope = msgspec.msgpack.decode(register.value, type=Envelope)
            changes[name] = codec.open_as(envelope, _CONTENT_TYPES[name])
    return msgspec.structs.replace(content, **changes) if changes else content


def updated_at_ms(record: Record) -> int:
    """When a caller last changed it, by the stamps; at the least, when it was created."""
    times = [
        record.registers[name].stamp.time >> 16
        for name in VERSIONED["memory"]
        if name in record.registers
    ]
    return max([origin_of(record).created_at_ms, *times])


def session_order(record: Record) -> tuple[int, int, int]:
    """Order inside a session: `occurred_at` or else `created_at`, then stamp, then place in the
    bulk."""
    origin = origin_of(record)
    at_ms = origin.created_at_ms if origin.occurred_at_ms is None else origin.occurred_at_ms
    assert record.origin_stamp is not None
    return at_ms, record.origin_stamp.time, origin.place


def id_shown(record: Record, known: range | set[int] | None = None) -> MemoryId:
    """The id that the asking request knows, else the smallest."""
    own = [i for i in record.ids if known is not None and i in known]
    return MemoryId(min(own or record.ids))


def view(record: Record, *, shown_id: int | None = None) -> replies.Memory:
    """The memory as the API answers it."""
    return replies.Memory(**view_fields(record, shown_id=shown_id))


def view_fields(record: Record, *, shown_id: int | None = None) -> dict[str, Any]:
    """The fields of `replies.Memory`, for those that add to them."""
    origin, content = origin_of(record), content_of(record)
    expires_at_ms = value_of(record, "expires_at_ms")
    return {
        "id": shown_id if shown_id is not None else id_shown(record),
        "text": content.text,
        "summary": content.summary,
        "source": value_of(record, "source"),
        "event_type": value_of(record, "event_type"),
        "created_at": format_moment(origin.created_at_ms),
        "updated_at": format_moment(updated_at_ms(record)),
        "tags": cast("list[str]", value_of(record, "tags")),
        "importance": importance_of(record),
        "metadata": content.metadata or {},
        "is_summary": origin.is_summary,
        "user_id": ids.user_number(record.scope),
        "session_id": origin.session_id,
        "tier": value_of(record, "tier", "hot"),
        "expires_at": None if expires_at_ms is None else format_moment(expires_at_ms),
        "memory_type": memory_type(origin),
        "occurred_at": None
        if origin.occurred_at_ms is None
        else format_moment(origin.occurred_at_ms),
        "role": origin.role,
        "end_user_id": record.scope.end_user,
        "client_ref": origin.client_ref,
        "version": version_of(record),
    }


def memory_type(origin: MemoryOrigin) -> str:
    """What the filter `memory_type` compares with: `summary` or `memory`."""
    return "summary" if origin.is_summary else "memory"


def is_kept_by_record(write: Write) -> bool:
    """Whether the record that this write makes tells its repeat all that is to be told."""
    if len(write.operations) != 1 or not ids.is_ours(write.key):
        return False
    (operation,) = write.operations
    if not isinstance(operation, Create) or not isinstance(operation.origin, MemoryOrigin):
        return False
    origin, outcome = operation.origin, write.outcome
    return (
        origin.client_ref is None  # else others may make the same record
        and (origin.operation_key, origin.request_hash) == (write.key, write.request_hash)
        and origin.place == 0
        and operation.scope == write.scope
        and len(outcome) == 1
        and (outcome[0].status, outcome[0].ids) == (CREATED, operation.ids)
    )
