"""org.get and org.update: what counts for all requests of an organisation."""

from __future__ import annotations

import pytest

from tests.unit.service.world import World


async def test_a_new_organisation_asks_for_a_quorum(world: World) -> None:
    reply = await world.call("org.get")
    assert (reply.status, reply.json["slug"], reply.json["ack"]) == (200, "default", "quorum")
    await world.add("one")
    assert world.appender.acks == ["quorum"]


async def test_its_default_counts_where_a_request_does_not_say(world: World) -> None:
    reply = await world.call("org.update", {"ack": "all"})
    assert (reply.status, reply.json["ack"]) == (200, "all")
    assert (await world.call("org.get")).json["ack"] == "all"
    await world.add("one")
    await world.add("two", Memsync_Ack="quorum")
    await world.add("three", Memsync_Ack="log")
    assert world.appender.acks[-3:] == ["all", "quorum", "log"]
    assert (await world.call("org.update", {"ack": "quorum"})).json["ack"] == "quorum"
    await world.add("four")
    assert world.appender.acks[-1] == "quorum"


async def test_it_counts_for_its_own_organisation_only(world: World) -> None:
    acme = await world.new_key(organisation="acme", scopes=["memory:*", "org:admin"])
    assert (await world.call("org.update", {"ack": "all"}, key=acme)).json["slug"] == "acme"
    await world.add("of acme", key=acme)
    await world.add("of default")
    assert world.appender.acks[-2:] == ["all", "quorum"]


async def test_a_repeat_waits_as_long_as_its_organisation_asks(world: World) -> None:
    await world.add("one", Idempotency_Key="k")
    await world.call("org.update", {"ack": "all"})
    await world.add("one", Idempotency_Key="k")
    assert world.appender.settled[-1] == "all"


async def test_a_repeated_update_is_answered_as_the_first(world: World) -> None:
    first = await world.call("org.update", {"ack": "all"}, Idempotency_Key="k")
    again = await world.call("org.update", {"ack": "all"}, Idempotency_Key="k")
    assert first.json == again.json
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await world.call("org.update", {"ack": "quorum"}, Idempotency_Key="k")
    assert other.code == "IDEMPOTENCY_KEY_REUSED"


@pytest.mark.parametrize("body", [{}, {"ack": "log"}, {"ack": None}, {"ack": "all", "x": 1}])
async def test_what_is_not_a_default_is_refused(world: World, body: dict[str, object]) -> None:
    reply = await world.call("org.update", body)
    assert (reply.status, reply.code) == (422, "VALIDATION_ERROR")


async def test_who_may_read_and_set(world: World) -> None:
    plain = await world.new_key()
    pinned = await world.new_key(project_id="site", scopes=["org:admin"])
    for operation in ("org.get", "org.update"):
        reply = await world.call(operation, {"ack": "all"}, key=plain)
        assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
    reply = await world.call("org.update", {"ack": "all"}, key=pinned)
    assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
