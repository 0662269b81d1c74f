"""One loaded scope: rows that are added, changed and removed one by one, and searched all at once.

A row is a memory. Its number is the same in the columns, the postings, the facets and the vectors'
row lists. A removed row stays, with `expires_at_ms` DEAD, until as many are dead as alive; then all
parts are renumbered together. A row whose memory changes is changed in its place; only when another
create became its origin (the text is another one) is it removed and added again. A load adds its
rows many at a time (`extend`, then `seal`), which takes a third of the time.

What a search needs of all rows together is reckoned by the first search after a change, and kept
until the next change, or until a row expires.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index import rows as rows_module
from memsync.adapters.hot_index.clusters import Clusters
from memsync.adapters.hot_index.columns import DEAD, NEVER, NO_ROW, ROW_BYTES, Columns
from memsync.adapters.hot_index.facets import PAIR_BYTES, Facets
from memsync.adapters.hot_index.relations import RELATION_BYTES, Relations
from memsync.adapters.hot_index.rows import Row
from memsync.adapters.hot_index.vectors import Beside, Vectors
from memsync.core.recall import ranking
from memsync.core.recall.bm25 import Population
from memsync.core.recall.postings import Postings
from memsync.core.recall.words import links
from memsync.core.records import Record
from memsync.core.relations import strengths_of
from memsync.ids import RecordKey
from memsync.wire.operations import Vector

COMPACT_ROWS_MIN = 64
# What Python itself takes (measured with tracemalloc, see tests): a row's key in a list and in a
# dictionary; a session's name, number and array.
ROW_OVERHEAD_BYTES = 180
SESSION_BYTES = 300
SCOPE_BYTES = 8_192


class LoadedScope:
    """The index of one scope. Not for use by two threads at a time."""

    def __init__(self) -> None:
        self.columns = Columns()
        self.postings = Postings()
        self.facets = Facets()
        self.vectors = Vectors()
        self.relations = Relations()
        self.keys: list[RecordKey] = []
        self.sessions: dict[str, int] = {}
        self._row_of: dict[RecordKey, int] = {}
        self._members: list[array[int]] = []  # rows of each session, in the order of the session
        self._dead = 0
        self.clusters = Clusters()
        self.speakers: set[int] = set()  # hashes, also of some who have no row any more
        self.has_assistant = False  # whether a model said anything, also in a row that is no more
        self._population: Population | None = None
        self._bearing: ranking.Floats | None = None
        self._population_holds = range(0)  # the times, in milliseconds

    @property
    def size_bytes(self) -> int:
        """About how much memory all of it takes."""
        return (
            SCOPE_BYTES
            + self.columns.capacity * ROW_BYTES
            + len(self.keys) * ROW_OVERHEAD_BYTES
            + self.postings.size_bytes
            + self.facets.capacity * PAIR_BYTES
            + len(self.sessions) * SESSION_BYTES
            + self.vectors.size_bytes
            + self.clusters.size_bytes
            + self.relations.total * RELATION_BYTES
        )

    def put(self, record: Record) -> None:
        """Make the scope hold this version of a memory, or none of it if it is not to be seen."""
        self._population = self._bearing = None
        number = self._row_of.get(record.key)
        if not rows_module.is_kept(record):
            if number is not None:
                self.relations.put(record.key, {})
                self._remove(number)
                self._compact_if_due()
            return
        row = rows_module.row_of(record)
        if number is not None and self.columns["origin"][number] != row.fixed["origin"]:
            self._remove(number)
            number = None
        if number is None:
            number = self._append(record.key, row)
            self.facets.add(number, row.facets)
        elif self.facets.of(number) != row.facets:
            self.facets.remove(number)
            self.facets.add(number, row.facets)
        self.columns.set(number, row.changeable)
        self.relations.put(record.key, row.related)
        self._set_vector(number, row.vector)
        self.vectors.follow(self.beside_each_other())
        self._compact_if_due()

    def put_figures(self, record: Record) -> None:
        """As `put`, of a memory to which something was attached or counted and nothing else: that
        is a tenth of the work, and a peer's counts come by the hundred."""
        number = self._row_of.get(record.key)
        if number is not None:
            self.columns.set(number, rows_module.figures_of(record))
            self.relations.put(record.key, strengths_of(record))

    def extend(self, records: Sequence[Record]) -> None:
        """Add many memories, as a load does, and leave out those that are here; then `seal`."""
        fresh = {
            record.key: rows_module.row_of(record)
            for record in records
            if rows_module.is_kept(record) and record.key not in self._row_of
        }
        if not fresh:
            return
        rows = list(fresh.values())
        self.postings.extend(
            [row.terms for row in rows], [row.said for row in rows], [row.named for row in rows]
        )
        values = {
            name: np.array([kept[name] for kept in part])
            for part in ([row.fixed for row in rows], [row.changeable for row in rows])
            for name in part[0]
        }
        values["session"] = np.array([self._session_number(row.session_id) for row in rows])
        first = self.columns.extend(values, len(rows))
        self.speakers.update(row.fixed["speaker"] for row in rows)
        self.has_assistant |= any(row.fixed["is_assistant"] for row in rows)
        self.keys += fresh
        self._row_of.update(zip(fresh, range(first, first + len(rows)), strict=True))
        facet_rows = np.repeat(np.arange(len(rows)) + first, [len(row.facets) for row in rows])
        self.facets.extend(
            facet_rows.tolist(), list(chain.from_iterable(row.facets for row in rows))
        )
        for key, row in fresh.items():
            self.relations.put(key, row.related)
        with_vector = [place for place, row in enumerate(rows) if row.vector is not None]
        vectors = [row.vector for row in rows if row.vector is not None]
        for model, numbers, slots in self.vectors.extend([first + i for i in with_vector], vectors):
            self.columns["model"][numbers] = model
            self.columns["slot"][numbers] = slots

    def seal(self) -> None:
        """After the last `extend`: put the sessions in order, and the postings together."""
        self.postings.seal()
        self._population = self._bearing = None
        columns = self.columns
        number = columns["session"]
        order = np.lexsort(
            (columns["place"], columns["stamp_time"], columns["moment_ms"], number)
        )  # stable: among equals the one that came first is first
        order = order[number[order] != NO_ROW].astype(np.int32)
        ordered = number[order]
        is_same = ordered[1:] == ordered[:-1]
        columns["previous"][order[1:][is_same]] = order[:-1][is_same]
        columns["following"][order[:-1][is_same]] = order[1:][is_same]
        ends = np.searchsorted(ordered, np.arange(len(self._members) + 1))
        self._members = [
            array("i", order[start:end].tobytes())
            for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ]

    def population(self, now_ms: int) -> Population:
        """What a search at `now_ms` needs of all rows together."""
        if self._population is None or now_ms not in self._population_holds:
            expires_at_ms = self.columns["expires_at_ms"]
            visible = expires_at_ms > now_ms
            until_ms = int(expires_at_ms.min(where=visible, initial=NEVER))
            self._population_holds = range(now_ms, until_ms)
            self._population = self.postings.population(
                visible,
                self.columns["session"],
                len(self.sessions),
                previous=self.columns["previous"],
                following=self.columns["following"],
            )
        return self._population

    def beside_each_other(self) -> Beside:
        """How the rows lie, as the vectors ask it."""
        columns = self.columns
        return Beside(columns["slot"], (columns["previous"], columns["following"]))

    def row_of(self, key: RecordKey) -> int | None:
        """The row of a memory, if it has one."""
        return self._row_of.get(key)

    def beside(self, row: int, visible: NDArray[np.bool_]) -> dict[int, float]:
        """The visible rows that are related to a row, with how strongly."""
        related = self.relations.beside(self.keys[row])
        rows = {self._row_of[key]: held for key, held in related.items() if key in self._row_of}
        return {other: strength for other, strength in rows.items() if visible[other]}

    def led(
        self, seeds: Sequence[int], asked: Collection[str], now_ms: int, *, lift: float
    ) -> links.Floats | None:
        """(rows,) 0..`lift`: what leads from some rows, the best answers, to each at `now_ms` by
        names and rare words that they share; `asked` are the terms of the question. None where
        nothing does."""
        among = self.population(now_ms)
        spoken = self.postings.spoken(seeds)
        can_agree = links.can_agree(len(seeds), among.rows_total)
        words = links.leading(spoken.said if can_agree else spoken.said[:0], spoken.named)
        if not words:
            return None
        # A word that one memory holds leads back only.
        bounds, without = (2, links.held_max(among.rows_total)), set(map(hash, asked))
        holders = self.postings.holders(words, spoken.part, among, without=without, bounds=bounds)
        return links.links_of(holders, seeds, among, lift=lift)

    def bearing(self) -> ranking.Floats:
        """(rows,) float32, not to be written: what speaks for each row whatever is asked."""
        if self._bearing is None:
            columns = self.columns
            self._bearing = ranking.bearing(
                columns["content"], columns["asks"], columns["previous"]
            )
        return self._bearing

    def next_expiry_ms(self, now_ms: int) -> int | None:
        """When the next visible memory expires; None where none will."""
        if self._population is not None and now_ms in self._population_holds:
            until_ms = self._population_holds.stop
        else:
            expires_at_ms = self.columns["expires_at_ms"]
            until_ms = int(expires_at_ms.min(where=expires_at_ms > now_ms, initial=NEVER))
        return None if until_ms == NEVER else until_ms

    def members(self, session_id: str) -> NDArray[np.intp]:
        """The rows of a session, in its order; none of one that is not known."""
        number = self.sessions.get(session_id)
        rows = self._members[number] if number is not None else ()
        return np.array(rows, np.intp)

    def session_rows(self, session_id: str | None) -> NDArray[np.bool_]:
        """(rows,): which belong to a session; none to one that is not known."""
        number = self.sessions.get(session_id, -2) if session_id is not None else -2
        belongs: NDArray[np.bool_] = self.columns["session"] == number
        return belongs

    def _append(self, key: RecordKey, row: Row) -> int:
        """Add a row with all that never changes."""
        self.postings.append(row.terms, row.said, row.named)
        number = self.columns.append(row.fixed)
        self.speakers.add(row.fixed["speaker"])
        self.has_assistant |= row.fixed["is_assistant"]
        self.keys.append(key)
        self._row_of[key] = number
        if row.session_id is not None:
            self._enter_session(number, row.session_id)
        return number

    def _set_vector(self, row: int, vector: Vector | None) -> None:
        columns = self.columns
        place = {"model": int(columns["model"][row]), "slot": int(columns["slot"][row])}
        if vector is None:
            self.vectors.remove(**place)
            model, slot = NO_ROW, NO_ROW
        else:
            model, slot = self.vectors.put(row, vector, **place)
        columns.set(row, {"model": model, "slot": slot})
        self.clusters.changed(row)

    def _order_of(self, row: int) -> tuple[int, int, int]:
        """As `memories.session_order`; among equals the one that came first is first."""
        columns = self.columns
        return (
            int(columns["moment_ms"][row]),
            int(columns["stamp_time"][row]),
            int(columns["place"][row]),
        )

    def _session_number(self, session_id: str | None) -> int:
        if session_id is None:
            return NO_ROW
        number = self.sessions.setdefault(session_id, len(self._members))
        if number == len(self._members):
            self._members.append(array("i"))
        return number

    def _enter_session(self, row: int, session_id: str) -> None:
        number = self._session_number(session_id)
        members, order = self._members[number], self._order_of(row)
        at = len(members)
        if members and self._order_of(members[-1]) > order:
            at = bisect_left(members, order, key=self._order_of)
        members.insert(at, row)
        self.columns.set(row, {"session": number})
        self._link(members, at)
        if at + 1 < len(members):
            self._link(members, at + 1)

    def _link(self, members: array[int], at: int) -> None:
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
        columns.set(row, {**dead, "expires_at_ms": DEAD, "usage": 0.0})
        del self._row_of[self.keys[row]]
        self._dead += 1

    def _compact_if_due(self) -> None:
        """Renumber all rows so that no dead one is left, once there are more of these."""
        if self._dead <= max(COMPACT_ROWS_MIN, len(self._row_of)):
            return
        kept = self.columns["expires_at_ms"] != DEAD
        moved = np.where(kept, np.cumsum(kept) - 1, NO_ROW).astype(np.int64)
        self.postings.compact(moved)
        self.facets.renumber(moved)
        self.clusters.forget()
        places = self.vectors.renumber(moved)
        self.columns.keep(kept)
        for rows, slots in places:
            self.columns["slot"][rows] = slots
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
        now = [moved[np.frombuffer(members, np.int32)].astype(np.int32) for _, members in used]
        for number, members in enumerate(now):
            self.columns["session"][members] = number
        self._members = [array("i", members.tobytes()) for members in now]
