"""memory.relate and memory.feedback: what they write, what they refuse, what a repeat is told."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from memsync import limits
from memsync.core.feedback import SIGNALS
from memsync.core.membership import founded
from memsync.core.relations import RELATIONS
from memsync.ids import RecordKey
from memsync.service.about import graph, room
from tests.unit.service.world import Reply, World, unique


async def two(world: World, **rest: Any) -> tuple[int, int]:
    """The ids of two memories."""
    one, other = [(await world.add(unique(), **rest)).json["id"] for _ in range(2)]
    return one, other


async def relate(world: World, one: int, other: int, **rest: Any) -> Reply:
    headers = {name: rest.pop(name) for name in list(rest) if name[0].isupper() or name == "user"}
    body = {"relationship_type": "similar", **rest, "memory_id": one, "to_memory_id": other}
    return await world.call("memory.relate", body, **headers)


async def feedback(world: World, identifier: int, signal: str = "positive", **rest: Any) -> Reply:
    headers = {name: rest.pop(name) for name in list(rest) if name[0].isupper() or name == "user"}
    body = {"memory_id": identifier, "signal": signal, **rest}
    return await world.call("memory.feedback", body, **headers)


async def elements(world: World, identifier: int, name: str) -> dict[str, bytes]:
    record = (await world.store.records_by_id([identifier]))[identifier]
    return record.elements.get(name, {})


# Relations


async def test_a_relation_is_answered_and_kept(world: World) -> None:
    one, other = await two(world)
    before = (await world.call("memory.get", {"memory_id": one})).json
    made = await relate(world, one, other, confidence=0.7, metadata={"why": "said so"})
    assert made.status == 201
    assert made.json == {
        "id": made.json["id"], "from_memory_id": one, "to_memory_id": other,
        "relationship_type": "similar", "confidence": 0.7, "metadata": {"why": "said so"},
        "created_at": "2026-05-28T20:26:40.000+00:00",
    }  # fmt: skip
    [kept] = (await elements(world, one, RELATIONS)).values()
    assert b"said so" in kept
    assert await elements(world, other, RELATIONS) == {}
    assert (await world.call("memory.get", {"memory_id": one})).json == before


async def test_what_content_a_relation_has_is_in_no_outcome(world: World) -> None:
    """Outcomes are kept in clear, and after a memory is purged."""
    one, other = await two(world)
    await relate(world, one, other, metadata={"why": "hidden"}, Idempotency_Key="k")
    await feedback(world, one, comment="hidden", Idempotency_Key="c")
    for write in world.appender.writes[-2:]:
        assert "hidden" not in str(write.outcome)


async def test_it_is_as_sure_as_it_can_be(world: World) -> None:
    one, other = await two(world)
    assert (await relate(world, one, other)).json["confidence"] == 1.0
    for given, taken in [(7, 1.0), (-1, 0.0), (None, 1.0)]:
        made = await relate(world, one, other, confidence=given)
        assert made.json["confidence"] == taken


async def test_relating_again_puts_another_in_its_place(world: World) -> None:
    one, other = await two(world)
    first = await relate(world, one, other, confidence=0.5)
    writes = len(world.appender.writes)
    same = await relate(world, one, other, confidence=0.5)
    assert (same.status, same.json) == (200, first.json)
    assert len(world.appender.writes) == writes
    world.clock.advance(5)
    changed = await relate(world, one, other, confidence=0.9)
    assert (changed.status, changed.json["id"]) == (201, first.json["id"])
    assert changed.json["created_at"] > first.json["created_at"]
    back = await relate(world, other, one)
    third = await relate(world, one, other, relationship_type="supports")
    assert (back.status, third.status) == (201, 201)  # a cycle, and another type
    assert len({first.json["id"], back.json["id"], third.json["id"]}) == 3


async def test_a_memory_is_not_related_to_itself(world: World) -> None:
    one, _ = await two(world)
    reply = await relate(world, one, one)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    alias = await relate(world, 10**9, 10**9)
    assert alias.status == 422


async def test_nor_by_another_of_its_ids(world: World) -> None:
    """Two peers took one `client_ref` at once: both ids are the same memory's."""
    other = await world.twin()
    mine = (await world.add("text", client_ref="r")).json["id"]
    its = (await other.add("text", client_ref="r")).json["id"]
    await world.hear(other)
    assert mine != its
    reply = await relate(world, mine, its)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")


async def test_both_ends_must_be_there_to_be_seen(world: World) -> None:
    one, other = await two(world)
    [his, _] = await two(world, user="bob")
    await world.call("memory.forget", {"memory_ids": [other]})
    for start, end in [(one, 77), (77, one), (one, other), (other, one), (one, his), (his, one)]:
        reply = await relate(world, start, end)
        assert (reply.status, reply.code) == (404, "NOT_FOUND"), (start, end)
    assert await elements(world, one, RELATIONS) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("relationship_type", "hates"), ("relationship_type", None), ("confidence", "sure"),
        ("metadata", []), ("metadata", {"a": "x" * limits.METADATA_BYTES_MAX}),
        ("to_memory_id", "x"), ("to_memory_id", None), ("frobnicate", 1),
    ],
)  # fmt: skip
async def test_a_relation_that_is_not_well_formed(world: World, field: str, value: Any) -> None:
    one, other = await two(world)
    body = {"memory_id": one, "to_memory_id": other, "relationship_type": "similar", field: value}
    reply = await world.call("memory.relate", body)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert reply.json["error"]["details"][0]["field"] == field


async def test_a_memory_takes_only_so_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(room._MOST, RELATIONS, 2)
    monkeypatch.setitem(room._MOST, SIGNALS, 2)
    one, other = await two(world)
    for kind in ("similar", "supports"):
        assert (await relate(world, one, other, relationship_type=kind)).status == 201
        assert (await feedback(world, one)).status == 200
    for reply in [await relate(world, one, other, confidence=0.3), await feedback(world, one)]:
        assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
        assert "at most 2" in reply.message
    assert (await relate(world, one, other)).status == 200  # it stands


async def test_and_only_so_many_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ATTACHED_BYTES_MAX", 2_000)
    one, other = await two(world)
    assert (await feedback(world, one, comment="x" * 500)).status == 200
    reply = await relate(world, one, other, metadata={"a": "x" * 1_500})
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")
    assert "at most 2000" in reply.message


# Feedback


async def test_signals_move_the_importance(world: World) -> None:
    one, _ = await two(world)
    first = (await feedback(world, one, comment="good")).json
    assert first == {
        "memory_id": one, "signal": "positive", "importance_before": 0.5, "importance_after": 0.6,
        "adjustment": 0.1, "influenced_ranking": True,
        "summary": {
            "total_signals": 1,
            "signal_counts": {"positive": 1, "negative": 0, "retrieved": 0, "ignored": 0},
            "trend": {
                "momentum": "positive", "consistency": 1.0, "trend_multiplier": 1.0,
                "recent_count": 1,
            },
        },
    }  # fmt: skip
    memory = (await world.call("memory.get", {"memory_id": one})).json
    assert memory["importance"] == 0.6
    for signal in ("positive", "positive", "ignored", "negative"):
        reply = (await feedback(world, one, signal)).json
        assert reply["importance_before"] == memory["importance"]
        assert reply["adjustment"] == pytest.approx(
            reply["importance_after"] - reply["importance_before"]
        )
        memory = (await world.call("memory.get", {"memory_id": one})).json
        assert memory["importance"] == reply["importance_after"]
    assert reply["summary"]["total_signals"] == 5
    assert reply["summary"]["trend"]["momentum"] == "positive"


async def test_what_is_clamped_away_influences_nothing(world: World) -> None:
    one = (await world.add(unique(), importance=1.0)).json["id"]
    reply = (await feedback(world, one)).json
    assert (reply["importance_after"], reply["adjustment"]) == (1.0, 0.0)
    assert reply["influenced_ranking"] is False


async def test_a_signal_changes_no_version(world: World) -> None:
    one, other = await two(world)
    before = (await world.call("memory.get", {"memory_id": one})).json
    await feedback(world, one)
    await relate(world, one, other)
    after = (await world.call("memory.get", {"memory_id": one})).json
    assert (after["version"], after["updated_at"]) == (before["version"], before["updated_at"])
    body = {"memory_id": one, "source": "x", "if_version": before["version"]}
    assert (await world.call("memory.update", body)).status == 200


async def test_an_update_of_the_importance_is_above_all_signals(world: World) -> None:
    """Also of signals that a peer took whose clock is ahead."""
    one, _ = await two(world)
    world.clock.advance(3_600)
    await feedback(world, one, "negative")
    world.clock.advance(-3_600)
    world.appender._last = type(world.appender._last)(0, 0)
    updated = await world.call("memory.update", {"memory_id": one, "importance": 0.9})
    assert updated.json["importance"] == 0.9


async def test_signals_that_two_peers_take_at_once_all_count(world: World) -> None:
    one = (await world.add(unique())).json["id"]
    other = await world.twin()
    await other.hear(world)
    told = len(world.appender.writes)
    await asyncio.gather(feedback(world, one), feedback(other, one), feedback(world, one))
    world.appender.writes, heard = world.appender.writes[told:], other.appender.writes
    await other.hear(world)
    await world.hear(other)
    assert len(heard) == 1
    for peer in (world, other):
        memory = (await peer.call("memory.get", {"memory_id": one})).json
        assert memory["importance"] == pytest.approx(0.5 + 0.1 + 0.1 + 0.15)
    assert await world.store.digests() == await other.store.digests()


@pytest.mark.parametrize("identifier", [77, 0, -1, 1 << 60])
async def test_feedback_on_what_is_not_there(world: World, identifier: int) -> None:
    reply = await feedback(world, identifier)
    assert (reply.status, reply.code) == (404, "NOT_FOUND")


async def test_feedback_on_what_is_anothers_or_forgotten(world: World) -> None:
    one, _ = await two(world)
    assert (await feedback(world, one, user="bob")).code == "NOT_FOUND"
    await world.call("memory.forget", {"memory_ids": [one]})
    assert (await feedback(world, one)).code == "NOT_FOUND"
    assert await elements(world, one, SIGNALS) == {}


async def test_a_repeat_of_feedback_is_told_what_the_first_was(world: World) -> None:
    one, _ = await two(world)
    first = await feedback(world, one, Idempotency_Key="k")
    await feedback(world, one)
    again = await feedback(world, one, Idempotency_Key="k")
    assert again.json == first.json
    assert len(await elements(world, one, SIGNALS)) == 2


# Keys and repeats


async def test_a_key_that_was_let_go_of_takes_no_acknowledged_signal_away(world: World) -> None:
    """The set is by operation key: one of two with the same key would be lost."""
    one = (await world.add(unique())).json["id"]
    assert (await feedback(world, one, Idempotency_Key="k")).status == 200
    before = await elements(world, one, SIGNALS)
    world.clock.advance(limits.OPERATION_KEY_CALLERS_S + 60)
    for signal in ("positive", "negative"):
        reply = await feedback(world, one, signal, Idempotency_Key="k")
        assert (reply.status, reply.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await elements(world, one, SIGNALS) == before
    reply = await feedback(world, one, Idempotency_Key="another")
    assert reply.json["summary"]["total_signals"] == 2
    assert len(await elements(world, one, SIGNALS)) == 2


async def test_a_repeat_whose_row_came_before_its_key_is_no_reuse(world: World) -> None:
    """A peer that took the row from one that is ahead of it."""
    one = (await world.add(unique())).json["id"]
    other = await world.twin()
    await other.hear(world)
    first = await feedback(other, one, Idempotency_Key="k")
    rows, _ = await other.store.rows_after(RecordKey(b""), bytes_max=1 << 20)
    await world.store.join(rows, [], [])
    assert len(await elements(world, one, SIGNALS)) == 1
    assert (await feedback(world, one, Idempotency_Key="k")).status == first.status == 200
    await world.hear(other)
    assert len(await elements(world, one, SIGNALS)) == 1


async def test_nor_a_relation(world: World) -> None:
    one, other = await two(world)
    assert (await relate(world, one, other, Idempotency_Key="k")).status == 201
    before = await elements(world, one, RELATIONS)
    world.clock.advance(limits.OPERATION_KEY_CALLERS_S + 60)
    reply = await relate(world, one, other, confidence=0.5, Idempotency_Key="k")
    assert (reply.status, reply.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await elements(world, one, RELATIONS) == before
    assert (await relate(world, one, other, Idempotency_Key="k")).status == 200  # it stands
    assert await elements(world, one, RELATIONS) == before


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("stood", [False, True])
async def test_a_repeat_of_relate_is_told_what_the_first_was(
    world: World, end: int, stood: bool
) -> None:
    """Also when an end is forgotten, and when the relation was put in another's place since."""
    ends = await two(world)
    said = {"confidence": 0.7, "metadata": {"why": "said so"}}
    if stood:
        await relate(world, *ends, **said)
        world.clock.advance(5)
    first = await relate(world, *ends, **said, Idempotency_Key="k")
    assert first.status == (200 if stood else 201)
    world.clock.advance(5)
    assert (await relate(world, *ends, confidence=0.1)).status == 201
    for forgotten in [[], [ends[end]]]:
        if forgotten:
            assert (await world.call("memory.forget", {"memory_ids": forgotten})).json == forgotten
        again = await relate(world, *ends, **said, Idempotency_Key="k")
        assert (again.status, again.json) == (first.status, first.json)
        assert again.headers["Idempotency-Replayed"] == "true"
    assert (await relate(world, *ends, **said, Idempotency_Key="new")).code == "NOT_FOUND"


# The graph


async def drawn(world: World, **body: Any) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of the nodes, and the ends of the edges."""
    reply = await world.call("memory.graph", body)
    assert reply.status == 200, reply
    nodes = [node["id"] for node in reply.json["nodes"]]
    return nodes, [(edge["from_memory_id"], edge["to_memory_id"]) for edge in reply.json["edges"]]


async def chain(world: World, length: int) -> list[int]:
    """Memories of which each names the next."""
    ids = [(await world.add(unique())).json["id"] for _ in range(length)]
    for one, other in itertools.pairwise(ids):
        assert (await relate(world, one, other)).status == 201
    return ids


async def test_the_graph_around_a_memory_goes_both_ways(world: World) -> None:
    a, b, c, d, e = await chain(world, 5)
    assert await drawn(world, memory_id=c, depth=1) == ([c, b, d], [(c, d), (b, c)])
    nodes, edges = await drawn(world, memory_id=a)
    assert (nodes, edges) == ([a, b, c], [(a, b), (b, c)])
    reply = await world.call("memory.graph", {"memory_id": e, "depth": 99})
    assert [node["distance"] for node in reply.json["nodes"]] == [0, 1, 2, 3]
    assert reply.json["truncated"] is False
    assert reply.json["edges"][0].keys() == {
        "id", "from_memory_id", "to_memory_id", "relationship_type", "confidence", "metadata",
        "created_at",
    }  # fmt: skip


async def test_the_graph_of_all(world: World) -> None:
    ids = [*(await chain(world, 3)), (await world.add(unique())).json["id"]]
    reply = await world.call("memory.graph")
    assert {node["id"] for node in reply.json["nodes"]} == set(ids)
    assert {node["distance"] for node in reply.json["nodes"]} == {None}
    assert len(reply.json["edges"]) == 2
    cut = await world.call("memory.graph", {"limit": 2})
    assert (len(cut.json["nodes"]), cut.json["truncated"]) == (2, True)
    assert (await world.call("memory.graph", {"limit": -5})).json["truncated"] is True
    assert await drawn(world, user_id=5) == await drawn(world)


async def test_what_is_forgotten_is_in_no_graph(world: World) -> None:
    a, b, c = await chain(world, 3)
    await world.call("memory.forget", {"memory_ids": [b]})
    assert await drawn(world, memory_id=a) == ([a], [])
    assert await drawn(world) == ([a, c], [])
    assert (await world.call("memory.graph", {"memory_id": b})).code == "NOT_FOUND"


async def test_a_graph_that_is_too_large_for_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await chain(world, 6)
    monkeypatch.setattr(graph, "_NODES_BYTES_MAX", 1_500)
    nodes, edges = await drawn(world, memory_id=ids[0], depth=3)
    assert 1 <= len(nodes) < 4
    assert len(edges) == len(nodes) - 1
    monkeypatch.setattr(graph, "_EDGES_BYTES_MAX", 100)
    reply = await world.call("memory.graph", {"memory_id": ids[0]})
    assert (reply.json["edges"], reply.json["truncated"]) == ([], True)


async def test_a_graph_of_what_is_not_loaded_in_time(world: World) -> None:
    world.recall.is_loading = True
    reply = await world.call("memory.graph")
    assert (reply.status, reply.code) == (503, "OVERLOADED")


# Explanations

OWN, ITS = f"q_{'0' * 24}.peer-1", f"q_{'1' * 24}.peer-2"


async def explained(world: World, query_id: str, **headers: str) -> Reply:
    return await world.call("memory.explanation", {"query_id": query_id}, **headers)


async def test_an_explanation_is_its_scopes_only(world: World) -> None:
    scope = (await world.store.records_by_id([(await world.add()).json["id"]])).popitem()[1].scope
    world.recall.explanations[scope, OWN] = b'{"query_id":"mine"}'
    assert (await explained(world, OWN)).json == {"query_id": "mine"}
    for reply in [await explained(world, OWN, user="bob"), await explained(world, OWN[:-1] + "9")]:
        assert (reply.status, reply.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize("query_id", ["", "q", "q_1", OWN.upper(), OWN + "/", "x" * 9_000, "q_☃.a"])
async def test_what_is_no_query_id(world: World, query_id: str) -> None:
    reply = await explained(world, query_id)
    assert (reply.status, reply.code) == (404, "NOT_FOUND")
    assert len(reply.message) < 300


async def test_an_explanation_comes_from_the_peer_that_answered(world: World) -> None:
    other = await world.twin()
    other.members.name = "peer-2"
    world.standing._members.set_membership(founded(["peer-1", "peer-2"]))
    scope = (await world.store.records_by_id([(await world.add()).json["id"]])).popitem()[1].scope
    other.recall.explanations[scope, ITS] = b'{"query_id":"its"}'
    silent = await explained(world, ITS)
    assert (silent.status, silent.code) == (503, "OVERLOADED")
    assert "peer-2" in silent.message
    world.peers.services["peer-2"] = other.service
    assert (await explained(world, ITS)).json == {"query_id": "its"}
    assert (await explained(world, ITS, user="bob")).code == "NOT_FOUND"
    gone = await explained(world, ITS.replace("peer-2", "peer-7"))
    assert (gone.status, gone.code) == (404, "NOT_FOUND")
    assert "peer-7" in gone.message
