"""The service as a whole: room, shutdown, faults of ours, metrics, and that every error is met."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from memsync import errors, limits
from memsync.ports import Backend
from tests.unit.service.world import World, unique


async def test_it_is_a_backend(world: World) -> None:
    backend: Backend = world.service
    assert backend.checks() == {"store": "ok"}
    assert backend.is_recalling() is True


async def test_draining_refuses_what_is_new_and_finishes_the_rest(world: World) -> None:
    await world.service.wait_idle()
    world.appender.gate.clear()
    running = asyncio.create_task(world.add("one"))
    await world.appender.arrival()
    world.service.drain()
    idle = asyncio.create_task(world.service.wait_idle())
    refused = await world.add("two")
    assert (refused.status, refused.code) == (503, "OVERLOADED")
    assert refused.json["error"]["definite"] is True
    assert refused.headers["Retry-After"] == "1"
    assert not idle.done()
    world.appender.gate.set()
    assert (await running).status == 201
    await idle


async def test_there_is_a_limit_to_requests_in_flight(world: World) -> None:
    world.appender.gate.clear()
    running = [
        asyncio.create_task(world.add(unique())) for _ in range(limits.REQUESTS_IN_FLIGHT_MAX)
    ]
    for _ in running:
        await world.appender.arrival()
    refused = await world.call("memory.list")
    assert (refused.status, refused.code) == (503, "OVERLOADED")
    world.appender.gate.set()
    assert {reply.status for reply in await asyncio.gather(*running)} == {201}
    assert (await world.call("memory.list")).status == 200


async def test_a_cancelled_request_is_not_in_flight_any_more(world: World) -> None:
    world.appender.gate.clear()
    running = asyncio.create_task(world.add("one"))
    await world.appender.arrival()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await world.service.wait_idle()


class Fault(Exception):
    """What nobody foresaw; its text must not reach a caller."""


async def test_an_unforeseen_fault_is_internal_and_says_nothing(world: World) -> None:
    world.store.fault = Fault("secret detail")
    reply = await world.call("memory.list")
    assert (reply.status, reply.code) == (500, "INTERNAL")
    assert reply.json["error"]["definite"] is True
    assert "secret" not in str(reply.json)
    assert (await world.add("one", Idempotency_Key="k")).code == "INTERNAL"


async def test_a_fault_after_a_write_was_handed_over_leaves_it_unknown(world: World) -> None:
    world.appender.fault = Fault("secret detail")
    reply = await world.add("one")
    assert (reply.status, reply.code) == (503, "OUTCOME_UNKNOWN")
    assert reply.json["error"]["definite"] is False
    assert "secret" not in str(reply.json)


async def test_requests_are_counted_without_tenants(world: World) -> None:
    def count(operation: str, status: str) -> float:
        labels = {"operation": operation, "status": status}
        return REGISTRY.get_sample_value("memsync_operations_total", labels) or 0.0

    before = count("memory.list", "200"), count("other", "404")
    await world.call("memory.list")
    await world.call("made.up")
    assert (count("memory.list", "200"), count("other", "404")) == (before[0] + 1, before[1] + 1)


async def test_running_ends_when_it_is_cancelled(world: World) -> None:
    running = asyncio.create_task(world.service.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_every_error_that_a_service_gives_is_met_by_a_test() -> None:
    def codes(root: type[errors.MemsyncError]) -> set[str]:
        return {root.code}.union(*(codes(child) for child in root.__subclasses__()))

    # The HTTP layer's, the appender's, the client library's.
    not_ours = {"METHOD_NOT_ALLOWED", "NO_STRIPE_LEADER", "NO_CLUSTER"}
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [
        code for code in codes(errors.MemsyncError) - not_ours if f'"{code}"' not in tests
    ] == []
