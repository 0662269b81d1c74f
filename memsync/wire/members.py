"""What peers tell each other: watermarks, several times a second, on a plain subject."""

from __future__ import annotations

import msgspec

from memsync.ids import Position


class Watermark(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a member has applied. The last one heard counts, not the highest: stores can be rolled
    back.

    `positions` has one entry for each stripe (the current generation as the member sees it);
    `leases` are the members to whom it has granted leases; `wall_ms` is its clock when it spoke.
    """

    member: str
    cell: str  # identity of the cell: the hash of its genesis file
    store_incarnation: int
    incarnation: int  # of the process; 0 while it has none
    positions: list[Position]
    leases: list[str]
    highest_block: int
    wall_ms: int
