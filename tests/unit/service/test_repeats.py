"""Repeats: the same operation key later, at once, with another body, after nothing was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from memsync import limits
from memsync.errors import MemsyncError, NoQuorum, OutcomeUnknown, Unavailable
from tests.unit.service.world import Reply, World

KEY = {"Idempotency_Key": "k-1"}


def is_replayed(reply: Reply) -> bool:
    return reply.headers.get("Idempotency-Replayed") == "true"


async def prepared(world: World, operation: str) -> tuple[Any, Any]:
    """A body for the operation and another one, both of which would succeed."""
    one = (await world.add("to change", source="old")).json["id"]
    two = (await world.add("to change, too")).json["id"]
    key_id = (await world.call("keys.create")).json["id"]
    other_key = (await world.call("keys.create")).json["id"]
    return {
        "memory.add": ({"text": "one"}, {"text": "two"}),
        "memory.bulk_add": (
            {"items": [{"text": "one"}, {"text": "?"}]},
            {"items": [{"text": "one"}]},
        ),
        "memory.update": ({"memory_id": one, "tags": ["t"]}, {"memory_id": one, "tags": ["u"]}),
        "memory.forget": ({"memory_ids": [one, 99]}, {"memory_ids": [two]}),
        "memory.relate": (
            {"memory_id": one, "to_memory_id": two, "relationship_type": "extends"},
            {"memory_id": two, "to_memory_id": one, "relationship_type": "extends"},
        ),
        "memory.feedback": (
            {"memory_id": one, "signal": "positive"},
            {"memory_id": one, "signal": "negative"},
        ),
        "keys.create": ({"name": "one"}, {"name": "two"}),
        "keys.revoke": ({"key_id": key_id}, {"key_id": other_key}),
    }[operation]


WRITES = ("memory.add", "memory.bulk_add", "memory.update", "memory.forget", "memory.relate",
          "memory.feedback", "keys.create", "keys.revoke")  # fmt: skip


@pytest.mark.parametrize("operation", WRITES)
async def test_a_repeat_gets_the_first_answer(world: World, operation: str) -> None:
    body, _ = await prepared(world, operation)
    first = await world.call(operation, body, **KEY)
    writes = len(world.appender.writes)
    assert world.appender.writes[-1].kept_s == limits.OPERATION_KEY_CALLERS_S
    assert not is_replayed(first)
    world.clock.advance(limits.OPERATION_KEY_CALLERS_S - 60)
    again = await world.call(operation, body, **KEY)
    assert is_replayed(again)
    assert again.status == first.status
    assert len(world.appender.writes) == writes
    if operation == "keys.create":  # the secret is told again for some minutes only
        assert again.json.pop("key", None) is None
        assert first.json.pop("key", "").startswith("ms_dev_")
    assert again.json == first.json
    assert again.headers["Memsync-Position"]


@pytest.mark.parametrize("operation", WRITES)
async def test_the_same_key_with_another_body_is_refused(world: World, operation: str) -> None:
    body, other = await prepared(world, operation)
    assert (await world.call(operation, body, **KEY)).status in (200, 201)
    writes = len(world.appender.writes)
    reply = await world.call(operation, other, **KEY)
    assert (reply.status, reply.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert len(world.appender.writes) == writes


async def test_the_key_is_looked_up_before_the_content_is_judged(world: World) -> None:
    await world.add("one", **KEY)
    reply = await world.add("x" * 9_000, **KEY)
    assert reply.code == "IDEMPOTENCY_KEY_REUSED"


async def test_the_same_key_for_another_operation_is_refused(world: World) -> None:
    await world.add("one", **KEY)
    reply = await world.call("memory.forget", {"memory_ids": [1]}, **KEY)
    assert reply.code == "IDEMPOTENCY_KEY_REUSED"


@pytest.mark.parametrize("operation", WRITES)
async def test_two_at_once_are_one(world: World, operation: str) -> None:
    body, other = await prepared(world, operation)
    writes = len(world.appender.writes)
    for _ in range(writes):
        await world.appender.arrival()
    world.appender.gate.clear()
    one = asyncio.create_task(world.call(operation, body, **KEY))
    await world.appender.arrival()
    two = asyncio.create_task(world.call(operation, body, **KEY))
    refused = await world.call(operation, other, **KEY)
    assert (refused.status, refused.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    world.appender.gate.set()
    first, second = await asyncio.gather(one, two)
    assert first.json == second.json
    assert (is_replayed(first), is_replayed(second)) == (False, True)
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    assert len(world.appender.writes) == writes + 1


async def test_two_at_once_share_a_failure(world: World) -> None:
    world.appender.gate.clear()
    world.appender.fault = OutcomeUnknown("who knows")
    one = asyncio.create_task(world.add("one", **KEY))
    await world.appender.arrival()
    two = asyncio.create_task(world.add("one", **KEY))
    await asyncio.sleep(0)
    world.appender.gate.set()
    answers = await asyncio.gather(one, two)
    assert [answer.code for answer in answers] == ["OUTCOME_UNKNOWN"] * 2
    world.appender.fault = None
    assert (await world.add("one", **KEY)).status == 201
    assert await world.texts() == ["one"]


async def test_a_repeat_takes_over_from_a_caller_that_went_away(world: World) -> None:
    world.appender.gate.clear()
    one = asyncio.create_task(world.add("one", **KEY))
    await world.appender.arrival()
    two = asyncio.create_task(world.add("one", **KEY))
    await asyncio.sleep(0)
    one.cancel()
    await world.appender.arrival()
    world.appender.gate.set()
    assert (await two).status == 201
    assert await world.texts() == ["one"]


async def test_a_repeat_that_asks_for_more_certainty_waits_and_asks_itself(world: World) -> None:
    world.appender.gate.clear()
    one = asyncio.create_task(world.add("one", Memsync_Ack="log", **KEY))
    await world.appender.arrival()
    two = asyncio.create_task(world.add("one", Memsync_Ack="all", **KEY))
    await asyncio.sleep(0)
    world.appender.gate.set()
    first, second = await asyncio.gather(one, two)
    assert (first.json, is_replayed(second)) == (second.json, True)


async def test_a_repeat_waits_no_longer_than_its_deadline(world: World) -> None:
    world.appender.gate.clear()
    one = asyncio.create_task(world.add("one", **KEY))
    await world.appender.arrival()
    reply = await world.add("one", Memsync_Deadline_Ms="1", **KEY)
    assert (reply.code, reply.json["error"]["definite"]) == ("OUTCOME_UNKNOWN", False)
    world.appender.gate.set()
    assert (await one).status == 201


async def test_what_was_skipped_is_skipped_again(world: World) -> None:
    first = (await world.add("same")).json["id"]
    skipped = await world.add("same", **KEY)
    assert (skipped.json["reason"], skipped.json["memory_ids"]) == ("duplicate", [first])
    assert world.appender.writes[-1].operations == []
    await world.call("memory.forget", {"memory_ids": [first]})
    again = await world.add("same", **KEY)  # else it would be stored now
    assert again.json == skipped.json
    assert is_replayed(again)


async def test_what_stores_nothing_is_published_for_a_callers_key_only(world: World) -> None:
    operations: list[tuple[str, dict[str, Any]]] = [
        ("memory.add", {"text": "?"}),
        ("memory.bulk_add", {"items": [{"text": "?"}]}),
        ("memory.forget", {"memory_ids": [5]}),
    ]
    for operation, body in operations:
        assert (await world.call(operation, body)).status == 200
    assert world.appender.writes == []
    for number, (operation, body) in enumerate(operations):
        await world.call(operation, body, Idempotency_Key=f"k{number}")
    assert [write.operations for write in world.appender.writes] == [[], [], []]


async def test_a_forget_that_met_nothing_forgets_nothing_when_it_comes_again(world: World) -> None:
    """An attempt of it may come late, through a peer that stood still: after the answer."""
    body = {"filters": {"source": "notes"}}
    gateway = {"Memsync_Operation_Key": "~0123456789abcdef0123456789abcdef"}
    assert (await world.call("memory.forget", body, **gateway)).json == []
    assert [write.operations for write in world.appender.writes] == [[]]
    await world.add("written since", source="notes")
    assert (await world.call("memory.forget", body, **gateway)).json == []
    assert await world.texts() == ["written since"]


async def test_a_key_that_a_gateway_made_settles_a_repeat_but_is_not_a_replay(world: World) -> None:
    gateway = {"Memsync_Operation_Key": "~0123456789abcdef0123456789abcdef"}
    first = await world.add("one", **gateway)
    again = await world.add("one", **gateway)
    assert (again.status, again.json) == (201, first.json)
    assert not is_replayed(again)
    assert len(world.appender.writes) == 1


async def test_a_definite_refusal_leaves_the_key_free(world: World) -> None:
    world.appender.fault = NoQuorum("no majority")
    assert (await world.add("one", **KEY)).code == "NO_QUORUM"
    world.appender.fault = None
    reply = await world.add("another text", **KEY)
    assert (reply.status, is_replayed(reply)) == (201, False)


async def test_a_replayed_add_shows_the_memory_as_it_is_now(world: World) -> None:
    first = await world.add("one", **KEY)
    await world.call("memory.update", {"memory_id": first.json["id"], "tags": ["new"]})
    assert (await world.add("one", **KEY)).json["tags"] == ["new"]
    await world.call("memory.forget", {"memory_ids": [first.json["id"]]})
    gone = await world.add("one", **KEY)
    assert (gone.status, gone.json["reason"]) == (200, "already_ingested")
    assert gone.json["memory_ids"] == [first.json["id"]]
    assert "one" not in str(gone.json)


async def test_a_dry_run_is_not_a_write(world: World) -> None:
    one = (await world.add("one")).json["id"]
    dry = await world.call("memory.forget", {"memory_ids": [one], "dry_run": True}, **KEY)
    assert dry.json == [one]
    real = await world.call("memory.forget", {"memory_ids": [one]}, **KEY)
    assert (real.json, is_replayed(real)) == ([one], False)


async def test_an_old_key_may_be_used_again(world: World) -> None:
    await world.call("memory.forget", {"memory_ids": [5]}, **KEY)
    world.clock.advance(limits.OPERATION_KEY_CALLERS_S + 1)
    assert (await world.call("memory.forget", {"memory_ids": [6]}, **KEY)).json == []


@pytest.mark.parametrize("fault", [NoQuorum("no majority"), Unavailable("busy")])
@pytest.mark.parametrize("operation", WRITES)
async def test_a_repeat_of_what_is_applied_is_never_told_that_it_did_not_happen(
    world: World, operation: str, fault: MemsyncError
) -> None:
    body, _ = await prepared(world, operation)
    first = await world.call(operation, body, **KEY)
    world.appender.fault = fault
    reply = await world.call(operation, body, **KEY)
    assert (reply.code, reply.json["error"]["definite"]) == ("OUTCOME_UNKNOWN", False)
    assert "nothing was written" not in reply.message
    world.appender.fault = None
    assert (await world.call(operation, body, **KEY)).status == first.status


# Two attempts at two peers; the first is applied at the second one's while that one is at work


def happens_before(
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    reading: str,
    happens: Callable[[], Awaitable[object]],
) -> None:
    """Let something happen just before this peer's store is read in this way for the first time."""
    real, pending = getattr(world.store, reading), [happens]

    async def read(*args: Any, **named: Any) -> Any:
        if pending:
            await pending.pop()()
        return await real(*args, **named)

    monkeypatch.setattr(world.store, reading, read)


BY_SOURCE = {"filters": {"source": "old"}}
HEDGED = [
    ("memory.add", {"text": "one"}, "duplicates"),
    ("memory.add", {"text": "one", "client_ref": "r"}, "duplicates"),
    ("memory.bulk_add", {"items": [{"text": "one"}, {"text": "two"}]}, "duplicates"),
    (
        "memory.bulk_add",
        {"items": [{"text": "one"}, {"text": "two", "deduplicate": False}]},
        "duplicates",
    ),
    ("memory.forget", {"memory_ids": [1]}, "records_by_id"),
    ("memory.forget", BY_SOURCE, "matching"),
]
FIXED = {"Memsync_Ids": "700-749"}
KEYS = [{"Memsync_Operation_Key": "~k", **FIXED}, {**KEY, **FIXED}]


@pytest.mark.parametrize("keys", KEYS, ids=["a gateway's key", "a caller's key"])
@pytest.mark.parametrize(("operation", "body", "reading"), HEDGED)
async def test_a_second_attempt_does_not_meet_the_first_as_a_stranger(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    body: dict[str, Any],
    reading: str,
    keys: dict[str, str],
) -> None:
    there = (await world.add("to forget", source="old", Memsync_Ids="1-1")).json["id"]
    assert there == 1
    twin = await world.twin()
    await twin.hear(world)
    first: list[Reply] = []

    async def first_attempt() -> None:
        first.append(await twin.call(operation, body, **keys))
        await world.hear(twin)

    happens_before(monkeypatch, world, reading, first_attempt)
    second = await world.call(operation, body, **keys)
    assert (second.status, second.json) == (first[0].status, first[0].json)
    assert "duplicate" not in str(second.json)
    assert second.json != []


async def test_a_second_attempt_to_forget_tells_what_the_first_one_forgot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else that is meant was added since."""
    one = (await world.add("one", source="old")).json["id"]
    twin = await world.twin()
    await twin.hear(world)

    async def first_attempt() -> None:
        assert (await twin.call("memory.forget", BY_SOURCE, **KEY)).json == [one]
        await twin.add("later", source="old")
        await world.hear(twin)

    happens_before(monkeypatch, world, "matching", first_attempt)
    assert (await world.call("memory.forget", BY_SOURCE, **KEY)).json == [one]
    assert await world.texts() == ["later"]


async def test_a_second_attempt_to_update_undoes_nobodys_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"memory_id": (await world.add("one")).json["id"], "tags": ["first"]}
    twin = await world.twin()
    await twin.hear(world)

    async def first_attempt() -> None:
        assert (await twin.call("memory.update", body, **KEY)).json["tags"] == ["first"]
        await twin.call("memory.update", {**body, "tags": ["other's"]})
        await world.hear(twin)

    happens_before(monkeypatch, world, "records_by_id", first_attempt)
    assert (await world.call("memory.update", body, **KEY)).json["tags"] == ["other's"]


async def test_a_second_attempt_that_loses_against_the_first_answers_like_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's update changed the version that both ask for."""
    made = (await world.add("one")).json
    body = {"memory_id": made["id"], "tags": ["new"], "if_version": made["version"]}
    twin = await world.twin()
    await twin.hear(world)

    async def first_attempt() -> None:
        await twin.call("memory.update", body, **KEY)
        await world.hear(twin)

    happens_before(monkeypatch, world, "record", first_attempt)
    reply = await world.call("memory.update", body, **KEY)
    assert (reply.status, reply.json["tags"]) == (200, ["new"])


async def test_a_second_attempt_that_cannot_settle_the_first_says_that_it_is_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = await world.twin()

    async def first_attempt() -> None:
        await twin.add("one", **KEY)
        await world.hear(twin)

    happens_before(monkeypatch, world, "duplicates", first_attempt)
    world.appender.fault = NoQuorum("no majority")
    assert (await world.add("one", **KEY)).code == "OUTCOME_UNKNOWN"
