"""Equal writes that are in flight at once in this process become one execution.

Callers and gateways repeat a write that takes long, with the same operation key. The second must
not run beside the first: it waits for it and gets its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from memsync import errors
from memsync.clock import Clock
from memsync.ids import OperationKey, ScopeKey
from memsync.ports import Answer
from memsync.wire.requests import Ack

_STRENGTH: dict[Ack, int] = {"log": 0, "quorum": 1, "all": 2}


class Identity(msgspec.Struct, frozen=True):
    """What makes two requests the same one."""

    scope: ScopeKey
    key: OperationKey


class _Running(msgspec.Struct, frozen=True):
    request_hash: bytes
    ack: Ack
    answer: asyncio.Future[Answer]


class Sharing:
    """The writes that are in flight in this process; at most as many as requests are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[Identity, _Running] = {}

    async def once(
        self,
        identity: Identity,
        request_hash: bytes,
        execute: Callable[[], Awaitable[Answer]],
        *,
        ack: Ack,
        deadline_s: float,
    ) -> tuple[Answer, bool]:
        """The answer of `execute`, or that of the same request in flight (then True).

        A request in flight that waits for less (`ack`), or whose caller went away, is waited for,
        and then this one runs itself. Raises `KeyReused` for another request with the same key, and
        whatever the shared execution raised.
        """
        while (other := self._running.get(identity)) is not None:
            if other.request_hash != request_hash:
                raise errors.KeyReused("Idempotency-Key: in use by another request at this moment")
            await self._wait_for(other.answer, deadline_s)
            if not other.answer.cancelled() and _STRENGTH[other.ack] >= _STRENGTH[ack]:
                return other.answer.result(), True
        return await self._run(identity, request_hash, execute, ack), False

    async def _wait_for(self, answer: asyncio.Future[Answer], deadline_s: float) -> None:
        timeout_s = max(0.0, deadline_s - self._clock.steady_s())
        done, _ = await asyncio.wait([answer], timeout=timeout_s)
        if not done:
            raise errors.OutcomeUnknown("the same request is still being written; repeat it")

    async def _run(
        self,
        identity: Identity,
        request_hash: bytes,
        execute: Callable[[], Awaitable[Answer]],
        ack: Ack,
    ) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._running[identity] = _Running(request_hash, ack, future)
        try:
            answer = await execute()
        except errors.MemsyncError as error:
            future.set_exception(error)
            future.exception()  # nobody may be waiting: asyncio must not complain of that
            raise
        else:
            future.set_result(answer)
            return answer
        finally:
            del self._running[identity]
            future.cancel()  # changes nothing once it is done; else: whoever waits runs itself
