"""What the bus tells of a local cluster: the members' positions, and the stripes with leaders."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from memsync import config, errors, limits
from memsync.ids import Position
from memsync.local.home import Home
from memsync.wire import codec, genesis
from memsync.wire.members import Watermark
from memsync.wire.subjects import CellName

if TYPE_CHECKING:
    from memsync.adapters.jetstream.streams import JetStreamStreams

CONNECT_S = 2.0
LISTEN_S = 5 * limits.WATERMARK_S


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
    stripes: list[Stripe] = []
    problems: list[str] = []

    def lag_entries(self, positions: list[Position]) -> int:
        """How many frames a member has still to apply, over all stripes."""
        applied = {(one.stripe, one.generation): one.sequence for one in positions}
        return sum(
            max(0, one.last_sequence - applied.get((one.stripe, one.generation), 0))
            for one in self.stripes
        )


async def read_bus(home: Home) -> BusState:
    """Ask the bus with the credentials of the home's peers; a bus that is gone is a problem."""
    # Slow to import (nats-py, numpy, structlog), and no other command needs them.
    from memsync.adapters.jetstream import connection
    from memsync.adapters.jetstream.marks import JetStreamMarks
    from memsync.adapters.jetstream.streams import JetStreamStreams

    _quieten()
    path = home.config("peer-1.toml")
    if not path.exists():
        return BusState(problems=[f"{path} is missing: positions and leaders are not known"])
    try:
        settings = config.load(path, config.PeerSettings)
        founding = genesis.read(home.genesis)
        client = await connection.connect(settings.nats, "memsync-status", wait_s=CONNECT_S)
    except (errors.Unavailable, errors.ConfigurationError) as error:
        return BusState(problems=[str(error)])
    try:
        cell = CellName(founding.region, founding.cell)
        streams = JetStreamStreams(client, cell, replicas=1, stripe_bytes_max=0)
        heard: dict[str, list[Position]] = {}
        await JetStreamMarks(client, cell, "status").listen(lambda data: _hear(heard, data))
        found = await asyncio.gather(
            *(_stripe(streams, stripe) for stripe in range(limits.STRIPES)),
            asyncio.sleep(LISTEN_S),
        )
    finally:
        await connection.close(client)
    states = [one for one in found if one is not None]
    return BusState(
        positions=heard,
        stripes=[one for one in states if isinstance(one, Stripe)],
        problems=[one for one in states if isinstance(one, str)],
    )


def _quieten() -> None:
    """The adapters tell a log what goes wrong; here it stands in the report."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _hear(heard: dict[str, list[Position]], data: bytes) -> None:
    try:
        mark = codec.unpack(data, Watermark)
    except msgspec.DecodeError:
        return  # of another version: its peer's own port tells the rest
    heard[mark.member] = mark.positions


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
