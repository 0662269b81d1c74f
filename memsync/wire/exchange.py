"""Rows from peer to peer: what one asks another for when the log cannot give it.

Rows are whole records. They only ever grow by joins, so rows that are read one page after the other
hold at least everything up to the positions that were told before the first page. Whoever joins all
of them has those positions. Every answer names the store that it came from: a page of another store
does not go on with the pages before it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from memsync.ids import OperationKey, Position, RecordKey, ScopeKey
from memsync.wire.operations import ItemOutcome, Stamp


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How every part of the format is encoded."""


class Row(_Array, frozen=True):
    """A record as its store keeps it. `state` is its canonical msgpack, `hash` its 64 bits, which
    the receiver computes again before it believes the row."""

    key: RecordKey
    hash: int
    state: bytes


class KeptOperation(_Array, frozen=True):
    """An operation key with what is kept of its write."""

    scope: ScopeKey
    key: OperationKey
    request_hash: bytes
    stamp: Stamp
    kept_s: int
    outcome: list[ItemOutcome]


class AllRows(_Array, frozen=True, tag="all_rows"):
    """The rows with keys above `after`, in the order of their keys; b"" from the beginning."""

    cell: str
    after: RecordKey


class AllOperations(_Array, frozen=True, tag="all_operations"):
    """The operation keys above (`scope`, `key`), in their order; b"" and "" from the beginning."""

    cell: str
    scope: ScopeKey
    key: OperationKey


class BucketHashes(_Array, frozen=True, tag="bucket_hashes"):
    """Which rows with keys above `after` lie in these buckets: key -> hash, in the order of their
    keys."""

    cell: str
    buckets: list[int]
    after: RecordKey


class SomeRows(_Array, frozen=True, tag="some_rows"):
    """These rows, as many of them as exist and fit one answer; with `is_end` in the answer those
    that are not in it do not exist there."""

    cell: str
    keys: list[RecordKey]


class BucketSums(_Array, frozen=True, tag="bucket_sums"):
    """The sums of all buckets as they were at the marks of `minute`."""

    cell: str
    minute: int


Wanted: TypeAlias = AllRows | AllOperations | BucketHashes | SomeRows | BucketSums


class Given(_Array, frozen=True):
    """An answer. `positions` (of every generation that the giver remembers) were applied before
    anything of it was read, and `highest_block` is the highest id block in what was applied by
    then, which need not stand in any row. `is_end` when there is nothing after it. Only what was
    asked for is filled in. `refusal` says why nothing was given."""

    store_incarnation: int
    positions: list[Position]
    highest_block: int = 0
    refusal: str = ""
    is_end: bool = True
    rows: list[Row] = []
    operations: list[KeptOperation] = []
    hashes: dict[RecordKey, int] = {}
    sums: dict[int, int] = {}
