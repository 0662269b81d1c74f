"""`ports.Log` on JetStream: publishing frames, reading them back, and hearing them as they are
stored.

Reading is by batch direct get, which any one surviving server answers; hearing is a plain
subscription to the republish subject. No consumers: they need a quorum to be made, and ordered ones
break. A log message carries `Nats-Msg-Id` and nothing of a caller's headers, ever (a wrong
`Nats-Expected-Last-Msg-Id` stops a stream for good).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import nats.errors
import nats.js.errors as jetstream_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from memsync import limits
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.bus_client import hear
from memsync.errors import (
    MemsyncError,
    NoStripeLeader,
    OutcomeUnknown,
    Unavailable,
    VersionConflict,
)
from memsync.ids import Position, RecordKey
from memsync.wire.operations import RawMessage
from memsync.wire.subjects import CellName

CODES_OF_CONFLICT = {10071, 10164}  # wrong last sequence; several at once on one subject
CODE_NO_MESSAGE = 10037
CODE_TOO_LARGE = 10054
LAST_TIMEOUT_S = 0.3
CODE_FULL = 10077  # "stream store failed" for whatever reason; the description tells which


# Raised before anything is sent.
_NOT_SENT = (
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionDrainingError,
)


class JetStreamLog:
    """See `ports.Log`. One per connection."""

    def __init__(self, client: Client, cell: CellName) -> None:
        self._client = client
        self._cell = cell
        self._jetstream = client.jetstream()

    def fault(self) -> str | None:
        """Why there is no connection right now, with what the last attempt came to."""
        if self._client.is_connected:
            return None
        error = self._client.last_error
        said = "" if error is None else f" ({str(error) or type(error).__name__})"
        return "no connection to a NATS server" + said

    async def publish(
        self,
        stripe: int,
        message_id: str,
        data: bytes,
        *,
        record: RecordKey | None = None,
        after: int | None = None,
        timeout_s: float,
    ) -> Position:
        """Store one frame; see `ports.Log.publish` for what each error means."""
        subject = self._cell.log(stripe) if record is None else self._cell.record(stripe, record)
        headers = {"Nats-Msg-Id": message_id}
        if after is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(after)
        if len(data) + connection.HEADER_BYTES_MAX > self._client.max_payload:
            raise Unavailable(
                f"a frame of {len(data)} bytes is more than the server takes; set its max_payload "
                f"to {limits.NATS_PAYLOAD_BYTES_MAX}; nothing was written"
            )
        try:
            ack = await self._jetstream.publish(subject, data, timeout=timeout_s, headers=headers)
        except jetstream_errors.NoStreamResponseError as error:
            raise NoStripeLeader(f"stripe {stripe} has no leader; nothing was written") from error
        except _NOT_SENT as error:
            raise Unavailable("no connection to the bus; nothing was written") from error
        except jetstream_errors.APIError as error:
            raise _refusal(stripe, error) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise OutcomeUnknown(
                f"stripe {stripe} did not answer within {timeout_s} s; repeat with the same key"
            ) from error
        generation = self._cell.generation_of(stripe, ack.stream)
        if generation is None:
            raise OutcomeUnknown(f"stripe {stripe}: stored by a stranger, {ack.stream}")
        return Position(stripe, generation, ack.seq)

    async def fetch(self, start: Position) -> list[RawMessage]:
        """One batch from `start` on, in order; [] at the end of whichever server answered."""
        stream = self._cell.stream(start.stripe, start.generation)
        if not self._client.is_connected:  # nats-py would keep the request for later
            raise Unavailable(f"{stream} not read: no connection to a NATS server")
        inbox = self._client.new_inbox()
        request = {
            "seq": max(start.sequence, 1),
            "batch": limits.FETCH_BATCH_MESSAGES,
            "max_bytes": limits.FETCH_BATCH_BYTES,
        }
        found: list[RawMessage] = []
        subscription: Subscription | None = None
        try:
            subscription = await self._client.subscribe(inbox)
            await self._client.publish(
                f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox
            )
            while True:
                message = await subscription.next_msg(timeout=limits.FETCH_TIMEOUT_S)
                headers = message.headers or {}
                if "Status" in headers or "Nats-Sequence" not in headers:
                    return _checked(stream, headers, found)
                position = Position(start.stripe, start.generation, int(headers["Nats-Sequence"]))
                found.append(RawMessage(position, message.data, headers.get("Nats-Msg-Id", "")))
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if found:
                return found
            raise Unavailable(
                f"{stream}: no server answers reads ({type(error).__name__})"
            ) from error
        finally:
            await _unsubscribe(subscription)

    async def fetch_from_leader(self, position: Position) -> RawMessage | None:
        """One message as the leader of its stream has it; None where it has none."""
        stream = self._cell.stream(position.stripe, position.generation)
        try:
            async with asyncio.timeout(limits.FETCH_TIMEOUT_S):
                found = await self._jetstream.get_msg(stream, seq=position.sequence, direct=False)
        except jetstream_errors.NotFoundError as error:
            if error.err_code == CODE_NO_MESSAGE:
                return None
            raise Unavailable(f"{stream} not read: {error.description}") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"{stream} not read ({type(error).__name__})") from error
        message_id = (found.headers or {}).get("Nats-Msg-Id", "")
        return RawMessage(position, found.data or b"", message_id)

    async def last_of_record(
        self, stripe: int, generation: int, record: RecordKey, *, timeout_s: float
    ) -> int:
        """The last message on a record's own subject, as some server has it. Several are asked one
        after the other: one that is frozen still counts as there for seconds."""
        stream, subject = self._cell.stream(stripe, generation), self._cell.record(stripe, record)
        if not self._client.is_connected:  # nats-py would keep the request for later
            raise Unavailable(f"{stream} not read: no connection to a NATS server")
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        async with asyncio.timeout(LAST_TIMEOUT_S):
                            found = await self._jetstream.get_last_msg(stream, subject, direct=True)
                            return found.seq or 0
                    except TimeoutError:
                        pass  # the next server may answer
        except jetstream_errors.NotFoundError:
            return 0
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"{stream} not read ({type(error).__name__})") from error

    async def listen(self, stripe: int, heard: Callable[[RawMessage], None]) -> None:
        """Call `heard` with every frame as it is stored, in the order of the server heard from;
        gaps are possible and the listener's to fill. Lives as long as the connection."""

        def take(message: Msg) -> None:
            headers = message.headers or {}
            generation = self._cell.generation_of(stripe, headers.get("Nats-Stream", ""))
            if generation is not None:
                position = Position(stripe, generation, int(headers["Nats-Sequence"]))
                heard(RawMessage(position, message.data, headers.get("Nats-Msg-Id", "")))

        await hear(self._client, self._cell.tail_all(stripe), take)


def _checked(stream: str, headers: dict[str, str], found: list[RawMessage]) -> list[RawMessage]:
    """What an end marker means: 204 end of batch, 404 nothing there; others are errors."""
    status = headers.get("Status", "")
    if status in ("204", "404", ""):
        return found
    raise Unavailable(f"{stream}: read refused with {status} {headers.get('Description', '')}")


def _refusal(stripe: int, error: jetstream_errors.APIError) -> MemsyncError:
    """What an error instead of a PubAck means; only what says so is certain not to be stored."""
    description = error.description or ""
    if error.err_code in CODES_OF_CONFLICT:
        return VersionConflict(f"stripe {stripe}: the record was changed by another")
    if error.err_code == CODE_TOO_LARGE:
        return Unavailable(f"stripe {stripe}: {description}; nothing was written")
    if error.err_code == CODE_FULL and description.startswith("maximum "):
        return Unavailable(f"stripe {stripe} is full ({description}); nothing was written")
    return OutcomeUnknown(f"stripe {stripe}: {error.err_code} {description}")


async def _unsubscribe(subscription: Subscription | None) -> None:
    if subscription is None:
        return
    try:
        await subscription.unsubscribe()
    except (nats.errors.Error, OSError, asyncio.InvalidStateError):
        pass  # the connection is gone, and the subscription with it
