"""The service: every request to this peer, over HTTP or NATS, comes through `Service.call`.

In this order: is there such an operation, is there room, whose key is it, is it within its limits,
has it the scope; then the operation itself (adds, changes, reads, keys), which reads its body and
finds out whose data it speaks of. Whatever goes wrong becomes the error body of the API.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from memsync import errors, limits
from memsync.core.admission import Admission
from memsync.ids import random_hex
from memsync.ports import Answer
from memsync.service import access, adds, answers, changes, freshness, metrics, reads
from memsync.service.about import explanations, feedback, graph, relations
from memsync.service.admin import cluster, keys, organisations
from memsync.service.admin.key_uses import KeyUses
from memsync.service.parts import Call, Exchange, Health, Parts
from memsync.telemetry import describe, logger
from memsync.wire import context

Handler: TypeAlias = Callable[[Parts, Call, bytes], Awaitable[Answer]]
RETRY_AFTER_S = 1.0
PLACES_LOGGED = 5


class Operation(msgspec.Struct, frozen=True):
    """How an operation is done and which scope a key needs for it."""

    handler: Handler
    needed: str
    is_write: bool = False


OPERATIONS: dict[str, Operation] = {
    "memory.add": Operation(adds.add, "memory:add", is_write=True),
    "memory.bulk_add": Operation(adds.bulk_add, "memory:add", is_write=True),
    "memory.query": Operation(reads.query, "memory:read"),
    "memory.get": Operation(reads.get, "memory:read"),
    "memory.update": Operation(changes.update, "memory:add", is_write=True),
    "memory.forget": Operation(changes.forget, "memory:delete", is_write=True),
    "memory.list": Operation(reads.list_memories, "memory:read"),
    "memory.relate": Operation(relations.relate, "memory:add", is_write=True),
    "memory.feedback": Operation(feedback.feedback, "memory:add", is_write=True),
    "memory.graph": Operation(graph.graph, "memory:read"),
    "memory.explanation": Operation(explanations.explanation, "memory:read"),
    "keys.create": Operation(keys.create, "org:admin", is_write=True),
    "keys.list": Operation(keys.list_keys, "org:admin"),
    "keys.revoke": Operation(keys.revoke, "org:admin", is_write=True),
    "cluster.members": Operation(cluster.members, "org:admin"),
    "cluster.join": Operation(cluster.join, "org:admin", is_write=True),
    "cluster.remove": Operation(cluster.remove, "org:admin", is_write=True),
    "org.get": Operation(organisations.get, "org:admin"),
    "org.update": Operation(organisations.update, "org:admin", is_write=True),
}

# Of the API, but not built yet.
_NOT_BUILT = frozenset(
    {
        "memory.add_turn", "memory.batch_update", "memory.clusters", "memory.compose",
        "memory.decisions", "memory.export",
        "memory.history", "memory.intelligence", "memory.ontology",
        "memory.recall", "memory.refresh", "memory.relations", "memory.status",
        "memory.summarize", "memory.upload", "keys.bulk_revoke", "keys.rotate", "keys.test",
        "keys.update",
    }
)  # fmt: skip
_NOT_BUILT_GROUPS = ("admin.", "history.", "projects.", "state.", "usage.", "webhooks.")


class Service:
    """`ports.Backend` of this peer."""

    def __init__(self, parts: Parts, health: Health) -> None:
        self._parts = parts
        self._health = health
        self._admission = Admission()
        self._key_uses = KeyUses(parts.store, parts.appender, parts.clock)
        self._in_flight = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def checks(self) -> dict[str, str]:
        """What `/ready` says."""
        return self._health.checks()

    def is_recalling(self) -> bool:
        """Whether recalls can be answered at all."""
        return self._health.is_recalling()

    async def run(self) -> None:
        """What the service does beside answering; ends when it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._key_uses.run())

    async def publish_key_uses(self) -> None:
        """Publish the counts of key uses now: before a shutdown, so that none is lost."""
        await self._key_uses.publish()

    def drain(self) -> None:
        """From now on refuse new requests; those in flight go on."""
        self._is_draining = True

    async def wait_idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer `operation`. Raises nothing; a write that is cancelled may still happen."""
        started_s = self._parts.clock.steady_s()
        found = {name.lower(): value for name, value in headers.items()}
        request_id = context.request_id_of(found)
        found[context.REQUEST_ID.lower()] = request_id
        exchange = Exchange({context.REQUEST_ID: request_id})
        self._in_flight += 1
        self._idle.clear()
        try:
            answer = await self._answer(operation, found, body, exchange)
        except errors.MemsyncError as error:
            answer = answers.error(error, request_id)
        except Exception as error:  # noqa: BLE001 - the top: a fault of ours must not end the peer
            answer = answers.error(_unforeseen(error, operation, request_id, exchange), request_id)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        self._measure(operation, answer, started_s)
        if context.TRACE_ID not in exchange.headers:  # it was refused before its headers were read
            exchange.headers[context.TRACE_ID] = random_hex()
        return answers.with_headers(answer, exchange.headers)

    def _measure(self, operation: str, answer: Answer, started_s: float) -> None:
        label = operation if operation in OPERATIONS else "other"
        metrics.operations(label, answer.status).inc()
        elapsed_s = self._parts.clock.steady_s() - started_s
        metrics.OPERATION_SECONDS.of(label).observe(elapsed_s)

    async def _answer(
        self, name: str, headers: Mapping[str, str], body: bytes, exchange: Exchange
    ) -> Answer:
        operation = _operation(name)
        self._check_room()
        try:
            call = self._admitted(name, operation, headers, exchange)
        except errors.Unauthenticated:
            await self._hear_of_keys(operation, headers, exchange)
            call = self._admitted(name, operation, headers, exchange)
        access.require(call.caller, operation.needed)
        if operation.is_write and self._parts.appender.unfit() is not None:
            passed = await freshness.passed_on(self._parts, call, body, until_s=call.deadline_s)
            if passed is not None:
                return passed
        return await operation.handler(self._parts, call, body)

    def _check_room(self) -> None:
        if self._is_draining:
            raise errors.Unavailable("this peer is shutting down", retry_after_s=RETRY_AFTER_S)
        if self._in_flight > limits.REQUESTS_IN_FLIGHT_MAX:
            raise errors.Unavailable(
                f"{limits.REQUESTS_IN_FLIGHT_MAX} requests in flight", retry_after_s=RETRY_AFTER_S
            )

    async def _hear_of_keys(
        self, operation: Operation, headers: Mapping[str, str], exchange: Exchange
    ) -> None:
        """Wait until this peer knows every key that was acknowledged before the request came. Where
        it cannot make sure, a write is refused, which another peer may take, and the answer to a
        read is tagged."""
        found, leases = context.context_of(headers), self._parts.leases
        if found.api_key is None or found.consistency == "local":
            return
        within_s = min(found.deadline_s, freshness.REACH_S_MAX)
        if await leases.wait_fresh(self._parts.clock.steady_s() + within_s) == "fresh":
            return
        if operation.is_write:
            raise errors.Unavailable(
                "the API key is not known here, and this peer may lack what others acknowledged; "
                "nothing was written",
                retry_after_s=0.5,
            )
        exchange.headers[context.DEGRADED] = freshness.REPLICATION

    def _admitted(
        self, name: str, operation: Operation, headers: Mapping[str, str], exchange: Exchange
    ) -> Call:
        """Read the headers, find the key, count the request; raises what refuses it."""
        parts = self._parts
        arrived_s, now_ms = parts.clock.steady_s(), parts.clock.wall_ms()
        found = context.context_of(headers)
        access.check_operation_key(found)
        exchange.headers[context.TRACE_ID] = found.trace_id
        record, caller = access.authenticate(parts.directory, found.api_key, now_ms)
        access.admit(self._admission, caller, exchange, now_s=arrived_s, now_ms=now_ms)
        self._key_uses.note(record, now_ms)
        return Call(
            operation=name,
            is_write=operation.is_write,
            headers=headers,
            context=found,
            key=record,
            caller=caller,
            ack=found.ack or organisations.default_ack(parts.directory, caller.organisation),
            exchange=exchange,
            now_ms=now_ms,
            arrived_s=arrived_s,
            deadline_s=arrived_s + found.deadline_s,
        )


def _operation(name: str) -> Operation:
    operation = OPERATIONS.get(name)
    if operation is not None:
        return operation
    if name in _NOT_BUILT or name.startswith(_NOT_BUILT_GROUPS):
        raise errors.NotBuilt(f"{name[:64]} is not built yet")
    raise errors.NotFound(f"there is no operation {name[:64]!r}")


def _unforeseen(
    error: Exception, operation: str, request_id: str, exchange: Exchange
) -> errors.MemsyncError:
    """A fault of ours, logged here; the caller learns only what it means for its request."""
    frames = traceback.extract_tb(error.__traceback__)[-PLACES_LOGGED:]  # never the locals: texts
    logger().error(
        "request.failed",
        operation=operation[:64],
        request_id=request_id,
        where=[f"{frame.filename}:{frame.lineno}" for frame in frames],
        **describe(error),
    )
    if exchange.is_write_sent:
        return errors.OutcomeUnknown("a fault of this peer; repeating with the same key settles it")
    return errors.Internal("a fault of this peer; its log has the request id")
