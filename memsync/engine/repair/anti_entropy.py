"""Anti-entropy: do all members hold the same?

Once a minute a mark is published into every stripe, the same one whoever publishes it. The applier
holds each stripe at its mark until all have reached theirs (`core.marks`); the sums of the buckets
at that moment must then be equal at every member. Each tells the others a digest of its own. Where
two differ twice running both look which buckets are meant and join each other's rows that differ
(`engine.recovery`): a join on both sides, so both end with the same.

A difference is a fault of ours or of a disk: it is logged as an error once for as long as it lasts,
and counted. A round in which this peer lacks rows, and knows it, is not told to anybody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

from memsync import limits
from memsync.clock import Clock
from memsync.core.comparing import ROUNDS_KEPT, Comparing, Verdict, different_buckets, digest_of
from memsync.core.marks import Cut, make_mark
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.cell.clocks import Clocks
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.repair.asking import ask
from memsync.engine.repair.recovery import Recovery
from memsync.errors import Unavailable
from memsync.ports import Log, Marks, Peers
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.exchange import BucketSums
from memsync.wire.members import Sums, Told

LOOK_S = 1.0  # between two looks at the clock; also how much later than another a member publishes


class AntiEntropy:
    """See the module. `mark_every_s` is the time between two rounds, the same at all members."""

    def __init__(
        self,
        *,
        log: Log,
        marks: Marks,
        peers: Peers,
        applier: Applier,
        members: Members,
        progress: Progress,
        recovery: Recovery,
        clock: Clock,
        clocks: Clocks,
        mark_every_s: float = limits.MARK_EVERY_S,
    ) -> None:
        self._log = log
        self._marks = marks
        self._peers = peers
        self._applier = applier
        self._members = members
        self._progress = progress
        self._recovery = recovery
        self._clock = clock
        self._clocks = clocks
        self._every_ms = round(mark_every_s * 1000)
        self._look_s = min(LOOK_S, mark_every_s / 8)
        self._published = -1
        self._comparing = Comparing()
        self._sums: dict[int, Mapping[int, int]] = {}
        self._to_tell: deque[Sums] = deque(maxlen=ROUNDS_KEPT)
        self._diverged: dict[str, int] = {}  # member -> the round to be looked at with it
        self._wake = asyncio.Event()
        applier.cut_listeners.append(self._note_cut)
        members.listeners.append(self._note_heard)

    def sums(self, number: int) -> Mapping[int, int] | None:
        """The sums of this peer's buckets at the marks of a round, for one of the last rounds."""
        return self._sums.get(number)

    async def run(self) -> None:
        """Mark, tell and compare until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_marking(), name="marks")
            tasks.create_task(self._keep_telling(), name="sums")

    # Marks.

    async def _keep_marking(self) -> None:
        self._published = self._wall_ms() // self._every_ms  # that round has begun without us
        while is_going_on():
            number, passed_ms = divmod(self._wall_ms(), self._every_ms)
            self._applier.hold.present = number
            if number != self._published and passed_ms / 1000 >= self._turn_s():
                self._published = number
                await self._publish(number)
            until_next_s = (self._every_ms - passed_ms) / 1000
            await pause(min(self._look_s, until_next_s))

    def _wall_ms(self) -> int:
        """The median of the members' clocks: a peer whose own is wrong by hours must neither
        publish marks of its own nor miss those of the others."""
        return self._clock.wall_ms() - round(self._clocks.apart_ms() or 0)

    def _turn_s(self) -> float:
        """When in a round it is this member's turn to publish the mark, if nobody else has; never
        for a process that is no member, or no longer one."""
        alive = self._members.alive()
        if self._members.name not in alive:
            return float("inf")
        return alive.index(self._members.name) * self._look_s * 2

    async def _publish(self, number: int) -> None:
        """Into every stripe where it was not seen. What is refused or not answered costs a round,
        unless another member or the answer that did not come got it there."""
        async with asyncio.TaskGroup() as tasks:
            for stripe in range(limits.STRIPES):
                if not self._applier.hold.has_seen(stripe, number):
                    tasks.create_task(self._publish_in(stripe, number))

    async def _publish_in(self, stripe: int, number: int) -> None:
        message_id, data = make_mark(number)
        try:
            await self._log.publish(stripe, message_id, data, timeout_s=limits.PUBLISH_TIMEOUT_S)
        except Unavailable as error:
            logger().info("mark.not_published", stripe=stripe, round=number, **describe(error))

    # Sums.

    def _note_cut(self, cut: Cut, sums: Mapping[int, int]) -> None:
        if self._progress.lacking():
            metrics.ROUNDS_PASSED.labels("lacking").inc()
            return
        self._sums[cut.round] = sums
        while len(self._sums) > ROUNDS_KEPT:
            del self._sums[next(iter(self._sums))]
        own = Sums(
            member=self._members.name,
            cell=self._members.cell,
            minute=cut.round,
            positions=cut.positions,
            digest=digest_of(sums),
        )
        metrics.ROUNDS_CUT.inc()
        self._to_tell.append(own)
        self._wake.set()
        self._weigh(self._comparing.note_own(own))

    def _note_heard(self, told: Told) -> None:
        if isinstance(told, Sums):
            self._weigh(self._comparing.note_heard(told))

    def _weigh(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            metrics.ROUND_COMPARED.set(verdict.round * self._every_ms / 1000)
            if verdict.begins:
                metrics.DIVERGENCES.inc()
                logger().error("divergence.found", member=verdict.member, round=verdict.round)
            if verdict.ends:
                logger().info("divergence.ended", member=verdict.member, round=verdict.round)
            if verdict.is_divergence:
                self._diverged[verdict.member] = verdict.round
                self._wake.set()

    async def _keep_telling(self) -> None:
        while is_going_on():
            await self._wake.wait()
            self._wake.clear()
            while self._to_tell:
                await self._tell(self._to_tell.popleft())
            while self._diverged:
                await self._look_into(*self._diverged.popitem())

    async def _tell(self, own: Sums) -> None:
        try:
            await self._marks.tell(codec.pack(own))
        except Unavailable as error:
            logger().info("sums.not_told", round=own.minute, **describe(error))

    async def _look_into(self, member: str, number: int) -> None:
        """Ask a member for its sums and have the rows of the buckets that differ exchanged; should
        that fail, the next round begins it again."""
        given = await ask(self._peers, member, BucketSums(self._members.cell, number))
        own = self._sums.get(number)
        if given.refusal or own is None:
            why = given.refusal or "this peer has forgotten the round"
            logger().warning("sums.not_given", member=member, reason=why)
            return
        buckets = different_buckets(own, given.sums)
        logger().info("divergence.located", member=member, round=number, buckets=len(buckets))
        self._recovery.need_buckets(member, buckets)
