"""The founding document of a cell: one file, the same on every peer, never changed.

Its hash is the identity of the cell. Peers join its records with the lowest stamp, so everything
that is written later wins over it.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec

from memsync import ids, limits
from memsync.config import Name
from memsync.errors import ConfigurationError

SCHEMA = 1
KEY_PREFIXES = {"production": "ms_live_", "staging": "ms_test_", "development": "ms_dev_"}
KEY_BYTES = 24  # of what is secret in a key
KEY_PREFIX_CHARS = 12  # how much of a key is kept readable, for lists


class GenesisOrganisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first organisation."""

    id: int
    slug: str
    name: str


class GenesisKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first API key: only its hash and its first characters."""

    id: int
    prefix: str
    hash: bytes
    environment: str
    scopes: list[str]
    tier: str


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who founded the cell, and of whom it consists at first."""

    schema: int
    cell: Name
    region: Name
    nonce: str
    id_space: Annotated[int, msgspec.Meta(ge=0, lt=1 << limits.ID_SPACE_BITS)]
    members: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=limits.MEMBERS_MAX)]
    organisation: GenesisOrganisation
    key: GenesisKey
    founded_at_ms: int


def new_api_key(environment: str) -> str:
    """A new API key: a prefix that tells the environment, and 192 random bits."""
    return KEY_PREFIXES[environment] + secrets.token_hex(KEY_BYTES)


def derived_api_key(environment: str, *, of: tuple[str, str], known_by: bytes) -> str:
    """An API key that only who has both secrets of `of` can name: the same for what is known by the
    same. HMAC-SHA256 (RFC 2104) by the one as the key, then by what that gives; 192 bits of it."""
    first, second = of
    between = hmac.digest(first.encode(), b"api key\0" + second.encode(), "sha256")
    return KEY_PREFIXES[environment] + hmac.digest(between, known_by, "sha256")[:KEY_BYTES].hex()


def found(
    *, cell: str, region: str, members: list[str], environment: str, founded_at_ms: int
) -> tuple[Genesis, str]:
    """A new cell and its first API key, which is returned here and kept nowhere."""
    secret = new_api_key(environment)
    first_block = ids.memory_id(0, 0, 1), ids.memory_id(0, 0, 2)  # block 0 is never leased
    genesis = Genesis(
        schema=SCHEMA,
        cell=cell,
        region=region,
        nonce=secrets.token_hex(16),
        id_space=0,
        members=members,
        organisation=GenesisOrganisation(id=first_block[0], slug="default", name="default"),
        key=GenesisKey(
            id=first_block[1],
            prefix=secret[:KEY_PREFIX_CHARS],
            hash=ids.secret_hash(secret),
            environment=environment,
            scopes=["memory:*", "org:admin", "org:cross_project_read"],
            tier="unlimited",
        ),
        founded_at_ms=founded_at_ms,
    )
    return genesis, secret


def identity(genesis: Genesis) -> str:
    """The identity of the cell: 32 hex digits over the whole document."""
    return blake2b(msgspec.json.encode(genesis), digest_size=16).hexdigest()


def write(path: Path, genesis: Genesis) -> None:
    """Write the file (readable, one field a line)."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(genesis), indent=2) + b"\n")


def read(path: Path) -> Genesis:
    """Read the file; raises `ConfigurationError` that says what is wrong with it."""
    try:
        genesis = msgspec.json.decode(path.read_bytes(), type=Genesis)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read ({error.strerror}); every peer needs the file that "
            "`memsync init` wrote"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path}: not a genesis file ({error})") from error
    if genesis.schema != SCHEMA:
        raise ConfigurationError(f"{path}: schema {genesis.schema}, this version reads {SCHEMA}")
    if len(set(genesis.members)) != len(genesis.members):
        raise ConfigurationError(f"{path}: members: a name stands twice")
    return genesis
