"""What `scripts/bench healing` does to a store: the row that it alters is what the scrub finds."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from memsync.adapters.sqlite import files
from memsync.adapters.sqlite.store import open_store
from tests.bench import __main__ as command
from tests.bench import healing
from tests.contracts.stores import apply, frame, memory


async def test_a_bit_is_turned_in_one_row_beside_who_has_the_store_open(tmp_path: Path) -> None:
    store_file = tmp_path / files.FILE
    async with open_store(tmp_path) as store:
        await apply(store, *(frame(n, memory(n)) for n in range(20)))
        keys = healing.keys_of(store_file)
        assert keys == [memory(n).record for n in range(20)]  # the newest last
        before = {key: healing.row_of(store_file, key) for key in keys}
        await asyncio.to_thread(healing.turn_bit, store_file, keys[-1], random.Random(1))
        after = {key: healing.row_of(store_file, key) for key in keys}
        assert {key for key in keys if after[key] != before[key]} == {keys[-1]}
        parts = [part async for part in store.scrub(rows_max=8)]
        assert parts[0].damaged == [keys[-1]]  # read first: it waits longest until the next pass
        assert [part.damaged for part in parts[1:]] == [[]] * (len(parts) - 1)
        await store.set_aside(parts[0].damaged)
        assert healing.row_of(store_file, keys[-1]) is None


def test_it_is_a_mode_of_the_command() -> None:
    assert command.MODES["healing"] is healing.main
