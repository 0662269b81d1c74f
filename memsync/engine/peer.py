"""The life of a peer on the bus: connect, read the log, learn who is there, lease an id block, look
after the streams. Recalls do not wait for any of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from memsync import limits
from memsync.engine.applier import Applier
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.cell.membership import Standing
from memsync.engine.durability import Durability
from memsync.engine.repair.anti_entropy import AntiEntropy
from memsync.engine.repair.giving import Giver
from memsync.engine.repair.recovery import Recovery
from memsync.engine.repair.scrub import Scrub
from memsync.engine.streams.caretakers import Caretakers
from memsync.engine.tail import Tail
from memsync.engine.writing.appender import Appender
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Peers
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire.members import Answer, Told, Watermark

LEASE_RETRY_S = 0.1
CONNECT_RETRY_S = 0.5


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """The connection to the bus, as `Peer` needs it."""

    connect: Callable[[], Awaitable[None]]
    """Returns once there is a connection; raises `Unavailable` if none is to be had for now."""
    watch: Callable[[], Awaitable[None]]
    """Returns once the connection is closed for good."""
    lease: Callable[[], Awaitable[int]]
    """Gets an id block; raises `Unavailable`."""
    leased: Callable[[], int] = lambda: 0
    """The highest block that anybody is known to have leased, used or not."""
    keep: Mapping[str, Callable[[], Awaitable[None]]]
    """Further loops that need the connection, by name."""


class Peer:
    """Runs the engine's loops."""

    def __init__(
        self,
        connection: Connection,
        *,
        caretakers: Caretakers,
        members: Members,
        applier: Applier,
        appender: Appender,
        leases: Leases,
        standing: Standing,
        tails: Mapping[int, Tail],
        recovery: Recovery,
        anti_entropy: AntiEntropy,
        scrub: Scrub,
        giver: Giver,
        peers: Peers,
        durability: Durability,
    ) -> None:
        self._connection = connection
        self._caretakers = caretakers
        self._members = members
        self._applier = applier
        self._appender = appender
        self._leases = leases
        self._standing = standing
        self._tails = tails
        self._recovery = recovery
        self._anti_entropy = anti_entropy
        self._scrub = scrub
        self._giver = giver
        self._peers = peers
        self._durability = durability
        members.listeners.append(self._note_ends)
        recovery.listeners.append(self._skip_to)

    async def run(self) -> None:
        """Live until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._applier.run(), name="applier")
            loops.create_task(self._appender.run(), name="appender")
            loops.create_task(self._durability.run(), name="durability")
            # Beside the connection, not on it: what it joins must reach the derived indexes.
            loops.create_task(self._recovery.run(), name="recovery")
            loops.create_task(self._scrub.run(), name="scrub")
            while is_going_on():
                await self._connect_at_last()
                if is_going_on():
                    await self._with_connection()
            raise asyncio.CancelledError  # a library lost it; the other loops must end, too

    async def _connect_at_last(self) -> None:
        while is_going_on():
            try:
                await self._connection.connect()
            except Unavailable as error:
                logger().warning("bus.not_reached", **describe(error))
                await pause(CONNECT_RETRY_S)
            else:
                logger().info("bus.connected")
                return

    async def _with_connection(self) -> None:
        """All that lives on one connection, until it is closed for good (a server may do that)."""
        async with asyncio.TaskGroup() as loops:
            kept = {**self._connection.keep, **self._caretakers.loops()}
            others = [loops.create_task(_run(keep), name=name) for name, keep in kept.items()]
            others += [
                loops.create_task(tail.run(), name=f"tail-{k}") for k, tail in self._tails.items()
            ]
            others.append(loops.create_task(self._members.run(), name="members"))
            others.append(loops.create_task(self._peers.serve_rows(self._giver.give), name="giver"))
            others.append(loops.create_task(self._leases.run(), name="leases"))
            others.append(loops.create_task(self._standing.run(), name="standing"))
            others.append(loops.create_task(self._anti_entropy.run(), name="anti-entropy"))
            others.append(loops.create_task(self._lease_incarnation(), name="incarnation"))
            await self._connection.watch()
            logger().error("bus.closed_for_good")
            for task in others:
                task.cancel()

    def reconnected(self) -> None:
        """The connection came back: what was said meanwhile was not heard."""
        for tail in self._tails.values():
            tail.wake()

    async def _lease_incarnation(self) -> None:
        """The id block that makes this process's stamps its own; as long as it takes."""
        attempt = 0
        while not self._appender.incarnation:
            try:
                self._appender.start(await self._connection.lease())
                logger().info("incarnation.leased", incarnation=self._appender.incarnation)
            except Unavailable as error:
                attempt += 1
                if attempt % 20 == 1:
                    logger().info("incarnation.not_leased", **describe(error))
                await pause(LEASE_RETRY_S)

    def _skip_to(self, ends: Sequence[Position]) -> None:
        """Everything up to these positions was joined as rows."""
        for end in ends:
            self._tails[end.stripe].skip_to(end)

    def _note_ends(self, mark: Told) -> None:
        if not isinstance(mark, Watermark | Answer):
            return
        for position in mark.positions:
            if 0 <= position.stripe < limits.STRIPES:
                self._tails[position.stripe].note_end(position)


async def _run(loop: Callable[[], Awaitable[None]]) -> None:
    await loop()
