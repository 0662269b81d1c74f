"""Giving rows to another member: the answers to `exchange.Wanted`.

What makes an answer worth something is its order: the positions are taken before anything is read,
so whatever they promise is in the rows. Damaged rows that this peer has set aside are the exception
(its positions promise them and it has not got them): while there are any it gives no complete copy,
and no row that it lacks. A peer that is still joining the rows of another one may give: until the
end its positions do not promise them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

import msgspec

from memsync import limits
from memsync.engine import metrics
from memsync.engine.progress import ROWS_PART, Progress
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import Position, RecordKey
from memsync.ports import Store
from memsync.wire import codec
from memsync.wire.exchange import (
    AllOperations,
    AllRows,
    BucketHashes,
    BucketSums,
    Given,
    Row,
    SomeRows,
    Wanted,
)


class Giver:
    """See the module. `cell` is the identity of the cell that this peer's rows belong to; `sums`
    tells what its buckets came to at the marks of a round."""

    def __init__(
        self,
        store: Store,
        progress: Progress,
        cell: str,
        sums: Callable[[int], Mapping[int, int] | None],
    ) -> None:
        self._store = store
        self._progress = progress
        self._cell = cell
        self._sums = sums

    async def give(self, data: bytes) -> bytes:
        """The packed answer to a packed `Wanted`; what cannot be given is refused with a reason."""
        positions = self._progress.ends()
        try:
            given = await self._answer(codec.decode_wanted(data), positions)
        except msgspec.DecodeError as error:
            given = self._refusal(f"a request for rows of {len(data)} bytes is unreadable: {error}")
        except (Unavailable, InvariantBroken) as error:
            given = self._refusal(str(error))
        metrics.ROWS_GIVEN.inc(len(given.rows))
        return codec.pack_given(given)

    def _refusal(self, why: str) -> Given:
        return Given(self._store.incarnation, [], refusal=why)

    async def _answer(self, wanted: Wanted, positions: list[Position]) -> Given:
        if wanted.cell != self._cell:
            return self._refusal(
                f"these are the rows of cell {self._cell}, asked for were those of {wanted.cell}"
            )
        incarnation, highest = self._store.incarnation, self._store.highest_block
        match wanted:
            case AllRows():
                if why := self._lacks():
                    return self._refusal(f"no complete copy here: {why}")
                rows, is_end = await self._store.rows_after(
                    wanted.after, bytes_max=limits.EXCHANGE_BYTES_MAX
                )
                if why := self._lacks():  # found by this very read
                    return self._refusal(f"no complete copy here: {why}")
                return Given(incarnation, positions, highest, is_end=is_end, rows=rows)
            case AllOperations():
                operations, is_end = await self._store.operations_after(
                    wanted.scope, wanted.key, limit=limits.EXCHANGE_OPERATIONS_MAX
                )
                return Given(incarnation, positions, highest, is_end=is_end, operations=operations)
            case BucketHashes():
                hashes, is_end = await self._hashes(wanted.buckets, wanted.after)
                return Given(incarnation, positions, highest, is_end=is_end, hashes=hashes)
            case SomeRows():
                rows, is_end = await self._some(wanted.keys[: limits.EXCHANGE_KEYS_MAX])
                return Given(incarnation, positions, highest, is_end=is_end, rows=rows)
            case BucketSums():
                sums = self._sums(wanted.minute)
                if sums is None:
                    return self._refusal(f"no sums of round {wanted.minute} are kept here")
                return Given(incarnation, positions, highest, sums=dict(sums))
            case _:
                assert_never(wanted)

    def _lacks(self) -> str | None:
        """Why the positions promise rows that are not here; None where they do not."""
        found = [why for part, why in self._progress.lacking().items() if part != ROWS_PART]
        return "; ".join(found) or None

    async def _hashes(
        self, buckets: Sequence[int], after: RecordKey
    ) -> tuple[dict[RecordKey, int], bool]:
        found = await self._store.hashes(buckets)
        keys = sorted(key for key in found if key > after)
        page = keys[: limits.EXCHANGE_HASHES_MAX]
        return {key: found[key] for key in page}, len(page) == len(keys)

    async def _some(self, keys: Sequence[RecordKey]) -> tuple[list[Row], bool]:
        """Those rows of `keys` that are whole here, while they fit, and whether what is not among
        them does not exist."""
        lacking = set(await self._store.lacking())
        wanted = [key for key in keys if key not in lacking]
        given: list[Row] = []
        size_bytes = 0
        for row in await self._store.rows(wanted):
            size_bytes += len(row.state)
            if given and size_bytes > limits.EXCHANGE_BYTES_MAX:
                return given, False
            given.append(row)
        is_whole = self._lacks() is None  # this very read may have met damage
        return given, is_whole and len(wanted) == len(keys)
