"""org.get and org.update: what an organisation sets for all its requests.

`ack` is how many members must have a write before it is answered, where the request does not say
(`Memsync-Ack`).
"""

from __future__ import annotations

from typing import get_args

from memsync import errors
from memsync.core.records import Record, stamps_of, value_of
from memsync.engine.directory import Directory
from memsync.ids import Scope
from memsync.ports import Answer
from memsync.service import answers, freshness, reads, writes
from memsync.service.parts import Call, Parts
from memsync.service.writes import Draft
from memsync.wire import codec
from memsync.wire.operations import ItemOutcome, OrganisationOrigin, Update
from memsync.wire.replies import OrganisationInfo
from memsync.wire.requests import Ack, OrganisationGetRequest, OrganisationUpdateRequest

ACK_DEFAULT: Ack = "quorum"
UPDATED = "updated"


def default_ack(directory: Directory, organisation: int) -> Ack:
    """What counts for a request of this organisation that names no `Memsync-Ack`."""
    record = directory.organisation(organisation)
    ack: Ack = ACK_DEFAULT if record is None else value_of(record, "ack", ACK_DEFAULT)
    return ack if ack in get_args(Ack) else ACK_DEFAULT


async def get(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /org: the key's organisation."""
    answers.decode(body, OrganisationGetRequest)
    reads.note_position(parts, call)
    return answers.answer(_info(_own(parts.directory, call)))


async def update(parts: Parts, call: Call, body: bytes) -> Answer:
    """PATCH /org. It counts for requests that come after it is applied at the peer they reach."""
    request = answers.decode(body, OrganisationUpdateRequest)
    scope = Scope(call.caller.organisation, "", "", "")
    intent = writes.intent_of(call, scope, request)
    if call.caller.project:
        raise errors.Forbidden(f"key {call.caller.key_id} is pinned to a project")

    async def execute() -> Answer:
        await freshness.be_fresh(parts, call)
        record = _own(parts.directory, call)
        change = Update(record.key, record.scope, record.kind, {"ack": codec.pack(request.ack)})
        draft = Draft(
            outcome=[ItemOutcome(UPDATED, [])],
            operations=[change],
            stamp=parts.appender.stamp(above=stamps_of(record)),
        )
        written = await writes.publish(parts, call, intent, draft)
        return answers.answer(_info(written.records[record.key]))

    async def replay(_: list[ItemOutcome]) -> Answer:
        return answers.answer(_info(_own(parts.directory, call)))

    return await writes.once(parts, call, intent, replay=replay, execute=execute)


def _own(directory: Directory, call: Call) -> Record:
    record = directory.organisation(call.caller.organisation)
    if record is None:
        raise errors.Unavailable("the organisation has not arrived here yet; nothing was written")
    return record


def _info(record: Record) -> OrganisationInfo:
    assert isinstance(record.origin, OrganisationOrigin)
    return OrganisationInfo(
        id=record.scope.organisation,
        slug=record.origin.slug,
        name=value_of(record, "name"),
        ack=value_of(record, "ack", ACK_DEFAULT),
    )
