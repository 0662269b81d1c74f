"""`ports.Peers`: request-reply between the members of a cell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from memsync import limits
from memsync.adapters.jetstream import connection
from memsync.errors import OutcomeUnknown, Unavailable
from memsync.ports import Answer
from memsync.telemetry import describe, logger
from memsync.wire import context
from memsync.wire.subjects import CellName

_NOT_SENT = (
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.MaxPayloadError,
)


class JetStreamPeers:
    """See `ports.Peers`."""

    def __init__(self, client: Client, cell: CellName, member: str) -> None:
        self._client = client
        self._cell = cell
        self._member = member

    async def ask_rows(self, member: str, wanted: bytes, *, timeout_s: float) -> bytes:
        """What a member answers to a packed `exchange.Wanted`."""
        try:
            message = await self._client.request(self._cell.rows(member), wanted, timeout=timeout_s)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"{member} gave no rows ({type(error).__name__})") from error
        return message.data

    async def serve_rows(self, give: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer other members until cancelled; who comes while enough are served hears nothing
        and asks again."""
        serving: set[str] = set()

        async def answer(message: Msg) -> None:
            try:
                await self._client.publish(message.reply, await give(message.data))
            except (nats.errors.Error, OSError) as error:
                logger().info("rows.not_sent", **describe(error))
            finally:
                serving.discard(message.reply)

        async def take(message: Msg) -> None:
            if message.reply and len(serving) < limits.EXCHANGE_SERVED_MAX:
                serving.add(message.reply)
                tasks.create_task(answer(message))

        async with asyncio.TaskGroup() as tasks:
            subscription = await self._client.subscribe(self._cell.rows(self._member), cb=take)
            try:
                await asyncio.get_running_loop().create_future()  # lives until it is cancelled
            finally:
                await _unsubscribe(subscription)

    async def pass_on(
        self,
        member: str,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
    ) -> Answer:
        """What a member's service answers."""
        subject = self._cell.peer(member, operation)
        if len(body) + connection.HEADER_BYTES_MAX > self._client.max_payload:
            raise Unavailable(f"{len(body)} bytes are too many to be passed on to {member}")
        try:
            message = await self._client.request(
                subject, body, timeout=timeout_s, headers=dict(headers)
            )
        except _NOT_SENT as error:
            raise Unavailable(f"{member} not reached ({type(error).__name__})") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise OutcomeUnknown(f"{member} did not answer ({type(error).__name__})") from error
        found = dict(message.headers or {})
        status = found.pop(context.STATUS, "")
        if not status.isdigit():
            raise OutcomeUnknown(f"{member} answered without a status")
        return Answer(int(status), found, message.data)


async def _unsubscribe(subscription: Subscription) -> None:
    """Hear nothing more; what comes meanwhile would find nobody to answer it."""
    try:
        await subscription.unsubscribe()
    except (nats.errors.Error, OSError):
        pass  # the connection is gone, and the subscription with it
