"""Requests over the bus: hands them to a `Backend` and sends its answers back.

Each request is a task. Who comes when too many are in flight is told so at once.
"""

from __future__ import annotations

import asyncio

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from memsync import limits
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.bus_client import hear
from memsync.errors import PayloadTooLarge, Unavailable, error_answer
from memsync.ports import Answer, Backend
from memsync.telemetry import describe, logger
from memsync.wire import codec, context, subjects
from memsync.wire.subjects import CellName

_IDS = context.IDS.lower()
_NOT_ANSWERED_ON = ("memsync.", "$")  # an answer in the log would stop every peer


class Responder:
    """Answers callers on `memsync.v1.>` (shared with the other peers) and gateways on this
    peer's own subjects. Only gateways may fix memory ids: the header is taken off callers'
    requests. A caller names where its answer goes, and the server does not check that name: this
    peer, which may publish anywhere, answers on no subject of ours and on none of the server's."""

    def __init__(self, client: Client, cell: CellName, member: str, backend: Backend) -> None:
        self._client = client
        self._backend = backend
        self._own = cell.peer(member, ">")
        self._own_prefix = cell.peer(member, "")
        self._subscriptions: list[Subscription] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._in_flight = 0

    async def run(self) -> None:
        """Answer until cancelled; what is in flight is then cancelled too (drain first)."""
        async with asyncio.TaskGroup() as self._tasks:
            own = await hear(self._client, self._own, self._take)
            shared = await hear(
                self._client, subjects.CLIENT_ALL, self._take, queue=subjects.CLIENT_QUEUE
            )
            self._subscriptions = [own, shared]
            await asyncio.get_running_loop().create_future()  # lives until it is cancelled

    async def stop_listening(self) -> None:
        """Take no new requests; those in flight go on."""
        for subscription in self._subscriptions:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError) as error:
                logger().info("responder.unsubscribe_failed", **describe(error))

    def _take(self, message: Msg) -> None:
        if not message.reply or self._tasks is None:
            return
        if message.reply.startswith(_NOT_ANSWERED_ON):
            return
        if self._in_flight >= limits.REQUESTS_IN_FLIGHT_MAX:
            overloaded = Unavailable(f"{self._in_flight} requests in flight; try again")
            body = codec.to_json(error_answer(overloaded, ""))
            answer = Answer(overloaded.http_status, {}, body)
            self._tasks.create_task(self._reply(message, answer))
            return
        self._in_flight += 1
        self._tasks.create_task(self._answer(message))

    async def _answer(self, message: Msg) -> None:
        try:
            headers = message.headers or {}
            if message.subject.startswith(subjects.CLIENT_PREFIX):
                operation = message.subject.removeprefix(subjects.CLIENT_PREFIX)
                headers = {n: v for n, v in headers.items() if n.lower() != _IDS}
            else:
                operation = message.subject.removeprefix(self._own_prefix)
            await self._reply(message, await self._backend.call(operation, headers, message.data))
        finally:
            self._in_flight -= 1

    async def _reply(self, message: Msg, answer: Answer) -> None:
        if len(answer.body) + connection.HEADER_BYTES_MAX > self._client.max_payload:
            error = PayloadTooLarge(
                f"an answer of {len(answer.body)} bytes is more than the NATS server takes; "
                "ask for less, or over HTTP"
            )
            body = codec.to_json(error_answer(error, answer.headers.get(context.REQUEST_ID, "")))
            answer = Answer(error.http_status, answer.headers, body)
        headers = {**answer.headers, context.STATUS: str(answer.status)}
        try:
            await self._client.publish(message.reply, answer.body, headers=headers)
        except (nats.errors.Error, OSError, ValueError) as error:
            logger().warning("answer.not_sent", subject=message.subject, **describe(error))
