"""keys.create, keys.list, keys.revoke; the founding; how the use of keys is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memsync import ids, limits
from memsync.core.records import join_operation
from memsync.engine.directory import Directory
from memsync.errors import NoQuorum
from memsync.ids import Position
from memsync.ports import Change, LoggedFrame
from memsync.service.founding import genesis_writes
from memsync.wire import codec, genesis
from memsync.wire.operations import SCHEMA, Count, Frame, Purge, Stamp
from tests.fakes.store import MemoryStore
from tests.unit.service.world import START_MS, World


async def test_a_key_is_shown_once_and_only_its_hash_is_stored(world: World) -> None:
    reply = await world.call(
        "keys.create",
        {
            "name": "app",
            "environment": "production",
            "scopes": ["memory:read", "memory:add"],
            "rate_limit_tier": "free",
            "expires_at": "2027-01-01T00:00:00Z",
        },
    )
    assert reply.status == 201
    secret = reply.json["key"]
    assert secret.startswith("ms_live_")
    assert len(secret) >= len("ms_live_") + 160 // 4
    assert reply.json == {
        "id": reply.json["id"],
        "name": "app",
        "prefix": secret[:12],
        "environment": "production",
        "scopes": ["memory:add", "memory:read"],
        "project_id": None,
        "rate_limit_tier": "free",
        "status": "active",
        "created_at": "2026-05-28T20:26:40.000+00:00",
        "expires_at": "2027-01-01T00:00:00.000+00:00",
        "last_used_at": None,
        "usage_count": 0,
        "organisation": "default",
        "key": secret,
    }
    written = codec.pack(world.appender.writes)
    assert secret.encode() not in written
    assert ids.secret_hash(secret) in written
    listed = await world.call("keys.list")
    assert [item["key"] for item in listed.json["items"]] == [None, None]


@pytest.mark.parametrize(
    ("environment", "prefix"),
    [("production", "ms_live_"), ("staging", "ms_test_"), ("development", "ms_dev_")],
)
async def test_a_key_tells_its_environment(world: World, environment: str, prefix: str) -> None:
    assert (await world.new_key(environment=environment)).startswith(prefix)


async def test_environments_do_not_share_data(world: World) -> None:
    live, test = [await world.new_key(environment=e) for e in ("production", "staging")]
    await world.add("live data", key=live)
    assert await world.texts(key=live) == ["live data"]
    assert await world.texts(key=test) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"environment": "moon"}, "environment"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["memory:everything"]}, "scopes"),
        ({"rate_limit_tier": "gold"}, "rate_limit_tier"),
        ({"expires_at": "never"}, "expires_at"),
        ({"name": "x" * 257}, "name"),
        ({"project_id": ""}, "project_id"),
        ({"project_id": "x" * 65}, "project_id"),
        ({"project_id": "Not A Slug"}, "project_id"),
        ({"organisation": "Not A Slug"}, "organisation"),
        ({"organisation": ""}, "organisation"),
    ],
)
async def test_a_wrong_key_is_named(world: World, body: dict[str, Any], field: str) -> None:
    reply = await world.call("keys.create", body)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith(field + ": ")
    assert world.appender.writes == []


async def test_organisations_and_projects_are_made_once(world: World) -> None:
    body = {"organisation": "acme", "project_id": "site", "scopes": ["org:admin", "memory:*"]}
    first = await world.call("keys.create", body)
    again = await world.call("keys.create", body)
    assert (first.json["organisation"], first.json["project_id"]) == (
        "acme", again.json["project_id"]
    )  # fmt: skip
    assert [len(write.operations) for write in world.appender.writes] == [3, 1]
    by_id = await world.call("keys.create", {**body, "project_id": first.json["project_id"]})
    assert by_id.json["project_id"] == first.json["project_id"]
    unknown = await world.call("keys.create", {**body, "project_id": "proj_" + "0" * 16})
    assert (unknown.status, unknown.code) == (404, "PROJECT_NOT_FOUND")


async def test_equal_slugs_of_two_organisations_are_two_projects(world: World) -> None:
    one = await world.call("keys.create", {"project_id": "site"})
    other = await world.call("keys.create", {"project_id": "site", "organisation": "acme"})
    assert one.json["project_id"] != other.json["project_id"]


async def test_a_pinned_administrator_stays_in_its_project(world: World) -> None:
    admin = await world.new_key(project_id="site", scopes=["org:admin"])
    await world.new_key(project_id="shop")
    own = await world.call("keys.create", {}, key=admin)
    assert own.json["project_id"] is not None
    for body in ({"project_id": "shop"}, {"organisation": "acme"}):
        reply = await world.call("keys.create", body, key=admin)
        assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
    listed = await world.call("keys.list", key=admin)
    assert {item["project_id"] for item in listed.json["items"]} == {own.json["project_id"]}
    founding = await world.call("keys.revoke", {"key_id": world.genesis.key.id}, key=admin)
    assert founding.status == 404


async def test_the_list_is_newest_first_and_paged(world: World) -> None:
    for number in range(5):
        world.clock.advance(1)
        await world.call("keys.create", {"name": f"key {number}"})
    page = await world.call("keys.list", {"limit": 2, "offset": 1})
    assert [item["name"] for item in page.json["items"]] == ["key 3", "key 2"]
    assert (page.json["total"], page.json["limit"], page.json["offset"]) == (6, 2, 1)
    clamped = await world.call("keys.list", {"limit": 0, "offset": -1})
    assert (clamped.json["limit"], clamped.json["offset"]) == (1, 0)


async def test_revoking_is_for_good_and_twice_is_once(world: World) -> None:
    created = (await world.call("keys.create", {"name": "old"})).json
    first = await world.call("keys.revoke", {"key_id": created["id"]})
    assert (first.status, first.json["status"]) == (200, "revoked")
    writes = len(world.appender.writes)
    again = await world.call("keys.revoke", {"key_id": created["id"]})
    assert (again.status, again.json) == (200, first.json)
    assert len(world.appender.writes) == writes
    listed = await world.call("keys.list")
    assert [item["status"] for item in listed.json["items"]] == ["revoked", "active"]


async def test_a_key_that_does_not_exist_cannot_be_revoked(world: World) -> None:
    reply = await world.call("keys.revoke", {"key_id": 4711})
    assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_expired_keys_are_listed_as_such(world: World) -> None:
    await world.call("keys.create", {"name": "old", "expires_at": "2020-01-01"})
    listed = await world.call("keys.list")
    assert [item["status"] for item in listed.json["items"]] == ["expired", "active"]


@pytest.mark.parametrize(
    "attempts",
    [
        ({"Memsync_Operation_Key": "~k", "Memsync_Ids": "700-700"},) * 2,
        ({"Memsync_Operation_Key": "~k"},) * 2,
        (  # through two gateways
            {"Idempotency_Key": "k", "Memsync_Ids": "700-700"},
            {"Idempotency_Key": "k", "Memsync_Ids": "701-701"},
        ),
    ],
    ids=["ids fixed", "no ids", "a caller's key"],
)
async def test_attempts_that_do_not_know_of_each_other_make_one_key(
    world: World, attempts: tuple[dict[str, str], dict[str, str]]
) -> None:
    """And every id that was answered is an id of it."""
    twin, body = await world.twin(), {"name": "app"}
    first = await world.call("keys.create", body, **attempts[0])
    second = await twin.call("keys.create", body, **attempts[1])
    assert first.json["key"] == second.json["key"]
    fixed = [int(attempt["Memsync_Ids"][:3]) for attempt in attempts if "Memsync_Ids" in attempt]
    assert fixed in ([], [first.json["id"], second.json["id"]])
    await world.hear(twin)
    await twin.hear(world)
    for peer in (world, twin):
        assert (await peer.call("memory.list", key=first.json["key"])).status == 200
        listed = (await peer.call("keys.list")).json["items"]
        assert [item["name"] for item in listed].count("app") == 1
        for attempt in attempts:
            again = await peer.call("keys.create", body, **attempt)
            assert again.json["key"] == first.json["key"]
            assert again.json["id"] in (first.json["id"], second.json["id"])
    revoked = await world.call("keys.revoke", {"key_id": second.json["id"]})
    assert revoked.json["status"] == "revoked"
    assert revoked.json["id"] in (first.json["id"], second.json["id"])
    assert (await world.call("memory.list", key=first.json["key"])).code == "API_KEY_REVOKED"


async def test_without_a_secret_of_the_cell_a_key_follows_from_nothing(world: World) -> None:
    world.cell_secret = ""
    world.service = world.new_service()
    twin, body = await world.twin(), {"name": "app"}
    twin.cell_secret = ""
    twin.service = twin.new_service()
    first = await world.call("keys.create", body, Idempotency_Key="k")
    second = await twin.call("keys.create", body, Idempotency_Key="k")
    assert first.json["key"] != second.json["key"]
    again = await world.call("keys.create", body, Idempotency_Key="k")
    assert (again.json["id"], again.json["key"]) == (first.json["id"], None)


async def test_a_secret_is_told_again_only_to_who_made_the_key(world: World) -> None:
    other = await world.new_key(scopes=["org:admin"])
    first = await world.call("keys.create", {"name": "app"}, Idempotency_Key="k")
    again = await world.call("keys.create", {"name": "app"}, Idempotency_Key="k")
    foreign = await world.call("keys.create", {"name": "app"}, Idempotency_Key="k", key=other)
    assert again.json["key"] == first.json["key"]
    assert (foreign.status, foreign.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    together = await asyncio.gather(
        *(world.call("keys.create", {}, Idempotency_Key="at once", key=k) for k in (None, other))
    )
    assert sorted(reply.status for reply in together) == [201, 422]


async def test_a_secret_is_told_again_for_a_while_only(world: World) -> None:
    first = await world.call("keys.create", {"name": "app"}, Idempotency_Key="k")
    world.clock.advance(limits.KEY_RETOLD_S + 1)
    again = await world.call("keys.create", {"name": "app"}, Idempotency_Key="k")
    assert (again.json["id"], again.json["key"]) == (first.json["id"], None)


async def test_an_idempotency_key_that_is_used_anew_makes_another_key(world: World) -> None:
    """Each time that the one before is forgotten; a repeat is told that of its own creation."""
    body: dict[str, Any] = {"name": "app"}
    made = []
    for _ in range(3):
        first = await world.call("keys.create", body, Idempotency_Key="k")
        again = await world.call("keys.create", body, Idempotency_Key="k")
        assert (again.json["id"], again.json["key"]) == (first.json["id"], first.json["key"])
        made.append(first.json["key"])
        world.clock.advance(limits.OPERATION_KEY_CALLERS_S + 1)
    assert len(set(made)) == 3


async def test_one_idempotency_key_of_a_pinned_and_another_key_is_two_records(
    world: World,
) -> None:
    """Their scopes differ, and the join refuses one record with two scopes for good."""
    admin = await world.new_key(project_id="site", scopes=["org:admin"])
    twin = await world.twin()
    await twin.hear(world)
    await world.call("keys.create", {}, Idempotency_Key="same")
    await twin.call("keys.create", {}, Idempotency_Key="same", key=admin)
    await world.hear(twin)
    await twin.hear(world)
    for peer in (world, twin):
        pins = {item.get("project_id") for item in (await peer.call("keys.list")).json["items"]}
        assert len(pins) == 2


async def test_a_hash_that_a_record_has_no_longer_opens_nothing(world: World) -> None:
    secret = await world.new_key()
    record = world.directory.key_by_hash(ids.secret_hash(secret))
    assert record is not None
    purge = join_operation(record, Purge(record.key, record.scope, record.kind), Stamp(1, 1))
    world.directory.apply([Change(record, purge)])
    assert (await world.call("memory.list", key=secret)).code == "INVALID_API_KEY"
    assert len((await world.call("keys.list")).json["items"]) == 1


# The founding


async def test_the_founding_is_the_same_on_every_peer(world: World) -> None:
    founded, secret = genesis.found(
        cell="c", region="r", members=["peer-1"], environment="staging", founded_at_ms=START_MS
    )
    first, second = genesis_writes(founded), genesis_writes(founded)
    assert codec.pack(first) == codec.pack(second)
    assert (first.stamp.time, first.stamp.incarnation) == (0, 0)
    store, directory = MemoryStore(), Directory()
    for _ in range(2):
        logged = LoggedFrame(Position(0, 0, 0), Frame(SCHEMA, 0, 0, [first]), 0)
        directory.apply(await store.apply([logged], {}))
    key = directory.key_by_hash(ids.secret_hash(secret))
    assert key is not None
    assert key.scope == ids.Scope(founded.organisation.id, "", "staging", "")
    assert directory.organisation_by_slug("default") is not None
    assert len(await store.of_kind("api_key")) == len(await store.of_kind("organisation")) == 1


async def test_what_is_written_later_wins_over_the_founding(world: World) -> None:
    admin = await world.new_key(scopes=["org:admin"])
    assert (
        await world.call("keys.revoke", {"key_id": world.genesis.key.id}, key=admin)
    ).status == 200
    await world.found()  # a restart joins the founding again
    assert (await world.call("memory.list")).code == "API_KEY_REVOKED"


# Uses


async def test_uses_are_published_as_counters_and_shown(world: World) -> None:
    for _ in range(3):
        await world.call("memory.list")
        world.clock.advance(1)
    await world.service.publish_key_uses()
    [write] = world.appender.writes
    [count] = write.operations
    assert isinstance(count, Count)
    listed = (await world.call("keys.list")).json["items"][0]
    assert listed["usage_count"] == 3
    assert listed["last_used_at"] == "2026-05-28T20:26:42.000+00:00"


async def test_only_keys_that_were_used_since_are_published(world: World) -> None:
    await world.call("memory.list")
    await world.service.publish_key_uses()
    await world.service.publish_key_uses()
    assert len(world.appender.writes) == 1
    await world.call("memory.list")
    await world.service.publish_key_uses()
    assert len(world.appender.writes) == 2


async def test_a_restart_goes_on_counting(world: World) -> None:
    await world.call("memory.list")
    await world.service.publish_key_uses()
    world.service = world.new_service()
    await world.call("memory.list")
    await world.service.publish_key_uses()
    assert (await world.call("keys.list")).json["items"][0]["usage_count"] == 2


async def test_uses_that_cannot_be_published_are_kept(world: World) -> None:
    await world.call("memory.list")
    world.appender.fault = NoQuorum("no majority")
    await world.service.publish_key_uses()
    world.appender.fault = None
    await world.service.publish_key_uses()
    assert (await world.call("keys.list")).json["items"][0]["usage_count"] == 1


async def test_two_publish_one_after_the_other(world: World) -> None:
    """A shutdown publishes while the loop does."""
    await world.call("memory.list")
    world.appender.gate.clear()
    first = asyncio.create_task(world.service.publish_key_uses())
    await world.appender.arrival()
    await world.call("memory.list")
    second = asyncio.create_task(world.service.publish_key_uses())
    world.appender.gate.set()
    await asyncio.gather(first, second)
    assert len(world.appender.writes) == 2
    assert (await world.call("keys.list")).json["items"][0]["usage_count"] == 2


async def test_publishing_ends_under_load(world: World) -> None:
    """What is used while its count is written is the next publication's."""
    await world.call("memory.list")
    world.appender.gate.clear()
    publishing = asyncio.create_task(world.service.publish_key_uses())
    await world.appender.arrival()
    await world.call("memory.list")
    world.appender.gate.set()
    await publishing
    assert len(world.appender.writes) == 1


async def test_uses_whose_publishing_is_cancelled_are_kept(world: World) -> None:
    await world.call("memory.list")
    world.appender.gate.clear()
    publishing = asyncio.create_task(world.service.publish_key_uses())
    await world.appender.arrival()
    publishing.cancel()
    await asyncio.wait([publishing])
    world.appender.gate.set()
    await world.service.publish_key_uses()
    assert (await world.call("keys.list")).json["items"][0]["usage_count"] == 1


async def test_a_repeat_is_answered_before_the_directory_has_heard_of_the_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another peer made it, and the batch is in the store here, a moment before the directory."""
    other = await world.twin()
    body, key = {"name": "app"}, {"Idempotency-Key": "twice"}
    made = await other.call("keys.create", body, **key)
    with monkeypatch.context() as deaf:
        deaf.setattr(world.directory, "apply", lambda changes: None)
        await world.hear(other)
    again = await world.call("keys.create", body, **key)
    assert again.status == 201
    assert (again.json["id"], again.json["key"]) == (made.json["id"], made.json["key"])
