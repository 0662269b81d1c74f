"""How far this peer has applied the log, and who waits for it. One event loop, no locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from memsync import limits
from memsync.clock import Clock
from memsync.ids import Position


class Progress:
    """The applied positions of this peer, by (stripe, generation).

    A position counts as applied only in its own generation: what lies in generation g of a stripe
    says nothing about generation g + 1 of it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._applied: dict[tuple[int, int], int] = {}
        self._waiting: list[tuple[Sequence[Position], asyncio.Future[None]]] = []
        self.listeners: list[Callable[[], None]] = []
        self._behind: dict[str, str] = {
            stripe_part(stripe): "not read yet" for stripe in range(limits.STRIPES)
        }

    def load(self, applied: Mapping[tuple[int, int], int]) -> None:
        """Take the positions that the store holds."""
        self._applied.update(applied)

    def advance(self, ends: Iterable[Position]) -> None:
        """A batch up to these positions was applied."""
        for end in ends:
            key = (end.stripe, end.generation)
            self._applied[key] = max(self._applied.get(key, 0), end.sequence)
        still = []
        for positions, future in self._waiting:
            if self.has(positions) and not future.done():
                future.set_result(None)
            if not future.done():
                still.append((positions, future))
        self._waiting = still
        for listen in self.listeners:
            listen()

    def has(self, positions: Sequence[Position]) -> bool:
        """Whether all of these were applied here."""
        return all(self._applied.get((p.stripe, p.generation), 0) >= p.sequence for p in positions)

    def knows(self, position: Position) -> bool:
        """Whether anything is noted of the position's generation."""
        return (position.stripe, position.generation) in self._applied

    async def wait_for(self, positions: Sequence[Position], deadline_s: float) -> bool:
        """Wait until these are applied; False where the deadline (steady clock) comes first."""
        if self.has(positions):
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((positions, future))
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock.steady_s())):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting = [entry for entry in self._waiting if entry[1] is not future]
        return True

    def end_of(self, stripe: int) -> Position | None:
        """The applied position in the newest generation of a stripe; None before anything."""
        generations = [g for k, g in self._applied if k == stripe]
        if not generations:
            return None
        newest = max(generations)
        return Position(stripe, newest, self._applied[stripe, newest])

    def applied(self) -> list[Position]:
        """The applied position of every stripe that has one."""
        ends = [self.end_of(stripe) for stripe in range(limits.STRIPES)]
        return [end for end in ends if end is not None]

    def set_behind(self, part: str, why: str | None) -> None:
        """Note why `part` ("stripe 1", "members", "applier") keeps this peer from knowing the
        newest state; None where it no longer does."""
        if why is None:
            self._behind.pop(part, None)
        else:
            self._behind[part] = why

    def behind(self) -> dict[str, str]:
        """Part -> why this peer knows that it may not have the newest state."""
        return dict(self._behind)

    def is_behind(self) -> bool:
        """Whether an answer from here must be tagged `replication`."""
        return bool(self._behind)


def stripe_part(stripe: int) -> str:
    """How a stripe is named among the parts."""
    return f"stripe {stripe}"
