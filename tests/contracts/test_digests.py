"""Any interleaving over stripes, duplication, or split into batches ends in the same digests."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from memsync import limits
from memsync.adapters.sqlite.store import open_store
from memsync.core.records import row_hash
from memsync.ids import Position, bucket_of, scope_key
from memsync.ports import LoggedFrame
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, Write
from tests.strategies import KINDS, record_of, writes


async def applied(log: list[Frame], seed: int) -> tuple[dict[int, int], dict[bytes, bytes]]:
    """The digests and rows of a store that was given the frames in an order of its own."""
    rnd = random.Random(seed)
    delivered = [*log, *rnd.choices(log, k=rnd.randrange(len(log) + 1))]
    rnd.shuffle(delivered)
    ends: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(Path(folder)) as store:
            while delivered:
                size = rnd.randrange(1, 4)
                batch, delivered = delivered[:size], delivered[size:]
                logged = []
                for frame in batch:
                    stripe = rnd.randrange(limits.STRIPES)
                    ends[stripe] = ends.get(stripe, 0) + 1
                    logged.append(LoggedFrame(Position(stripe, 0, ends[stripe]), frame, 1))
                await store.apply(logged, {k: Position(k, 0, s) for k, s in ends.items()})
            keys = [record_of(kind, number)[0] for kind in KINDS for number in range(3)]
            rows = {key: codec.pack(r) for key, r in (await store.records(keys)).items()}
            return await store.digests(), rows


@settings(max_examples=40, deadline=None)
@given(st.lists(writes(), min_size=1, max_size=6), st.integers(0, 1 << 30))
def test_every_delivery_of_a_set_of_writes_ends_in_one_state(
    several: list[Write], seed: int
) -> None:
    log = [Frame(SCHEMA, 1, number, [write]) for number, write in enumerate(several)]
    merged = [Frame(SCHEMA, 1, 99, several)]
    one = asyncio.run(applied(log, seed))
    other = asyncio.run(applied(log, seed + 1))
    whole = asyncio.run(applied(merged, seed))
    assert one == other == whole
    digests, rows = one
    assert digests == expected_digests(rows)


def expected_digests(rows: dict[bytes, bytes]) -> dict[int, int]:
    """From the rows alone, the slow way."""
    sums: dict[int, int] = {}
    for kind in KINDS:
        for number in range(3):
            key, scope = record_of(kind, number)
            if key in rows:
                bucket = bucket_of(scope_key(scope))
                sums[bucket] = (sums.get(bucket, 0) + row_hash(rows[key])) % (1 << 64)
    return sums
