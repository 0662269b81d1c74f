"""Memories as they were shown last, by key: so that a recall need not ask the store for them again.

A read of the store is two turns of threads, which is half of what a recall in a small scope takes.
Every change that is applied takes its memory out, in the same step in which the hot index learns of
it; what was read from the store before that step is not kept after it (`mark`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from memsync import limits
from memsync.core import memories
from memsync.core.records import Change, Record
from memsync.engine.recall import metrics
from memsync.ids import RecordKey

ENTRY_BYTES = 4_000  # what Python takes for a record and its fields, beside what was written


class Showing(msgspec.Struct, frozen=True):
    """A memory's record, and what a reader sees of it: the fields of `replies.Memory`, not to be
    written."""

    record: Record
    fields: Mapping[str, Any]
    size_bytes: int


class Shown:
    """At most `bytes_max` of what was shown last."""

    def __init__(self, bytes_max: int = limits.SHOWN_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._held: OrderedDict[RecordKey, Showing] = OrderedDict()  # longest unused first
        self._bytes = 0
        self.mark = 0  # changes with every change that is applied
        metrics.SHOWN_BYTES.set_function(lambda: self._bytes)

    def of(self, keys: Iterable[RecordKey]) -> dict[RecordKey, Showing]:
        """Those that are held."""
        found = {}
        for key in keys:
            if (showing := self._held.get(key)) is not None:
                self._held.move_to_end(key)
                found[key] = showing
        return found

    def keep(self, records: Mapping[RecordKey, Record], *, mark: int) -> dict[RecordKey, Showing]:
        """What these records show; held from now on if nothing was applied since `mark` was what it
        says, which was before they were read."""
        found = {
            key: showing
            for key, record in records.items()
            if (showing := _showing_of(record)) is not None
        }
        if mark == self.mark:
            for key, showing in found.items():
                self._drop(key)
                self._held[key] = showing
                self._bytes += showing.size_bytes
            while self._bytes > self._bytes_max:
                self._drop(next(iter(self._held)))
        return found

    def apply(self, changes: Sequence[Change]) -> None:
        """These memories are others now."""
        self.mark += 1
        for change in changes:
            self._drop(change.after.key)

    def _drop(self, key: RecordKey) -> None:
        if (showing := self._held.pop(key, None)) is not None:
            self._bytes -= showing.size_bytes


def _showing_of(record: Record) -> Showing | None:
    if record.kind != "memory" or not memories.is_visible(record, 0):
        return None
    content_bytes = len(memories.origin_of(record).content.data)  # its text is in there
    return Showing(record, memories.view_fields(record), ENTRY_BYTES + 2 * content_bytes)
