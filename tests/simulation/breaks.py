"""Breaks of the product, each a patch for one run: the test of the test.

A promise that is kept only by luck is not kept, so each break must be caught within a few hundred
seeds. None of this is, or may ever be, in the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgspec

from memsync.core.continuity import Continuity
from memsync.core.lease import Lease
from memsync.core.records import Record, value_of
from memsync.engine.cell.members import Members
from memsync.engine.recall import Results
from memsync.engine.streams.stripes import Stripes
from memsync.engine.writing.appender import Appender, Written
from memsync.engine.writing.conditional import Conditional
from memsync.engine.writing.frames import Frames
from memsync.ids import Position
from memsync.service import access, freshness, writes
from memsync.wire.operations import Create, Frame, RawMessage, Write
from tests.fakes.store import MemoryStore

Break = Callable[[], AbstractContextManager[Any]]


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The product with this break; "" is the product as it is."""
    if not name:
        yield
        return
    with BREAKS[name]():
        yield


def _acknowledge_before_cover() -> AbstractContextManager[Any]:
    """A write is answered once its coordinator has it."""

    def is_covered(self: Members, positions: Sequence[Position], count: int) -> bool:
        return self._progress.has_one_of(positions)

    return mock.patch.object(Members, "_is_covered", is_covered)


def _ignore_leases() -> AbstractContextManager[Any]:
    """The coordinator's half: a majority suffices, whoever is named as a holder of a lease. (The
    other half is `serve-after-the-lease`.)"""
    real = Members._is_covered

    def is_covered(self: Members, positions: Sequence[Position], count: int) -> bool:
        with mock.patch.object(type(self.grants), "named", return_value={}):
            heard = self._heard
            self._heard = {
                name: (at, msgspec.structs.replace(mark, leases={}))
                for name, (at, mark) in heard.items()
            }
            try:
                return real(self, positions, count)
            finally:
                self._heard = heard

    return mock.patch.object(Members, "_is_covered", is_covered)


def _serve_after_the_lease() -> AbstractContextManager[Any]:
    """The reader's half of `ignore-leases`: a peer answers as fresh without a lease. Who ever held
    one goes on as if it had not ended, so no coordinator waits for it."""

    def is_held(self: Lease, now_s: float) -> bool:
        return self._until_s > float("-inf")

    return mock.patch.object(Lease, "is_held", is_held)


def _skip_a_gap() -> AbstractContextManager[Any]:
    """What is missing between two frames is not waited for."""
    real = Continuity.take

    def take(self: Continuity, messages: Iterable[RawMessage]) -> list[RawMessage]:
        ready: list[RawMessage] = []
        for message in messages:
            at = message.position
            if at.generation == self.next.generation and at.sequence > self.next.sequence:
                self.next = at
            ready += real(self, [message])
        return ready

    return mock.patch.object(Continuity, "take", take)


def _reuse_a_frame_id() -> AbstractContextManager[Any]:
    """Two frames after each other have one id."""
    real = Frames.make

    def make(self: Frames, packed: Sequence[bytes]) -> tuple[Frame, bytes]:
        number = self._number
        self._number = number // 2
        try:
            return real(self, packed)
        finally:
            self._number = number + 1

    return mock.patch.object(Frames, "make", make)


def _stamp_without_catching_up() -> AbstractContextManager[Any]:
    """Updates and forgets go by whatever this peer has."""

    async def at_once(*_: Any) -> None:
        return None

    patches = ExitStack()
    patches.enter_context(mock.patch.object(freshness, "be_fresh", at_once))
    patches.enter_context(mock.patch.object(Conditional, "_catch_up", at_once))
    return patches


def _ignore_operation_keys() -> AbstractContextManager[Any]:
    """A repeat is a new request."""

    async def never(*_: Any, **__: Any) -> None:
        return None

    patches = ExitStack()
    patches.enter_context(mock.patch.object(writes, "met", never))
    patches.enter_context(mock.patch.object(Conditional, "_repeat_of", never))
    return patches


def _split_a_bulk() -> AbstractContextManager[Any]:
    """A bulk is two writes."""
    real = Appender.write

    async def write(self: Appender, write: Write, **more: Any) -> Written:
        creates = [one for one in write.operations if isinstance(one, Create)]
        if len(creates) < 2 or len(creates) < len(write.operations):
            return await real(self, write, **more)
        middle = len(creates) // 2
        halves = creates[:middle], creates[middle:]
        parts = [msgspec.structs.replace(write, operations=list(half)) for half in halves]
        first = await real(self, parts[0], **more)
        second = await real(self, parts[1], **more)
        return Written(second.position, first.records | second.records)

    return mock.patch.object(Appender, "write", write)


def _drop_tombstones() -> AbstractContextManager[Any]:
    """What is forgotten is taken out of the store."""
    real = MemoryStore._commit

    def commit(self: MemoryStore, *arguments: Any, **more: Any) -> Any:
        changes = real(self, *arguments, **more)
        for change in changes:
            if change.after.kind == "memory" and value_of(change.after, "deleted", False):
                self._records.pop(change.after.key, None)
        return changes

    return mock.patch.object(MemoryStore, "_commit", commit)


def _trust_a_recreated_stream() -> AbstractContextManager[Any]:
    """A stream that is made again is taken for the one that was lost."""
    real = Stripes._next_generation

    def same_generation(self: Stripes, stripe: int) -> int:
        return max(0, real(self, stripe) - 1)

    return mock.patch.object(Stripes, "_next_generation", same_generation)


def _keep_old_answers() -> AbstractContextManager[Any]:
    """A recall that was answered is answered alike, whatever has changed since."""

    def apply(self: Results, changes: Sequence[Any]) -> None:
        return None

    return mock.patch.object(Results, "apply", apply)


def _accept_revoked_keys() -> AbstractContextManager[Any]:
    """Who looks a key up does not look whether it was taken back."""
    real = access.value_of

    def value(record: Record, name: str, default: Any = None) -> Any:
        return default if name == "revoked" else real(record, name, default)

    return mock.patch.object(access, "value_of", value)


BREAKS: dict[str, Break] = {
    "acknowledge-before-cover": _acknowledge_before_cover,
    "ignore-leases": _ignore_leases,
    "serve-after-the-lease": _serve_after_the_lease,
    "skip-a-gap": _skip_a_gap,
    "reuse-a-frame-id": _reuse_a_frame_id,
    "stamp-without-catching-up": _stamp_without_catching_up,
    "ignore-operation-keys": _ignore_operation_keys,
    "split-a-bulk": _split_a_bulk,
    "drop-tombstones": _drop_tombstones,
    "trust-a-recreated-stream": _trust_a_recreated_stream,
    "keep-old-answers": _keep_old_answers,
    "accept-revoked-keys": _accept_revoked_keys,
}
