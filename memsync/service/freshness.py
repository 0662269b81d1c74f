"""Whether this peer may answer a read as fresh, or take a write that must see what others wrote;
and asking another peer where it may not.

A read is fresh that sees every write that was acknowledged before it came. That is certain under a
lease, or once this peer has applied what a majority told it on the spot (engine/cell/leases.py). It
need not be looked at again when the answer is sent: what this store has when it is read is at least
what it had at the look, which was after the read came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeVar

from memsync import errors, limits
from memsync.ports import Answer
from memsync.service import access
from memsync.service.parts import Call, Parts
from memsync.telemetry import describe, logger
from memsync.wire import context
from memsync.wire.requests import Consistency

REPLICATION = "replication"
REACH_S_MAX = 0.4  # so long may it take to become fresh; the gateway waits a little longer
PASS_S_MAX = 0.4
State = Literal["fresh", "unsure"]
Found = TypeVar("Found")
_WHY = {
    "alone": "no majority of the members said how far they are",
    "behind": "it has not applied yet what they said",
}


async def reach(
    parts: Parts, call: Call, body: bytes, *, mode: Consistency, until_s: float
) -> State | Answer:
    """How fresh an answer from here would be, or the answer of a peer that can do better. Takes at
    most until `until_s` (steady clock)."""
    if mode == "local":
        return "unsure" if parts.progress.is_behind() else "fresh"
    now_s = parts.clock.steady_s()
    found = await parts.leases.wait_fresh(min(now_s + REACH_S_MAX, (now_s + until_s) / 2))
    if found == "fresh":
        check_key(parts, call)
        return "fresh"
    if found == "behind":
        passed = await passed_on(parts, call, body, until_s=until_s)
        if passed is not None and context.DEGRADED not in passed.headers:
            return passed
    return "unsure"


async def is_settled(parts: Parts, *, until_s: float) -> bool:
    """Whether a majority has all that this peer has by now: what `strong` asks for."""
    for position in parts.progress.written():
        if not await parts.members.wait_covered([position], "quorum", until_s):
            return False
    return True


async def be_fresh(parts: Parts, call: Call) -> None:
    """For writes that go by what is there: raises `Unavailable` (definite) where this peer cannot
    make sure that it has what others acknowledged."""
    until_s = min(call.deadline_s, parts.clock.steady_s() + REACH_S_MAX)
    found = await parts.leases.wait_fresh(until_s)
    if found != "fresh":
        why = parts.appender.why_not()
        if why is not None:
            raise errors.NoQuorum(f"{why}; nothing was written")
        raise errors.Unavailable(
            f"this peer may not have what others acknowledged: {_WHY[found]}; nothing was written",
            retry_after_s=0.5,
        )
    check_key(parts, call)


async def complete(parts: Parts, look: Callable[[], Awaitable[Found]]) -> Found:
    """What `look` reads, for writes that go by it. Raises `Unavailable` (definite) where rows are
    missing here: that very reading may have found them damaged, and what it did not find may be
    there all the same."""
    try:
        return await look()
    finally:  # also where it raises `NotFound`
        _check_rows(parts)


def _check_rows(parts: Parts) -> None:
    for why in parts.progress.lacking().values():
        raise errors.Unavailable(
            f"this peer lacks rows: {why}; nothing was written", retry_after_s=0.5
        )


async def read_for_repeat(parts: Parts, call: Call, look: Callable[[], Awaitable[Found]]) -> Found:
    """What `look` reads, for repeats of what is answered from a memory. That the write is applied
    here does not mean that its memory is: its creation may still be on its way, and must not be
    denied."""
    try:
        await be_fresh(parts, call)
        return await complete(parts, look)
    except errors.Unavailable as error:
        raise errors.OutcomeUnknown(
            "the write was made, but this peer may lack the memory; repeat it with the same key",
            retry_after_s=error.retry_after_s,
        ) from error


def check_key(parts: Parts, call: Call) -> None:
    """Raise what refuses a key that was revoked before the call came, where this peer has only
    heard so while it caught up: a fresh answer must not go by a key that was not."""
    if parts.directory.key_by_hash(call.caller.digest) is not call.key:
        access.authenticate(parts.directory, call.context.api_key, call.now_ms)


def is_recent(parts: Parts, call: Call, looked_s: float) -> bool:
    """Whether what was found by looking since `looked_s` (steady clock) may be stamped over now,
    with no await in between. A process that stood still meanwhile must look again: another attempt
    of the same request may have been made elsewhere, acknowledged, and been overwritten since.
    Raises `Unavailable` once the deadline has passed."""
    now_s = parts.clock.steady_s()
    if now_s - looked_s < limits.STAMP_WITHIN_S:
        return True
    if now_s >= call.deadline_s:
        raise errors.Unavailable("this peer was too slow for the deadline; nothing was written")
    return False


async def passed_on(parts: Parts, call: Call, body: bytes, *, until_s: float) -> Answer | None:
    """What another peer answers to this very call; None where none does, or where this call was
    passed on to this peer already. Raises `OutcomeUnknown` for a write that may have happened."""
    if call.context.is_passed:
        return None
    headers = _headers(call)
    unheard = parts.members.unheard()  # nor would their answers be
    for member in parts.members.alive():
        left_s = min(PASS_S_MAX, until_s - parts.clock.steady_s())
        if member == parts.members.name or member in unheard or left_s <= 0:
            continue
        try:
            answer = await parts.peers.pass_on(
                member, call.operation, headers, body, timeout_s=left_s
            )
        except errors.Unavailable as error:
            logger().info("call.not_passed_on", member=member, **describe(error))
            if not error.definite and call.is_write:
                raise
        else:
            if answer.status < 500 or call.is_write:
                return answer
    return None


async def ask(parts: Parts, call: Call, body: bytes, member: str, *, until_s: float) -> Answer:
    """What this one member answers to this very call. Raises `Unavailable`, `OutcomeUnknown`."""
    left_s = min(PASS_S_MAX, until_s - parts.clock.steady_s())
    return await parts.peers.pass_on(
        member, call.operation, _headers(call), body, timeout_s=max(left_s, 0.001)
    )


def _headers(call: Call) -> Mapping[str, str]:
    """The headers of the call, so that the other peer's attempt has the same key."""
    own = {context.PASSED: "1"}
    if not call.context.key_is_callers:
        own[context.OPERATION_KEY] = call.context.operation_key
    return {**call.headers, **own}
