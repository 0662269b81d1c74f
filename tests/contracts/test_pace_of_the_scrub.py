"""How long a pass of the scrub takes over as many rows as are promised to be healed in a minute: by
the work that it is on a real store, and by the pauses that it makes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from memsync import limits
from memsync.adapters.sqlite.store import SqliteStore, open_store
from memsync.core.records import as_record, row_hash
from memsync.engine.repair.scrub import rest_s
from memsync.ports import Scrubbed
from memsync.wire import codec
from memsync.wire.exchange import Row
from memsync.wire.operations import Content, Stamp, Vector
from tests.contracts.stores import NOW_MS, memory

JOINED = 5_000  # rows at once
MENDED_S = 5.0  # until a row that was found is here again
CONTENT = Content(
    text="Ada keeps bees behind the house and sells the honey on Saturdays",
    metadata={"channel": "c7"},
    terms={f"word{number}": 1 for number in range(12)},
    vector=Vector("static", bytes(range(256)) * 2),
)


def made(first: int, count: int) -> list[Row]:
    """Rows like those of short memories with 256 dimensions."""
    rows = []
    content = codec.seal(CONTENT)
    for number in range(first, first + count):
        create = memory(number, content=content)
        state = codec.pack(as_record(create, Stamp(NOW_MS + number << 16, 1)))
        rows.append(Row(create.record, row_hash(state), state))
    return rows


@pytest.fixture
async def large(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store with as many rows as are promised."""
    async with open_store(tmp_path) as store:
        for first in range(0, limits.SCRUB_PROMISED_ROWS, JOINED):
            await store.join(made(first, JOINED), [], [])
        yield store


async def pass_s(store: SqliteStore) -> tuple[float, float]:
    """How long a pass takes, with the pauses that the scrub would make, and the processor time of
    its parts."""
    began_s = time.monotonic()
    rows, paused_s, worked_s = 0, 0.0, 0.0
    async for part in store.scrub(rows_max=limits.SCRUB_ROWS):
        assert part.damaged == []
        rows += part.rows
        paused_s += rest_s(part)
        worked_s += part.worked_s
    assert await store.recount() == []
    assert rows == limits.SCRUB_PROMISED_ROWS
    return time.monotonic() - began_s + paused_s, worked_s


async def test_a_pass_over_the_promised_rows_finds_and_mends_within_a_minute(
    large: SqliteStore,
) -> None:
    for rows_are in ("new to the scrub", "as at the last pass"):
        whole_s, worked_s = await pass_s(large)
        print(f"rows {rows_are}: a pass of {whole_s:.1f} s, of which {worked_s:.2f} s reading")
        between_s = max(whole_s, limits.SCRUB_PASS_S)  # from one look at a row to the next
        assert between_s + MENDED_S < limits.SCRUB_PROMISED_S
        assert worked_s > 0  # else nothing would slow it down where rows are large


def test_the_rest_grows_with_the_work() -> None:
    """A core has at least so many times as much rest as work, whatever the rows are."""
    for worked_s in (0.0, 0.001, 0.1, 10.0):
        rest = rest_s(Scrubbed(rows=1_000, damaged=[], worked_s=worked_s))
        assert rest >= limits.SCRUB_REST * worked_s
        assert rest >= limits.SCRUB_PAUSE_S
