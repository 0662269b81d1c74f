"""Counts of a store, as the write that publishes them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from memsync import ids, limits
from memsync.ids import RecordKey, Scope
from memsync.wire.operations import Count, Stamp, Write

_SCOPE = Scope(0, "", "", "")  # of the write; each count names the scope of its record


class Counted(msgspec.Struct):
    """How often this store has seen a record used, since ever, and when last (wall clock)."""

    scope: Scope
    count: int
    last_ms: int


def counts_write(
    counted: Iterable[tuple[RecordKey, Counted]],
    *,
    kind: str,
    names: tuple[str, str],
    incarnation: int,
    stamp: Stamp,
    reason: str,
) -> Write:
    """The write of the counts of one store, `incarnation`; `names` are those of the counter and of
    the maximum of the records that hold them. A count that is published twice counts once."""
    counter, last = names
    return Write(
        key=ids.new_operation_key(),
        request_hash=b"",
        kept_s=limits.OPERATION_KEY_OURS_S,
        scope=_SCOPE,
        actor="peer",
        reason=reason,
        stamp=stamp,
        outcome=[],
        operations=[
            Count(
                key,
                one.scope,
                kind,
                {counter: {str(incarnation): one.count}},
                {last: one.last_ms},
            )
            for key, one in counted
        ],
    )
