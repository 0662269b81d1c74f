"""The life of a peer on the bus: connect, read the log, learn who is there, lease an id block, look
after the streams. Recalls do not wait for any of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from memsync import limits
from memsync.engine.appender import Appender
from memsync.engine.applier import Applier
from memsync.engine.durability import Durability
from memsync.engine.members import Members
from memsync.engine.stripes import Stripes, repair_ids
from memsync.engine.tail import Tail
from memsync.errors import Unavailable
from memsync.ports import Streams
from memsync.tasks import is_going_on
from memsync.telemetry import describe, logger
from memsync.wire.members import Watermark

LEASE_RETRY_S = 0.1
CONNECT_RETRY_S = 0.5


class Peer:
    """Runs the engine's loops. `connect` returns once there is a connection, `watch` once it is
    closed for good; `lease` gets an id block; `keep` are further loops that need the connection."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[None]],
        lease: Callable[[], Awaitable[int]],
        watch: Callable[[], Awaitable[None]],
        keep: Mapping[str, Callable[[], Awaitable[None]]],
        streams: Streams,
        members: Members,
        applier: Applier,
        appender: Appender,
        tails: Mapping[int, Tail],
        durability: Durability,
    ) -> None:
        self._connect = connect
        self._lease = lease
        self._watch = watch
        self._keep = keep
        self._streams = streams
        self._members = members
        self._applier = applier
        self._appender = appender
        self._tails = tails
        self._durability = durability
        self.stripes = Stripes(streams, members, applier, tails)
        members.listeners.append(self._note_ends)

    async def run(self) -> None:
        """Live until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._applier.run(), name="applier")
            loops.create_task(self._appender.run(), name="appender")
            loops.create_task(self._durability.run(), name="durability")
            while is_going_on():
                await self._connect_at_last()
                await self._with_connection()

    async def _connect_at_last(self) -> None:
        while is_going_on():
            try:
                await self._connect()
            except Unavailable as error:
                logger().warning("bus.not_reached", **describe(error))
                await asyncio.sleep(CONNECT_RETRY_S)
            else:
                logger().info("bus.connected")
                return

    async def _with_connection(self) -> None:
        """All that lives on one connection, until it is closed for good (a server may do that)."""
        async with asyncio.TaskGroup() as loops:
            others = [loops.create_task(_run(keep), name=name) for name, keep in self._keep.items()]
            others += [
                loops.create_task(tail.run(), name=f"tail-{k}") for k, tail in self._tails.items()
            ]
            others.append(loops.create_task(self._members.run(), name="members"))
            others.append(loops.create_task(self.stripes.run(), name="stripes"))
            others.append(loops.create_task(self._lease_incarnation(), name="incarnation"))
            await self._watch()
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
                self._appender.start(await self._lease())
                logger().info("incarnation.leased", incarnation=self._appender.incarnation)
            except Unavailable as error:
                attempt += 1
                if attempt % 20 == 1:
                    logger().info("incarnation.not_leased", **describe(error))
                await self._repair_ids()
                await asyncio.sleep(LEASE_RETRY_S)

    async def _repair_ids(self) -> None:
        marks = self._members.watermarks()
        if len(marks) < self._members.majority:
            return  # the highest block seen is not known yet
        try:
            await repair_ids(self._streams, self._members)
        except Unavailable as error:
            logger().info("ids.not_repaired", **describe(error))

    def _note_ends(self, mark: Watermark) -> None:
        for position in mark.positions:
            if 0 <= position.stripe < limits.STRIPES:
                self._tails[position.stripe].note_end(position)


async def _run(loop: Callable[[], Awaitable[None]]) -> None:
    await loop()
