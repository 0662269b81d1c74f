"""Who may do what: API keys, their limits and scopes, and whose data a request speaks of."""

from __future__ import annotations

import math

from memsync import errors, ids, limits
from memsync.core.admission import TIERS, Admission
from memsync.core.records import Record, value_of
from memsync.engine.directory import Directory
from memsync.ids import Scope
from memsync.service.parts import Call, Caller, Exchange
from memsync.wire import codec, context
from memsync.wire.operations import ApiKeyOrigin, OrganisationOrigin

FOUNDING_SLUG = "default"


def authenticate(directory: Directory, secret: str | None, now_ms: int) -> tuple[Record, Caller]:
    """The key behind a secret; raises `MissingApiKey`, `Unauthenticated` or `ApiKeyRevoked`."""
    if secret is None:
        raise errors.MissingApiKey(f"no {context.API_KEY} header")
    record = directory.key_by_hash(ids.secret_hash(secret))
    if record is None or not isinstance(record.origin, ApiKeyOrigin):
        raise errors.Unauthenticated("the API key is not known")
    if value_of(record, "revoked", False):
        raise errors.ApiKeyRevoked("the API key was revoked")
    expires_at_ms = value_of(record, "expires_at_ms")
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        raise errors.Unauthenticated("the API key has expired")
    return record, _caller(record, record.origin)


def _caller(record: Record, origin: ApiKeyOrigin) -> Caller:
    return Caller(
        key_id=min(record.ids),
        digest=origin.hash,
        organisation=record.scope.organisation,
        environment=origin.environment,
        project=origin.project,
        scopes=frozenset(value_of(record, "scopes")),
        tier=origin.tier,
    )


def admit(
    admission: Admission, caller: Caller, exchange: Exchange, *, now_s: float, now_ms: int
) -> None:
    """Count a request of this key and say in the answer's headers how its limits stand."""
    verdict = admission.admit(caller.digest, TIERS[caller.tier], now_s)
    exchange.headers.update(
        {
            "X-RateLimit-Limit": str(verdict.limit),
            "X-RateLimit-Remaining": str(verdict.remaining),
            "X-RateLimit-Reset": str(math.ceil(now_ms / 1000 + verdict.reset_s)),
        }
    )
    if not verdict.admitted:
        raise errors.RateLimited(
            f"key {caller.key_id} (tier {caller.tier}): its limit of {verdict.limit} is used up",
            retry_after_s=round(verdict.retry_after_s, 3),
        )


def check_operation_key(found: context.Context) -> None:
    """Raise `InvalidRequest` for a key that no gateway of ours can have made."""
    key = found.operation_key
    is_ours = key.startswith("~") and key.isprintable()
    if not found.key_is_callers and not (is_ours and len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX):
        raise errors.InvalidRequest(f"{context.OPERATION_KEY}: not a key that a gateway makes")


def require(caller: Caller, needed: str) -> None:
    """Raise `Forbidden` where the key's scopes do not hold `needed`."""
    covered = needed in caller.scopes
    if needed.startswith("memory:"):
        covered = covered or "memory:*" in caller.scopes
    if not covered:
        raise errors.Forbidden(f"key {caller.key_id} lacks the scope {needed}")


def scope_of(directory: Directory, call: Call, end_user: str | None) -> Scope:
    """Whose data is meant. `end_user` is that of the body, which wins over the header's."""
    found = end_user if end_user is not None else call.context.end_user
    if found is None:
        raise errors.MissingEndUser(f"no {context.END_USER} header and no end_user_id in the body")
    if not 1 <= len(found) <= limits.END_USER_CHARS_MAX or not found.isprintable():
        raise codec.invalid("end_user_id", f"1 to {limits.END_USER_CHARS_MAX} printable characters")
    return owner_scope(directory, call, found)


def owner_scope(directory: Directory, call: Call, end_user: str) -> Scope:
    """The scope without a check of the end user, who may be "" (none)."""
    caller = call.caller
    project = _project(directory, caller, call.context.project)
    return Scope(caller.organisation, project, caller.environment, end_user)


def _project(directory: Directory, caller: Caller, named: str | None) -> str:
    """The id of the project that is meant: the one that is named, else the key's pin, else ""."""
    if named is None:
        return caller.project
    found = directory.project(caller.organisation, named)
    if found is None:
        raise errors.ProjectNotFound(f"the organisation has no project {named[:64]!r}")
    if caller.project not in ("", found.scope.project):
        raise errors.Forbidden(f"key {caller.key_id} is pinned to project {caller.project}")
    return found.scope.project


def check_tenant(directory: Directory, caller: Caller, tenant: str | None) -> None:
    """Raise `TenantMismatch` where a tenant is named that is not the key's organisation."""
    if tenant is None or tenant in (FOUNDING_SLUG, str(caller.organisation)):
        return
    if tenant != organisation_slug(directory, caller.organisation):
        raise errors.TenantMismatch("tenant_id is not the organisation of the API key")


def organisation_slug(directory: Directory, organisation: int) -> str:
    """The slug of an organisation; its id while its record has not arrived."""
    record = directory.organisation(organisation)
    if record is None or not isinstance(record.origin, OrganisationOrigin):
        return str(organisation)
    return record.origin.slug
