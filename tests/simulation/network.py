"""What travels between members, bus and callers: late, twice, out of order, or never.

Every message takes a random moment. `conditions` make it worse for some messages for a while;
`cuts` lose what goes one way between two places. What is asked of the bus happens there when the
question arrives, also if whoever asked is frozen, dead or no longer interested by then.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TypeVar

import msgspec

from tests.fakes.bus import BUS, SilentError
from tests.fakes.loop import VirtualLoop

T = TypeVar("T")
RunTask = Callable[[str, Callable[[], Awaitable[object]]], "asyncio.Future[object] | None"]
PORT = "caller"  # whoever asks a member's own port, past the bus
SHORTEST_S, LONGEST_S = 0.0002, 0.003


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to messages of these kinds ("" in a kind's place is any) that come from or go
    to `place` ("" is anywhere)."""

    kinds: frozenset[str] = frozenset()
    place: str = ""
    loss: float = 0.0
    doubling: float = 0.0
    delay_s: float = 0.0  # at the most; each message draws its own

    def is_for(self, kind: str, source: str, target: str) -> bool:
        """Whether a message is meant."""
        return (not self.kinds or kind in self.kinds) and self.place in ("", source, target)


class SimulatedNetwork:
    """`tests.fakes.bus.Network`. `contexts` are those in which each place's callbacks run;
    `run_task` begins what a member is asked to do, and says None where there is no such process."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self._loop = loop
        self._chance = chance
        self.conditions: list[Condition] = []
        self.cuts: set[tuple[str, str]] = set()
        self.met: Counter[object] = Counter()  # messages that a condition or a cut has changed
        self.contexts: dict[str, Context] = {BUS: Context()}
        self.run_task: RunTask = _nobody_is_there

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing gets from `source` to `target`; between two members lies the bus."""
        if not self.cuts or PORT in (source, target):
            return False
        over = (source, BUS), (BUS, target), (source, target)
        met = self.cuts.intersection(over)
        self.met.update(met)
        return bool(met)

    def _arrivals(self, kind: str, source: str, target: str) -> list[float]:
        """After how many seconds a message arrives, for each time that it does."""
        if self.is_cut(source, target):
            return []
        chance = self._chance
        found = [SHORTEST_S + (LONGEST_S - SHORTEST_S) * chance.random() ** 2]
        for condition in self.conditions:
            if not condition.is_for(kind, source, target):
                continue
            if condition.loss and chance.random() < condition.loss:
                found.clear()
                self.met[condition] += 1
            if condition.doubling and found and chance.random() < condition.doubling:
                found.append(found[0] + chance.random() ** 2 * 0.5)
                self.met[condition] += 1
            if condition.delay_s:
                self.met[condition] += 1
                found = [delay + condition.delay_s * chance.random() for delay in found]
        return found

    def send(self, kind: str, source: str, target: str, deliver: Callable[[], None]) -> None:
        """Deliver once, twice or never."""
        context = self.contexts.get(target)
        for delay_s in self._arrivals(kind, source, target):
            self._loop.call_at(self._loop.time() + delay_s, deliver, context=context)

    async def ask(self, kind: str, source: str, do: Callable[[], T], *, timeout_s: float) -> T:
        """Ask the bus."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def arrive() -> None:
            try:
                found = do()
            except SilentError:
                return
            except Exception as error:  # noqa: BLE001 - whatever the bus raises is its answer
                self._answer(kind, BUS, source, answer, error=error)
            else:
                self._answer(kind, BUS, source, answer, value=found)

        self.send(kind, source, BUS, arrive)
        return await self._answered(answer, timeout_s)

    async def call(
        self, kind: str, source: str, target: str, do: Callable[[], Awaitable[T]], timeout_s: float
    ) -> T:
        """Ask another member, which does `do` in a task of its own."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def arrive() -> None:
            task = self.run_task(target, do)
            if task is not None:
                task.add_done_callback(done)

        def done(task: asyncio.Future[object]) -> None:
            if task.cancelled():
                return
            error = task.exception()
            if isinstance(error, SilentError):
                return
            if error is not None:
                self._answer(kind, target, source, answer, error=error)
            else:
                self._answer(kind, target, source, answer, value=task.result())

        self.send(kind, source, target, arrive)
        return await self._answered(answer, timeout_s)

    def _answer(
        self,
        kind: str,
        source: str,
        target: str,
        answer: asyncio.Future[T],
        *,
        value: object = None,
        error: BaseException | None = None,
    ) -> None:
        def deliver() -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        self.send(f"{kind} answered", source, target, deliver)

    async def _answered(self, answer: asyncio.Future[T], timeout_s: float) -> T:
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise SilentError from error


def _nobody_is_there(
    target: str, do: Callable[[], Awaitable[object]]
) -> asyncio.Future[object] | None:
    return None
