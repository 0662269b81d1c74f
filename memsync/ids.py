"""Names of things: scopes, record keys, memory ids, positions. Pure functions and small frozen
types.

A **memory id** is an integer below 2^53 (JavaScript and SQLite both hold it exactly): id space (5
bits, one per NATS cluster), block (32 bits, leased from `MEMSYNC_IDS`), number (16 bits). The block
that a process leases at its start is also its **incarnation**, so no stamp is used twice.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from hashlib import blake2b
from typing import NewType

import msgspec

from memsync import limits

MemoryId = NewType("MemoryId", int)
Incarnation = NewType("Incarnation", int)
RecordKey = NewType("RecordKey", bytes)  # 16 bytes
ScopeKey = NewType("ScopeKey", bytes)  # 16 bytes
OperationKey = NewType("OperationKey", str)  # 1..128 printable characters

ID_MAX = (1 << (limits.ID_SPACE_BITS + limits.ID_BLOCK_BITS + limits.ID_NUMBER_BITS)) - 1
NUMBERS_PER_BLOCK = 1 << limits.ID_NUMBER_BITS

ENVIRONMENTS = ("development", "staging", "production")


class Scope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Whose data it is. Every read and write names all four parts; nothing crosses them.

    `organisation` is the organisation's id; `project` is "" for rows without a project;
    `environment` is one of `ENVIRONMENTS`; `end_user` is the caller's own name for its user
    ("" only for records that belong to an organisation and not to a user: keys, projects).
    """

    organisation: int
    project: str
    environment: str
    end_user: str


class Position(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """A place in the log: (stripe, its generation, sequence in that generation's stream)."""

    stripe: int
    generation: int
    sequence: int


_encode = msgspec.msgpack.Encoder().encode
_RANDOM_BLOCK_BYTES = 4_096
_random: deque[bytes] = deque()  # asked of the system and not given out yet, 16 bytes each
os.register_at_fork(after_in_child=_random.clear)


def _digest16(*parts: object) -> bytes:
    return blake2b(_encode(parts), digest_size=16).digest()


def scope_key(scope: Scope) -> ScopeKey:
    """The 16 bytes that stand for a scope in the store and in the buckets of anti-entropy."""
    return ScopeKey(_digest16(scope.organisation, scope.project, scope.environment, scope.end_user))


def bucket_of(key: ScopeKey) -> int:
    """The anti-entropy bucket of a scope, 0..1023."""
    return int.from_bytes(key[:4], "big") % limits.BUCKETS


def record_key_of_ref(kind: str, scope: Scope, client_ref: str) -> RecordKey:
    """The key of a record that the caller named itself: equal names are equal records."""
    return RecordKey(_digest16(kind, scope_key(scope), "ref", client_ref))


def record_key_of_operation(
    kind: str, scope: Scope, key: OperationKey, request_hash: bytes, index: int
) -> RecordKey:
    """The key of the `index`-th record that a request creates. The request's hash is part of it: an
    operation key may be used for another request once it is forgotten (24 h)."""
    return RecordKey(_digest16(kind, scope_key(scope), "key", key, request_hash, index))


def memory_id(space: int, block: int, number: int) -> MemoryId:
    """Put an id together; raises `ValueError` where a part is out of its range."""
    if not 0 <= space < 1 << limits.ID_SPACE_BITS:
        raise ValueError(f"id space {space}: 0..{(1 << limits.ID_SPACE_BITS) - 1}")
    if not 0 <= block < 1 << limits.ID_BLOCK_BITS:
        raise ValueError(f"id block {block}: 0..{(1 << limits.ID_BLOCK_BITS) - 1}")
    if not 0 <= number < NUMBERS_PER_BLOCK:
        raise ValueError(f"id number {number}: 0..{NUMBERS_PER_BLOCK - 1}")
    return MemoryId((space << limits.ID_BLOCK_BITS | block) << limits.ID_NUMBER_BITS | number)


def block_of(identifier: int) -> int:
    """The block that an id was taken from."""
    return (identifier >> limits.ID_NUMBER_BITS) & ((1 << limits.ID_BLOCK_BITS) - 1)


def new_operation_key() -> OperationKey:
    """A key of our own for a request that came without one: 128 random bits, marked as ours."""
    return OperationKey("~" + random_hex())


def is_ours(key: OperationKey) -> bool:
    """Whether a gateway, the client library or a peer made it; a caller's never begins so."""
    return key.startswith("~")


def random_hex() -> str:
    """128 random bits as 32 hex digits, of the system's source: fit for names that nobody must
    guess. Asking the system costs 15 microseconds, for 16 bytes as for 4,096."""
    try:
        return _random.popleft().hex()
    except IndexError:
        block = secrets.token_bytes(_RANDOM_BLOCK_BYTES)
        _random.extend(block[i : i + 16] for i in range(16, _RANDOM_BLOCK_BYTES, 16))
        return block[:16].hex()


def user_number(scope: Scope) -> int:
    """The stable integer below 2^53 that stands for the end user in answers (`user_id`)."""
    return int.from_bytes(_digest16("user", scope.organisation, scope.end_user)[:7], "big") >> 3


def organisation_id(slug: str) -> int:
    """The id of an organisation, from its slug, so that two who make it at once make the same."""
    return int.from_bytes(_digest16("organisation", slug)[:7], "big") >> 3


def project_id(organisation: int, slug: str) -> str:
    """The id of a project, from its slug: `proj_` and 16 hex digits."""
    return "proj_" + _digest16("project", organisation, slug)[:8].hex()


def secret_hash(secret: str) -> bytes:
    """What is stored of an API key: 32 bytes. The key has 192 bits that nobody can guess, so one
    plain hash is enough."""
    return blake2b(secret.encode(), digest_size=32, person=b"memsync-api-key").digest()
