"""One loaded scope: rows that are added, changed and removed one by one, and searched all at once.

A row is a memory. Its number is the same in the columns, the postings, the facets and the vectors'
row lists. A removed row stays, with `expires_at_ms` DEAD, until as many are dead as alive; then all
parts are renumbered together. A row whose memory changes is changed in its place; only when another
create became its origin (the text is another one) is it removed and added again.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index.columns import DEAD, NEVER, NO_ROW, ROW_BYTES, Columns
from memsync.adapters.hot_index.facets import PAIR_BYTES, Facets, facet
from memsync.adapters.hot_index.vectors import Vectors
from memsync.core import memories
from memsync.core.lexical import Postings, moment_terms, terms_of
from memsync.core.records import Record, value_of
from memsync.ids import RecordKey
from memsync.wire.operations import Content
from memsync.wire.requests import TIERS

COMPACT_ROWS_MIN = 64
# What Python itself takes (measured with tracemalloc, see tests): a row's key in a list and in a
# dictionary, and its place in its session; a term's entry and array beside its postings.
ROW_OVERHEAD_BYTES = 230
TERM_BYTES = 260
SESSION_BYTES = 300
POSTING_BYTES = 5  # 4, and the room that arrays keep to grow
SCOPE_BYTES = 16_384


class LoadedScope:
    """The index of one scope. Not for use by two threads at a time."""

    def __init__(self) -> None:
        self.columns = Columns()
        self.postings = Postings()
        self.facets = Facets()
        self.vectors = Vectors()
        self.keys: list[RecordKey] = []
        self.sessions: dict[str, int] = {}
        self._row_of: dict[RecordKey, int] = {}
        self._members: list[list[int]] = []  # rows of each session, in the order of the session
        self._dead = 0

    @property
    def size_bytes(self) -> int:
        """About how much memory all of it takes."""
        return (
            SCOPE_BYTES
            + self.columns.capacity * ROW_BYTES
            + len(self.keys) * ROW_OVERHEAD_BYTES
            + self.postings.terms_total * TERM_BYTES
            + self.postings.postings_total * POSTING_BYTES
            + self.facets.capacity * PAIR_BYTES
            + len(self.sessions) * SESSION_BYTES
            + self.vectors.size_bytes
        )

    def put(self, record: Record) -> None:
        """Make the scope hold this version of a memory, or none of it if it is not to be seen."""
        row = self._row_of.get(record.key)
        if not _is_kept(record):
            if row is not None:
                self._remove(row)
            return
        if row is not None and self.columns["origin"][row] != _origin_hash(record):
            self._remove(row)
            row = None
        content = memories.content_of(record)
        facets = _facets_of(record, content)
        if row is None:
            row = self._append(record, content)
            self.facets.add(row, facets)
        elif self.facets.of(row) != facets:
            self.facets.remove(row)
            self.facets.add(row, facets)
        self._set_changeable(row, record)
        self._set_vector(row, content)
        if self._dead > max(COMPACT_ROWS_MIN, len(self._row_of)):
            self._compact()

    def session_rows(self, session_id: str | None) -> NDArray[np.bool_]:
        """(rows,): which belong to a session; none to one that is not known."""
        number = self.sessions.get(session_id, -2) if session_id is not None else -2
        belongs: NDArray[np.bool_] = self.columns["session"] == number
        return belongs

    def _append(self, record: Record, content: Content) -> int:
        """Add a row with all that never changes."""
        origin, stamp = memories.origin_of(record), record.origin_stamp
        assert stamp is not None
        moment_ms = memories.session_order(record)[0]
        terms = dict(terms_of(content.text) if content.terms is None else content.terms)
        for term, count in moment_terms(moment_ms).items():
            terms[term] = terms.get(term, 0) + count
        self.postings.append(terms)
        row = self.columns.append(
            {
                "created_at_ms": origin.created_at_ms,
                "moment_ms": moment_ms,
                "stamp_time": stamp.time,
                "origin": _origin_hash(record),
                "place": origin.place,
                "is_summary": origin.is_summary,
            }
        )
        self.keys.append(record.key)
        self._row_of[record.key] = row
        if origin.session_id is not None:
            self._enter_session(row, origin.session_id)
        return row

    def _set_changeable(self, row: int, record: Record) -> None:
        expires_at_ms = value_of(record, "expires_at_ms")
        tier = value_of(record, "tier", TIERS[0])
        self.columns.set(
            row,
            {
                "expires_at_ms": NEVER if expires_at_ms is None else expires_at_ms,
                "importance": value_of(record, "importance"),
                "tier": TIERS.index(tier) if tier in TIERS else 0,
            },
        )

    def _set_vector(self, row: int, content: Content) -> None:
        columns = self.columns
        place = {"model": int(columns["model"][row]), "slot": int(columns["slot"][row])}
        if content.vector is None:
            self.vectors.remove(**place)
            model, slot = NO_ROW, NO_ROW
        else:
            model, slot = self.vectors.put(row, content.vector, **place)
        columns.set(row, {"model": model, "slot": slot})

    def _order_of(self, row: int) -> tuple[int, int, int]:
        """As `memories.session_order`; among equals the one that came first is first."""
        columns = self.columns
        return (
            int(columns["moment_ms"][row]),
            int(columns["stamp_time"][row]),
            int(columns["place"][row]),
        )

    def _enter_session(self, row: int, session_id: str) -> None:
        number = self.sessions.setdefault(session_id, len(self._members))
        if number == len(self._members):
            self._members.append([])
        members, order = self._members[number], self._order_of(row)
        at = len(members)
        if members and self._order_of(members[-1]) > order:
            at = bisect_left(members, order, key=self._order_of)
        members.insert(at, row)
        self.columns.set(row, {"session": number})
        self._link(members, at)
        if at + 1 < len(members):
            self._link(members, at + 1)

    def _link(self, members: list[int], at: int) -> None:
        """Say of the row at `at` and of the one before it that they are neighbours."""
        row, before = members[at], members[at - 1] if at > 0 else NO_ROW
        self.columns["previous"][row] = before
        if before != NO_ROW:
            self.columns["following"][before] = row

    def _remove(self, row: int) -> None:
        columns = self.columns
        number = int(columns["session"][row])
        if number != NO_ROW:
            before, after = int(columns["previous"][row]), int(columns["following"][row])
            if before != NO_ROW:
                columns["following"][before] = after
            if after != NO_ROW:
                columns["previous"][after] = before
            members = self._members[number]
            at = bisect_left(members, self._order_of(row), key=self._order_of)
            del members[members.index(row, at)]
        self.vectors.remove(model=int(columns["model"][row]), slot=int(columns["slot"][row]))
        self.facets.remove(row)
        dead: dict[str, Any] = dict.fromkeys(
            ("session", "previous", "following", "slot", "model"), NO_ROW
        )
        columns.set(row, {**dead, "expires_at_ms": DEAD})
        del self._row_of[self.keys[row]]
        self._dead += 1

    def _compact(self) -> None:
        """Renumber all rows so that no dead one is left."""
        kept = self.columns["expires_at_ms"] != DEAD
        moved = np.where(kept, np.cumsum(kept) - 1, NO_ROW).astype(np.int64)
        self.postings.compact(moved)
        self.facets.renumber(moved)
        places = self.vectors.renumber(moved)
        self.columns.keep(kept)
        for row, _model, slot in places:
            self.columns.set(row, {"slot": slot})
        for name in ("previous", "following"):
            linked = self.columns[name]
            linked[:] = np.where(linked >= 0, moved[linked], NO_ROW)
        self.keys = [key for key, is_kept in zip(self.keys, kept.tolist(), strict=True) if is_kept]
        self._row_of = {key: row for row, key in enumerate(self.keys)}
        self._keep_sessions(moved)
        self._dead = 0

    def _keep_sessions(self, moved: NDArray[np.int64]) -> None:
        """Renumber the sessions too, without those that nobody is in any more."""
        used = [(name, self._members[number]) for name, number in self.sessions.items()]
        used = [(name, members) for name, members in used if members]
        self.sessions = {name: number for number, (name, _) in enumerate(used)}
        self._members = [moved[members].tolist() for _, members in used]
        for number, members in enumerate(self._members):
            self.columns["session"][members] = number


def _is_kept(record: Record) -> bool:
    """Whether it may be seen at all; one past its time to live is passed over by every search."""
    return (
        record.kind == "memory"
        and record.origin is not None
        and record.purged is None
        and not value_of(record, "deleted", False)
    )


def _origin_hash(record: Record) -> int:
    """64 bits, good inside this process; other text or another place in a session: another hash."""
    origin, stamp = memories.origin_of(record), record.origin_stamp
    assert stamp is not None
    return hash((stamp.time, stamp.incarnation, origin.place, origin.text_hash))


def _facets_of(record: Record, content: Content) -> list[int]:
    facets = [facet("tag", tag) for tag in value_of(record, "tags")]
    source = value_of(record, "source")
    if source is not None:
        facets.append(facet("source", source))
    metadata = content.metadata or {}
    return facets + [facet("metadata", name, value) for name, value in metadata.items()]
