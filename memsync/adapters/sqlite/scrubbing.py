"""The scrub's reading: every row of the store, part after part, each compared with its hash and its
columns with its state.

A part is the rows whose numbers lie between two multiples of its size, whatever comes or goes
elsewhere; the newest part comes first, so that a pass ends however fast rows are added. Rows are
read in the order in which they lie in the file: by key they lie anywhere, and reading them takes
1.7 times as long.

To compare a row takes twice as long as to read it. So the fingerprint of a part whose rows were all
sound is kept, and as long as the part has it, they are. It is over every byte and every type of its
rows, 60 bits with a secret of this process (`hash` of bytes is SipHash): damage leaves it as it was
about as seldom as it leaves the hash of a row as it was.

What holds the rows, pages and indexes, is checked after the last part. That takes as long as all
parts together, so where it takes long it rests longer than the parts do.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from memsync import limits
from memsync.adapters.sqlite import files
from memsync.adapters.sqlite import rows as row
from memsync.ids import RecordKey
from memsync.ports import Scrubbed
from memsync.wire import codec

ABOVE_ALL = math.inf  # no row has this number
_LOWEST = -(1 << 63)  # what a row may have by hand
_ROWS = f"SELECT {row.COLUMNS} FROM records WHERE row BETWEEN ? AND ? ORDER BY row"


class Scrubbing:
    """Blocking, one call at a time. Raises `sqlite3.Error`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sound: dict[int, int] = {}  # where a part begins -> the fingerprint of its sound rows
        self._checked_at_s = -math.inf
        self._check_took_s = 0.0

    def part(self, below: float, rows_max: int) -> tuple[int, Scrubbed] | None:
        """Look at the highest rows below this number, at most so many: where they begin, and what
        they are; None where there are none. Its connection is its own and closed again: another
        would show pages that it has read before, whatever has become of them in the file."""
        began_s = time.thread_time()
        with closing(files.reading(self._path)) as db:
            db.execute("BEGIN")  # one snapshot, in case the rows are read twice
            (top,) = db.execute("SELECT max(row) FROM records WHERE row < ?", (below,)).fetchone()
            if top is None:
                return None
            first = max(top // rows_max * rows_max, _LOWEST)
            count, damaged = self._look(db, first, top)
        worked_s = time.thread_time() - began_s
        return first, Scrubbed(rows=count, damaged=damaged, worked_s=worked_s)

    def check(self) -> str | None:
        """What is wrong with pages or indexes; None where nothing is, or the last check took so
        long that the next is not due."""
        rest_s = self._check_took_s * limits.FILE_CHECK_REST
        if time.monotonic() < self._checked_at_s + rest_s:
            return None
        began_s = time.thread_time()
        wrong = files.check(self._path)
        self._checked_at_s, self._check_took_s = time.monotonic(), time.thread_time() - began_s
        return wrong

    def _look(self, db: sqlite3.Connection, first: int, top: int) -> tuple[int, list[RecordKey]]:
        count, fingerprint = _fingerprint(db.execute(_ROWS, (first, top)))
        if self._sound.get(first) == fingerprint:
            return count, []
        found = db.execute(_ROWS, (first, top))
        damaged = [RecordKey(columns[0]) for columns in found if not row.is_sound(columns)]
        if not damaged:
            self._sound[first] = fingerprint
        return count, damaged


def _fingerprint(rows: Iterable[row.Columns]) -> tuple[int, int]:
    """How many rows these are, and a number that tells them from any others."""
    count, number = 0, 0
    for columns in rows:
        count += 1
        number = hash((number, codec.pack(columns)))
    return count, number
