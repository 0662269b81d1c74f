"""The scrub: is every row what was once written?

A loop reads all rows in small pieces and computes each again: its state by its hash, its columns by
its state. A row that is not what it should be, whoever meets it (the scrub, a reader, the writer),
is set aside: this peer then lacks it, says so, and takes it from a member that has applied all that
is applied here (`engine.recovery`). It is never joined and never given away, so it spreads to
nobody.

At the end of each pass the hashes are added up again. Where they do not come to the sum that the
store has kept of a bucket, rows were taken out or put in behind its back, each of them sound by
itself. Then the bucket is compared with the other members': rows here that no other member has in
this form are set aside too, and rows that are not here are taken from the others.

Not found here: what was changed together with the sum that is kept of its bucket. The other
members' sums tell it (`engine.anti_entropy`), but then the rows count as written, and are joined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from memsync import limits
from memsync.clock import Clock
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress, is_among
from memsync.engine.repair.asking import ask
from memsync.engine.repair.recovery import Recovery
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import Position, RecordKey
from memsync.ports import Peers, Scrubbed, Store
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire.exchange import BucketHashes

MET_PART = "damaged rows to be set aside"
BUCKETS_PART = "buckets to be compared"
RETRY_S = 1.0
ALONE = "this cell has no other member to take them from"

Hashes = Mapping[RecordKey, int]


def rest_s(part: Scrubbed, *, pause_s: float = limits.SCRUB_PAUSE_S) -> float:
    """How long to rest after a part. By the processor time that it took, not by the clock: else a
    pass would take longest on a machine that is busy, where the rest spares it least."""
    return max(pause_s, part.worked_s * limits.SCRUB_REST)


class Scrub:
    """See the module. `pass_s` is the least time that a pass takes, `pause_s` lies between two
    pieces of it."""

    def __init__(
        self,
        *,
        store: Store,
        peers: Peers,
        applier: Applier,
        members: Members,
        progress: Progress,
        recovery: Recovery,
        clock: Clock,
        pass_s: float = limits.SCRUB_PASS_S,
        pause_s: float = limits.SCRUB_PAUSE_S,
    ) -> None:
        self._store = store
        self._peers = peers
        self._applier = applier
        self._members = members
        self._progress = progress
        self._recovery = recovery
        self._clock = clock
        self._pass_s = pass_s
        self._pause_s = pause_s
        self._damaged: set[RecordKey] = set()  # and not set aside yet
        self._wrong: set[int] = set()  # buckets that others are to be asked about
        self._wake = asyncio.Event()
        store.on_damage = self.meet

    def meet(self, keys: Sequence[RecordKey]) -> None:
        """Damaged rows were met by a reader or by the writer."""
        metrics.SCRUB_DAMAGED.labels("use").inc(len(keys))
        self._set_aside_soon(keys)

    async def run(self) -> None:
        """Scrub and mend until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_scrubbing(), name="scrub")
            tasks.create_task(self._keep_mending(), name="mend")

    async def _keep_scrubbing(self) -> None:
        while is_going_on():
            started_s = self._clock.steady_s()
            try:
                await self._pass()
            except (Unavailable, InvariantBroken) as error:
                logger().error("scrub.broken_off", **describe(error))
            else:
                metrics.SCRUB_PASS_SECONDS.set(self._clock.steady_s() - started_s)
                metrics.SCRUB_PASSED.set(self._clock.wall_ms() / 1000)
            taken_s = self._clock.steady_s() - started_s
            await pause(max(self._pause_s, self._pass_s - taken_s))

    async def _pass(self) -> None:
        """Every row once, then the sums."""
        async for part in self._store.scrub(rows_max=limits.SCRUB_ROWS):
            metrics.SCRUB_ROWS.inc(part.rows)
            if part.damaged:
                metrics.SCRUB_DAMAGED.labels("scrub").inc(len(part.damaged))
                logger().error("rows.found_damaged", by="scrub", rows=len(part.damaged))
                self._set_aside_soon(part.damaged)
            await pause(rest_s(part, pause_s=self._pause_s))
        if wrong := await self._store.recount():
            metrics.SCRUB_BUCKETS.inc(len(wrong))
            logger().error("buckets.found_wrong", buckets=len(wrong))
            self._wrong.update(wrong)
            self._progress.set_lacking(
                BUCKETS_PART, f"{len(wrong)} buckets of rows are not what was written"
            )
            self._wake.set()

    def _set_aside_soon(self, keys: Sequence[RecordKey]) -> None:
        """From now on nothing from here is fresh, until the rows are here again."""
        self._damaged.update(keys)
        self._progress.set_lacking(MET_PART, f"{len(self._damaged)} damaged rows were found")
        self._wake.set()

    async def _keep_mending(self) -> None:
        while is_going_on():
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._set_damaged_aside()
                is_done = await self._compare_buckets()
            except (Unavailable, InvariantBroken) as error:
                logger().error("rows.not_mended", **describe(error))
                is_done = False
            if not is_done:
                await pause(RETRY_S)
                self._wake.set()

    async def _set_damaged_aside(self) -> None:
        keys = list(self._damaged)
        if not keys:
            return
        await self._store.set_aside(keys)
        lacking = await self._store.lacking()
        if len(self._members.names) > 1:
            self._recovery.need_some(lacking)
        else:
            await self._store.settle(lacking)
            logger().critical("rows.lost", rows=len(lacking), why=ALONE)
        self._damaged.difference_update(keys)
        if not self._damaged:
            self._progress.set_lacking(MET_PART, None)

    # Buckets whose rows are not what was written.

    async def _compare_buckets(self) -> bool:
        """Have in the wrong buckets what the others have; False where none of them can say."""
        if not self._wrong:
            return True
        buckets = sorted(self._wrong)
        own = await self._store.hashes(buckets)
        ends = self._progress.ends()
        others = [m for m in self._members.alive() if m != self._members.name]
        answers = [await self._hashes_of(member, buckets, ends) for member in others]
        theirs = [hashes for hashes in answers if hashes is not None]
        if not theirs and len(self._members.names) > 1:
            return False
        if theirs:
            await self._take_over(own, theirs)
        else:
            logger().critical("rows.lost", buckets=len(buckets), why=ALONE)
        self._wrong.difference_update(buckets)
        if not self._wrong:
            self._progress.set_lacking(BUCKETS_PART, None)
        return not self._wrong

    async def _take_over(self, own: Hashes, theirs: Sequence[Hashes]) -> None:
        """Set aside what nobody else has in this form. Whoever was asked had applied all that is
        in `own`, so a row that he does not have at all was never written."""
        suspects = [
            key for key, hashed in own.items() if all(found.get(key) != hashed for found in theirs)
        ]
        known = set().union(*theirs)
        never_written = [key for key in suspects if key not in known]
        await self._applier.take_out(suspects)
        await self._store.settle(never_written)
        logger().warning(
            "buckets.compared", set_aside=len(suspects), never_written=len(never_written)
        )
        missing = known - own.keys()
        self._recovery.need_some({*missing, *suspects} - set(never_written))

    async def _hashes_of(
        self, member: str, buckets: list[int], ends: Sequence[Position]
    ) -> Hashes | None:
        """What a member that has applied `ends` has in these buckets; None where it cannot say."""
        found: dict[RecordKey, int] = {}
        after = RecordKey(b"")
        while True:
            page = await ask(self._peers, member, BucketHashes(self._members.cell, buckets, after))
            if page.refusal or not all(is_among(page.positions, end) for end in ends):
                why = page.refusal or "it has not applied all that this peer has"
                logger().info("hashes.not_given", member=member, reason=why)
                return None
            found |= page.hashes
            if page.is_end or not page.hashes:
                return found
            after = max(page.hashes)
