"""Values that are kept for a while, and let go when what they are about changes.

A gateway keeps last good answers this way, a peer the answers of a version of a scope. Both must
never keep what was made before a change that they have already heard of. So who begins to make a
value takes a **ticket** first: a value is kept only if nothing that it is about has changed since
its ticket. What was made before a change and kept before it is dropped by the change; what comes
later has an old ticket. Either way it is gone, whichever comes first.

Bounded in entries and bytes: the longest unused goes first. One event loop, no locks, no clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

import msgspec

CHANGES_REMEMBERED = 4_096  # what they forget of changes makes older tickets worthless, no more
ENTRY_BYTES = 600  # what an entry takes beside its value (measured with tracemalloc, see tests)

Value = TypeVar("Value")


class Ticket(msgspec.Struct, frozen=True):
    """When a value began to be made: after so many changes, at `at_s` (the caller's clock)."""

    changes: int
    at_s: float


class _Entry(msgspec.Struct, Generic[Value]):
    value: Value
    about: tuple[Hashable, ...]
    at_s: float
    size_bytes: int


class Kept(Generic[Value]):
    """At most `entries_max` values of `bytes_max` in all, none older than `age_s_max`. Times are
    seconds of any one clock that only grows; a value is as old as its ticket."""

    def __init__(self, *, entries_max: int, bytes_max: int, age_s_max: float) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._age_s_max = age_s_max
        self._entries: OrderedDict[bytes, _Entry[Value]] = OrderedDict()  # longest unused first
        self._keys: dict[Hashable, set[bytes]] = {}  # of the entries that are about it
        self._changes = 0
        self._changed: OrderedDict[Hashable, int] = OrderedDict()  # which change was the last of it
        self._all_changed = 0  # tickets below this are worthless, whatever they are for
        self.bytes_used = 0

    def __len__(self) -> int:
        return len(self._entries)

    def ticket(self, now_s: float) -> Ticket:
        """To be taken before a value begins to be made."""
        return Ticket(self._changes, now_s)

    def find(self, key: bytes, now_s: float) -> tuple[Value, float] | None:
        """What is kept under a key, and how old it is in seconds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        age_s = now_s - entry.at_s
        if age_s >= self._age_s_max:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry.value, max(0.0, age_s)

    def keep(
        self,
        key: bytes,
        value: Value,
        *,
        about: Collection[Hashable],
        size_bytes: int,
        ticket: Ticket,
    ) -> bool:
        """Keep a value of about `size_bytes`; says whether it may be kept: nothing of what it is
        about has changed since its ticket, and it leaves room for others."""
        if not self._is_valid(ticket, about) or size_bytes > self._bytes_max // 8:
            return False
        self._remove(key)
        size_bytes += ENTRY_BYTES
        self._entries[key] = _Entry(value, tuple(about), ticket.at_s, size_bytes)
        self.bytes_used += size_bytes
        for subject in about:
            self._keys.setdefault(subject, set()).add(key)
        self._let_go(ticket.at_s)
        return True

    def drop(self, subject: Hashable) -> int:
        """Something changed: nothing about it is kept, nor will be by a ticket of before. Returns
        how many values were dropped."""
        self._changes += 1
        self._changed[subject] = self._changes
        self._changed.move_to_end(subject)
        if len(self._changed) > CHANGES_REMEMBERED:
            _, self._all_changed = self._changed.popitem(last=False)
        keys = self._keys.get(subject, ())
        dropped = len(keys)
        for key in tuple(keys):
            self._remove(key)
        return dropped

    def drop_all(self) -> int:
        """Anything may have changed. Returns how many values were dropped."""
        dropped = len(self._entries)
        self._changes += 1
        self._all_changed = self._changes
        self._changed.clear()
        self._entries.clear()
        self._keys.clear()
        self.bytes_used = 0
        return dropped

    def forget(self, key: bytes) -> None:
        """Drop one value."""
        self._remove(key)

    def _is_valid(self, ticket: Ticket, about: Collection[Hashable]) -> bool:
        if self._all_changed > ticket.changes:
            return False
        return all(self._changed.get(subject, 0) <= ticket.changes for subject in about)

    def _let_go(self, now_s: float) -> None:
        """Drop what is too many or too much, and what is too old as far as it stands in front."""
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if (
                len(self._entries) <= self._entries_max
                and self.bytes_used <= self._bytes_max
                and now_s - oldest.at_s < self._age_s_max
            ):
                return
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes_used -= entry.size_bytes
        for subject in entry.about:
            keys = self._keys[subject]
            keys.discard(key)
            if not keys:
                del self._keys[subject]
