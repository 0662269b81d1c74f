"""keys.create, keys.list and keys.revoke; what a new key belongs to is made where need be.

Keys, projects and organisations are replicated records like memories. Of a key only the hash of its
secret is stored; the secret is shown in the answer to its creation, and for a while to a repeat.

A key's record is named by its scope and by the hash of its secret, and the secret follows from what
every attempt of one creation has: the caller's own API key, a secret of the cell and the operation
key. So attempts that do not know of each other make one key, whose ids all stand for it, and a
repeat after an answer that was lost is told the secret (decision 0031).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import msgspec

from memsync import errors, ids, limits
from memsync.core.records import Record, stamps_of, value_of
from memsync.core.stamps import wall_ms_of
from memsync.engine.directory import Directory
from memsync.ids import Scope
from memsync.ports import Answer, StoredOperation
from memsync.service import access, answers, freshness, reads, writes
from memsync.service.admin.key_uses import LAST_USED, USES
from memsync.service.founding import key_record, organisation_record
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft, Intent
from memsync.wire import codec, genesis, requests
from memsync.wire.operations import (
    ApiKeyOrigin,
    Create,
    ItemOutcome,
    Operation,
    OrganisationOrigin,
    ProjectOrigin,
    Stamp,
    Update,
)
from memsync.wire.replies import ApiKeyInfo, ApiKeyPage
from memsync.wire.requests import (
    KeyCreateRequest,
    KeyListRequest,
    KeyRevokeRequest,
    Problems,
    format_moment,
)

CREATED, REVOKED = "created", "revoked"
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PROJECT_ID = re.compile(r"proj_[0-9a-f]{16}")


class Place(msgspec.Struct, frozen=True):
    """Where a new key belongs. What does not exist yet is named by its slug, to be made with it."""

    organisation: int
    organisation_slug: str
    new_organisation: str | None
    project: str
    new_project: str | None


async def create(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /org/api-keys. A repeat within `KEY_RETOLD_S` is told the secret, too. What another
    caller asks under the same operation key is another request."""
    request = answers.decode(body, KeyCreateRequest)
    intent = writes.intent_of(call, _keys_scope(call), request, of_caller=True)

    async def execute() -> Answer | StoredOperation:
        requests.check([*requests.key_problems(request), *_slug_problems(request)])
        if call.context.key_is_callers:
            await freshness.be_fresh(parts, call)
            if (stored := await writes.met(parts, call, intent)) is not None:
                return stored
        return await _write_key(parts, call, intent, request)

    async def replay(outcome: list[ItemOutcome]) -> Answer:
        [identifier] = outcome[0].ids
        # From the store: the directory learns of a batch only after it is applied there.
        record = (await parts.store.records_by_id([identifier])).get(identifier)
        if record is None:
            raise errors.OutcomeUnknown("the key was made, and is not here yet; ask again")
        info = _info(parts.directory, record, call.now_ms)
        secret = _secret_of(parts, call, intent, record)
        return answers.answer(msgspec.structs.replace(info, id=identifier, key=secret), 201)

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


def _keys_scope(call: Call) -> Scope:
    return Scope(call.caller.organisation, "", "", "")


def _slug_problems(request: KeyCreateRequest) -> Problems:
    return [
        (field, "a slug is 1 to 63 lower-case letters, digits, - and _")
        for field, slug in (
            ("organisation", request.organisation),
            ("project_id", request.project_id),
        )
        if slug is not None and not _SLUG.fullmatch(slug)
    ]


def _place(directory: Directory, call: Call, request: KeyCreateRequest) -> Place:
    caller = call.caller
    own_slug = access.organisation_slug(directory, caller.organisation)
    slug = own_slug if request.organisation is None else request.organisation
    organisation, new_organisation = caller.organisation, None
    if slug != own_slug:
        if own_slug != access.FOUNDING_SLUG:
            raise errors.Forbidden(
                f"only a key of {access.FOUNDING_SLUG} names other organisations"
            )
        found = directory.organisation_by_slug(slug)
        organisation = ids.organisation_id(slug) if found is None else found.scope.organisation
        new_organisation = slug if found is None else None
    project, new_project = _project(directory, organisation, request.project_id)
    if caller.project and slug == own_slug and request.project_id is None:
        project = caller.project
    if caller.project and (slug != own_slug or project != caller.project):
        raise errors.Forbidden(f"key {caller.key_id} is pinned to project {caller.project}")
    return Place(organisation, slug, new_organisation, project, new_project)


def _project(directory: Directory, organisation: int, named: str | None) -> tuple[str, str | None]:
    """The id of the project that is named, and its slug where it has to be made."""
    if named is None:
        return "", None
    found = directory.project(organisation, named)
    if found is not None:
        return found.scope.project, None
    if _PROJECT_ID.fullmatch(named):
        raise errors.ProjectNotFound(f"the organisation has no project {named}")
    return ids.project_id(organisation, named), named


async def _write_key(
    parts: Parts, call: Call, intent: Intent, request: KeyCreateRequest
) -> Answer | StoredOperation:
    place = _place(parts.directory, call, request)
    [identifier] = await writes.take_ids(parts, call, [0], 1)
    scope = Scope(place.organisation, place.project, request.environment, "")
    for secret in _secrets(parts, call, intent, scope):
        if parts.directory.key_by_hash(ids.secret_hash(secret)) is None:
            break
        if (stored := await writes.met(parts, call, intent)) is not None:
            return stored
    stamp = parts.appender.stamp()
    origin = _origin(request, place, secret, stamp)
    key = key_record(origin.hash, scope)
    draft = Draft(
        outcome=[ItemOutcome(CREATED, [identifier])],
        operations=[*_owners(place, stamp), Create(key, scope, [identifier], origin)],
        stamp=stamp,
    )
    record = (await writes.publish(parts, call, intent, draft)).records[key]
    info = _info(parts.directory, record, call.now_ms)
    info = msgspec.structs.replace(
        info, id=identifier, organisation=place.organisation_slug, key=secret
    )
    return answers.answer(info, 201)


def _secrets(parts: Parts, call: Call, intent: Intent, scope: Scope) -> Iterator[str]:
    """What this creation may make, one after the other: each is taken only where those before are
    of creations that nobody remembers, by an operation key that a caller uses once more."""
    own = call.context.api_key
    if not parts.cell_secret or own is None:
        yield genesis.new_api_key(scope.environment)
        return
    known_by = (scope.organisation, scope.project, call.context.operation_key, intent.request_hash)
    for turn in itertools.count():
        yield genesis.derived_api_key(
            scope.environment, of=(parts.cell_secret, own), known_by=codec.pack((*known_by, turn))
        )


def _secret_of(parts: Parts, call: Call, intent: Intent, record: Record) -> str | None:
    """The secret of a key that this creation has just made; None where it is too long ago, or where
    the secret follows from something else: from another secret of the cell, or from chance."""
    if call.now_ms - _origin_of(record).created_at_ms > limits.KEY_RETOLD_S * 1000:
        return None
    for secret in _secrets(parts, call, intent, record.scope):
        digest = ids.secret_hash(secret)
        if digest == _origin_of(record).hash:
            return secret
        if parts.directory.key_by_hash(digest) is None:
            break
    return None


def _origin(request: KeyCreateRequest, place: Place, secret: str, stamp: Stamp) -> ApiKeyOrigin:
    expires_at = request.expires_at
    return ApiKeyOrigin(
        hash=ids.secret_hash(secret),
        prefix=secret[: genesis.KEY_PREFIX_CHARS],
        name=request.name,
        environment=request.environment,
        scopes=sorted(set(request.scopes)),
        project=place.project,
        tier=request.rate_limit_tier,
        created_at_ms=wall_ms_of(stamp),
        expires_at_ms=None if expires_at is None else requests.parse_moment(expires_at),
    )


def _owners(place: Place, stamp: Stamp) -> list[Operation]:
    """The organisation and the project that the key belongs to, where they have to be made."""
    made: list[Operation] = []
    at_ms = wall_ms_of(stamp)
    if (slug := place.new_organisation) is not None:
        scope = Scope(place.organisation, "", "", "")
        origin = OrganisationOrigin(slug, slug, at_ms)
        made.append(Create(organisation_record(slug, scope), scope, [], origin))
    if (slug := place.new_project) is not None:
        scope = Scope(place.organisation, place.project, "", "")
        key = ids.record_key_of_ref("project", scope, slug)
        made.append(Create(key, scope, [], ProjectOrigin(slug, slug, at_ms)))
    return made


async def list_keys(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /org/api-keys: the organisation's keys, newest first; a pinned key sees its project's."""
    request = answers.decode(body, KeyListRequest)
    reads.note_position(parts, call)
    limit = min(max(request.limit, 1), limits.LIST_LIMIT_MAX)
    offset = max(request.offset, 0)
    records = _keys_of(parts.directory, call, call.caller.organisation)
    records.sort(key=lambda record: (_origin_of(record).created_at_ms, record.ids), reverse=True)
    shown = records[offset : offset + limit]
    items = [_info(parts.directory, record, call.now_ms) for record in shown]
    page = ApiKeyPage(items=items, total=len(records), limit=limit, offset=offset)
    return answers.answer(page)


async def revoke(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /org/api-keys/{id}/revoke. Revoking a revoked key changes nothing and is a success."""
    request = answers.decode(body, KeyRevokeRequest)
    intent = writes.intent_of(call, _keys_scope(call), request)
    organisation = call.caller.organisation

    async def execute() -> Answer | StoredOperation:
        await freshness.be_fresh(parts, call)
        record = _key_record(parts.directory, call, organisation, request.key_id)
        outcome = [ItemOutcome(REVOKED, [request.key_id])]
        if value_of(record, "revoked", False):
            earlier = await writes.keep_outcome(parts, call, intent, outcome)
            return earlier or answers.answer(_info(parts.directory, record, call.now_ms))
        draft = Draft(
            outcome=outcome,
            operations=[
                Update(record.key, record.scope, record.kind, {"revoked": codec.pack(True)})
            ],
            stamp=parts.appender.stamp(above=stamps_of(record)),
        )
        written = await writes.publish(parts, call, intent, draft)
        return answers.answer(_info(parts.directory, written.records[record.key], call.now_ms))

    async def replay(_: list[ItemOutcome]) -> Answer:
        record = _key_record(parts.directory, call, organisation, request.key_id)
        return answers.answer(_info(parts.directory, record, call.now_ms))

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


def _keys_of(directory: Directory, call: Call, organisation: int) -> list[Record]:
    """The keys that the caller may see: a key that is pinned to a project sees that project's."""
    pin = call.caller.project
    return [
        record
        for record in directory.keys_of(organisation)
        if pin in ("", _origin_of(record).project)
    ]


def _key_record(directory: Directory, call: Call, organisation: int, key_id: int) -> Record:
    for record in _keys_of(directory, call, organisation):
        if key_id in record.ids:
            return record
    raise errors.NotFound(f"API key {key_id} does not exist")


def _origin_of(record: Record) -> ApiKeyOrigin:
    assert isinstance(record.origin, ApiKeyOrigin)
    return record.origin


def _info(directory: Directory, record: Record, now_ms: int) -> ApiKeyInfo:
    origin = _origin_of(record)
    expires_at_ms = value_of(record, "expires_at_ms")
    last_used_ms = record.maxima.get(LAST_USED)
    return ApiKeyInfo(
        id=min(record.ids),
        name=value_of(record, "name"),
        prefix=origin.prefix,
        environment=origin.environment,
        scopes=value_of(record, "scopes"),
        project_id=origin.project or None,
        rate_limit_tier=origin.tier,
        status=_status(record, now_ms),
        created_at=format_moment(origin.created_at_ms),
        expires_at=None if expires_at_ms is None else format_moment(expires_at_ms),
        last_used_at=None if last_used_ms is None else format_moment(last_used_ms),
        usage_count=sum(record.counters.get(USES, {}).values()),
        organisation=access.organisation_slug(directory, record.scope.organisation),
    )


def _status(record: Record, now_ms: int) -> str:
    if value_of(record, "revoked", False):
        return "revoked"
    expires_at_ms = value_of(record, "expires_at_ms")
    return "expired" if expires_at_ms is not None and expires_at_ms <= now_ms else "active"
