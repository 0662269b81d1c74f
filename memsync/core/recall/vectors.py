"""Whether a memory carries a vector of a model. Pure.

A vector of no numbers says that the model has nothing to say of the text: it was asked, and need
not be asked again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from memsync.core.records import Record
from memsync.wire import codec
from memsync.wire.operations import KEY_ID_CLEAR, Envelope, MemoryOrigin, Stamp, Vector

REGISTER = "vector"
# How a register of this name begins in the packed state of a record. Texts may hold these bytes,
# too: they are a reason to look, not an answer.
REGISTER_MARK = codec.pack(REGISTER)


@lru_cache(maxsize=16)
def marks_of(model: str, dimensions: int) -> tuple[bytes, bytes]:
    """How a vector of this model, with numbers and without, begins in packed content. No text holds
    the first: its bytes are no UTF-8."""
    whole = codec.pack(Vector(model, bytes(2 * dimensions)))
    return whole[: -2 * dimensions], codec.pack(Vector(model, b""))


def lacks_vector(record: Record, model: str, dimensions: int) -> bool:
    """Whether this is a memory, not forgotten or purged, whose vector is of another model or is
    not there. Content that is sealed cannot be embedded here, and lacks nothing."""
    origin = record.origin
    if not isinstance(origin, MemoryOrigin) or record.purged is not None:
        return False
    deleted = record.registers.get("deleted")
    if deleted is not None and msgspec.msgpack.decode(deleted.value):
        return False
    if origin.content.key_id != KEY_ID_CLEAR:
        return False
    written = record.registers.get(REGISTER)
    if written is not None:
        envelope = msgspec.msgpack.decode(written.value, type=Envelope)
        kind: Any = Vector | None
        return not is_of(codec.open_as(envelope, kind), model, dimensions)
    numbers, nothing = marks_of(model, dimensions)
    if numbers in origin.content.data:
        return False
    return nothing not in origin.content.data or not is_of(
        codec.open_content(origin.content).vector, model, dimensions
    )


def last_vector(record: Record) -> tuple[Stamp, Vector, bool] | None:
    """The stamp of the vector that was written last, the vector, and whether it was written to
    embed the memory again; None where there is none, or it is sealed."""
    vector: Vector | None = None
    if (written := record.registers.get(REGISTER)) is not None:
        envelope = msgspec.msgpack.decode(written.value, type=Envelope)
        kind: Any = Vector | None
        if envelope.key_id == KEY_ID_CLEAR:
            vector = codec.open_as(envelope, kind)
        return None if vector is None else (written.stamp, vector, True)
    origin, created = record.origin, record.origin_stamp
    if isinstance(origin, MemoryOrigin) and origin.content.key_id == KEY_ID_CLEAR:
        vector = codec.open_content(origin.content).vector
    return None if vector is None or created is None else (created, vector, False)


def is_of(vector: Vector | None, model: str, dimensions: int) -> bool:
    """Whether a vector is of this model and size, or of this model without numbers."""
    return (
        vector is not None and vector.model == model and len(vector.values) in (0, 2 * dimensions)
    )
