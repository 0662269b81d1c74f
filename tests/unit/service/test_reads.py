"""memory.get, memory.list, memory.query: order, pages, limits, positions, degradation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memsync import limits
from memsync.engine.cell.leases import Freshness
from memsync.ids import Position
from tests.unit.service.world import World, unique


@pytest.mark.parametrize(
    ("body", "limit", "offset", "shown"),
    [
        ({}, 20, 0, 20),
        ({"limit": 0}, 1, 0, 1),
        ({"limit": -7, "offset": -7}, 1, 0, 1),
        ({"limit": 1000}, 100, 0, 25),
        ({"limit": 100, "offset": 20}, 100, 20, 5),
        ({"offset": 1 << 70}, 20, 1 << 53, 0),
    ],
)
async def test_a_list_is_newest_first_and_clamped(
    world: World, body: dict[str, int], limit: int, offset: int, shown: int
) -> None:
    for number in range(25):
        await world.add(f"number {number}")
    reply = await world.call("memory.list", body)
    assert reply.status == 200
    assert (reply.json["limit"], reply.json["offset"], reply.json["total"]) == (limit, offset, 25)
    assert reply.json["truncated"] is False
    texts = [item["text"] for item in reply.json["items"]]
    assert texts == [f"number {24 - offset - n}" for n in range(shown)]


async def test_a_list_that_is_too_large_is_cut_and_says_so(world: World) -> None:
    for number in range(80):
        await world.add(f"{number} " + "\x01" * 7_990)  # 6 bytes each as JSON
    reply = await world.call("memory.list", {"limit": 100})
    assert reply.json["truncated"] is True
    assert (reply.json["total"], 60 < len(reply.json["items"]) < 80) == (80, True)
    assert reply.json["items"][0]["text"].startswith("79 ")
    rest = await world.call("memory.list", {"limit": 100, "offset": len(reply.json["items"])})
    assert len(rest.json["items"]) + len(reply.json["items"]) == 80


async def test_what_is_past_its_time_to_live_is_not_read(world: World) -> None:
    added = (await world.add("short", ttl_minutes=1)).json["id"]
    world.clock.advance(59)
    assert (await world.call("memory.get", {"memory_id": added})).status == 200
    world.clock.advance(1)
    assert (await world.call("memory.get", {"memory_id": added})).status == 404
    assert await world.texts() == []
    assert (await world.call("memory.query", {"query": "short"})).json["memories"] == []


# Recall


async def test_a_question_is_clamped_and_cut(world: World) -> None:
    body = {"query": "x" * 9_000, "k": 500, "traversal_depth": 9}
    assert (await world.call("memory.query", body)).status == 200
    await world.call("memory.query", {"query": "x", "k": -1, "traversal_depth": 0})
    (first, _, _), (second, _, _) = world.recall.requests
    assert (len(first.query), first.k, first.traversal_depth) == (8_000, 50, 3)
    assert (second.k, second.traversal_depth) == (1, 1)


@pytest.mark.parametrize(("tier", "budget_s"), [("low", 0.1), ("medium", 0.5), ("high", 2.0)])
async def test_a_recall_has_the_budget_of_its_tier(
    world: World, tier: str, budget_s: float
) -> None:
    now_s = world.clock.steady_s()
    await world.call("memory.query", {"query": "x", "computation_tier": tier})
    await world.call(
        "memory.query", {"query": "x", "computation_tier": tier}, Memsync_Deadline_Ms="20"
    )
    deadlines = [deadline_s - now_s for _, deadline_s, _ in world.recall.requests]
    assert deadlines == [pytest.approx(budget_s), pytest.approx(0.02)]


@pytest.mark.parametrize("state", ["behind", "alone"])
async def test_an_answer_that_may_be_stale_is_tagged(world: World, state: Freshness) -> None:
    added = (await world.add("a cat")).json["id"]
    world.leases.state = state
    recalled = await world.call("memory.query", {"query": "cat"})
    assert (recalled.status, recalled.json["degraded_components"]) == (200, ["replication"])
    for operation, body in (("memory.get", {"memory_id": added}), ("memory.list", {})):
        reply = await world.call(operation, body)
        assert (reply.status, reply.headers["Memsync-Degraded"]) == (200, "replication")
    missing = await world.call("memory.get", {"memory_id": added + 1})
    assert (missing.status, missing.headers["Memsync-Degraded"]) == (404, "replication")


async def test_an_answer_under_a_lease_is_not_tagged(world: World) -> None:
    added = (await world.add("a cat")).json["id"]
    assert (await world.call("memory.query", {"query": "cat"})).json["degraded"] is False
    assert "Memsync-Degraded" not in (await world.call("memory.get", {"memory_id": added})).headers


async def test_a_local_read_needs_no_lease_and_says_what_the_peer_knows_to_lack(
    world: World,
) -> None:
    world.leases.state = "alone"
    local = {"Memsync_Consistency": "local"}
    assert (await world.call("memory.query", {"query": "x"}, **local)).json["degraded"] is False
    world.progress.set_behind("stripe-0", "a hole")
    reply = await world.call("memory.query", {"query": "x"}, **local)
    assert (reply.status, reply.json["degraded_components"]) == (200, ["replication"])


@pytest.mark.parametrize(
    ("header", "body", "tagged"),
    [
        ("local", None, False),
        ("session", None, False),
        ("strong", None, True),
        ("strong", "session", False),
        ("session", "strong", True),
    ],
)
async def test_a_strong_recall_without_a_majority_is_tagged(
    world: World, header: str, body: str | None, tagged: bool
) -> None:
    await world.add("a cat")
    world.members.is_covered = False
    reply = await world.call(
        "memory.query", {"query": "x", "consistency": body}, Memsync_Consistency=header
    )
    assert (reply.status, reply.json["degraded"]) == (200, tagged)


async def test_a_strong_get_or_list_is_confirmed_by_a_majority_or_refused(world: World) -> None:
    added = (await world.add("a cat")).json["id"]
    strong = {"Memsync_Consistency": "strong"}
    for operation, body in (("memory.get", {"memory_id": added}), ("memory.list", {})):
        world.members.is_covered = True
        assert (await world.call(operation, body, **strong)).status == 200
        world.members.is_covered = False
        refused = await world.call(operation, body, **strong)
        assert (refused.status, refused.code) == (503, "OVERLOADED")
        assert "majority" in refused.message


async def test_a_peer_that_lags_lets_another_answer(world: World) -> None:
    other = await world.twin()
    await other.add("a cat")
    world.leases.state = "behind"
    world.peers.services["peer-2"] = other.service
    found = await world.call("memory.query", {"query": "cat"})
    assert [memory["text"] for memory in found.json["memories"]] == ["a cat"]
    assert found.json["degraded"] is False
    assert found.json["freshness"]["source"] == "other_peer"
    listed = await world.call("memory.list", {})
    assert (listed.json["total"], "Memsync-Degraded" in listed.headers) == (1, False)


async def test_who_was_asked_says_what_it_answers_as_its_own(world: World) -> None:
    """Also where it asked another, which could do no better."""
    other = await world.twin()
    world.peers.services["peer-2"] = other.service
    assert (await world.call("memory.query", {"query": "x"})).json["freshness"]["source"] == "peer"
    for one in (world, other):
        one.leases.state = "behind"
    assert (await world.call("memory.query", {"query": "x"})).json["freshness"]["source"] == "peer"
    assert len(world.peers.passed) == 1


async def test_all_else_of_the_other_peers_answer_stays(world: World) -> None:
    other = await world.twin()
    await other.add("a cat")
    world.leases.state = "behind"
    world.peers.services["peer-2"] = other.service
    passed = (await world.call("memory.query", {"query": "cat", "session_id": "s"})).json
    own = (await other.call("memory.query", {"query": "cat", "session_id": "s"})).json
    for answer in (passed, own):
        del answer["query_id"], answer["latency_ms"], answer["freshness"]["source"]
    assert passed == own


async def test_who_lags_too_does_not_pass_on_again(world: World) -> None:
    other = await world.twin()
    for one in (world, other):
        one.leases.state = "behind"
    world.peers.services["peer-2"] = other.service
    other.peers.services["peer-2"] = world.service
    reply = await world.call("memory.query", {"query": "cat"})
    assert reply.json["degraded_components"] == ["replication"]
    assert (len(world.peers.passed), other.peers.passed) == (1, [])


@pytest.mark.parametrize("in_body", [True, False])
async def test_a_recall_waits_for_a_position_inside_its_budget(world: World, in_body: bool) -> None:
    position = "0.0.1"
    body = {"query": "cat", "min_position": position if in_body else None}
    headers = {} if in_body else {"Memsync_Min_Position": position}
    late = await world.call("memory.query", {**body, "computation_tier": "low"}, **headers)
    assert (late.status, late.json["degraded_components"]) == (200, ["replication"])
    waiting = asyncio.create_task(world.call("memory.query", body, **headers))
    await asyncio.sleep(0)
    added = await world.add("a cat")
    assert added.headers["Memsync-Position"] == position
    answer = await waiting
    assert (len(answer.json["memories"]), answer.json["degraded"]) == (1, False)


async def test_get_and_list_wait_for_a_position_and_then_say_503(world: World) -> None:
    wanted = {"Memsync_Min_Position": "0.0.2", "Memsync_Deadline_Ms": "20"}
    added = (await world.add(unique())).json["id"]
    for operation, body in (("memory.get", {"memory_id": added}), ("memory.list", {})):
        reply = await world.call(operation, body, **wanted)
        assert (reply.status, reply.code) == (503, "OVERLOADED")
        assert reply.headers["Retry-After"] == "1"
    world.progress.advance([Position(0, 0, 2)])
    for operation, body in (("memory.get", {"memory_id": added}), ("memory.list", {})):
        reply = await world.call(operation, body, **wanted)
        assert (reply.status, reply.headers["Memsync-Position"]) == (200, "0.0.2")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": 7}, "query"),
        ({"query": "x", "k": "5"}, "k"),
        ({"query": "x", "weights": {"colour": 1}}, "weights.colour"),
        ({"query": "x", "weights": {"semantic": -1}}, "weights.semantic"),
        ({"query": "x", "weights": {"semantic": 0}}, "weights"),
        ({"query": "x", "filters": {"colour": "red"}}, "filters.colour"),
        ({"query": "x", "filters": {"sources": ["x", "x" * 257]}}, "filters.sources"),
        ({"query": "x", "filters": {"tier": "boiling"}}, "filters.tier"),
        ({"query": "x", "filters": {"since": "yesterday"}}, "filters.since"),
        ({"query": "x", "now": "yesterday"}, "now"),
        ({"query": "x", "computation_tier": "huge"}, "computation_tier"),
        ({"query": "x", "min_position": "here"}, "Memsync-Min-Position"),
    ],
)
async def test_a_wrong_question_is_named(world: World, body: dict[str, Any], field: str) -> None:
    reply = await world.call("memory.query", body)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith(field + ": ")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("text", "x" * 8_000, "x" * 8_001),
        ("text", "x", None),
        ("tags", ["x" * 64] * 32, ["x"] * 33),
        ("tags", ["x"], ["x" * 65]),
        ("metadata", {"a": "x" * (16 * 1024 - 8)}, {"a": "x" * (16 * 1024 - 7)}),
        ("client_ref", "r" * 128, "r" * 129),
        ("client_ref", "r", ""),
        ("ttl_minutes", 1, 0),
        ("source", "s" * 256, "s" * 257),
        ("event_type", "s" * 256, "s" * 257),
        ("session_id", "s" * 256, "s" * 257),
        ("role", "s" * 256, "s" * 257),
        ("end_user_id", "u" * 256, "u" * 257),
        ("occurred_at", "2026-05-08", "May 8th"),
        ("importance", 0.5, "high"),
        ("deduplicate", False, "no"),
    ],
)
async def test_every_limit_of_an_add_at_its_edge(
    world: World, field: str, good: Any, bad: Any
) -> None:
    assert (await world.add(**{"text": unique(), field: good})).status == 201
    reply = await world.add(**{"text": unique(), field: bad})
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith(field + ": ")
    assert reply.json["error"]["details"][0]["field"] == field
    assert len(world.appender.writes) == 1


def test_the_limits_are_those_of_the_document() -> None:
    assert (limits.BODY_BYTES_MAX, limits.TEXT_CHARS_MAX) == (1_000_000, 8_000)
    assert (limits.TAGS_MAX, limits.TAG_CHARS_MAX, limits.METADATA_BYTES_MAX) == (32, 64, 16_384)
    assert (limits.BULK_ITEMS_MAX, limits.RECALL_K_MAX, limits.LIST_LIMIT_MAX) == (50, 50, 100)
    assert (limits.FORGET_IDS_MAX, limits.CLIENT_REF_CHARS_MAX) == (20_000, 128)


@pytest.mark.parametrize("operation", ["memory.get", "memory.list", "memory.query"])
async def test_the_read_that_meets_a_damaged_row_is_tagged(world: World, operation: str) -> None:
    added = (await world.add("the cat sleeps")).json["id"]
    (record,) = (await world.store.records_by_id([added])).values()
    world.store.damage(record.key)
    world.store.on_damage = lambda keys: world.progress.set_lacking("test", "a damaged row")
    body: dict[str, Any] = {"memory_id": added} if operation == "memory.get" else {}
    reply = await world.call(operation, body | ({"query": "cat"} if "query" in operation else {}))
    assert reply.headers["Memsync-Degraded"] == "replication"
