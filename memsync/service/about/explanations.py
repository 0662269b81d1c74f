"""memory.explanation: why a recall answered what it did, from the peer that answered it."""

from __future__ import annotations

import re

from memsync.errors import NotFound, OutcomeUnknown, Unavailable
from memsync.ports import Answer
from memsync.service import access, answers, freshness
from memsync.service.parts import Call, Parts
from memsync.wire.relations import ExplanationRequest

_ID = re.compile(r"q_[0-9a-f]{24}\.([a-z][a-z0-9-]{0,30})")
_NOWHERE = "no explanation with this query_id: it was not recorded, is older than 7 days, or is "
_NOWHERE += "of another end user"


async def explanation(parts: Parts, call: Call, body: bytes) -> Answer:
    """GET /memory/explanations/{query_id}. Raises `NotFound`, and `Unavailable` while the peer that
    has it does not answer."""
    request = answers.decode(body, ExplanationRequest)
    scope = access.scope_of(parts.directory, call, request.end_user_id)
    known = _ID.fullmatch(request.query_id)
    if known is None:
        raise NotFound(_NOWHERE)
    member = known[1]
    if member == parts.members.name:
        found = await parts.recall.explanation(scope, request.query_id)
        if found is None:
            raise NotFound(_NOWHERE)
        return Answer(200, {}, found)
    if call.context.is_passed:
        raise NotFound(_NOWHERE)
    if member not in parts.standing.current.members:
        raise NotFound(f"{member}, which answered this query, is no member any more")
    try:
        return await freshness.ask(parts, call, body, member, until_s=call.deadline_s)
    except (Unavailable, OutcomeUnknown) as error:
        raise Unavailable(
            f"{member}, which answered this query, does not answer now", retry_after_s=1.0
        ) from error
