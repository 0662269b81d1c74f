"""What the members of a cell tell each other, several times a second, on plain subjects.

Nothing here is stored, and everything may be lost, doubled or late: a watermark says how things
were when it was sent, and the last one heard of a member counts.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from memsync.ids import Position
from memsync.wire.operations import Stamp


class _Told(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who speaks, and of which cell: the hash of its genesis file."""

    member: str
    cell: str


class Watermark(_Told, frozen=True, tag="watermark"):
    """What a member has applied. The last one heard counts, not the highest: stores can be rolled
    back. It is told to all several times a second, and to a coordinator alone as soon as its
    frames are applied.

    `positions` has the end of every generation of every stripe that the member remembers; `synced`
    is the part of it that a power cut would leave. `leases` are the members to whom it has granted
    leases, with the last question of each that it heard: a watermark is the answer to all of them.
    `membership` is the version of the membership that it goes by. `wall_ms` is its clock when it
    spoke. `question` asks all who hear it for a lease, who then name the asker for
    `limits.GRANT_S`; it is a number that the asker uses once (`core.lease.first_question`), and 0
    where none is asked for.
    """

    store_incarnation: int
    incarnation: int  # of the process; 0 while it has none
    positions: list[Position]
    synced: list[Position]
    leases: dict[str, int]
    membership: str
    highest_block: int
    wall_ms: int
    question: int = 0


class Question(_Told, frozen=True, tag="question"):
    """How far are you? It grants nothing. `token` is the asker's own, never used twice."""

    token: int


class Answer(_Told, frozen=True, tag="answer"):
    """What `member` had applied when it was asked, told to the asker alone."""

    token: int
    positions: list[Position]


class Call(_Told, frozen=True, tag="call"):
    """Whoever hears this tells the caller its watermark at once: somebody waits for the cover of
    what is not the caller's own."""


class Release(_Told, frozen=True, tag="release"):
    """A process of a member gives its lease up: writes need not wait for it any more. `question` is
    the last that it asked, 0 if it never did: so nobody takes it for the word of another process of
    that name (`core.lease.process_of`)."""

    question: int = 0


class Sums(_Told, frozen=True, tag="sums"):
    """What a member's buckets came to when it had applied all three stripes up to the marks of
    `minute`, which lie at `positions`."""

    minute: int
    positions: list[Position]
    digest: bytes  # 16 bytes over all bucket sums


class Roster(_Told, frozen=True, tag="roster"):
    """Which members the teller goes by, as of `stamp`; told every `limits.ROSTER_S`, also by one
    that is no member, which tells nothing else, and to gateways, too. `highest_block` is the
    highest id block that the teller knows to be leased."""

    stamp: Stamp
    members: list[str]
    highest_block: int


Told: TypeAlias = Watermark | Question | Answer | Call | Release | Sums | Roster
