"""The members of the cell: what each has applied, who is alive, and waiting until enough have a
write.

Every peer tells all others its watermark, ten times a second while it applies anything and half as
often while it does not. Those who wait for more are told at once, and alone: the coordinators whose
frames a batch held, and whoever calls. (Who coordinates is most of the time one of many, and each
message to each other process costs as much as joining the frame.) The last one heard of a member
counts, not the highest: a store can be rolled back. A process says nothing in its first `GRANT_S`:
it has forgotten whom it granted leases before, and a watermark that does not name a holder would
let a write pass that the holder has not applied (`core/lease.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.core.lease import Grants, Unheard, covers, furthest
from memsync.core.membership import Membership
from memsync.engine import metrics
from memsync.engine.progress import Progress
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Marks
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.members import Call, Release, Roster, Told, Watermark

PRESENT_S = 3 * limits.ROSTER_S  # a process unheard for this long is not taken to be there
PRESENT_MAX = 4 * limits.MEMBERS_MAX  # of those that are no members, too
STRANGER_SAID_S = 60.0
EARLY_S = 0.01  # by so much a turn of a loop may come early
EVERYBODY = ""  # in the place of a member's name

Cover = Literal["quorum", "all"]


class Members:
    """The watermarks of all members, this one's included. `own` makes this peer's at any moment;
    `ask` is the question for a lease that goes with the next one to all, 0 for none."""

    def __init__(
        self,
        name: str,
        membership: Membership,
        cell: str,
        *,
        marks: Marks,
        progress: Progress,
        clock: Clock,
        own: Callable[[], Watermark],
        incarnation: Callable[[], int],
    ) -> None:
        self.name = name
        self.membership = membership
        self.fault: str | None = None  # why this process does nothing for the cell (`Standing`)
        self.cell = cell
        self.grants = Grants()
        self._marks = marks
        self._progress = progress
        self._clock = clock
        self._own = own
        self._incarnation = incarnation
        self._heard: dict[str, tuple[float, Watermark]] = {}
        self._unheard = Unheard()
        self._was_deaf_to: list[str] = []
        self.ask: Callable[[], int] = lambda: 0
        self._has_news = False  # since all were told
        self._told_all_s = float("-inf")
        self._owed: set[str] = set()  # who is to be told now
        self._callers: dict[str, float] = {}  # until when they are told of all that is applied
        self._is_calling = False
        self._hurry = asyncio.Event()
        self._target: list[Position] = []  # what others had, as of `_target_since_s`
        self._target_since_s = 0.0
        self._waiting: list[_Waiting] = []
        self._silent_until_s = clock.steady_s() + limits.GRANT_S
        self._present: dict[str, float] = {}  # who told a roster, and when
        self._strangers: dict[str, float] = {}  # who speaks of another cell, and when that was said
        self._roster_at_s = float("-inf")
        self.listeners: list[Callable[[Told], None]] = []
        self.namesakes: list[Callable[[Watermark], None]] = []
        progress.listeners.append(self._advanced)

    @property
    def names(self) -> tuple[str, ...]:
        """The members, as the applied membership says."""
        return self.membership.members

    def set_membership(self, membership: Membership) -> None:
        """Go by another membership from now on: for what is alive, asked, answered and covered."""
        self.membership = membership
        self._heard = {name: entry for name, entry in self._heard.items() if name in self.names}
        self._roster_at_s = float("-inf")
        self._owe(EVERYBODY)
        self._advanced()

    @property
    def majority(self) -> int:
        """How many members are a majority of those configured."""
        return self.membership.majority

    def is_member(self) -> bool:
        """Whether this peer is one of them."""
        return self.name in self.names

    def is_only_one(self) -> bool:
        """Whether this peer is the whole cell."""
        return self.names == (self.name,)

    def is_silent(self) -> bool:
        """Whether this process must not say yet what it has: it may have forgotten a grant."""
        return not self.is_only_one() and self._clock.steady_s() < self._silent_until_s

    def alive(self) -> list[str]:
        """The members heard of lately, and this one if it is a member."""
        horizon = self._clock.steady_s() - limits.WATERMARK_SILENT_S
        others = [name for name, (at, _) in self._heard.items() if at >= horizon]
        return sorted({*others, *([self.name] if self.is_member() else [])})

    def present(self) -> list[str]:
        """All processes of the cell heard of lately, those of no member included."""
        horizon = self._clock.steady_s() - PRESENT_S
        return sorted({*self.alive(), *(n for n, at in self._present.items() if at >= horizon)})

    def agreeing(self) -> list[str]:
        """The members that have told that they go by the membership that this peer goes by."""
        version = self.membership.version
        others = [name for name, (_, mark) in self._heard.items() if mark.membership == version]
        return [*others, *([self.name] if self.is_member() else [])]

    def has_majority(self) -> bool:
        """Whether a majority of the configured members is alive."""
        return len(self.alive()) >= self.majority

    def unheard(self) -> list[str]:
        """The members that this peer does not hear while others name them as holders of leases: no
        write that it coordinates can be covered."""
        holders = self._unheard.holders(self._clock.steady_s())
        return sorted(name for name in holders if name in self.names)

    def why_deaf(self) -> str | None:
        """Why this peer must leave writes to others that can hear all holders of leases."""
        if not (unheard := self.unheard()):
            return None
        return f"this peer does not hear {', '.join(unheard)}, to whom others grant leases"

    def why_no_cover(self) -> str | None:
        """Why no write can be covered, as things are now."""
        alive = self.alive()
        if len(alive) < self.majority:
            return f"{len(alive)} of {len(self.names)} members alive"
        return self.why_deaf()

    def is_first_alive(self) -> bool:
        """Whether it falls to this member to do what one of them should: the first by name."""
        return self.alive()[:1] == [self.name]

    def told_by_others(self) -> dict[str, list[Position]]:
        """What each other member that is alive said last that it has applied, in the order of their
        names."""
        return {
            name: self._heard[name][1].positions for name in self.alive() if name in self._heard
        }

    def watermarks(self) -> dict[str, Watermark]:
        """The last watermark of each member that was heard, and this one's own."""
        return {**{name: mark for name, (_, mark) in self._heard.items()}, self.name: self._own()}

    def others(self) -> dict[int, str]:
        """The processes of the other members, as told last: incarnation -> name."""
        return {mark.incarnation: name for name, (_, mark) in self._heard.items()}

    def heard_ends(self) -> list[Position]:
        """The furthest position that any member has told, in each generation of each stripe."""
        told = [p for _, mark in self._heard.values() for p in mark.positions]
        return furthest([*self._progress.ends(), *told])

    def _advanced(self) -> None:
        """This peer applied something: say so, and look who waited for it."""
        self._has_news = True
        self._check_waiting()

    def note_applied(self, incarnations: Collection[int]) -> None:
        """Frames of these coordinators were applied here, who wait to hear that. One that was not
        heard yet may be anybody."""
        own = self._incarnation()
        names = self.others()
        for incarnation in incarnations:
            if incarnation != own:
                self._owe(names.get(incarnation, EVERYBODY))
        now_s = self._clock.steady_s()
        self._callers = {name: until for name, until in self._callers.items() if until >= now_s}
        for caller in self._callers:
            self._owe(caller)

    def _owe(self, member: str) -> None:
        self._owed.add(member)
        self._hurry.set()

    async def run(self) -> None:
        """Listen and tell until cancelled."""
        await self._marks.listen(self._hear)
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._keep_telling_all(), name="watermarks")
            loops.create_task(self._keep_telling_who_waits(), name="covers")

    async def _keep_telling_all(self) -> None:
        while is_going_on():
            quiet_s = self._clock.steady_s() - self._told_all_s
            if self._has_news or quiet_s >= limits.WATERMARK_QUIET_S - EARLY_S:
                try:
                    await self._speak()
                except Unavailable:
                    pass  # no connection: the next round tries again, and readiness says it
                self._note_alive()
                self._note_lag()
            self._check_waiting()  # a grant may have run out
            await pause(limits.WATERMARK_S)

    async def _speak(self) -> None:
        await self._tell_all()
        now_s = self._clock.steady_s()
        if now_s >= self._roster_at_s + limits.ROSTER_S - EARLY_S:
            self._roster_at_s = now_s
            told = Roster(
                self.name,
                self.cell,
                self.membership.stamp,
                list(self.names),
                self._own().highest_block,
            )
            await self._marks.announce(codec.pack(told))

    async def _tell_all(self) -> None:
        if not self.is_member() or self.is_silent():
            return
        self._has_news = False
        self._told_all_s = self._clock.steady_s()
        question = self.ask()
        await self._marks.tell(codec.pack(msgspec.structs.replace(self._own(), question=question)))

    async def _keep_telling_who_waits(self) -> None:
        while is_going_on():
            await self._hurry.wait()
            self._hurry.clear()
            try:
                await self._tell_who_waits()
            except Unavailable:
                pass  # all are told regularly, once there is a connection

    async def _tell_who_waits(self) -> None:
        owed, self._owed = self._owed, set()
        is_calling, self._is_calling = self._is_calling, False
        if is_calling:
            await self._marks.tell(codec.pack(Call(self.name, self.cell)))
        if not self.is_member() or self.is_silent():
            return
        # The first word of a process goes to all: an older one of its name must hear it and end.
        if len(owed) > 1 or EVERYBODY in owed or self._told_all_s == float("-inf"):
            await self._tell_all()
        elif owed:
            await self._marks.tell(codec.pack(self._own()), only=owed.pop())

    def _note_alive(self) -> None:
        alive = len(self.alive())
        metrics.MEMBERS_ALIVE.set(alive)
        lonely = f"{alive} of {len(self.names)} members alive" if alive < self.majority else None
        self._progress.set_behind("members", lonely)
        unheard = self.unheard()
        if unheard != self._was_deaf_to:
            logger().warning("holders.unheard", members=unheard)
            self._was_deaf_to = unheard
        hopeless = [e for e in self._waiting if self._needed(e.ack) > alive]
        hopeless += [e for e in self._waiting if e not in hopeless and self._lack(unheard, e)]
        for entry in hopeless:
            self._end(entry, is_covered=False)

    def _lack(self, unheard: Collection[str], entry: _Waiting) -> bool:
        """Whether one of those whom this peer does not hear must have a frame, and has not told."""
        told = [self._heard[name][1].positions if name in self._heard else [] for name in unheard]
        return not all(covers(positions, entry.positions) for positions in told)

    def _note_lag(self) -> None:
        """Have answers from here tagged while others have what this peer has not, for a while."""
        now_s = self._clock.steady_s()
        if self._progress.has(self._target):
            self._target, self._target_since_s = self.heard_ends(), now_s
            self._progress.set_behind("members' positions", None)
        elif now_s - self._target_since_s > limits.LAG_S_MAX:
            told = ", ".join(f"{p.stripe}.{p.generation}.{p.sequence}" for p in self._target)
            self._progress.set_behind("members' positions", f"others have {told}")

    async def wait_covered(
        self, positions: Sequence[Position], ack: Cover, deadline_s: float
    ) -> bool:
        """Wait until this peer, a majority of the members or all of them (`ack`), and whoever may
        hold a lease have applied the frame that lies at `positions` (one suffices); False at the
        deadline (steady clock), and as soon as too few are alive or one that may hold a lease is
        not heard here.

        How many that is, is looked up when it is judged: the membership may change meanwhile. And
        only members that go by the same membership count: so a peer that has not heard of the last
        changes finds no majority (`core/membership.py`)."""
        if self._is_covered(positions, ack):
            return True
        if self._progress.has_one_of(positions):
            # Others that have it, too, may have told its coordinator only.
            self._is_calling = True
            self._hurry.set()
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = _Waiting(positions, ack, future)
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
        if not self._waiting:
            return
        covered = [e for e in self._waiting if self._is_covered(e.positions, e.ack)]
        for entry in covered:
            self._end(entry, is_covered=True)

    def _end(self, entry: _Waiting, *, is_covered: bool) -> None:
        self._waiting.remove(entry)
        if not entry.future.done():
            entry.future.set_result(is_covered)

    def _needed(self, ack: Cover) -> int:
        return len(self.names) if ack == "all" else self.majority

    def _is_covered(self, positions: Sequence[Position], ack: Cover) -> bool:
        if self.is_silent() or not self._progress.has_one_of(positions):
            return False
        have = {self.name}
        now_s = self._clock.steady_s()
        holders = set(self.grants.named(now_s))
        for name, (heard_s, mark) in self._heard.items():
            if mark.membership == self.membership.version and covers(mark.positions, positions):
                have.add(name)
                if now_s - heard_s < limits.GRANT_S:  # else what it had granted by then is over
                    holders.update(mark.leases)
        return len(have.intersection(self.names)) >= self._needed(ack) and holders <= have

    def _hear(self, data: bytes) -> None:
        try:
            mark = codec.decode_told(data)
        except msgspec.DecodeError as error:
            logger().warning("mark.unreadable", **describe(error))
            return
        if mark.cell != self.cell:
            self._note_stranger(mark)
        elif isinstance(mark, Roster):
            self._note_present(mark.member)
        elif mark.member == self.name:
            if isinstance(mark, Watermark):
                for note in self.namesakes:
                    note(mark)
        elif mark.member in self.names:
            self._hear_member(mark)
        elif isinstance(mark, Release):  # of one that was removed: no write needs to wait for it
            self.grants.drop(mark.member, mark.question)

    def _note_stranger(self, told: Told) -> None:
        """Say that somebody of another cell uses this one's subjects, once a minute."""
        now_s = self._clock.steady_s()
        if now_s < self._strangers.get(told.member, float("-inf")) + STRANGER_SAID_S:
            return
        if len(self._strangers) >= PRESENT_MAX:
            self._strangers.clear()
        self._strangers[told.member] = now_s
        logger().error("member.of_another_cell", member=told.member, cell=told.cell)

    def _note_present(self, name: str) -> None:
        now_s = self._clock.steady_s()
        if len(self._present) >= PRESENT_MAX:
            self._present = {n: at for n, at in self._present.items() if at >= now_s - PRESENT_S}
        if len(self._present) < PRESENT_MAX:
            self._present[name] = now_s

    def _hear_member(self, told: Told) -> None:
        if isinstance(told, Watermark):
            self._hear_of_holders(told)
            self._heard[told.member] = (self._clock.steady_s(), told)
            self._check_waiting()
        elif isinstance(told, Call):
            # What it waits for may be applied here a moment later, and is another's frame.
            self._callers[told.member] = self._clock.steady_s() + limits.CALL_S
            self._owe(told.member)
        for listen in self.listeners:
            listen(told)

    def _hear_of_holders(self, mark: Watermark) -> None:
        """Note who was heard, here and by the teller."""
        self._unheard.hear(mark.member, mark.question)
        before = self._heard.get(mark.member)
        known = before[1].leases if before is not None else mark.leases
        for holder, question in mark.leases.items():
            if holder != self.name and known.get(holder) != question:
                self._unheard.hear_of(holder, question, self._clock.steady_s())


class _Waiting(msgspec.Struct, frozen=True, eq=False):
    """Someone who waits for a frame at `positions` to be with as many members as `ack` says."""

    positions: Sequence[Position]
    ack: Cover
    future: asyncio.Future[bool]
