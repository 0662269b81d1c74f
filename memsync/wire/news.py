"""What peers tell gateways of changes, so that no gateway gives a kept answer that it knows to be
wrong: which end users' memories were changed or forgotten, which API keys were.

Each peer tells it as it applies the change, on a plain subject, numbered without gaps. Where there
is nothing to be told the last number is told again twice a second; so who listens knows whether it
has heard everything that this process said. New memories are no news: a kept answer only lacks
them, and says so.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec


class News(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What changed at `member` since its news before. `session` is a random number of the process;
    `number` counts its news from 1 (0: none yet). Without any content it says which number was the
    last. `is_all`: too much to be named, or what concerns everybody."""

    member: str
    cell: str
    session: int
    number: int
    users: list[bytes]  # `about_user` of each end user, of whichever organisation
    keys: list[bytes]  # `ids.secret_hash` of each API key
    is_all: bool

    @property
    def has_content(self) -> bool:
        """Whether anything is told but the number."""
        return bool(self.users or self.keys or self.is_all)


def about_user(end_user: str) -> bytes:
    """16 bytes that stand for an end user's name. A gateway does not know of which organisation a
    key is; so users of one name in several organisations are not told apart, and an answer too
    many is dropped."""
    return blake2b(end_user.encode("utf-8", "surrogatepass"), digest_size=16).digest()
