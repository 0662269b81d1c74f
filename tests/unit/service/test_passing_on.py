"""Writes that this peer must not coordinate: another does, with the same key, or nobody."""

from __future__ import annotations

import pytest

from memsync.errors import OutcomeUnknown
from tests.unit.service.world import World

OFF = "this machine's clock is 3600.0 s ahead of the members' median; set it right (NTP)"


async def test_an_unfit_peer_lets_another_write(world: World) -> None:
    other = await world.twin()
    world.appender.is_unfit_by = OFF
    world.peers.services["peer-2"] = other.service
    reply = await world.call("memory.add", {"text": "a cat"})
    assert reply.status == 201
    assert (len(other.appender.writes), world.appender.writes) == (1, [])
    member, operation, headers = world.peers.passed[0]
    assert (member, operation) == ("peer-2", "memory.add")
    assert other.appender.writes[0].key == headers["Memsync-Operation-Key"]


async def test_nothing_is_passed_on_to_a_member_that_is_not_heard(world: World) -> None:
    """Its answer would not come, and the write would be unknown."""
    world.members.names = ("peer-1", "peer-2", "peer-3")
    world.members.deaf_to = ["peer-2"]
    world.appender.is_unfit_by = OFF
    for name in ("peer-2", "peer-3"):
        world.peers.services[name] = (await world.twin()).service
    assert (await world.call("memory.add", {"text": "a cat"})).status == 201
    assert [member for member, _, _ in world.peers.passed] == ["peer-3"]


async def test_its_reads_are_its_own(world: World) -> None:
    world.appender.is_unfit_by = OFF
    await world.call("memory.query", {"query": "cat"})
    assert world.peers.passed == []


async def test_a_passed_write_without_an_answer_is_unknown(world: World) -> None:
    world.appender.is_unfit_by = OFF
    world.peers.services["peer-2"] = (await world.twin()).service
    world.peers.fault = OutcomeUnknown("no answer")
    reply = await world.call("memory.add", {"text": "a cat"})
    assert (reply.status, reply.code) == (503, "OUTCOME_UNKNOWN")


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("memory.update", {"memory_id": 1, "tags": ["x"]}),
        ("memory.forget", {"memory_ids": [1]}),
        ("memory.add", {"text": "a cat", "client_ref": "ref"}),
    ],
)
async def test_a_write_that_goes_by_what_is_there_needs_a_fresh_peer(
    world: World, operation: str, body: dict[str, object]
) -> None:
    world.leases.state = "alone"
    reply = await world.call(operation, body)
    assert (reply.status, reply.json["error"]["definite"]) == (503, True)
    assert "nothing was written" in reply.message
    assert world.appender.writes == []


async def test_an_add_without_a_name_of_its_own_does_not(world: World) -> None:
    world.leases.state = "alone"
    assert (await world.call("memory.add", {"text": "a cat"})).status == 201
