"""The client under its typed methods: connections, and one call of any operation.

A call is checked before anything is sent, given its key and its deadline once, and settled by
`asking`. Its answer's position is kept, so that later reads see what was written.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, TypedDict, Unpack

import msgspec

from memsync import errors, limits
from memsync.client.answers import READS, Reply
from memsync.client.asking import Asking, Request, Terms, Way
from memsync.client.finding import Target
from memsync.client.over_http import HttpWay
from memsync.client.patience import RecallTimes
from memsync.client.positions import Positions, merged
from memsync.errors import ConfigurationError
from memsync.wire import codec, context
from memsync.wire.requests import Ack, Consistency

WAYS = 2
PATIENCE_S = {"memory.bulk_add": 2.0}  # a bulk takes longer; it is better not sent twice at once
# Where whoever starts a call in a task of its own learns the key, should the task be given up.
KEYS_USED: ContextVar[list[str]] = ContextVar("KEYS_USED")
_NOT_OPEN = "this client is not open: use it as `async with memsync.connect(...) as memory:`"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every call of a client, unless the call says something else."""

    project: str | None = None
    end_user: str | None = None
    timeout_s: float = limits.DEADLINE_S_DEFAULT
    ack: Ack | None = None
    consistency: Consistency | None = None
    reads_own_writes: bool = True
    retries: bool = True


class Options(TypedDict, total=False):
    """How one call is made, see `options`."""

    end_user: str | None
    timeout_s: float | None
    consistency: Consistency | None
    min_position: str | None
    ack: Ack | None
    idempotency_key: str | None


class Caller:
    """Calls operations of one cluster. An async context manager, for one task to enter and leave;
    in between any number of tasks may call."""

    def __init__(self, target: Target, settings: Settings) -> None:
        _check(settings)
        self._target = target
        self._settings = settings
        self._positions = Positions()
        self._times = {operation: RecallTimes() for operation in READS}
        self._ways: Sequence[_OpenWay] = ()
        self._group: asyncio.TaskGroup | None = None
        self._running: list[asyncio.Task[None]] = []
        self._has_met = False

    @property
    def position(self) -> str:
        """How far the log is, as far as this client's writes know. Another process that gives it
        as `min_position`, or to `carry`, sees these writes."""
        return str(self._positions)

    def carry(self, position: str) -> None:
        """Let later reads see what another client's `position` knows of."""
        self._positions.merge(position)

    async def __aenter__(self) -> Caller:
        await self._open()
        return self

    async def _open(self) -> None:
        if self._group is not None:
            raise RuntimeError("this client is open already")
        if self._target.url is not None:
            self._ways = [HttpWay(self._target) for _ in range(WAYS)]
            self._group = await asyncio.TaskGroup().__aenter__()
            return
        from memsync.client.over_nats import ways_to  # nats-py is slow to import, seldom needed

        ways = ways_to(self._target, WAYS)
        self._ways = ways
        self._group = await asyncio.TaskGroup().__aenter__()
        self._running = [self._group.create_task(way.run()) for way in ways]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the connections. An error of the body goes on as it is, not inside a group."""
        group, self._group = self._group, None
        assert group is not None
        for task in self._running:
            task.cancel()
        is_cancelled = isinstance(error, asyncio.CancelledError)
        try:
            if is_cancelled:
                await group.__aexit__(kind, error, trace)
            else:
                await group.__aexit__(None, None, None)
        finally:
            for way in self._ways:
                await way.close()
            self._ways = ()

    async def call(
        self, operation: str, fields: Mapping[str, Any], **options: Unpack[Options]
    ) -> Reply:
        """Call any operation; the answer as it came, always a success.

        `fields` become the JSON body. Raises `MemsyncError`: the one in the answer, `NoCluster`
        where nobody answers, `OutcomeUnknown` for a write that may have happened.
        """
        if self._group is None:
            raise RuntimeError(_NOT_OPEN)
        is_read = operation in READS
        fields, headers = self._prepared(operation, fields, options)
        if key := headers.get(context.IDEMPOTENCY_KEY):
            KEYS_USED.get([]).append(key)
        request = Request(operation, headers, fields, _encoded(fields), is_read)
        timeout_s = options.get("timeout_s")
        terms = self._terms(operation, self._settings.timeout_s if timeout_s is None else timeout_s)
        asking = Asking(self._ways, request, terms)
        started_s = asyncio.get_running_loop().time()
        try:
            reply = await asking.settle()
        finally:
            self._has_met |= asking.has_met
        if is_read:
            self._times[operation].note(asyncio.get_running_loop().time() - started_s)
        else:
            self._note_position(reply)
        return reply

    def _note_position(self, reply: Reply) -> None:
        """Keep where the log is now. A server of another version may write that in another form:
        the write has happened all the same, so what cannot be read is passed over."""
        with suppress(errors.ValidationFailed):
            self._positions.merge(reply.headers.get(context.POSITION.lower(), ""))

    def _prepared(
        self, operation: str, fields: Mapping[str, Any], options: Options
    ) -> tuple[Mapping[str, Any], dict[str, str]]:
        """Body and headers, checked as the server will check them."""
        headers = {context.API_KEY: self._target.api_key}
        if self._settings.project is not None:
            headers[context.PROJECT] = self._settings.project
        if operation.startswith("memory."):
            end_user = _end_user(fields.get("end_user_id"), options, self._settings)
            fields = {**fields, "end_user_id": end_user}
            if end_user.isascii():
                headers[context.END_USER] = end_user  # gateways choose the peer by it
        if operation in READS:
            headers |= self._reading(options)
        else:
            headers[context.IDEMPOTENCY_KEY] = _key(options.get("idempotency_key"))
            if ack := options.get("ack") or self._settings.ack:
                headers[context.ACK] = ack
        context.read_context(headers)
        return fields, headers

    def _reading(self, options: Options) -> dict[str, str]:
        found: dict[str, str] = {}
        if consistency := options.get("consistency") or self._settings.consistency:
            found[context.CONSISTENCY] = consistency
        own = self.position if self._settings.reads_own_writes else ""
        if position := merged(own, options.get("min_position") or ""):
            found[context.MIN_POSITION] = position
        return found

    def _terms(self, operation: str, timeout_s: float) -> Terms:
        if not 0 < timeout_s < math.inf:
            raise codec.invalid("timeout_s", f"{timeout_s}: must be above 0, and finite")
        times = self._times.get(operation)
        usual_s = PATIENCE_S.get(operation, limits.ATTEMPT_TIMEOUT_S)
        return Terms(
            until_s=asyncio.get_running_loop().time() + timeout_s,
            patience_s=times.patience_s() if times is not None else usual_s,
            on_hedge=times.spend if times is not None else lambda: None,
            retries=self._settings.retries,
            has_met=self._has_met,
        )


class _OpenWay(Way, Protocol):
    async def close(self) -> None: ...


def new_idempotency_key() -> str:
    """A key for a write whose caller gave none, so that it can be repeated."""
    return "client-" + secrets.token_hex(12)


def _key(given: str | None) -> str:
    if given is None:
        return new_idempotency_key()
    if given != given.strip():
        raise codec.invalid("idempotency_key", "begins or ends with a space")
    return given


def _check(settings: Settings) -> None:
    project = settings.project
    if project is not None and (
        not project.isascii() or not project.isprintable() or project != project.strip()
    ):
        raise ConfigurationError("project (--project): only printable ASCII characters")
    if not 0 < settings.timeout_s < math.inf:
        raise ConfigurationError(f"timeout_s: {settings.timeout_s}: must be above 0, and finite")


def _end_user(named: Any, options: Options, settings: Settings) -> str:
    found = named or options.get("end_user") or settings.end_user
    if not found:
        raise errors.MissingEndUser("no end_user: give it to this call, or to memsync.connect")
    if not 1 <= len(found) <= limits.END_USER_CHARS_MAX or not found.isprintable():
        raise codec.invalid("end_user", f"1 to {limits.END_USER_CHARS_MAX} printable characters")
    return str(found)


def _encoded(fields: Mapping[str, Any]) -> bytes:
    try:
        body = codec.to_json(fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise codec.invalid("body", f"cannot be sent as JSON: {error}") from error
    if len(body) > limits.BODY_BYTES_MAX:
        raise errors.PayloadTooLarge(f"body: {len(body)} bytes, at most {limits.BODY_BYTES_MAX}")
    return body
