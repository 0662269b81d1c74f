"""The membership that this peer goes by, and what it means for this process.

The record of the membership (`core/membership.py`) is read from the store at the start and followed
as it is applied, so a change counts for everything here from the moment at which it is applied.

A process that is not named in it is an **observer**: it applies the log, so that it is warm, and
tells who it is, but no watermark; it answers no question and coordinates nothing. It becomes a
member in the moment at which it applies that. One that was removed ends, and so does one of two
processes with one name: that with the lower incarnation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from memsync import limits
from memsync.clock import Clock
from memsync.core import membership
from memsync.core.membership import Membership
from memsync.core.records import Record
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress, stripe_part
from memsync.errors import Unavailable
from memsync.ids import RecordKey
from memsync.ports import Change, Store
from memsync.tasks import is_going_on, pause
from memsync.telemetry import logger
from memsync.wire.members import Told, Watermark

RECORD: RecordKey = membership.RECORD
_PART = "membership"  # among the parts of `Progress`


class Standing:
    """Who the members are, whether this process is one, and why it must end, if so.

    `label` is the cell's name, for messages; `incarnation` is this process's, 0 while it has none.
    """

    def __init__(
        self,
        members: Members,
        progress: Progress,
        clock: Clock,
        *,
        label: str,
        incarnation: Callable[[], int],
    ) -> None:
        self._members = members
        self._progress = progress
        self._clock = clock
        self._label = label
        self._incarnation = incarnation
        self._settled_at_s: float | None = None
        self._joined = asyncio.Event()
        self._dismissed = asyncio.Event()
        self.dismissal: str | None = None
        members.listeners.append(self._hear)
        members.namesakes.append(self._hear_namesake)
        self._take(members.membership)

    @property
    def current(self) -> Membership:
        """The membership as it is applied here."""
        return self._members.membership

    async def load(self, store: Store) -> None:
        """Take what the store holds."""
        self._take_records([record for record in [await store.record(RECORD)] if record])

    def apply(self, changes: Sequence[Change]) -> None:
        """Take the changes of a batch."""
        self._take_records(change.after for change in changes if change.after.key == RECORD)

    def _take_records(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.origin is not None:  # else an update that came before its founding
                self._take(membership.read(record))

    def _take(self, found: Membership) -> None:
        if found.version != self.current.version:
            logger().info(
                "membership.changed", members=list(found.members), removed=list(found.removed)
            )
            self._members.set_membership(found)
        self._note_fault()
        self._settled_at_s = None
        self._note_settled()
        if self._members.is_member():
            self._joined.set()

    def why_no_member(self) -> str | None:
        """Why this process does nothing for the cell; None for a member."""
        name = self._members.name
        if self._members.is_member():
            return None
        if name in self.current.removed:
            return f"{name} was removed from cell {self._label}"
        return (
            f"{name} is not a member of cell {self._label} yet: run `memsync cluster join {name}`"
        )

    def _note_fault(self) -> None:
        self._members.fault = self.dismissal or self.why_no_member()
        self._progress.set_behind(_PART, self._members.fault)

    async def wait_member(self) -> None:
        """Wait until this process is a member; one that was may have to end since."""
        await self._joined.wait()

    # The next change.

    async def joined(self, name: str, deadline_s: float) -> Membership:
        """The membership with `name`, where it may be written now; raises what
        `core.membership.joined` and `check_settled` do."""
        changed = membership.joined(self.current, name, self._members.present())
        await self._settle(deadline_s)
        return changed

    async def without(self, name: str, deadline_s: float) -> Membership:
        """The membership without `name`; the same."""
        changed = membership.without(self.current, name, self._members.alive())
        await self._settle(deadline_s)
        return changed

    async def _settle(self, deadline_s: float) -> None:
        """Raise `Unavailable` until a majority of the members has had the last change for a while,
        and wait until this peer has all that they had then (`check_settled` says why)."""
        settled_s = 0.0
        if self._settled_at_s is not None:
            settled_s = self._clock.steady_s() - self._settled_at_s
        membership.check_settled(self.current, self._members.agreeing(), settled_s)
        if not await self._progress.wait_for(self._members.heard_ends(), deadline_s):
            raise Unavailable("this peer has not caught up with the others; nothing was written")

    def _note_settled(self) -> None:
        if self._settled_at_s is not None:
            return
        if len(self._members.agreeing()) >= self.current.majority:
            self._settled_at_s = self._clock.steady_s()

    def _hear(self, told: Told) -> None:
        if isinstance(told, Watermark):
            self._note_settled()

    # The end of this process.

    async def run(self) -> None:
        """End this process's part once it was removed, as far as the whole log says; until
        cancelled."""
        while is_going_on():
            await pause(limits.ROSTER_S)
            if self._is_removed() and self._has_caught_up():
                name = self._members.name
                self.dismiss(
                    f"{name} was removed from cell {self._label}. If that was meant, take it out "
                    f"of this machine's start-up; if it shall return, run `memsync cluster join "
                    f"{name}` and start it again"
                )

    def _is_removed(self) -> bool:
        return not self._members.is_member() and self._members.name in self.current.removed

    def _has_caught_up(self) -> bool:
        """Whether every stripe was read to its end and applied: it may have been joined again
        since."""
        stripes = {stripe_part(stripe) for stripe in range(limits.STRIPES)}
        return (
            self._progress.has_reached_start()
            and not stripes & self._progress.behind().keys()
            and self._progress.has(self._members.heard_ends())
        )

    def _hear_namesake(self, mark: Watermark) -> None:
        """A watermark under this peer's own name; most are its own."""
        own = self._incarnation()
        if own and mark.incarnation > own:
            self.dismiss(
                f"another process named {mark.member} with a later start (incarnation "
                f"{mark.incarnation} > {own}) is running; that one goes on, this one ends. Two "
                "processes must never have one name: give each its own in its settings"
            )

    def dismiss(self, why: str) -> None:
        """From now on this process coordinates nothing, and is to end; the first reason stays."""
        if self.dismissal is None:
            self.dismissal = why
            self._note_fault()
            logger().critical("peer.dismissed", reason=why)
            self._dismissed.set()

    async def wait_dismissed(self) -> str:
        """Wait until this process has to end; why."""
        await self._dismissed.wait()
        assert self.dismissal is not None
        return self.dismissal
