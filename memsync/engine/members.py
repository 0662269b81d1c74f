"""The members of the cell: what each has applied, who is alive, and waiting until enough have a
write.

Every peer tells its watermark after each batch that it applied, and ten times a second. The last
one heard of a member counts, not the highest: a store can be rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.engine import metrics
from memsync.engine.progress import Progress
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Marks
from memsync.tasks import is_going_on
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.members import Watermark


class Members:
    """The watermarks of all members, this one's included. `own` makes this peer's at any moment."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        cell: str,
        *,
        marks: Marks,
        progress: Progress,
        clock: Clock,
        own: Callable[[], Watermark],
    ) -> None:
        self.name = name
        self.names = tuple(names)
        self._cell = cell
        self._marks = marks
        self._progress = progress
        self._clock = clock
        self._own = own
        self._heard: dict[str, tuple[float, Watermark]] = {}
        self._tell = asyncio.Event()
        self._target: list[Position] = []  # what others had, as of `_target_since_s`
        self._target_since_s = 0.0
        self._waiting: list[tuple[Position, int, asyncio.Future[bool]]] = []
        self.listeners: list[Callable[[Watermark], None]] = []
        progress.listeners.append(self._advanced)

    @property
    def majority(self) -> int:
        """How many members are a majority of those configured."""
        return len(self.names) // 2 + 1

    def alive(self) -> list[str]:
        """The members heard of lately, and this one."""
        horizon = self._clock.steady_s() - limits.WATERMARK_SILENT_S
        others = [name for name, (at, _) in self._heard.items() if at >= horizon]
        return sorted({self.name, *others})

    def has_majority(self) -> bool:
        """Whether a majority of the configured members is alive."""
        return len(self.alive()) >= self.majority

    def watermarks(self) -> dict[str, Watermark]:
        """The last watermark of each member that was heard, and this one's own."""
        return {**{name: mark for name, (_, mark) in self._heard.items()}, self.name: self._own()}

    def heard_ends(self) -> list[Position]:
        """The furthest position that any member has told, for each stripe, in its newest
        generation."""
        ends: dict[int, Position] = {}
        told = [p for name, (_, mark) in self._heard.items() for p in mark.positions]
        for position in [*self._progress.applied(), *told]:
            ends[position.stripe] = max(position, ends.get(position.stripe, position))
        return list(ends.values())

    def _advanced(self) -> None:
        """This peer applied something: say so, and look who waited for it."""
        self._tell.set()
        self._check_waiting()

    async def run(self) -> None:
        """Listen and tell until cancelled."""
        await self._marks.listen(self._hear)
        while is_going_on():
            try:
                await self._marks.tell(codec.pack(self._own()))
            except Unavailable:
                pass  # no connection: the next round tries again, and readiness says it
            self._note_alive()
            self._note_lag()
            try:
                async with asyncio.timeout(limits.WATERMARK_S):
                    await self._tell.wait()
            except TimeoutError:
                pass
            self._tell.clear()

    def _note_alive(self) -> None:
        alive = len(self.alive())
        metrics.MEMBERS_ALIVE.set(alive)
        lonely = f"{alive} of {len(self.names)} members alive" if alive < self.majority else None
        self._progress.set_behind("members", lonely)
        for entry in [entry for entry in self._waiting if entry[1] > alive]:
            self._end(entry, is_covered=False)

    def _note_lag(self) -> None:
        """Have answers from here tagged while others have what this peer has not, for a while."""
        now_s = self._clock.steady_s()
        if self._progress.has(self._target):
            self._target, self._target_since_s = self.heard_ends(), now_s
            self._progress.set_behind("members' positions", None)
        elif now_s - self._target_since_s > limits.LAG_S_MAX:
            told = ", ".join(f"{p.stripe}.{p.generation}.{p.sequence}" for p in self._target)
            self._progress.set_behind("members' positions", f"others have {told}")

    async def wait_covered(self, position: Position, count: int, deadline_s: float) -> bool:
        """Wait until this peer and `count` members in all have applied `position`; False at the
        deadline, and as soon as fewer than `count` are alive."""
        if self._is_covered(position, count):
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (position, count, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(max(0.0, deadline_s - self._clock.steady_s())):
                return await future
        except TimeoutError:
            return False
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _check_waiting(self) -> None:
        """Wake those whose write is covered now."""
        covered = [entry for entry in self._waiting if self._is_covered(entry[0], entry[1])]
        for entry in covered:
            self._end(entry, is_covered=True)

    def _end(self, entry: tuple[Position, int, asyncio.Future[bool]], *, is_covered: bool) -> None:
        self._waiting.remove(entry)
        if not entry[2].done():
            entry[2].set_result(is_covered)

    def _is_covered(self, position: Position, count: int) -> bool:
        if not self._progress.has([position]):
            return False
        others = sum(
            _covers(mark, position) for name, (_, mark) in self._heard.items() if name != self.name
        )
        return others + 1 >= count

    def _hear(self, data: bytes) -> None:
        try:
            mark = codec.unpack(data, Watermark)
        except msgspec.DecodeError as error:
            logger().warning("watermark.unreadable", **describe(error))
            return
        if mark.member == self.name or mark.member not in self.names:
            return
        if mark.cell != self._cell:
            logger().error("member.of_another_cell", member=mark.member, cell=mark.cell)
            return
        self._heard[mark.member] = (self._clock.steady_s(), mark)
        self._check_waiting()
        for listen in self.listeners:
            listen(mark)


def _covers(mark: Watermark, position: Position) -> bool:
    return any(
        own.stripe == position.stripe
        and own.generation == position.generation
        and own.sequence >= position.sequence
        for own in mark.positions
    )
