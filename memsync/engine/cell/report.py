"""How the members of the cell are, as this peer knows them: for `memsync cluster members` and the
status. Looked up at the moment of asking, kept nowhere."""

from __future__ import annotations

import msgspec

from memsync.engine.cell.clocks import Clocks
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.streams.stripes import Stripes
from memsync.ids import Position
from memsync.wire import context, replies
from memsync.wire.members import Watermark


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that it is read from."""

    label: str
    members: Members
    leases: Leases
    clocks: Clocks
    stripes: Stripes

    def cluster(self) -> replies.ClusterInfo:
        """The membership, how each member is, and who leads the stripes."""
        marks, alive = self.members.watermarks(), self.members.present()
        names = self.members.names
        observers = [name for name in alive if name not in names]
        return replies.ClusterInfo(
            cell=self.label,
            version=self.members.membership.version,
            majority=self.members.majority,
            members=[self._member(name, marks.get(name), is_alive=name in alive) for name in names],
            observers=observers,
            removed=list(self.members.membership.removed),
            stripes=[
                replies.StripeInfo(
                    stripe=state.stripe, generation=state.generation, leader=state.leader
                )
                for _, state in sorted(self.stripes.states.items())
            ],
        )

    def _member(self, name: str, mark: Watermark | None, *, is_alive: bool) -> replies.MemberInfo:
        if mark is None:
            return replies.MemberInfo(name=name, alive=is_alive)
        return replies.MemberInfo(
            name=name,
            alive=is_alive,
            positions=context.format_positions(mark.positions).split(",") if mark.positions else [],
            lag_entries=self._lag(mark.positions),
            lease=is_alive and self._has_lease(name),
            clock_offset_ms=(
                0.0 if name == self.members.name else self.clocks.member_apart_ms(name)
            ),
            incarnation=mark.incarnation,
            membership=mark.membership,
        )

    def _has_lease(self, name: str) -> bool:
        """Whether it answers reads as fresh; of another member: whether any names it."""
        if name == self.members.name:
            return self.leases.is_fresh()
        return any(name in mark.leases for mark in self.members.watermarks().values())

    def _lag(self, positions: list[Position]) -> int:
        """How many frames that some member has this one has still to apply."""
        applied = {(p.stripe, p.generation): p.sequence for p in positions}
        return sum(
            max(0, end.sequence - applied.get((end.stripe, end.generation), 0))
            for end in self.members.heard_ends()
        )
