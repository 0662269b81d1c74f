"""The records that every cell begins with: its members, its first organisation and the first API
key."""

from __future__ import annotations

from hashlib import blake2b

from memsync import ids, limits
from memsync.core import membership
from memsync.ids import OperationKey, Scope
from memsync.wire import codec
from memsync.wire.genesis import Genesis
from memsync.wire.operations import ApiKeyOrigin, Create, OrganisationOrigin, Write


def genesis_writes(genesis: Genesis) -> Write:
    """The founding as one write, the same on every peer that reads the same file."""
    organisation = genesis.organisation
    scope = Scope(organisation.id, "", "", "")
    operation_key = OperationKey("~genesis")
    return Write(
        key=operation_key,
        request_hash=blake2b(codec.pack(genesis), digest_size=16).digest(),
        kept_s=limits.OPERATION_KEY_OURS_S,
        scope=scope,
        actor="genesis",
        reason="",
        stamp=membership.FOUNDING_STAMP,
        outcome=[],
        operations=[
            Create(
                organisation_record(organisation.slug, scope),
                scope,
                [],
                OrganisationOrigin(organisation.slug, organisation.name, genesis.founded_at_ms),
            ),
            _key(genesis),
            membership.founding(genesis.members),
        ],
    )


def organisation_record(slug: str, scope: Scope) -> ids.RecordKey:
    """The record key of an organisation: equal slugs are one organisation."""
    return ids.record_key_of_ref("organisation", scope, slug)


def key_record(digest: bytes, scope: Scope) -> ids.RecordKey:
    """The record key of an API key: each secret is a record of its own."""
    return ids.record_key_of_ref("api_key", scope, digest.hex())


def _key(genesis: Genesis) -> Create:
    key = genesis.key
    scope = Scope(genesis.organisation.id, "", key.environment, "")
    origin = ApiKeyOrigin(
        hash=key.hash,
        prefix=key.prefix,
        name="founding key",
        environment=key.environment,
        scopes=key.scopes,
        project="",
        tier=key.tier,
        created_at_ms=genesis.founded_at_ms,
        expires_at_ms=None,
    )
    return Create(key_record(key.hash, scope), scope, [key.id], origin)
