"""What every write has in common: told once, done once, answered from what was kept when repeated.

A write is looked up by its operation key before anything else is looked at. Only when nothing is
kept of it is it carried out, stamped and handed over, with no await between the last two.

Another attempt of it, at another peer, may be applied here between that look-up and what is read
afterwards. Whoever then meets what this very request has done (its own memory as a duplicate,
nothing left to forget) looks again (`met`), and the request is answered as the repeat that it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import TypeVar

import msgspec

from memsync import errors, ids, limits
from memsync.core.memories import CREATED
from memsync.core.records import Record
from memsync.core.stamps import wall_ms_of
from memsync.engine.writing.appender import Condition, Written
from memsync.ids import RecordKey, Scope
from memsync.ports import Answer, StoredOperation
from memsync.service import freshness
from memsync.service.answers import with_headers
from memsync.service.parts import Call, Parts
from memsync.service.sharing import Identity
from memsync.wire import codec, context
from memsync.wire.operations import ItemOutcome, MemoryOrigin, Operation, Stamp, Write

Body = TypeVar("Body", bound=msgspec.Struct)
Found = TypeVar("Found")


class Intent(msgspec.Struct, frozen=True):
    """One write as its operation key knows it: in which scope, and by the hash of what it asks.
    `record` is that of the one memory which it adds under a key of ours, and by which alone its
    repeat is told (`core.memories`)."""

    scope: Scope
    request_hash: bytes
    record: RecordKey | None = None


def intent_of(
    call: Call, scope: Scope, request: msgspec.Struct, *, of_caller: bool = False
) -> Intent:
    """The identity of a decoded request; `of_caller` makes it that of its API key alone, so that
    another's with the same operation key is another request. Raises a 422 for values that the log
    cannot carry."""
    caller = (call.caller.digest,) if of_caller else ()
    try:
        packed = codec.pack((call.operation, request, *caller))
    except (OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise codec.invalid("body", f"holds a value that cannot be stored: {error}") from error
    return Intent(scope, blake2b(packed, digest_size=16).digest())


async def once(
    parts: Parts,
    call: Call,
    intent: Intent,
    *,
    replay: Callable[[list[ItemOutcome]], Awaitable[Answer]],
    execute: Callable[[], Awaitable[Answer | StoredOperation]],
) -> Answer:
    """The answer of `execute`, or for a repeat the first answer, rebuilt by `replay`.

    `execute` answers what is kept of another attempt of this request where it met one.
    """

    async def looked_up() -> Answer:
        found = await met(parts, call, intent) or await _executed(parts, call, intent, execute)
        if isinstance(found, Answer):
            return found
        await _settle_repeat(parts, call)
        return _replayed(parts, call, await replay(found.outcome))

    if call.context.key_is_new:
        return await looked_up()
    identity = Identity(ids.scope_key(intent.scope), call.context.operation_key)
    answer, is_shared = await parts.sharing.once(
        identity,
        intent.request_hash,
        looked_up,
        ack=call.ack,
        deadline_s=call.deadline_s,
    )
    return _replayed(parts, call, answer) if is_shared else answer


async def _executed(
    parts: Parts,
    call: Call,
    intent: Intent,
    execute: Callable[[], Awaitable[Answer | StoredOperation]],
) -> Answer | StoredOperation:
    """What `execute` answers. If it did nothing for certain, another attempt may have done it."""
    try:
        return await execute()
    except errors.MemsyncError as error:
        if error.definite and (stored := await met(parts, call, intent)) is not None:
            return stored
        raise


async def looked(
    parts: Parts, call: Call, intent: Intent, look: Callable[[], Awaitable[Found]]
) -> Found | StoredOperation:
    """What `look` reads while this peer is fresh, so recent that it may be stamped over with no
    await in between; or what is kept of another attempt of this request."""
    while True:
        looked_s = parts.clock.steady_s()
        await freshness.be_fresh(parts, call)
        found = await freshness.complete(parts, look)
        # After the reading: else what others changed since the first attempt would be undone.
        if (stored := await met(parts, call, intent)) is not None:
            return stored
        if freshness.is_recent(parts, call, looked_s):
            return found


async def _settle_repeat(parts: Parts, call: Call) -> None:
    """`settle` for a write that is applied here: whatever stands in the way, it is not undone."""
    try:
        await settle(parts, call)
    except errors.Unavailable as error:
        if not error.definite:
            raise
        raise errors.OutcomeUnknown(
            "the write is applied here, but it cannot be said now whether enough members have it; "
            "repeat it with the same key",
            retry_after_s=error.retry_after_s,
        ) from error


async def met(parts: Parts, call: Call, intent: Intent) -> StoredOperation | None:
    """What is kept of an attempt of this request that was applied here; raises `KeyReused` if the
    key was used to ask other things."""
    if call.context.key_is_new:
        return None
    if intent.record is not None:
        stored = _kept_by(await parts.store.record(intent.record))
    else:
        scope = ids.scope_key(intent.scope)
        stored = await parts.store.operation(scope, call.context.operation_key)
    if stored is None or wall_ms_of(stored.stamp) + stored.kept_s * 1000 < call.now_ms:
        return None
    if stored.request_hash != intent.request_hash:
        raise key_reused()
    return stored


def _kept_by(record: Record | None) -> StoredOperation | None:
    """What the record of a memory that was added by itself tells of its add."""
    if record is None or not isinstance(record.origin, MemoryOrigin):
        return None
    assert record.origin_stamp is not None
    return StoredOperation(
        request_hash=record.origin.request_hash,
        stamp=record.origin_stamp,
        kept_s=limits.OPERATION_KEY_OURS_S,
        outcome=[ItemOutcome(CREATED, record.ids)],
    )


def key_reused() -> errors.KeyReused:
    """The 422 for a key that comes again with another request."""
    return errors.KeyReused(f"{context.IDEMPOTENCY_KEY}: was used with another request")


def _replayed(parts: Parts, call: Call, answer: Answer) -> Answer:
    call.exchange.headers[context.POSITION] = context.format_positions(parts.progress.applied())
    if not call.context.key_is_callers:
        return answer
    return with_headers(answer, {context.IDEMPOTENCY_REPLAYED: "true"})


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What a write is to do: operations, and per item what its caller is answered."""

    outcome: list[ItemOutcome]
    operations: Sequence[Operation]
    stamp: Stamp
    reason: str = ""
    condition: Condition | None = None


async def publish(parts: Parts, call: Call, intent: Intent, draft: Draft) -> Written:
    """Hand a write to the appender and wait until it is acknowledged; raises what that raises."""
    of_caller = call.context.key_is_callers
    write = Write(
        key=call.context.operation_key,
        request_hash=intent.request_hash,
        kept_s=limits.OPERATION_KEY_CALLERS_S if of_caller else limits.OPERATION_KEY_OURS_S,
        scope=intent.scope,
        actor=call.caller.actor,
        reason=draft.reason,
        stamp=draft.stamp,
        outcome=draft.outcome,
        operations=list(draft.operations),
    )
    call.exchange.is_write_sent = True
    try:
        written = await parts.appender.write(
            write, ack=call.ack, deadline_s=call.deadline_s, condition=draft.condition
        )
    except errors.MemsyncError as error:
        call.exchange.is_write_sent = not error.definite
        raise
    call.exchange.headers[context.POSITION] = context.format_positions([written.position])
    return written


async def keep_outcome(
    parts: Parts,
    call: Call,
    intent: Intent,
    outcome: list[ItemOutcome],
    *,
    is_kept_of_gateways: bool = False,
) -> StoredOperation | None:
    """Let a repeat of a request that stores nothing be answered alike, if the key is a caller's; or
    also a gateway's, where an attempt that comes late would do harm.

    What made it store nothing may itself be under way still: it is waited for. If that was another
    attempt of this request, then what is kept of it is answered, and counts.
    """
    await settle(parts, call)
    if (stored := await met(parts, call, intent)) is not None:
        return stored
    may_be_repeated = is_kept_of_gateways and not call.context.key_is_new
    if call.context.key_is_callers or may_be_repeated:
        stamp = parts.appender.stamp()
        await publish(parts, call, intent, Draft(outcome=outcome, operations=[], stamp=stamp))
    return None


async def settle(parts: Parts, call: Call) -> None:
    """Wait until what this peer has applied is as safe as the caller asks a write to be."""
    await parts.appender.wait_settled(ack=call.ack, deadline_s=call.deadline_s)


def fixed_ids(call: Call, count: int) -> range | None:
    """The ids that a gateway fixed for this request, if they are enough and can be ids at all."""
    if call.context.ids is None:
        return None
    first, last = call.context.ids
    in_range = 1 <= first <= last <= ids.ID_MAX and ids.block_of(first) == ids.block_of(last)
    return range(first, last + 1) if in_range and last - first + 1 >= count else None


async def take_ids(parts: Parts, call: Call, places: Sequence[int], count: int) -> list[int]:
    """An id for each of `places` out of `count` items; the same again if a gateway fixed them."""
    fixed = fixed_ids(call, count)
    if fixed is not None:
        return [fixed[place] for place in places]
    return await new_ids(parts, len(places))


async def new_ids(parts: Parts, count: int) -> list[int]:
    """Ids of this peer's own, which no other attempt has."""
    if (why := parts.appender.why_not()) is not None:
        raise errors.NoQuorum(f"{why}; nothing was written")
    first, last = await parts.ids.take(count)
    return list(range(first, last + 1))
