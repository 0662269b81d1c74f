"""Getting rows from another peer, where the log cannot give what is missing.

Three kinds of need, from the largest to the smallest:

- `need_all`: the log no longer has frames that this peer has not applied (it was trimmed, a
  generation was lost, no server has a message), or reading it all would take longer. All rows and
  operation keys of a member are joined, page by page; then, and not before, this peer has the
  positions that the member had before the first page. A need is met when its positions are applied,
  from whichever member or log; several members may be asked one after the other.
- `need_some`: rows were damaged here. A member that has applied all that this peer has gives them.
- `need_buckets`: a member's buckets are not what they are here. Its rows that differ are joined.

Rows are joined through the applier and only ever grow, so nothing here can do harm twice; what can
go wrong is to believe that all is here when it is not. Hence a copy counts only if every page came
from one store that never went back, and until the end this peer says that it lacks rows, which
makes every answer of it tagged. It says so a little longer still: pages are read one after the
other, so half of a bulk may have come with them, and the other half comes with the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.engine import metrics
from memsync.engine.applier import Applier
from memsync.engine.cell.members import Members
from memsync.engine.progress import DAMAGED_PART, ROWS_PART, is_among
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import OperationKey, Position, RecordKey, ScopeKey
from memsync.ports import Peers, Store, Streams
from memsync.tasks import is_going_on
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.exchange import AllOperations, AllRows, BucketHashes, Given, SomeRows, Wanted

LOST_PART = "lost generations"
BACKOFF_S = 0.5


class _Need(msgspec.Struct, frozen=True):
    """Why all rows of another are needed, and what this peer must have applied then."""

    why: str
    covering: tuple[Position, ...]


class Recovery:
    """See the module. `listeners` are told which positions a copy brought."""

    def __init__(
        self,
        cell: str,
        *,
        peers: Peers,
        streams: Streams,
        store: Store,
        applier: Applier,
        members: Members,
        clock: Clock,
    ) -> None:
        self._cell = cell
        self._peers = peers
        self._streams = streams
        self._store = store
        self._applier = applier
        self._members = members
        self._progress = applier.progress
        self._clock = clock
        self._needs: dict[str, _Need] = {}
        self._keys: set[RecordKey] = set()
        self._buckets: dict[str, set[int]] = {}
        self._refused: dict[str, tuple[float, float]] = {}  # member -> (not before, back-off)
        self._suspected: dict[Position, tuple[int, float]] = {}  # lost ends, applied, since when
        self._settling: list[Position] = []  # what the pages of the last copy may have halves of
        self._copied = ""  # how far the copy is that is being made
        self._wanted = asyncio.Event()
        self.listeners: list[Callable[[Sequence[Position]], None]] = []
        self._progress.listeners.append(self._advanced)

    def need_all(self, why: str, covering: Iterable[Position], *, part: str) -> None:
        """Join all rows of members that have applied `covering`. `part` names the need: a later
        call with the same one takes its place."""
        need = _Need(why, tuple(covering))
        if self._progress.has(need.covering) or self._needs.get(part) == need:
            return
        self._needs[part] = need
        logger().warning("rows.needed", part=part, why=why)
        self._say()
        self._wanted.set()

    def need_no_more(self, part: str) -> None:
        """The log gave what was missing after all."""
        if self._needs.pop(part, None) is not None:
            self._say()

    def need_some(self, keys: Iterable[RecordKey]) -> None:
        """Join these rows of a member that has applied all that this peer has."""
        self._keys |= set(keys)
        if self._keys:
            self._say_damaged(len(self._keys))
            self._wanted.set()

    def need_buckets(self, member: str, buckets: Iterable[int]) -> None:
        """Join those rows of `member` in these buckets that differ from the ones here."""
        self._buckets.setdefault(member, set()).update(buckets)
        self._wanted.set()

    async def run(self) -> None:
        """Meet needs as they come, and look for lost generations, until cancelled."""
        is_begun = False
        while is_going_on():
            try:
                if not is_begun:
                    self.need_some(await self._store.lacking())  # of an earlier process
                is_begun = True
                await self._look_for_lost()
                await self._copy()
                await self._take_some()
                await self._take_buckets()
            except Unavailable as error:
                logger().warning("rows.not_taken", **describe(error))
            try:
                async with asyncio.timeout(limits.RECOVERY_LOOK_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # look again
            self._wanted.clear()

    # What is lacking, and saying so.

    def _advanced(self) -> None:
        if self._needs or self._settling:
            self._say()

    def _say(self) -> None:
        """Have everybody know what is lacking; needs that are met are dropped."""
        for part, need in list(self._needs.items()):
            if self._progress.has(need.covering):
                del self._needs[part]
                logger().info("rows.need_met", part=part)
        marks = self._members.told_by_others()
        self._settling = [
            position
            for position in self._settling
            if not self._progress.has([position])
            and any(is_among(ends, position) for ends in marks.values())
        ]
        whys = [need.why for need in self._needs.values()]
        if self._settling and not whys:
            whys.append("rows were joined, the end of the log is still to be read")
        said = "; ".join([*whys, self._copied] if self._copied else whys)
        self._progress.set_lacking(ROWS_PART, said or None)

    def _say_damaged(self, count: int) -> None:
        why = f"{count} damaged rows are to come from another peer" if count else None
        self._progress.set_lacking(DAMAGED_PART, why)

    # Lost generations.

    async def _look_for_lost(self) -> None:
        """Need what others have applied of generations whose stream is gone. What is only queued
        here is applied by the next look; a generation that is still there is the tail's to read."""
        now_s = self._clock.steady_s()
        known = self._suspected
        self._suspected = {
            position: known[position]
            if known.get(position, (-1, 0.0))[0] == applied
            else (applied, now_s)
            for position, applied in self._missing_of_old().items()
        }
        lasting = [
            position
            for position, (_, since_s) in self._suspected.items()
            if now_s - since_s >= limits.RECOVERY_LOOK_S / 2
        ]
        try:
            gone = [p for p in lasting if await self._is_gone(p)]
        except Unavailable as error:
            logger().info("generations.not_looked_at", **describe(error))
            return
        if gone:
            told = ", ".join(f"stripe {p.stripe} generation {p.generation}" for p in gone)
            self.need_all(f"the log lost {told}; others have more of it", gone, part=LOST_PART)
        else:
            self.need_no_more(LOST_PART)  # met, or whoever had it is gone until it is back

    def _missing_of_old(self) -> dict[Position, int]:
        """Ends that others have and this peer has not, in generations that have a successor."""
        told = {position for ends in self._members.told_by_others().values() for position in ends}
        own = {(p.stripe, p.generation): p.sequence for p in self._progress.ends()}
        newest = {
            stripe: max([p.generation for p in told if p.stripe == stripe] + [0])
            for stripe in {p.stripe for p in told}
        }
        for stripe, generation in own:
            newest[stripe] = max(newest.get(stripe, 0), generation)
        return {
            position: own.get((position.stripe, position.generation), 0)
            for position in sorted(told)
            if position.generation < newest[position.stripe] and not self._progress.has([position])
        }

    async def _is_gone(self, position: Position) -> bool:
        found = await self._streams.generation(position.stripe)
        return found is not None and found > position.generation

    # Whole copies.

    async def _copy(self) -> None:
        """Take all rows of the member that covers most of what is needed, if there is one."""
        self._say()
        unmet = [
            position
            for need in self._needs.values()
            for position in need.covering
            if not self._progress.has([position])
        ]
        giver = self._giver(unmet) if unmet else None
        if giver is None:
            self._copied = self._why_no_giver(unmet)
            self._say()
            return
        started_s = self._clock.steady_s()
        logger().info("rows.copy_begun", giver=giver)
        metrics.RECOVERY_RUNNING.set(1)
        try:
            why = await self._take_all(giver, unmet)
        finally:
            metrics.RECOVERY_RUNNING.set(0)
            self._copied = ""
        seconds = self._clock.steady_s() - started_s
        if why:
            metrics.RECOVERY_FAILURES.inc()
            logger().warning("rows.copy_broken_off", giver=giver, why=why, seconds=seconds)
            self._put_off(giver)
            mark = self._members.watermarks().get(giver)  # it may be no member any more
            self._settling = [] if mark is None else mark.positions
        else:
            metrics.RECOVERY_SECONDS.set(seconds)
            logger().info("rows.copied", giver=giver, seconds=seconds)
            self._refused.pop(giver, None)
            self._wanted.set()  # what is still needed, of another one
        self._say()

    def _why_no_giver(self, unmet: Sequence[Position]) -> str:
        if not unmet:
            return ""
        others = self._members.told_by_others()
        if any(is_among(ends, position) for ends in others.values() for position in unmet):
            return "who has them is asked again soon"
        return f"none of the {len(others)} other members that are alive has them; waiting for one"

    def _giver(self, needed: Sequence[Position], *, is_all: bool = False) -> str | None:
        """Who has most of `needed` (with `is_all`: all of it), and has not refused just now."""
        now_s = self._clock.steady_s()
        covered = {
            name: sum(is_among(ends, position) for position in needed)
            for name, ends in self._members.told_by_others().items()
            if self._refused.get(name, (0.0, 0.0))[0] <= now_s
        }
        enough = len(needed) if is_all else 1
        fit = [name for name, count in covered.items() if count >= enough]
        return min(
            fit, key=lambda name: (-covered[name], name in self._refused, name), default=None
        )

    def _put_off(self, giver: str) -> None:
        """Ask others first for a while."""
        _, last_s = self._refused.get(giver, (0.0, BACKOFF_S / 2))
        pause_s = min(last_s * 2, limits.RECOVERY_BACKOFF_S_MAX)
        self._refused[giver] = (self._clock.steady_s() + pause_s, pause_s)

    async def _take_all(self, giver: str, needed: Sequence[Position]) -> str:
        """Join everything that `giver` has, then have its positions; "" or what went wrong."""
        first = await self._ask(giver, AllRows(self._cell, RecordKey(b"")))
        if not first.refusal and not any(is_among(first.positions, p) for p in needed):
            return "it has not applied what is needed"
        why = await self._take_pages(giver, first, first)
        if why:
            return why
        start = AllOperations(self._cell, ScopeKey(b""), OperationKey(""))
        operations = await self._ask(giver, start)
        why = await self._take_pages(giver, operations, first)
        if why:
            return why
        if why := await self._join(Given(0, [], first.highest_block), first.positions):
            return why
        self._settling = operations.positions  # all that any page may have had a part of
        for listen in self.listeners:
            listen(first.positions)
        return ""

    async def _take_pages(self, giver: str, page: Given, first: Given) -> str:
        """Join this page and those that follow it; the next one comes while one is joined."""
        taken = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                if why := _unfit(page, first):
                    return why
                following = None if page.is_end else _following(self._cell, page)
                upcoming = following and tasks.create_task(self._ask(giver, following))
                if why := await self._join(page):
                    if upcoming:
                        upcoming.cancel()
                    return why
                if page.rows:
                    taken += len(page.rows)
                    self._copied = f"{taken} rows of {giver} so far"
                    self._say()
                if not upcoming:
                    return ""
                page = await upcoming

    # Some rows.

    async def _take_some(self) -> None:
        """Replace damaged rows; as many as one answer holds, then the next."""
        while self._keys:
            own = self._progress.ends()
            giver = self._giver(own, is_all=True)
            if giver is None:
                return
            keys = sorted(self._keys)[: limits.EXCHANGE_KEYS_MAX]
            given = await self._ask(giver, SomeRows(self._cell, keys))
            why = given.refusal or await self._join_some(given, keys, own)
            if why:
                logger().warning("damaged_rows.not_given", giver=giver, why=why)
                self._put_off(giver)
            self._say_damaged(len(await self._store.lacking()))

    async def _join_some(
        self, given: Given, keys: Sequence[RecordKey], own: Sequence[Position]
    ) -> str:
        if not all(is_among(given.positions, position) for position in own):
            return "it has not applied all that this peer has"
        if why := await self._join(given):
            return why
        settled = {row.key for row in given.rows}
        if given.is_end:
            await self._store.settle(sorted(set(keys) - settled))  # they never were
            settled |= set(keys)
        self._keys -= settled
        logger().info("damaged_rows.replaced", rows=len(given.rows))
        return "" if settled else "it lacks the same rows"

    async def _take_buckets(self) -> None:
        """Join what differs in the buckets of others; who does not answer is asked when anti-
        entropy finds the difference again."""
        while self._buckets:
            member, buckets = self._buckets.popitem()
            why = await self._take_differing(member, sorted(buckets))
            if why:
                logger().warning("buckets.not_given", giver=member, why=why)

    async def _take_differing(self, member: str, buckets: list[int]) -> str:
        after, is_end, taken = RecordKey(b""), False, 0
        while not is_end:
            page = await self._ask(member, BucketHashes(self._cell, buckets, after))
            own = await self._store.hashes(buckets)
            differing = [key for key, hashed in page.hashes.items() if own.get(key) != hashed]
            while differing:
                part = differing[: limits.EXCHANGE_KEYS_MAX]
                given = await self._ask(member, SomeRows(self._cell, part))
                if why := given.refusal or await self._join(given):
                    return why
                taken += len(given.rows)
                came = {row.key for row in given.rows}
                gone = set(part) if given.is_end or not came else came
                differing = [key for key in differing if key not in gone]
            if page.refusal:
                return page.refusal
            after = max(page.hashes, default=after)
            is_end = page.is_end or not page.hashes
        logger().info("buckets.taken", giver=member, buckets=len(buckets), rows=taken)
        return ""

    # Asking and joining.

    async def _ask(self, giver: str, wanted: Wanted) -> Given:
        """The answer; one that does not come, or cannot be read, is a refusal."""
        why = ""
        for _ in range(limits.EXCHANGE_ATTEMPTS):
            try:
                data = await self._peers.ask_rows(
                    giver, codec.pack(wanted), timeout_s=limits.EXCHANGE_TIMEOUT_S
                )
                return codec.unpack(data, Given)
            except Unavailable as error:
                why = error.message
            except msgspec.DecodeError as error:
                why = f"its answer is unreadable: {error}"
            if giver not in self._members.alive():
                break
        return Given(0, [], refusal=why)

    async def _join(self, given: Given, positions: Sequence[Position] = ()) -> str:
        if not (given.rows or given.operations or positions):
            return ""
        try:
            await self._applier.join_rows(
                given.rows, given.operations, positions, highest_block=given.highest_block
            )
        except InvariantBroken as error:
            logger().error("rows.not_joined", **describe(error))
            return str(error)
        metrics.ROWS_JOINED.inc(len(given.rows))
        return ""


def _unfit(page: Given, first: Given) -> str:
    """Why a page does not go on with the first one; "" where it does."""
    if page.refusal:
        return page.refusal
    if page.store_incarnation != first.store_incarnation:
        return "it goes on with another store"
    if not all(is_among(page.positions, position) for position in first.positions):
        return "its store went back"
    if not (page.is_end or page.rows or page.operations):
        return "an empty page that is not the last"
    return ""


def _following(cell: str, page: Given) -> Wanted:
    """What asks for the page after this one."""
    if page.rows:
        return AllRows(cell, page.rows[-1].key)
    last = page.operations[-1]
    return AllOperations(cell, last.scope, last.key)
