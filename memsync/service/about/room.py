"""How much may be attached to one memory: its record is one row, joined and sent as a whole."""

from __future__ import annotations

from memsync import errors, limits
from memsync.core.feedback import SIGNALS
from memsync.core.records import Record, elements_of
from memsync.core.relations import RELATIONS
from memsync.core.stamps import wall_ms_of
from memsync.service.parts import Call
from memsync.wire import codec, context

_MOST = {RELATIONS: limits.RELATIONS_MAX, SIGNALS: limits.SIGNALS_MAX}


def check_new(call: Call, record: Record, name: str) -> None:
    """Raise a 422 where an element has the call's key already and is of a request so old that its
    key was let go of. Another element with this key would take its place or be dropped, both of
    them acknowledged. A young one is of another attempt of this very request: its row came from
    another peer, and its key is still on its way."""
    key = call.context.operation_key
    if key not in record.elements.get(name, {}):
        return
    at_ms = wall_ms_of(elements_of(record, name)[key].stamp)
    if at_ms + limits.OPERATION_KEY_CALLERS_S * 1000 < call.now_ms:
        raise errors.KeyReused(
            f"{context.IDEMPOTENCY_KEY}: one of the {name} of this memory was made with it, longer "
            "ago than keys are kept; use another"
        )


def check_room(record: Record, name: str, element: bytes, *, field: str) -> None:
    """Raise a 422 where the memory cannot take one more element of the set `name`."""
    count = len(record.elements.get(name, {}))
    if count >= _MOST[name]:
        raise codec.invalid(field, f"the memory has {count} {name}, at most {_MOST[name]}")
    size = sum(len(value) for held in record.elements.values() for value in held.values())
    if size + len(element) > limits.ATTACHED_BYTES_MAX:
        raise codec.invalid(
            field,
            f"the memory has {size} bytes of relations and feedback, at most "
            f"{limits.ATTACHED_BYTES_MAX}",
        )
