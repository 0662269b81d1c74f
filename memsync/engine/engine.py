"""The engine of a peer: its parts, joined over whatever fills the ports.

The processes join it over the real adapters, the simulation and the tests over those in memory, so
that what is tested is what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.core.membership import founded
from memsync.engine.applier import Applier
from memsync.engine.cell.clocks import Clocks
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.cell.membership import Standing
from memsync.engine.cell.report import Report
from memsync.engine.directory import Directory
from memsync.engine.durability import Durability
from memsync.engine.health import Health
from memsync.engine.peer import Connection, Peer
from memsync.engine.progress import Progress
from memsync.engine.repair.anti_entropy import AntiEntropy
from memsync.engine.repair.giving import Giver
from memsync.engine.repair.recovery import Recovery
from memsync.engine.repair.scrub import Scrub
from memsync.engine.streams.caretakers import Caretakers
from memsync.engine.streams.ownership import OwnedLog, Ownership
from memsync.engine.tail import Tail
from memsync.engine.writing.appender import Appender
from memsync.ids import Position
from memsync.ports import Change, Log, Marks, Peers, Recollection, Servers, Store, Streams
from memsync.wire.members import Watermark


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The world as a peer's engine needs it."""

    clock: Clock
    store: Store
    log: Log
    streams: Streams
    marks: Marks
    recollection: Recollection
    peers: Peers
    servers: Servers


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which member of which cell this peer is. `cell` is the hash of the genesis file, `label` the
    name of the cell in it, `founders` its members."""

    name: str
    cell: str
    label: str
    founders: tuple[str, ...]


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """How often a peer looks whether it holds what it should; tests have less time."""

    mark_every_s: float = limits.MARK_EVERY_S
    scrub_pass_s: float = limits.SCRUB_PASS_S
    scrub_pause_s: float = limits.SCRUB_PAUSE_S


INTERVALS = Intervals()


class Engine:
    """The parts of a peer that work on its state, over a store that is open and has `positions`.

    `derived` are told of every batch of changes. Without `is_sync_required` servers that
    acknowledge before they sync are good enough. Messages at `void` positions have no effect.
    `load` is still to be called.
    """

    def __init__(
        self,
        identity: Identity,
        ports: Ports,
        connection: Connection,
        *,
        positions: Mapping[tuple[int, int], int],
        derived: Sequence[Callable[[Sequence[Change]], None]],
        is_sync_required: bool,
        void: Collection[Position] = (),
        intervals: Intervals = INTERVALS,
    ) -> None:
        self.ports = ports
        self.identity = identity
        clock, store = ports.clock, ports.store
        self.progress = Progress(clock)
        self.progress.load(positions)
        if self.progress.has_all_of(ports.recollection.recall()):
            self.progress.note_nothing_lost()
        self.progress.listeners.append(self._recollect)
        self.directory = Directory()
        self.applier = Applier(
            store,
            self.progress,
            [*derived, self.directory.apply, self._apply_membership],
            void=void,
        )
        self.members = self._members()
        self.applier.listeners.append(self.members.note_applied)
        self.standing = Standing(
            self.members,
            self.progress,
            clock,
            label=identity.label,
            incarnation=lambda: self.appender.incarnation,
        )
        self.clocks = Clocks(clock, lambda member: member in self.members.names)
        self.members.listeners.append(self.clocks.hear)
        self.leases = Leases(self.members, self.progress, ports.marks, clock, self._why_incomplete)
        self.durability = Durability(ports.servers, is_required=is_sync_required)
        ownership = Ownership(ports.streams, identity.cell, identity.label, self.standing.dismiss)
        self._log = OwnedLog(ports.log, ownership)
        self.appender = self._appender()
        self.recovery = self._recovery()
        self.anti_entropy = self._anti_entropy(intervals)
        self.scrub = self._scrub(intervals)
        self.tails = {stripe: self._tail(stripe) for stripe in range(limits.STRIPES)}
        self.caretakers = self._caretakers(ownership)
        self._leased = connection.leased
        self.report = self._report()
        self.health = self._health()
        self.peer = self._peer(connection)

    async def load(self) -> None:
        """Take the few records that are kept in memory from the store."""
        await self.directory.load(self.ports.store)
        await self.standing.load(self.ports.store)

    def _recollect(self) -> None:
        self.ports.recollection.keep(self.progress.ends())

    def _apply_membership(self, changes: Sequence[Change]) -> None:
        self.standing.apply(changes)

    def _watermark(self) -> Watermark:
        """What this peer tells of itself at any moment."""
        clock, store = self.ports.clock, self.ports.store
        return Watermark(
            member=self.identity.name,
            cell=self.identity.cell,
            store_incarnation=store.incarnation,
            incarnation=self.appender.incarnation,
            positions=self.progress.ends(),
            synced=self.caretakers.synced.positions(),
            leases=self.members.grants.named(clock.steady_s()),
            membership=self.members.membership.version,
            highest_block=max(store.highest_block, self.appender.incarnation, self._leased()),
            wall_ms=clock.wall_ms(),
        )

    def _why_incomplete(self) -> str | None:
        """Why this store is not fresh, whatever its positions are."""
        lacking = "; ".join(self.progress.lacking().values())
        return self.members.fault or self.applier.broken or self.applier.failing or lacking or None

    def _report(self) -> Report:
        return Report(
            label=self.identity.label,
            members=self.members,
            leases=self.leases,
            clocks=self.clocks,
            stripes=self.caretakers.stripes,
        )

    def _health(self) -> Health:
        return Health(
            log=self.ports.log,
            applier=self.applier,
            appender=self.appender,
            members=self.members,
            progress=self.progress,
            durability=self.durability,
            leases=self.leases,
            caretakers=self.caretakers,
        )

    def _caretakers(self, ownership: Ownership) -> Caretakers:
        return Caretakers(
            self.ports.streams,
            self._log,
            ownership,
            members=self.members,
            applier=self.applier,
            progress=self.progress,
            store=self.ports.store,
            servers=self.ports.servers,
            void=self.applier.void,
            tails=self.tails,
        )

    def _members(self) -> Members:
        return Members(
            self.identity.name,
            founded(self.identity.founders),
            self.identity.cell,
            marks=self.ports.marks,
            progress=self.progress,
            clock=self.ports.clock,
            own=self._watermark,
            incarnation=lambda: self.appender.incarnation,
        )

    def _appender(self) -> Appender:
        return Appender(
            self._log,
            self.ports.store,
            self.applier,
            self.members,
            self.progress,
            self.leases,
            self.durability,
            self.clocks,
            self.ports.clock,
        )

    def _recovery(self) -> Recovery:
        return Recovery(
            self.identity.cell,
            peers=self.ports.peers,
            streams=self.ports.streams,
            store=self.ports.store,
            applier=self.applier,
            members=self.members,
            clock=self.ports.clock,
        )

    def _anti_entropy(self, intervals: Intervals) -> AntiEntropy:
        return AntiEntropy(
            log=self._log,
            marks=self.ports.marks,
            peers=self.ports.peers,
            applier=self.applier,
            members=self.members,
            progress=self.progress,
            recovery=self.recovery,
            clock=self.ports.clock,
            clocks=self.clocks,
            mark_every_s=intervals.mark_every_s,
        )

    def _scrub(self, intervals: Intervals) -> Scrub:
        return Scrub(
            store=self.ports.store,
            peers=self.ports.peers,
            applier=self.applier,
            members=self.members,
            progress=self.progress,
            recovery=self.recovery,
            clock=self.ports.clock,
            pass_s=intervals.scrub_pass_s,
            pause_s=intervals.scrub_pause_s,
        )

    def _tail(self, stripe: int) -> Tail:
        return Tail(
            stripe,
            log=self._log,
            streams=self.ports.streams,
            applier=self.applier,
            members=self.members,
            recovery=self.recovery,
            clock=self.ports.clock,
        )

    def _peer(self, connection: Connection) -> Peer:
        return Peer(
            connection,
            caretakers=self.caretakers,
            members=self.members,
            applier=self.applier,
            appender=self.appender,
            leases=self.leases,
            standing=self.standing,
            tails=self.tails,
            recovery=self.recovery,
            anti_entropy=self.anti_entropy,
            scrub=self.scrub,
            giver=Giver(
                self.ports.store, self.progress, self.identity.cell, self.anti_entropy.sums
            ),
            peers=self.ports.peers,
            durability=self.durability,
        )
