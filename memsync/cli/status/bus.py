"""What the bus tells of a local cluster: the members' positions, and the stripes with leaders."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from memsync import config, errors, limits
from memsync.ids import Position
from memsync.local.home import Home
from memsync.wire import codec, genesis
from memsync.wire.members import Roster, Watermark
from memsync.wire.subjects import CellName

if TYPE_CHECKING:
    from nats.aio.client import Client

    from memsync.adapters.jetstream.streams import JetStreamStreams

CONNECT_S = 2.0
LISTEN_S = 1.2 * limits.ROSTER_S  # every process tells its members so often


class Stripe(msgspec.Struct, frozen=True, kw_only=True):
    """One stripe of the log: its stream's leader and its last frame."""

    stripe: int
    generation: int
    leader: str | None
    servers: list[str]
    last_sequence: int


class BusState(msgspec.Struct, frozen=True, kw_only=True):
    """All that could be learnt, and what could not."""

    positions: Mapping[str, list[Position]] = {}
    members: list[str] = []  # as the cell tells them; [] where nobody did
    stripes: list[Stripe] = []
    problems: list[str] = []

    def lag_entries(self, positions: list[Position]) -> int:
        """How many frames a member has still to apply, over all stripes."""
        applied = {(one.stripe, one.generation): one.sequence for one in positions}
        return sum(
            max(0, one.last_sequence - applied.get((one.stripe, one.generation), 0))
            for one in self.stripes
        )


class Bus:
    """The bus of a local home, asked with the credentials of its peers.

    It connects when it is first read, and again at a later read where that failed.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._client: Client | None = None
        self._streams: JetStreamStreams | None = None
        self._heard: dict[str, list[Position]] = {}
        self._roster: Roster | None = None

    async def read(self, listen_s: float = 0.0) -> BusState:
        """How it is now, with the positions that were heard of since it is connected, at least
        for `listen_s`; a bus that is gone is a problem."""
        path = self._home.config("peer-1.toml")
        if not path.exists():
            return BusState(problems=[f"{path} is missing: positions and leaders are not known"])
        try:
            streams = self._streams or await self._connect(path)
        except (errors.Unavailable, errors.ConfigurationError) as error:
            return BusState(problems=[str(error)])
        found = await asyncio.gather(
            *(_stripe(streams, stripe) for stripe in range(limits.STRIPES)),
            asyncio.sleep(listen_s),
        )
        states = [one for one in found if one is not None]
        return BusState(
            positions=dict(self._heard),
            members=sorted(self._roster.members) if self._roster else [],
            stripes=[one for one in states if isinstance(one, Stripe)],
            problems=[one for one in states if isinstance(one, str)],
        )

    async def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            from memsync.adapters.jetstream import connection

            await connection.close(self._client)

    async def _connect(self, path: Path) -> JetStreamStreams:
        # Slow to import (nats-py, numpy, structlog), and no other command needs them.
        from memsync.adapters.jetstream import connection
        from memsync.adapters.jetstream.marks import JetStreamMarks
        from memsync.adapters.jetstream.streams import JetStreamStreams

        _quieten()
        settings = config.load(path, config.PeerSettings)
        founding = genesis.read(self._home.genesis)
        self._client = await connection.connect(settings.nats, "memsync-status", wait_s=CONNECT_S)
        cell = CellName(founding.region, founding.cell)
        marks = JetStreamMarks(self._client, cell, "status")
        await marks.listen(self._hear)
        self._streams = JetStreamStreams(
            self._client, cell, replicas=1, stripe_bytes_max=0, identity=""
        )
        return self._streams

    def _hear(self, data: bytes) -> None:
        try:
            mark = codec.decode_told(data)
        except msgspec.DecodeError:
            return  # of another version: its peer's own port tells the rest
        if isinstance(mark, Watermark):
            self._heard[mark.member] = mark.positions
        elif isinstance(mark, Roster) and (not self._roster or mark.stamp > self._roster.stamp):
            self._roster = mark


async def read_bus(home: Home) -> BusState:
    """Ask the bus once."""
    bus = Bus(home)
    try:
        return await bus.read(LISTEN_S)
    finally:
        await bus.close()


def _quieten() -> None:
    """The adapters tell a log what goes wrong; here it stands in the report."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


async def _stripe(streams: JetStreamStreams, stripe: int) -> Stripe | str:
    try:
        generation = await streams.generation(stripe)
        if generation is None:
            return f"stripe {stripe} has no stream"
        state = await streams.state(stripe, generation)
    except errors.Unavailable as error:
        return f"stripe {stripe}: {error.message}"
    return Stripe(
        stripe=stripe,
        generation=generation,
        leader=state.leader,
        servers=list(state.servers),
        last_sequence=state.last_sequence,
    )
