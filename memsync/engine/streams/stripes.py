"""Looking after the streams: founding, making lost ones again, spreading leaders.

Any peer may do any of it at any time; each step is idempotent and two at once do no harm.

- Generation 0 of a stripe is made by the founding only: when a majority of the members say that
  they never saw one. Each member notes a generation as soon as it sees it, so a stream that is gone
  later comes back as the next generation, never as the same. The server makes no stream beside
  another one of the same stripe, so a peer that is wrong about g being gone is refused.
- Three stripes survive the loss of a server without a pause only if their leaders sit on three
  servers. A leader is handed only to a server that keeps up: a leader told to hand over to a dead
  one steps down all the same, and the stripe has none for seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from memsync import limits
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.streams.ownership import Ownership
from memsync.engine.tail import Tail
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Streams, StripeState
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger

CHECK_S = 2.0
RETRY_S = 0.2
MISSED_MAX = 2  # looks in a row without an answer, after which a stripe counts as without leader
LOOKS_BEFORE_OTHERS_ACT = 3  # what the first member alive does not do in so many, any other does


class Stripes:
    """The caretaker of a cell's streams in one peer."""

    def __init__(
        self,
        streams: Streams,
        ownership: Ownership,
        members: Members,
        applier: Applier,
        progress: Progress,
        tails: Mapping[int, Tail],
    ) -> None:
        self._streams = streams
        self._ownership = ownership
        self._applier = applier
        self._members = members
        self._progress = progress
        self._tails = tails
        self._missed = dict.fromkeys(range(limits.STRIPES), 0)
        self._gone: dict[int, int] = {}  # stripe -> looks in a row that found no stream
        self._wanted_move: tuple[int, str] | None = None
        self._looks_at_move = 0
        self.states: dict[int, StripeState] = {}
        self.fault: str | None = "the streams are not looked at yet"

    async def run(self) -> None:
        """Look every two seconds until cancelled."""
        while is_going_on():
            faults = [await self._fault_of(stripe) for stripe in range(limits.STRIPES)]
            found = [fault for fault in faults if fault is not None]
            if not found:
                found = [fault for fault in [await self._spread_leaders()] if fault is not None]
            self.fault = "; ".join(found) or None
            metrics.STRIPES_LEADERLESS.set(len(self.leaderless()))
            is_well = self.fault is None and self._progress.knows_start()
            await pause(CHECK_S if is_well else RETRY_S)

    def leaderless(self) -> list[int]:
        """The stripes that have no leader, as far as is known: they take no writes for now."""
        return [
            stripe
            for stripe in range(limits.STRIPES)
            if self._missed[stripe] >= MISSED_MAX
            or stripe not in self.states
            or self.states[stripe].leader is None
        ]

    def verdict(self) -> str:
        """For readiness: writes are impossible only while no stripe has a leader."""
        without = self.leaderless()
        if len(without) == limits.STRIPES:
            return f"failed: no stripe has a leader ({self.fault or 'servers elect one'})"
        if not without:
            return "ok"
        said = ", ".join(map(str, without))
        return f"ok: no leader of stripe {said} at the moment; writes go to the others"

    async def _fault_of(self, stripe: int) -> str | None:
        """Look after one stripe; what kept this peer from it does not keep it from the others."""
        try:
            await self._look_after(stripe)
        except Unavailable as error:
            self._missed[stripe] += 1
            logger().warning("stripe.not_checked", stripe=stripe, **describe(error))
            return error.message
        self._missed[stripe] = 0
        return None

    async def _look_after(self, stripe: int) -> None:
        found = await self._generation(stripe)
        self._gone.pop(stripe, None)
        state = await self._ownership.state(stripe, found)
        await self._applier.open_generation(Position(stripe, found, 0))
        self._tails[stripe].restart(found)
        self.states[stripe] = state
        if state.leader is not None:
            end = Position(stripe, found, state.last_sequence)
            self._progress.note_start(end)
            self._tails[stripe].note_end(end)  # whatever else was heard of it, or not

    async def _generation(self, stripe: int) -> int:
        """Which one there is. What was there at the last look is not asked for again: the server
        makes no other beside it."""
        if stripe in self.states and not self._missed[stripe]:
            return self.states[stripe].generation
        found = await self._streams.generation(stripe)
        return await self._make(stripe) if found is None else found

    async def _make(self, stripe: int) -> int:
        """Make the stream of a stripe that has none, at the second look that finds none."""
        generation = self._next_generation(stripe)
        self._gone[stripe] = self._gone.get(stripe, 0) + 1
        if generation > 0 and self._gone[stripe] < 2:
            raise Unavailable(f"stripe {stripe} has no stream; looking again before one is made")
        await self._streams.create(stripe, generation)
        metrics.STREAMS_REMADE.inc(generation > 0)
        logger().info("stream.made", stripe=stripe, generation=generation)
        return generation

    def _next_generation(self, stripe: int) -> int:
        """The generation to make where there is no stream; raises while that cannot be known. The
        members heard lately must be a majority, since any write that was covered is known to one of
        them; what others said earlier counts too."""
        if not self._members.is_member():
            raise Unavailable(f"stripe {stripe} has no stream; only members make one")
        marks = self._members.watermarks()
        heard = [name for name in self._members.alive() if name in marks]
        if len(heard) < self._members.majority:
            raise Unavailable(
                f"stripe {stripe} has no stream; {len(heard)} of {len(self._members.names)} "
                "members heard, a majority must say what it has applied before one is made"
            )
        known = [
            p.generation for mark in marks.values() for p in mark.positions if p.stripe == stripe
        ]
        return max(known) + 1 if known else 0

    async def _spread_leaders(self) -> str | None:
        """Where two stripes are led by one server and another leads none: move one of them, if two
        looks in a row say so. Returns why it could not."""
        move = plan_move(self.states)
        self._looks_at_move = self._looks_at_move + 1 if move == self._wanted_move else 1
        self._wanted_move = move
        if move is None or self._looks_at_move < 2 or not self._members.is_member():
            return None
        is_first = self._members.is_first_alive()
        if not is_first and self._looks_at_move <= LOOKS_BEFORE_OTHERS_ACT:
            return None  # another member does it
        stripe, target = move
        self._wanted_move = None
        try:
            await self._streams.step_down(stripe, self.states[stripe].generation, preferred=target)
        except Unavailable as error:
            logger().warning("leader.not_moved", stripe=stripe, to=target, **describe(error))
            return error.message
        metrics.LEADERS_MOVED.inc()
        logger().info("leader.moved", stripe=stripe, to=target)
        self.states[stripe] = msgspec.structs.replace(self.states[stripe], leader=target)
        return None


def plan_move(states: Mapping[int, StripeState]) -> tuple[int, str] | None:
    """(stripe, server) that spreads the leaders better; None where they are spread as well as they
    can be, or where a stripe has no leader at the moment. Only servers that keep up are given
    any."""
    leaders = {stripe: state.leader for stripe, state in states.items()}
    if None in leaders.values():
        return None
    led = list(leaders.values())
    for stripe, leader in sorted(leaders.items()):
        idle = [server for server in states[stripe].current if server not in led]
        if led.count(leader) > 1 and idle:
            return stripe, idle[0]
    return None
