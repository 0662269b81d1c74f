"""Looking after the streams: founding, making lost ones again, spreading leaders.

Any peer may do any of it at any time; each step is idempotent and two at once do no harm.

- Generation 0 of a stripe is made by the founding only: when a majority of the members say that
  they never saw one. Each member notes a generation as soon as it sees it, so a stream that is gone
  later comes back as the next generation, never as the same.
- Three stripes survive the loss of a server without a pause only if their leaders sit on three
  servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from memsync import limits
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.members import Members
from memsync.engine.tail import Tail
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Streams, StripeState
from memsync.tasks import is_going_on
from memsync.telemetry import describe, logger

CHECK_S = 2.0
RETRY_S = 0.2
IDS_APART = 1 << 12  # two members that make the stream of ids at once begin this far apart


class Stripes:
    """The caretaker of a cell's streams in one peer."""

    def __init__(
        self, streams: Streams, members: Members, applier: Applier, tails: Mapping[int, Tail]
    ) -> None:
        self._streams = streams
        self._applier = applier
        self._members = members
        self._tails = tails
        self.states: dict[int, StripeState] = {}
        self.fault: str | None = "not looked at yet"

    async def run(self) -> None:
        """Look every two seconds until cancelled."""
        while is_going_on():
            try:
                for stripe in range(limits.STRIPES):
                    await self._look_after(stripe)
                await self._spread_leaders()
                self.fault = None
            except Unavailable as error:
                self.fault = error.message
                logger().warning("stripes.not_checked", **describe(error))
            await asyncio.sleep(CHECK_S if self.fault is None else RETRY_S)

    async def _look_after(self, stripe: int) -> None:
        found = await self._streams.generation(stripe)
        if found is None:
            found = self._next_generation(stripe)
            await self._streams.create(stripe, found)
            metrics.STREAMS_REMADE.inc(found > 0)
            logger().info("stream.made", stripe=stripe, generation=found)
        await self._applier.open_generation(Position(stripe, found, 0))
        self._tails[stripe].restart(found)
        self.states[stripe] = await self._streams.state(stripe, found)

    def _next_generation(self, stripe: int) -> int:
        """The generation to make where there is no stream; raises while that cannot be known."""
        marks = self._members.watermarks()
        if len(marks) < self._members.majority:
            raise Unavailable(
                f"stripe {stripe} has no stream; {len(marks)} of {len(self._members.names)} "
                "members heard, a majority must say what it has applied before one is made"
            )
        known = [
            p.generation for mark in marks.values() for p in mark.positions if p.stripe == stripe
        ]
        return max(known) + 1 if known else 0

    async def _spread_leaders(self) -> None:
        """Where two stripes are led by one server and another leads none: move one of them."""
        move = plan_move(self.states)
        if move is None or self._members.alive()[0] != self._members.name:
            return  # nothing to do, or another member does it
        stripe, target = move
        await self._streams.step_down(stripe, self.states[stripe].generation, preferred=target)
        metrics.LEADERS_MOVED.inc()
        logger().info("leader.moved", stripe=stripe, to=target)


def plan_move(states: Mapping[int, StripeState]) -> tuple[int, str] | None:
    """(stripe, server) that spreads the leaders better; None where they are spread as well as they
    can be, or where a stripe has no leader at the moment."""
    leaders = {stripe: state.leader for stripe, state in states.items()}
    if None in leaders.values():
        return None
    led = list(leaders.values())
    for stripe, leader in sorted(leaders.items()):
        idle = [server for server in states[stripe].servers if server not in led]
        if led.count(leader) > 1 and idle:
            return stripe, idle[0]
    return None


async def repair_ids(streams: Streams, members: Members) -> None:
    """Make the stream of ids where it is missing, or hands out what was handed out before."""
    highest = max(mark.highest_block for mark in members.watermarks().values())
    end = await streams.ids_end()
    if end is not None and end >= highest:
        return
    if end is not None:
        logger().error("ids.lost", handed_out=end, highest_seen=highest)
        await streams.delete_ids()
    place = members.names.index(members.name) + 1
    first = highest + 1 if end is None and highest == 0 else highest + place * IDS_APART
    await streams.create_ids(first)
