"""cluster.members, cluster.join and cluster.remove: who belongs to the cell.

Only keys of the founding organisation, whose people run the cell. A change is a conditional update
of the one record of the membership (`engine/writing/conditional.py`); how many must have it is
always a quorum, as `all` would mean that no dead member could ever be removed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from memsync import errors
from memsync.core import membership
from memsync.core.membership import Membership
from memsync.core.records import stamps_of
from memsync.engine.writing.appender import Condition
from memsync.ports import Answer, StoredOperation
from memsync.service import access, answers, freshness, reads, writes
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft
from memsync.wire.operations import ItemOutcome
from memsync.wire.requests import ClusterRequest, MemberRequest

Change = Callable[[str, float], Awaitable[Membership]]
JOINED, REMOVED = "joined", "removed"


async def members(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /admin/cluster: as this peer knows it."""
    answers.decode(body, ClusterRequest)
    _check_founding(parts, call)
    reads.note_position(parts, call)
    return _shown(parts)


async def join(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /admin/cluster/join."""
    return await _change(parts, call, body, parts.standing.joined, JOINED)


async def remove(parts: Parts, call: Call, body: bytes) -> Answer:
    """POST /admin/cluster/remove."""
    return await _change(parts, call, body, parts.standing.without, REMOVED)


async def _change(parts: Parts, call: Call, body: bytes, plan: Change, status: str) -> Answer:
    request = answers.decode(body, MemberRequest)
    _check_founding(parts, call)
    call = msgspec.structs.replace(call, ack="quorum")
    intent = writes.intent_of(call, membership.SCOPE, request)

    async def execute() -> Answer | StoredOperation:
        await freshness.be_fresh(parts, call)  # a peer that lags would say that it is so already
        version = parts.standing.current.version
        if request.if_version not in (None, version):
            raise errors.VersionConflict(
                "if_version: the membership has another version by now",
                details={"current_version": version},
            )
        changed = await plan(request.name, call.deadline_s)
        record = await parts.store.record(membership.RECORD)
        if (stored := await writes.met(parts, call, intent)) is not None:
            return stored
        draft = Draft(
            outcome=[ItemOutcome(status, [])],
            operations=[membership.update_to(changed)],
            stamp=parts.appender.stamp(above=[] if record is None else stamps_of(record)),
            condition=Condition(membership.RECORD, changed.version),
        )
        await writes.publish(parts, call, intent, draft)
        return _shown(parts)

    async def replay(_: list[ItemOutcome]) -> Answer:
        return _shown(parts)

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


def _shown(parts: Parts) -> Answer:
    return answers.answer(parts.cluster())


def _check_founding(parts: Parts, call: Call) -> None:
    slug = access.organisation_slug(parts.directory, call.caller.organisation)
    if slug != access.FOUNDING_SLUG or call.caller.project:
        raise errors.Forbidden(
            f"key {call.caller.key_id}: only keys of {access.FOUNDING_SLUG} that are pinned to no "
            "project see and change the members of the cell"
        )
