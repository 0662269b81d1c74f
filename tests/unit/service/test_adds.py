"""memory.add and memory.bulk_add: what is stored, skipped, rejected; and what a repeat does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memsync import ids, limits
from memsync.engine.cell.leases import Freshness
from memsync.errors import NoQuorum, OutcomeUnknown
from memsync.wire.operations import Create, MemoryOrigin
from tests.unit.service.world import START_MS, World, unique


async def test_an_added_memory_is_answered_and_read_as_it_was_given(world: World) -> None:
    fields: dict[str, Any] = {
        "source": "chat",
        "event_type": "fact",
        "tags": ["a", "b"],
        "importance": 0.7,
        "session_id": "s1",
        "role": "user",
        "metadata": {"n": {"deep": [1, 2.5, None]}},
        "client_ref": "ref-1",
        "occurred_at": "2026-01-02T03:04:05Z",
        "ttl_minutes": 60,
    }
    added = await world.add("The cat sleeps.", **fields)
    assert added.status == 201
    for name in ("source", "event_type", "tags", "importance", "session_id", "role", "metadata"):
        assert added.json[name] == fields[name]
    assert added.json["text"] == "The cat sleeps."
    assert added.json["occurred_at"] == "2026-01-02T03:04:05.000+00:00"
    assert added.json["created_at"] == "2026-05-28T20:26:40.000+00:00"
    assert added.json["expires_at"] == "2026-05-28T21:26:40.000+00:00"
    assert added.json["end_user_id"] == "ada"
    assert 0 < added.json["user_id"] < 1 << 53
    assert added.headers["Memsync-Position"] == "0.0.1"
    read = await world.call("memory.get", {"memory_id": added.json["id"]})
    assert read.status == 200
    assert read.json == added.json


async def test_text_may_be_called_content_and_ignored_fields_are_ignored(world: World) -> None:
    body = {"content": "hi there", "user_id": 7, "tenant_id": "x", "project_id": None,
            "environment": "production"}  # fmt: skip
    added = await world.call("memory.add", body)
    assert (added.status, added.json["text"]) == (201, "hi there")
    assert (await world.texts()) == ["hi there"]


@pytest.mark.parametrize(
    ("given", "stored"), [(-1, 0.0), (0, 0.0), (1, 1.0), (7.5, 1.0), (None, 0.5)]
)
async def test_importance_is_clamped(world: World, given: float | None, stored: float) -> None:
    assert (await world.add(importance=given)).json["importance"] == stored


async def test_the_body_wins_over_the_header_for_the_end_user(world: World) -> None:
    added = await world.add(user="header", end_user_id="body")
    assert added.json["end_user_id"] == "body"
    assert await world.texts(user="header") == []


@pytest.mark.parametrize("text", ["", "   ", "!?…", "👍👍", "---\n"])
async def test_text_without_letter_or_digit_is_skipped(world: World, text: str) -> None:
    added = await world.add(text)
    assert added.status == 200
    assert added.json == {
        "status": "skipped",
        "reason": "no_high_value_content",
        "memory_ids": [],
        "candidates_extracted": 1,
        "candidates_stored": 0,
    }
    assert world.appender.writes == []


@pytest.mark.parametrize("text", ["7", "ok", "é", "猫", "①", "a!"])
async def test_anything_with_a_letter_or_digit_is_stored(world: World, text: str) -> None:
    assert (await world.add(text)).status == 201


# Duplicates


async def test_identical_text_within_a_day_is_a_duplicate(world: World) -> None:
    first = (await world.add("same")).json["id"]
    again = await world.add("same")
    assert (again.status, again.json["reason"], again.json["memory_ids"]) == (
        200, "duplicate", [first]
    )  # fmt: skip
    assert (await world.add("same", deduplicate=False)).status == 201
    assert (await world.add("other")).status == 201
    assert (await world.add("same", user="bob")).status == 201


async def test_a_duplicate_is_forgotten_after_a_day_and_after_a_forget(world: World) -> None:
    first = (await world.add("same")).json["id"]
    await world.call("memory.forget", {"memory_ids": [first]})
    second = await world.add("same")
    assert second.status == 201
    assert (await world.add("same")).json["memory_ids"] == [second.json["id"]]
    world.clock.advance(limits.DUPLICATE_TEXT_S + 1)
    assert (await world.add("same")).status == 201


async def test_what_was_forgotten_elsewhere_is_no_duplicate(world: World) -> None:
    """A peer that has not heard of it yet would tell its caller that the text is stored."""
    first = (await world.add("same")).json["id"]
    other = await world.twin()
    await other.hear(world)
    assert (await other.call("memory.forget", {"memory_ids": [first]})).json == [first]

    async def catch_up(deadline_s: float) -> Freshness:
        await world.hear(other)
        return "fresh"

    world.leases.wait_fresh = catch_up  # type: ignore[method-assign]
    assert (await world.add("same")).status == 201
    assert await world.texts() == ["same"]


async def test_an_expired_memory_is_no_duplicate(world: World) -> None:
    await world.add("short", ttl_minutes=1)
    world.clock.advance(61)
    assert (await world.add("short")).status == 201


# client_ref


async def test_a_client_ref_is_taken_once(world: World) -> None:
    first = (await world.add("one", client_ref="r")).json["id"]
    again = await world.add("two", client_ref="r")
    assert (again.status, again.json["reason"], again.json["memory_ids"]) == (
        200, "already_ingested", [first]
    )  # fmt: skip
    assert await world.texts() == ["one"]
    assert (await world.add("three", client_ref="r", user="bob")).status == 201


async def test_a_client_ref_stays_taken_after_a_forget(world: World) -> None:
    first = (await world.add("one", client_ref="r")).json["id"]
    await world.call("memory.forget", {"memory_ids": [first]})
    again = await world.add("two", client_ref="r")
    assert (again.json["reason"], again.json["memory_ids"]) == ("already_ingested", [first])
    assert await world.texts() == []


async def test_two_coordinators_take_one_client_ref_and_both_ids_resolve(world: World) -> None:
    world.appender.gate.clear()
    one = asyncio.create_task(world.add("first", client_ref="r"))
    other = asyncio.create_task(world.add("second", client_ref="r"))
    for _ in range(2):
        await world.appender.arrival()
    world.appender.gate.set()
    answers = await asyncio.gather(one, other)
    assert [answer.status for answer in answers] == [201, 201]
    assert len({answer.json["id"] for answer in answers}) == 2
    for answer in answers:
        read = await world.call("memory.get", {"memory_id": answer.json["id"]})
        assert (read.json["id"], read.json["text"]) == (answer.json["id"], "first")
    assert await world.texts() == ["first"]


async def test_the_earlier_attempt_of_the_same_request_is_answered_as_created(world: World) -> None:
    """The row outlives what is kept of the operation key."""
    headers = {"Idempotency_Key": "k"}
    first = await world.add("one", client_ref="r", **headers)
    world.clock.advance(limits.OPERATION_KEY_CALLERS_S + 1)
    again = await world.add("one", client_ref="r", **headers)
    assert (again.status, again.json["id"]) == (201, first.json["id"])
    assert len(world.appender.writes) == 2  # the second one stores nothing and keeps the outcome
    assert world.appender.writes[1].operations == []
    other = await world.add("two", client_ref="r", **headers)
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED")


# Ids


async def test_ids_that_a_gateway_fixed_are_used(world: World) -> None:
    first = ids.memory_id(0, 77, 10)
    added = await world.add(Memsync_Ids=f"{first}-{first}")
    assert added.json["id"] == first
    assert world.ids.taken == 0


@pytest.mark.parametrize(
    "given",
    ["0-0", "5-4", f"{1 << 53}-{1 << 53}", f"{ids.memory_id(0, 1, 9)}-{ids.memory_id(0, 2, 9)}"],
)
async def test_ids_that_make_no_sense_are_not_used(world: World, given: str) -> None:
    added = await world.add(Memsync_Ids=given)
    assert added.status == 201
    assert ids.block_of(added.json["id"]) == 5


async def test_too_few_fixed_ids_are_not_used(world: World) -> None:
    one = ids.memory_id(0, 77, 10)
    items = [{"text": unique()}, {"text": unique()}]
    reply = await world.call("memory.bulk_add", {"items": items}, Memsync_Ids=f"{one}-{one}")
    assert [ids.block_of(r["memory_ids"][0]) for r in reply.json["results"]] == [5, 5]


# What is written


async def test_the_write_says_who_and_carries_everything_a_reader_needs(world: World) -> None:
    await world.add("The cats sleep", Memsync_Ack="all")
    [write] = world.appender.writes
    assert world.appender.acks == ["all"]
    assert write.actor == f"key:{world.genesis.key.id}"
    assert write.kept_s == limits.OPERATION_KEY_OURS_S
    assert write.key.startswith("~")
    [create] = write.operations
    assert isinstance(create, Create)
    assert isinstance(create.origin, MemoryOrigin)
    assert create.origin.created_at_ms == START_MS == write.stamp.time >> 16
    assert create.origin.operation_key == write.key
    assert create.origin.request_hash == write.request_hash


async def test_a_refused_write_says_so_and_stores_nothing(world: World) -> None:
    world.appender.fault = NoQuorum("no majority")
    added = await world.add()
    assert (added.status, added.code, added.json["error"]["definite"]) == (503, "NO_QUORUM", True)
    world.appender.fault = OutcomeUnknown("who knows")
    added = await world.add()
    assert (added.code, added.json["error"]["definite"]) == ("OUTCOME_UNKNOWN", False)
    world.appender.fault = None
    assert await world.texts() == []


# Bulk


async def bulk(world: World, items: list[dict[str, Any]], **rest: Any) -> Any:
    headers = {name: rest.pop(name) for name in list(rest) if name[0].isupper()}
    user = rest.pop("user", "ada")
    return await world.call("memory.bulk_add", {"items": items, **rest}, user=user, **headers)


def outcomes(reply: Any) -> list[tuple[str, str | None]]:
    assert reply.status == 200, reply
    assert [result["index"] for result in reply.json["results"]] == list(
        range(len(reply.json["results"]))
    )
    return [(result["status"], result["reason"]) for result in reply.json["results"]]


async def test_a_bulk_is_one_write_with_an_answer_for_each_item(world: World) -> None:
    stored = (await world.add("stored", client_ref="old")).json["id"]
    reply = await bulk(
        world,
        [
            {"text": "one"},
            {"text": ""},
            {"text": "x" * (limits.TEXT_CHARS_MAX + 1)},
            {},
            {"text": "?!"},
            {"text": "stored"},
            {"text": "new text", "client_ref": "old"},
            {"text": "two", "client_ref": "new"},
            {"text": "three", "client_ref": "new"},
            {"text": "one"},
            {"text": "one", "deduplicate": False},
        ],
    )
    assert outcomes(reply) == [
        ("created", None),
        ("rejected", "text: empty"),
        ("rejected", "text: 8001 characters, at most 8000"),
        ("rejected", "text: required"),
        ("skipped", "no_high_value_content"),
        ("skipped", "duplicate"),
        ("skipped", "already_ingested"),
        ("created", None),
        ("skipped", "already_ingested"),
        ("skipped", "duplicate"),
        ("created", None),
    ]
    results = [result["memory_ids"] for result in reply.json["results"]]
    assert results[5] == results[6] == [stored]
    assert results[8] == results[7]
    assert results[9] == results[0]
    assert (reply.json["total"], reply.json["created"], reply.json["skipped"]) == (11, 3, 5)
    assert reply.json["rejected"] == 3
    assert len(world.appender.writes) == 2
    assert len(world.appender.writes[1].operations) == 3
    assert sorted(await world.texts()) == ["one", "one", "stored", "two"]


async def test_deduplicate_of_the_bulk_is_the_default_of_its_items(world: World) -> None:
    items = [{"text": "same"}, {"text": "same"}, {"text": "same", "deduplicate": True}]
    reply = await bulk(world, items, deduplicate=False)
    assert outcomes(reply) == [("created", None), ("created", None), ("skipped", "duplicate")]


async def test_items_may_name_their_own_end_user(world: World) -> None:
    items = [{"text": "one"}, {"text": "one", "end_user_id": "bob"}]
    assert outcomes(await bulk(world, items)) == [("created", None), ("created", None)]
    assert await world.texts(user="ada") == ["one"]
    assert await world.texts(user="bob") == ["one"]
    missing = await bulk(world, [{"text": "one", "end_user_id": "bob"}, {"text": "two"}], user=None)
    assert (missing.status, missing.code) == (400, "MISSING_END_USER_ID")
    assert (await bulk(world, [{"text": "x", "end_user_id": "cy"}], user=None)).status == 200


async def test_the_order_of_a_bulk_is_the_order_of_its_items(world: World) -> None:
    await bulk(world, [{"text": f"item {n}"} for n in range(5)])
    assert await world.texts() == [f"item {n}" for n in reversed(range(5))]


async def test_a_bulk_is_stored_as_a_whole_or_not_at_all(world: World) -> None:
    world.appender.fault = NoQuorum("no majority")
    assert (await bulk(world, [{"text": unique()} for _ in range(50)])).code == "NO_QUORUM"
    world.appender.fault = None
    assert await world.texts() == []
    assert (await bulk(world, [{"text": unique()} for _ in range(50)])).json["created"] == 50
    assert len(world.appender.writes) == 2


@pytest.mark.parametrize("count", [0, 51])
async def test_a_bulk_has_1_to_50_items(world: World, count: int) -> None:
    reply = await bulk(world, [{"text": "x"}] * count)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith("items: ")


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"text": 7}, "items[1].text"),
        ({"text": "x", "colour": "red"}, "items[1].colour"),
        ({"text": "x", "tags": ["t"] * 33}, "items[1].tags"),
    ],
)
async def test_a_malformed_item_fails_the_whole_bulk(
    world: World, item: dict[str, Any], field: str
) -> None:
    reply = await bulk(world, [{"text": "good"}, item])
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith(field + ": ")
    assert world.appender.writes == []


async def test_what_unfolds_to_more_than_a_log_message_is_refused(world: World) -> None:
    """One character that stands for eighteen, as often as a body holds it."""
    text = " ".join("\ufdfa" + str(n) for n in range(1_100))
    items = [{"text": text + str(n)} for n in range(50)]
    reply = await bulk(world, items)
    assert reply.status in (200, 413)
    assert all(len(w.operations) == 50 for w in world.appender.writes)
