"""How far this peer has applied the log, and who waits for it. One event loop, no locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from memsync import limits
from memsync.clock import Clock
from memsync.core.lease import covers
from memsync.ids import Position

ROWS_PART = "rows"  # lacking while the rows of another peer are being joined
DAMAGED_PART = "damaged rows"  # lacking while rows are set aside


class Progress:
    """The applied positions of this peer, by (stripe, generation).

    A position counts as applied only in its own generation: what lies in generation g of a stripe
    says nothing about generation g + 1 of it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._applied: dict[tuple[int, int], int] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.listeners: list[Callable[[], None]] = []
        self._behind: dict[str, str] = {
            stripe_part(stripe): "not read yet" for stripe in range(limits.STRIPES)
        }
        self._lacking: dict[str, str] = {}
        self._starts: dict[int, list[Position]] = {}

    def load(self, applied: Mapping[tuple[int, int], int]) -> None:
        """Take the positions that the store holds."""
        self._applied.update(applied)

    def advance(self, ends: Iterable[Position]) -> None:
        """A batch up to these positions was applied."""
        for end in ends:
            key = (end.stripe, end.generation)
            self._applied[key] = max(self._applied.get(key, 0), end.sequence)
        self.recheck()
        for listen in self.listeners:
            listen()

    def recheck(self) -> None:
        """Wake those whose condition holds by now."""
        still = []
        for is_there, future in self._waiting:
            if not future.done() and is_there():
                future.set_result(None)
            if not future.done():
                still.append((is_there, future))
        self._waiting = still

    def has(self, positions: Sequence[Position]) -> bool:
        """Whether all of these were applied here."""
        return all(self._applied.get((p.stripe, p.generation), 0) >= p.sequence for p in positions)

    def has_one_of(self, positions: Sequence[Position]) -> bool:
        """Whether at least one of these was applied here."""
        return any(self.has([position]) for position in positions)

    def note_start(self, end: Position) -> None:
        """`end` is the end of its stripe, as its leader named it after this process started."""
        self._starts.setdefault(end.stripe, [end])

    def note_start_of_others(self, frontier: Sequence[Position]) -> None:
        """All other members told what they have, after this process started. Whatever was
        acknowledged because this peer had it, one of them has, too: as good as the leaders'
        word, of which a stripe may be without for some seconds."""
        for stripe in range(limits.STRIPES):
            self._starts[stripe] = [p for p in frontier if p.stripe == stripe]

    def has_all_of(self, kept: Sequence[Position] | None) -> bool:
        """Whether it is known what was applied by the process before, and that it is here."""
        return kept is not None and self.has(kept)

    def note_nothing_lost(self) -> None:
        """The store has all that the process before it told: there is nothing to be reached."""
        self._starts = {stripe: [] for stripe in range(limits.STRIPES)}

    def knows_start(self) -> bool:
        """Whether it is known what must be applied before others are answered."""
        return len(self._starts) == limits.STRIPES

    def has_reached_start(self) -> bool:
        """Whether all is applied that was in the log when this process started: the last commits
        may have been lost in a power cut, and positions that were told with them."""
        return self.knows_start() and all(self.has(ends) for ends in self._starts.values())

    def is_empty(self) -> bool:
        """Whether nothing at all was applied here."""
        return not any(self._applied.values())

    def knows(self, position: Position) -> bool:
        """Whether anything is noted of the position's generation."""
        return (position.stripe, position.generation) in self._applied

    async def wait_for(self, positions: Sequence[Position], deadline_s: float) -> bool:
        """Wait until these are applied; False where the deadline (steady clock) comes first."""
        return await self.wait_until(lambda: self.has(positions), deadline_s)

    async def wait_for_one_of(self, positions: Sequence[Position], deadline_s: float) -> bool:
        """Wait until one of these is applied; False where the deadline (steady clock) comes
        first."""
        return await self.wait_until(lambda: self.has_one_of(positions), deadline_s)

    async def wait_until(self, is_there: Callable[[], bool], deadline_s: float) -> bool:
        """Wait for a condition that is looked at whenever something was applied, and at each
        `recheck`; False where the deadline (steady clock) comes first."""
        if is_there():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((is_there, future))
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

    def by_place(self) -> Mapping[tuple[int, int], int]:
        """(stripe, generation) -> the applied sequence; not to be changed."""
        return self._applied

    def ends(self) -> list[Position]:
        """The applied position in every generation that is remembered, in order; of each stripe the
        newest `GENERATIONS_TOLD_MAX`. What others are told, and what a giver of rows vouches
        for."""
        ends = sorted(Position(k, g, sequence) for (k, g), sequence in self._applied.items())
        return [
            end
            for stripe in range(limits.STRIPES)
            for end in [e for e in ends if e.stripe == stripe][-limits.GENERATIONS_TOLD_MAX :]
        ]

    def written(self) -> list[Position]:
        """The ends of all generations in which anything was applied: what must be with others, too,
        before it can be said that they have all that is here."""
        return [end for end in self.ends() if end.sequence]

    def set_lacking(self, part: str, why: str | None) -> None:
        """Note why rows that the applied positions promise are not here ("rows", "damaged rows"):
        this peer is then never fresh, whatever its positions say. None where they are here."""
        if why is None:
            self._lacking.pop(part, None)
        else:
            self._lacking[part] = why

    def lacking(self) -> dict[str, str]:
        """Part -> why rows are missing here that the applied positions promise."""
        return dict(self._lacking)

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
        return bool(self._behind or self._lacking)


def stripe_part(stripe: int) -> str:
    """How a stripe is named among the parts."""
    return f"stripe {stripe}"


def is_among(ends: Iterable[Position], position: Position) -> bool:
    """Whether who has applied `ends` has applied `position`."""
    return position.sequence == 0 or covers(ends, [position])
