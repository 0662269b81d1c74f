"""Which record an operation speaks of follows from its scope: Hypothesis looks for requests, at two
peers that do not know of each other, that make one record with two scopes. The join refuses that on
every peer for good, so no request may cause it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memsync import ids
from memsync.core.records import kind_of
from memsync.ids import RecordKey, Scope
from memsync.service.founding import genesis_writes
from memsync.wire.operations import (
    ApiKeyOrigin,
    Create,
    MembershipOrigin,
    MemoryOrigin,
    Operation,
    OrganisationOrigin,
    ProjectOrigin,
)
from tests.unit.service.world import World

ITEM = {"text": "one", "deduplicate": False}
ADDS: list[tuple[str, dict[str, Any]]] = [
    ("memory.add", ITEM),
    ("memory.add", {**ITEM, "client_ref": "r"}),
    ("memory.bulk_add", {"items": [ITEM, {**ITEM, "end_user_id": "bob"}]}),
]
KEYS: list[tuple[str, dict[str, Any]]] = [
    ("keys.create", {}),
    ("keys.create", {"environment": "production"}),
    ("keys.create", {"project_id": "site"}),
    ("keys.create", {"project_id": "site", "organisation": "acme"}),
]
CALLERS = ("founding", "pinned", "staging", "acme")
REQUEST = st.fixed_dictionaries(
    {
        "peer": st.sampled_from([0, 1]),
        "request": st.sampled_from([*ADDS, *KEYS, ("changes", {})]),
        "caller": st.sampled_from(CALLERS),
        "user": st.sampled_from(["ada", "bob"]),
        "repeat": st.sampled_from(["k", "l", None]),
    }
)


def made(number: int, caller: str, peer: int) -> dict[str, Any]:
    request = KEYS[number]
    return {"peer": peer, "request": request, "caller": caller, "user": "ada", "repeat": "k"}


@example(requests=[made(0, "founding", 0), made(0, "pinned", 1)])
@example(requests=[made(0, "founding", 0), made(1, "founding", 1)])
@settings(deadline=None, max_examples=60)
@given(requests=st.lists(REQUEST, min_size=2, max_size=8))
def test_a_record_has_one_scope(requests: list[dict[str, Any]]) -> None:
    asyncio.run(check(requests))


async def check(requests: list[dict[str, Any]]) -> None:
    world = World()
    await world.found()
    secrets = {
        "founding": world.key,
        "pinned": await world.new_key(project_id="site", scopes=["org:admin", "memory:*"]),
        "staging": await world.new_key(environment="staging", scopes=["org:admin", "memory:*"]),
        "acme": await world.new_key(organisation="acme", scopes=["org:admin", "memory:*"]),
    }
    twin = await world.twin()
    await twin.hear(world)
    for request in requests:
        await ask((world, twin)[request["peer"]], request, secrets[request["caller"]])
    for peer in (world, twin):
        await peer.service.publish_key_uses()
    await world.hear(twin)  # joins: raises where a record has two scopes
    await twin.hear(world)
    writes = [genesis_writes(world.genesis), *world.appender.writes, *twin.appender.writes]
    hold([operation for write in writes for operation in write.operations])


async def ask(peer: World, request: dict[str, Any], secret: str) -> None:
    """One request; "changes" stands for an update, a forget and a revoke of what is there."""
    caller = {"user": request["user"], "key": secret}
    repeat = {} if request["repeat"] is None else {"Idempotency_Key": request["repeat"]}
    operation, body = request["request"]
    if operation != "changes":
        reply = await peer.call(operation, body, **caller, **repeat)
        assert reply.status < 500, reply
        return
    memories = (await peer.call("memory.list", **caller)).json["items"]
    for memory in memories[:1]:
        await peer.call("memory.update", {"memory_id": memory["id"], "tags": ["t"]}, **caller)
        await peer.call("memory.forget", {"memory_ids": [memory["id"]]}, **caller, **repeat)
    named = [k for k in (await peer.call("keys.list", **caller)).json["items"] if not k["name"]]
    for key in named[:1]:
        if key["usage_count"] == 0 and key["scopes"] == ["memory:*"]:  # none of the callers' own
            await peer.call("keys.revoke", {"key_id": key["id"]}, **caller)


def hold(operations: Sequence[Operation]) -> None:
    """Every creation's record is named by its own scope; all else speaks of a record as created."""
    created: dict[RecordKey, tuple[str, Scope]] = {}
    for operation in operations:
        if isinstance(operation, Create):
            assert operation.record == name_of(operation), operation.origin
            created[operation.record] = kind_of(operation), operation.scope
    for operation in operations:
        assert created[operation.record] == (kind_of(operation), operation.scope)


def name_of(create: Create) -> RecordKey:
    """The record key that follows from a creation's scope and from what it creates."""
    match create.origin:
        case MemoryOrigin(client_ref=None) as origin:
            return ids.record_key_of_operation(
                "memory", create.scope, origin.operation_key, origin.request_hash, origin.place
            )
        case MemoryOrigin(client_ref=str(client_ref)):
            return ids.record_key_of_ref("memory", create.scope, client_ref)
        case ApiKeyOrigin(hash=digest):
            return ids.record_key_of_ref("api_key", create.scope, digest.hex())
        case OrganisationOrigin(slug=slug):
            return ids.record_key_of_ref("organisation", create.scope, slug)
        case ProjectOrigin(slug=slug):
            return ids.record_key_of_ref("project", create.scope, slug)
        case MembershipOrigin():
            return ids.record_key_of_ref("membership", create.scope, "members")
        case origin:
            raise AssertionError(msgspec.structs.asdict(origin))
