"""Who may call what: keys, their state, limits and scopes; and whose data a call reaches."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from memsync import limits
from memsync.core.admission import TIERS
from memsync.engine.cell.leases import Freshness
from memsync.service.service import OPERATIONS
from tests.unit.service.world import START_MS, World

BODIES: dict[str, dict[str, Any]] = {
    "memory.add": {"text": "a text"},
    "memory.bulk_add": {"items": [{"text": "a text"}]},
    "memory.query": {"query": "text"},
    "memory.get": {"memory_id": 1},
    "memory.update": {"memory_id": 1, "source": "s"},
    "memory.forget": {"memory_ids": [1]},
    "memory.list": {},
    "memory.relate": {"memory_id": 1, "to_memory_id": 2, "relationship_type": "similar"},
    "memory.feedback": {"memory_id": 1, "signal": "positive"},
    "memory.graph": {},
    "memory.explanation": {"query_id": "q_1"},
    "keys.create": {},
    "keys.list": {},
    "keys.revoke": {"key_id": 123},
    "org.get": {},
    "org.update": {"ack": "all"},
    "cluster.members": {},
    "cluster.join": {"name": "peer-4"},
    "cluster.remove": {"name": "peer-1"},
}
MEMORY_OPERATIONS = [name for name in BODIES if name.startswith("memory.")]


def test_every_operation_is_tested_here() -> None:
    assert set(BODIES) == set(OPERATIONS)


# Is there such an operation


@pytest.mark.parametrize(
    "operation", ["state.put", "history.append", "memory.export", "keys.rotate", "webhooks.list"]
)
async def test_what_is_not_built_is_501(world: World, operation: str) -> None:
    reply = await world.call(operation)
    assert (reply.status, reply.code) == (501, "NOT_IMPLEMENTED")


@pytest.mark.parametrize("operation", ["memory.frobnicate", "nothing", "", "x" * 1000])
async def test_anything_else_is_404(world: World, operation: str) -> None:
    reply = await world.call(operation)
    assert (reply.status, reply.code) == (404, "NOT_FOUND")
    assert len(reply.message) < 200


# Keys


@pytest.mark.parametrize("operation", BODIES)
async def test_no_operation_without_a_key(world: World, operation: str) -> None:
    reply = await world.call(operation, BODIES[operation], key="")
    assert (reply.status, reply.code) == (401, "MISSING_API_KEY")


@pytest.mark.parametrize("operation", BODIES)
async def test_no_operation_with_a_key_that_is_not_known(world: World, operation: str) -> None:
    reply = await world.call(operation, BODIES[operation], key="ms_dev_" + "0" * 48)
    assert (reply.status, reply.code) == (401, "INVALID_API_KEY")


async def test_a_bearer_token_is_a_key(world: World) -> None:
    reply = await world.call("memory.list", key="", Authorization=f"Bearer {world.key}")
    assert reply.status == 200


async def test_a_key_is_good_until_it_expires(world: World) -> None:
    secret = await world.new_key(expires_at="2026-05-28T20:27:40Z")
    assert (await world.call("memory.list", key=secret)).status == 200
    world.clock.advance(59.999)
    assert (await world.call("memory.list", key=secret)).status == 200
    world.clock.advance(0.001)
    reply = await world.call("memory.list", key=secret)
    assert (reply.status, reply.code) == (401, "INVALID_API_KEY")


@pytest.mark.parametrize(
    ("operation", "body"),
    [("memory.list", {}), ("memory.query", {"query": "tea"}), ("memory.get", {"memory_id": 1}),
     ("memory.update", {"memory_id": 1, "tags": ["x"]})],
)  # fmt: skip
async def test_a_key_whose_end_is_heard_of_while_catching_up_is_refused(
    world: World, operation: str, body: dict[str, Any]
) -> None:
    """Somebody revoked it at another peer, and was answered, before this call came."""
    created = (await world.call("keys.create", {"environment": "development"})).json
    revoked = False

    async def catch_up(deadline_s: float) -> Freshness:
        nonlocal revoked
        if not revoked:
            revoked = True
            assert (await world.call("keys.revoke", {"key_id": created["id"]})).status == 200
        return "fresh"

    world.leases.wait_fresh = catch_up  # type: ignore[method-assign]
    answer = await world.call(operation, body, key=created["key"])
    assert (answer.status, answer.code) == (403, "API_KEY_REVOKED")


async def test_a_key_that_is_heard_of_while_catching_up_is_good(world: World) -> None:
    """Somebody made it at another peer, and was answered, before this call came."""
    other = await world.twin()
    made = (await other.call("keys.create")).json

    async def catch_up(deadline_s: float) -> Freshness:
        await world.hear(other)
        return "fresh"

    world.leases.wait_fresh = catch_up  # type: ignore[method-assign]
    assert (await world.call("memory.list", key=made["key"])).status == 200


@pytest.mark.parametrize("operation", BODIES)
async def test_a_peer_that_may_lack_a_key_says_so(world: World, operation: str) -> None:
    """A read is tagged, so that a gateway asks another peer; a write is refused for certain."""
    world.leases.state = "behind"
    reply = await world.call(operation, BODIES[operation], key="ms_dev_" + "0" * 48)
    if OPERATIONS[operation].is_write:
        assert (reply.status, reply.json["error"]["definite"]) == (503, True)
    else:
        assert (reply.status, reply.code) == (401, "INVALID_API_KEY")
        assert reply.headers["Memsync-Degraded"] == "replication"


async def test_a_local_read_does_not_wait_to_hear_of_a_key(world: World) -> None:
    world.leases.state = "behind"
    local = {"Memsync_Consistency": "local"}
    reply = await world.call("memory.list", key="ms_dev_" + "0" * 48, **local)
    assert (reply.status, "Memsync-Degraded" in reply.headers) == (401, False)


@pytest.mark.parametrize("operation", BODIES)
async def test_no_operation_with_a_revoked_key(world: World, operation: str) -> None:
    created = (await world.call("keys.create", {"scopes": ["memory:*", "org:admin"]})).json
    assert (await world.call("keys.revoke", {"key_id": created["id"]})).status == 200
    reply = await world.call(operation, BODIES[operation], key=created["key"])
    assert (reply.status, reply.code) == (403, "API_KEY_REVOKED")


SCOPES = ("memory:read", "memory:add", "memory:delete", "memory:*", "org:admin")


@pytest.mark.parametrize(("operation", "scope"), list(itertools.product(BODIES, SCOPES)))
async def test_an_operation_needs_its_scope(world: World, operation: str, scope: str) -> None:
    secret = await world.new_key(scopes=[scope])
    reply = await world.call(operation, BODIES[operation], key=secret)
    needed = OPERATIONS[operation].needed
    if needed == scope or (scope == "memory:*" and needed.startswith("memory:")):
        assert reply.status in (200, 201, 404, 409), reply
    else:
        assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")


# Limits


@pytest.mark.parametrize("tier", ["free", "pro", "enterprise", "unlimited"])
async def test_a_key_gets_its_tier_and_is_told(world: World, tier: str) -> None:
    secret = await world.new_key(rate_limit_tier=tier)
    allowed = TIERS[tier].per_second
    for sent in range(allowed):
        reply = await world.call("memory.list", key=secret)
        assert reply.status == 200
        assert reply.headers["X-RateLimit-Limit"] == str(allowed)
        assert reply.headers["X-RateLimit-Remaining"] == str(allowed - sent - 1)
    refused = await world.call("memory.list", key=secret)
    assert (refused.status, refused.code) == (429, "RATE_LIMIT_EXCEEDED")
    assert refused.json["error"]["retry_after"] == pytest.approx(1.01, abs=0.01)
    assert refused.headers["Retry-After"] == "2"
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert int(refused.headers["X-RateLimit-Reset"]) == START_MS // 1000 + 2
    assert (await world.call("memory.list")).status == 200  # another key
    world.clock.advance(refused.json["error"]["retry_after"])
    assert (await world.call("memory.list", key=secret)).status == 200


async def test_the_limit_comes_before_the_scope_and_after_the_key(world: World) -> None:
    secret = await world.new_key(rate_limit_tier="free", scopes=["memory:read"])
    for _ in range(2):
        assert (await world.call("keys.list", key=secret)).status == 403
    assert (await world.call("keys.list", key=secret)).status == 429
    reply = await world.call("memory.list", key="unknown")
    assert "X-RateLimit-Limit" not in reply.headers


async def test_errors_carry_the_limits_too(world: World) -> None:
    reply = await world.call("memory.get", {"memory_id": 1})
    assert reply.status == 404
    assert reply.headers["X-RateLimit-Limit"] == "1000"


# End users


@pytest.mark.parametrize("operation", MEMORY_OPERATIONS)
async def test_an_end_user_must_be_named(world: World, operation: str) -> None:
    reply = await world.call(operation, BODIES[operation], user=None)
    assert (reply.status, reply.code) == (400, "MISSING_END_USER_ID")


@pytest.mark.parametrize("operation", MEMORY_OPERATIONS)
@pytest.mark.parametrize("user", ["x" * 257, "a\nb", "a\x00", "\u200b"])
async def test_an_end_user_is_1_to_256_printable_characters(
    world: World, operation: str, user: str
) -> None:
    reply = await world.call(operation, BODIES[operation], user=user)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith("end_user_id: ")
    in_body = await world.call(operation, {**BODIES[operation], "end_user_id": user}, user=None)
    assert (in_body.status, in_body.code) == (422, "VALIDATION_ERROR")


@pytest.mark.parametrize("user", ["x", "x" * 256, "a/b", "日本 語", "🙂", "a@b?c=d&e#f%2F"])
async def test_any_other_name_is_a_user(world: World, user: str) -> None:
    assert (await world.add("hello", user=user)).status == 201
    assert (await world.add("hello2", user=None, end_user_id=user)).status == 201
    assert await world.texts(user=user) == ["hello2", "hello"]


# Projects


async def test_projects_are_named_by_id_or_slug(world: World) -> None:
    created = (await world.call("keys.create", {"project_id": "site"})).json
    assert created["project_id"].startswith("proj_")
    assert len(created["project_id"]) == 21
    await world.add("in the project", X_Project_ID="site")
    by_id = await world.call("memory.list", X_Project_ID=created["project_id"])
    assert [item["text"] for item in by_id.json["items"]] == ["in the project"]
    assert await world.texts() == []
    assert await world.texts(key=created["key"]) == ["in the project"]


@pytest.mark.parametrize("operation", MEMORY_OPERATIONS)
async def test_a_project_that_does_not_exist_is_404(world: World, operation: str) -> None:
    for name in ("nowhere", "proj_0123456789abcdef", "x" * 500):
        reply = await world.call(operation, BODIES[operation], X_Project_ID=name)
        assert (reply.status, reply.code) == (404, "PROJECT_NOT_FOUND")


@pytest.mark.parametrize("operation", MEMORY_OPERATIONS)
async def test_a_pinned_key_names_no_other_project(world: World, operation: str) -> None:
    await world.new_key(project_id="other")
    pinned = await world.new_key(project_id="site")
    own = await world.call(operation, BODIES[operation], key=pinned, X_Project_ID="site")
    assert own.status in (200, 201, 404, 409)
    reply = await world.call(operation, BODIES[operation], key=pinned, X_Project_ID="other")
    assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")


async def test_projects_of_another_organisation_do_not_exist(world: World) -> None:
    await world.new_key(organisation="acme", project_id="site")
    reply = await world.call("memory.list", X_Project_ID="site")
    assert reply.code == "PROJECT_NOT_FOUND"


# The four parts of a scope: what is stored under one is not there under any other


async def four_callers(world: World) -> list[dict[str, Any]]:
    """The owner, and callers that differ from it in one part of the scope each."""
    own = await world.new_key(project_id="site")
    return [
        {"key": own, "user": "ada"},
        {"key": own, "user": "bob"},
        {"key": await world.new_key(project_id="shop"), "user": "ada"},
        {"key": await world.new_key(), "user": "ada"},
        {"key": await world.new_key(project_id="site", environment="production"), "user": "ada"},
        {"key": await world.new_key(project_id="site", organisation="acme"), "user": "ada"},
    ]


async def test_reads_stay_inside_the_scope(world: World) -> None:
    owner, *others = await four_callers(world)
    mine = (await world.add("secret of the owner", **owner)).json["id"]
    for other in others:
        got = await world.call("memory.get", {"memory_id": mine}, **other)
        assert (got.status, got.code) == (404, "NOT_FOUND")
        listed = await world.call("memory.list", **other)
        assert (listed.json["items"], listed.json["total"]) == ([], 0)
        found = await world.call("memory.query", {"query": "secret"}, **other)
        assert found.json["memories"] == []
    assert (await world.call("memory.get", {"memory_id": mine}, **owner)).status == 200
    found = await world.call("memory.query", {"query": "secret"}, **owner)
    assert [memory["id"] for memory in found.json["memories"]] == [mine]


async def test_writes_stay_inside_the_scope(world: World) -> None:
    owner, *others = await four_callers(world)
    mine = (await world.add("secret", client_ref="r", **owner)).json["id"]
    before = len(world.appender.writes)
    for other in others:
        updated = await world.call("memory.update", {"memory_id": mine, "source": "x"}, **other)
        assert (updated.status, updated.code) == (404, "NOT_FOUND")
        forgotten = await world.call("memory.forget", {"memory_ids": [mine]}, **other)
        assert forgotten.json == []
        by_filter = await world.call(
            "memory.forget", {"filters": {"before": "2030-01-01"}}, **other
        )
        assert by_filter.json == []
    assert len(world.appender.writes) == before
    for other in others:  # neither a reference nor a text of another scope is met
        assert (await world.add("secret", client_ref="r", **other)).status == 201
        bulk = await world.call(
            "memory.bulk_add", {"items": [{"text": "secret 2", "client_ref": "r2"}]}, **other
        )
        assert bulk.json["created"] == 1
    assert await world.texts(**owner) == ["secret"]


async def test_idempotency_keys_stay_inside_the_scope(world: World) -> None:
    owner, *others = await four_callers(world)
    first = await world.add("one", Idempotency_Key="k", **owner)
    for other in others:
        reply = await world.add("two", Idempotency_Key="k", **other)
        assert reply.status == 201
        assert reply.json["id"] != first.json["id"]
        assert "Idempotency-Replayed" not in reply.headers


async def test_keys_of_another_organisation_are_not_seen(world: World) -> None:
    admin = await world.new_key(organisation="acme", scopes=["org:admin"])
    founding = world.genesis.key.id
    listed = await world.call("keys.list", key=admin)
    assert [item["organisation"] for item in listed.json["items"]] == ["acme"]
    revoked = await world.call("keys.revoke", {"key_id": founding}, key=admin)
    assert (revoked.status, revoked.code) == (404, "NOT_FOUND")
    named = await world.call("keys.create", {"organisation": "default"}, key=admin)
    assert (named.status, named.code) == (403, "INSUFFICIENT_SCOPE")


# Tenants of the /v1 routes


async def test_a_tenant_is_the_organisation_by_id_slug_or_default(world: World) -> None:
    secret = await world.new_key(organisation="acme")
    await world.add("hello", key=secret, user="a/b")
    record = world.directory.organisation_by_slug("acme")
    assert record is not None
    for tenant in ("acme", "default", str(record.scope.organisation)):
        body = {"tenant_id": tenant, "user_id": "a/b"}
        reply = await world.call("memory.list", body, key=secret, user=None)
        assert [item["text"] for item in reply.json["items"]] == ["hello"]
    for tenant in ("other", "", "1"):
        body = {"tenant_id": tenant, "user_id": "a/b"}
        reply = await world.call("memory.list", body, key=secret, user=None)
        assert (reply.status, reply.code) == (403, "TENANT_MISMATCH")


# Headers, bodies


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Memsync_Ack", "some"),
        ("Memsync_Consistency", "eventual"),
        ("Memsync_Deadline_Ms", "soon"),
        ("Memsync_Deadline_Ms", "0"),
        ("Memsync_Min_Position", "here"),
        ("Memsync_Min_Position", "9.0.1"),
        ("Idempotency_Key", ""),
        ("Idempotency_Key", "x" * 129),
        ("Idempotency_Key", "a\tb"),
        ("Idempotency_Key", "~ours"),
    ],
)
async def test_a_wrong_header_is_named(world: World, header: str, value: str) -> None:
    reply = await world.call("memory.add", {"text": "x"}, **{header: value})
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith(header.replace("_", "-") + ": ")


@pytest.mark.parametrize("key", ["not-ours", "~" + "x" * 128, "~a\nb"])
async def test_an_operation_key_that_no_gateway_makes_is_refused(world: World, key: str) -> None:
    reply = await world.call("memory.add", {"text": "x"}, Memsync_Operation_Key=key)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("operation", BODIES)
async def test_a_body_is_at_most_a_megabyte(world: World, operation: str) -> None:
    def body(size: int) -> bytes:
        return b'{"x":"' + b"a" * (size - 8) + b'"}'

    at_most = await world.call(operation, body(limits.BODY_BYTES_MAX))
    assert at_most.code == "VALIDATION_ERROR"
    over = await world.call(operation, body(limits.BODY_BYTES_MAX + 1))
    assert (over.status, over.code) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("operation", BODIES)
@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"a":\x00}'])
async def test_a_body_that_is_not_json_is_400(world: World, operation: str, body: bytes) -> None:
    reply = await world.call(operation, body)
    assert (reply.status, reply.code) == (400, "INVALID_JSON")


@pytest.mark.parametrize("operation", BODIES)
@pytest.mark.parametrize("body", [b"[]", b"7", b'{"colour": 1}', b"null"])
async def test_a_body_of_another_shape_is_422(world: World, operation: str, body: bytes) -> None:
    reply = await world.call(operation, body)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.json["error"]["details"]


async def test_values_that_no_log_can_carry_are_422(world: World) -> None:
    huge = await world.call("memory.add", b'{"text":"x","metadata":{"a":1' + b"0" * 40 + b"}}")
    assert (huge.status, huge.code) == (422, "VALIDATION_ERROR")
    deep = b'{"text":"x","metadata":{"a":' + b"[" * 40 + b"]" * 40 + b"}}"
    assert (await world.call("memory.add", deep)).message.startswith("metadata: nested")
    deeper = b'{"text":"x","user_id":' + b"[" * 800 + b"]" * 800 + b"}"
    assert (await world.call("memory.add", deeper)).status in (201, 422)
    edge = await world.call("memory.add", b'{"text":"y","occurred_at":"0001-01-01T00:00:00+12:00"}')
    assert (edge.status, edge.code) == (422, "VALIDATION_ERROR")
    assert (await world.call("memory.list")).status == 200


async def test_every_answer_names_the_request_and_its_trace(world: World) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01"
    reply = await world.call("memory.list", X_Request_ID="mine", traceparent=parent)
    assert (reply.headers["X-Request-ID"], reply.headers["X-Trace-ID"]) == ("mine", trace)
    failed = await world.call("nothing", X_Request_ID="mine2")
    assert failed.json["request_id"] == failed.headers["X-Request-ID"] == "mine2"
    assert len(failed.headers["X-Trace-ID"]) == 32
    own = await world.call("memory.list", X_Request_ID="not fit\n")
    assert own.headers["X-Request-ID"].startswith("req_")


async def test_an_empty_body_is_an_empty_object(world: World) -> None:
    assert (await world.call("memory.list", b"")).status == 200
    missing = await world.call("memory.query", b"")
    assert (missing.status, missing.message) == (422, "query: required")
    infinite = await world.call("memory.add", b'{"text":"x","importance":1e400}')
    assert (infinite.status, infinite.code) == (422, "VALIDATION_ERROR")
