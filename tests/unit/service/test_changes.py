"""memory.update and memory.forget."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from memsync import ids, limits
from memsync.core.records import stamps_of
from memsync.service import changes
from tests.unit.service.world import World, unique


async def test_an_update_changes_what_it_names(world: World) -> None:
    added = (await world.add("text", source="a", tags=["x"], metadata={"k": 1})).json
    world.clock.advance(5)
    body = {"memory_id": added["id"], "tags": ["y", "z"], "importance": 2.0, "metadata": {"n": []}}
    updated = await world.call("memory.update", body)
    assert updated.status == 200
    assert updated.json["tags"] == ["y", "z"]
    assert updated.json["importance"] == 1.0
    assert updated.json["metadata"] == {"n": []}
    assert updated.json["source"] == "a"
    assert updated.json["created_at"] == added["created_at"]
    assert updated.json["updated_at"] > added["updated_at"]
    assert updated.json["version"] != added["version"]
    assert updated.headers["Memsync-Position"] == "0.0.2"
    assert (await world.call("memory.get", {"memory_id": added["id"]})).json == updated.json


async def test_metadata_goes_into_an_envelope(world: World) -> None:
    """Content must be sealable: no register holds it in the clear form of the register itself."""
    added = (await world.add("text")).json["id"]
    await world.call("memory.update", {"memory_id": added, "metadata": {"word": "hidden"}})
    record = (await world.store.records_by_id([added]))[added]
    assert record.registers["metadata"].value[:1] == b"\x92"  # (key id, bytes)


async def test_an_update_is_stamped_above_everything_in_its_record(world: World) -> None:
    """Also when the clock went back meanwhile."""
    added = (await world.add("text")).json["id"]
    world.clock.advance(-3_600)
    fresh = world.appender
    fresh._last = type(fresh._last)(0, 0)  # as another coordinator's, that has seen nothing
    updated = await world.call("memory.update", {"memory_id": added, "source": "later"})
    assert updated.json["source"] == "later"
    record = (await world.store.records_by_id([added]))[added]
    assert record.origin_stamp is not None
    assert max(stamps_of(record)) == record.registers["source"].stamp > record.origin_stamp


async def test_if_version_lets_one_win(world: World) -> None:
    added = (await world.add("text")).json
    body = {"memory_id": added["id"], "source": "one", "if_version": added["version"]}
    first = await world.call("memory.update", body)
    assert first.status == 200
    lost = await world.call("memory.update", {**body, "source": "two"})
    assert (lost.status, lost.code) == (409, "VERSION_CONFLICT")
    assert lost.json["error"]["details"] == {"current_version": first.json["version"]}
    body["if_version"] = first.json["version"]
    assert (await world.call("memory.update", body)).status == 200


@pytest.mark.parametrize("number", [0, -1, 12345, 1 << 53, (1 << 64) - 1])
async def test_an_id_that_leads_nowhere_is_404(world: World, number: int) -> None:
    for operation, body in (("memory.get", {}), ("memory.update", {"source": "x"})):
        reply = await world.call(operation, {"memory_id": number, **body})
        assert (reply.status, reply.code) == (404, "NOT_FOUND")
    assert (await world.call("memory.forget", {"memory_ids": [number]})).json == []


async def test_an_id_that_is_no_id_of_anything_is_refused_or_not_found(world: World) -> None:
    body = {"memory_id": 1 << 70}
    assert (await world.call("memory.get", body)).status == 404
    assert (await world.call("memory.update", {**body, "source": "x"})).status == 422
    assert (await world.call("memory.forget", {"memory_ids": [1 << 70]})).status == 422


async def test_keys_are_not_memories(world: World) -> None:
    key_id = world.genesis.key.id
    assert (await world.call("memory.get", {"memory_id": key_id})).status == 404
    assert (await world.call("memory.forget", {"memory_ids": [key_id]})).json == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"tags": ["x"] * 33}, "tags"),
        ({"tags": ["x" * 65]}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"metadata": {"a": "x" * (16 * 1024)}}, "metadata"),
        ({"source": "x" * 257}, "source"),
        ({"importance": "high"}, "importance"),
        ({"text": "new"}, "text"),
    ],
)
async def test_a_wrong_update_is_named(world: World, body: dict[str, Any], field: str) -> None:
    added = (await world.add("text")).json["id"]
    reply = await world.call("memory.update", {"memory_id": added, **body})
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.message.startswith(field + ": ")


async def test_the_limits_of_an_update_are_within(world: World) -> None:
    added = (await world.add("text")).json["id"]
    body = {"tags": ["x" * 64] * 32, "source": "x" * 256, "metadata": {"a": "x" * (16 * 1024 - 8)}}
    assert (await world.call("memory.update", {"memory_id": added, **body})).status == 200


# Forget


async def test_a_forgotten_memory_is_gone_from_every_read(world: World) -> None:
    one, two = [(await world.add(text)).json["id"] for text in ("one cat", "two cats")]
    forgotten = await world.call("memory.forget", {"memory_ids": [one, 77, one], "reason": "asked"})
    assert (forgotten.status, forgotten.json) == (200, [one])
    write = world.appender.writes[-1]
    assert (write.reason, len(write.operations)) == ("asked", 1)
    assert (await world.call("memory.get", {"memory_id": one})).code == "NOT_FOUND"
    assert (await world.call("memory.update", {"memory_id": one, "source": "x"})).status == 404
    assert await world.texts() == ["two cats"]
    found = await world.call("memory.query", {"query": "cat"})
    assert [memory["id"] for memory in found.json["memories"]] == [two]
    again = await world.call("memory.forget", {"memory_ids": [one]})
    assert again.json == []


async def test_a_dry_run_forgets_nothing(world: World) -> None:
    one = (await world.add("one")).json["id"]
    body = {"filters": {"before": "2030-01-01"}, "dry_run": True}
    assert (await world.call("memory.forget", body)).json == [one]
    assert await world.texts() == ["one"]


async def test_filters_forget_what_they_mean_in_one_write(world: World) -> None:
    wanted = [
        (await world.add(unique(), source="chat", tags=["a", "b"])).json["id"] for _ in range(3)
    ]
    await world.add(unique(), source="mail", tags=["a", "b"])
    await world.add(unique(), source="chat", tags=["a"])
    writes = len(world.appender.writes)
    reply = await world.call("memory.forget", {"filters": {"source": "chat", "tags": ["a", "b"]}})
    assert reply.json == wanted
    assert len(world.appender.writes) == writes + 1
    assert len(world.appender.writes[-1].operations) == 3
    assert len(await world.texts()) == 2


async def test_two_ids_of_one_memory_are_both_answered(world: World) -> None:
    world.appender.gate.clear()
    adds = [asyncio.create_task(world.add(text, client_ref="r")) for text in ("a", "b")]
    for _ in adds:
        await world.appender.arrival()
    world.appender.gate.set()
    both = [(await add).json["id"] for add in adds]
    assert (await world.call("memory.forget", {"memory_ids": both})).json == both
    assert len(world.appender.writes[-1].operations) == 1
    assert await world.texts() == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"memory_ids": []},
        {"memory_ids": [1] * 20_001},
        {"memory_ids": [1], "filters": {"source": "x"}},
        {"filters": {}},
        {"filters": {"tier": "boiling"}},
        {"filters": {"before": "2026-01-01", "after": "2026-02-01"}},
        {"filters": {"before": "yesterday"}},
        {"memory_ids": [1], "reason": "x" * 501},
        {"memory_ids": ["1"]},
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_wrong_forget_is_refused(world: World, body: dict[str, Any], dry_run: bool) -> None:
    reply = await world.call("memory.forget", {**body, "dry_run": dry_run})
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")


async def test_20_000_ids_are_within(world: World) -> None:
    body = {"memory_ids": list(range(10**9, 10**9 + 20_000))}
    assert (await world.call("memory.forget", body)).json == []


def test_a_forget_fits_one_log_message() -> None:
    short = ids.Scope(1, "", "development", "ada")
    assert changes._room(short) == limits.FORGET_IDS_MAX
    long = ids.Scope((1 << 53) - 1, "proj_" + "f" * 16, "development", "日" * 256)
    assert 1_000 < changes._room(long) < limits.FORGET_IDS_MAX


async def damaged(world: World) -> int:
    """A memory whose row here was altered; nobody has met it yet."""
    added = int((await world.add(unique(), client_ref="ref")).json["id"])
    (record,) = (await world.store.records_by_id([added])).values()
    world.store.damage(record.key)
    world.store.on_damage = lambda keys: world.progress.set_lacking("test", "a damaged row")
    return added


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("memory.update", {"memory_id": 0, "tags": ["a"]}),
        ("memory.forget", {"memory_ids": [0]}),
        ("memory.forget", {"filters": {"after": "2000-01-01T00:00:00Z"}}),
        ("memory.relate", {"memory_id": 0, "to_memory_id": 0, "relationship_type": "similar"}),
        ("memory.feedback", {"memory_id": 0, "signal": "positive"}),
        ("memory.add", {"text": "other", "client_ref": "ref"}),
    ],
)
async def test_a_write_that_meets_a_damaged_row_is_for_another_peer(
    world: World, operation: str, body: dict[str, Any]
) -> None:
    other = (await world.add(unique())).json["id"]
    added = await damaged(world)
    writes = len(world.appender.writes)
    named = {
        name: {"memory_id": added, "to_memory_id": other, "memory_ids": [added]}.get(name, value)
        for name, value in body.items()
    }
    reply = await world.call(operation, named)
    assert (reply.code, reply.json["error"]["definite"]) == ("OVERLOADED", True), reply
    assert "a damaged row" in reply.message
    assert len(world.appender.writes) == writes


async def test_a_repeat_that_meets_a_damaged_row_is_not_denied(world: World) -> None:
    added = (await world.add()).json["id"]
    body = {"memory_id": added, "tags": ["a"]}
    assert (await world.call("memory.update", body, Idempotency_Key="k")).status == 200
    (record,) = (await world.store.records_by_id([added])).values()
    world.store.damage(record.key)
    world.store.on_damage = lambda keys: world.progress.set_lacking("test", "a damaged row")
    reply = await world.call("memory.update", body, Idempotency_Key="k")
    assert (reply.code, reply.json["error"]["definite"]) == ("OUTCOME_UNKNOWN", False)
