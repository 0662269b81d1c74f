"""Keeping the log from filling up: what every member has on stable storage need not stay in it.

Any peer may trim at any time, a trim is idempotent, and no peer trims beyond what it has synced
itself. The first member alive does it; the others only when a stripe is nearly full.

How far:

- above `TRIM_ABOVE` of its size: up to what ALL members have synced;
- above `TRIM_WITHOUT_ABSENT`, where members are gone: up to what all that are alive have synced, if
  they are a majority. Who returns takes rows of a peer (`engine/repair/recovery.py`);
- above `TRIM_WITHOUT_SLOW`: up to what a majority of those alive has synced. One broken disk must
  not stop the writes of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from memsync import limits
from memsync.engine import metrics
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.streams.ownership import Ownership
from memsync.engine.streams.stripes import Stripes
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Store, Streams, StripeState
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger


class Synced:
    """What of this peer's store a power cut would leave; told with every watermark."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._positions: dict[tuple[int, int], int] = {}
        self.is_hurried = False  # while a stripe fills up others wait for what is told here

    async def run(self) -> None:
        """Sync when something new was applied, until cancelled."""
        while is_going_on():
            told = self.positions()
            if self._progress.ends() != told:
                try:
                    self._positions = await self._store.sync()
                except Unavailable as error:  # said by the applier too; what was synced stays so
                    logger().warning("store.not_synced", **describe(error))
            await pause(limits.SYNC_HURRIED_S if self.is_hurried else limits.SYNC_S)

    def positions(self) -> list[Position]:
        """The synced end of each generation that this peer tells of, in the order of its ends."""
        return [
            Position(end.stripe, end.generation, self._positions[end.stripe, end.generation])
            for end in self._progress.ends()
            if (end.stripe, end.generation) in self._positions
        ]


class Trimming:
    """The loop. `held_back` says which stripes are too full, and who is waited for."""

    def __init__(
        self,
        streams: Streams,
        ownership: Ownership,
        members: Members,
        stripes: Stripes,
        synced: Synced,
    ) -> None:
        self._streams = streams
        self._ownership = ownership
        self._members = members
        self._stripes = stripes
        self._synced = synced
        self.held_back: dict[int, str] = {}

    async def run(self) -> None:
        """Look once a second, more often while a stripe fills up, until cancelled."""
        while is_going_on():
            fullest = 0.0
            for _, known in sorted(self._stripes.states.items()):
                try:
                    fullest = max(fullest, await self._look_at(known))
                except Unavailable as error:
                    logger().info("stripe.not_trimmed", stripe=known.stripe, **describe(error))
            self._synced.is_hurried = is_hurried = fullest >= limits.TRIM_TO
            await pause(limits.TRIM_HURRIED_S if is_hurried else limits.TRIM_CHECK_S)

    async def _look_at(self, known: StripeState) -> float:
        """Trim one stripe if it is time to; how full it was."""
        stripe, generation, state = known.stripe, known.generation, known
        if fill_of(known) >= limits.TRIM_LOOK_ABOVE:
            state = await self._ownership.state(stripe, generation)
        fill = fill_of(state)
        metrics.STRIPE_FILL.labels(stripe).set(fill)
        self.held_back.pop(stripe, None)
        if fill < limits.TRIM_ABOVE or not self._members.is_member():
            return fill
        is_first = self._members.is_first_alive()
        if not is_first and fill < limits.TRIM_WITHOUT_ABSENT:
            return fill  # another member does it
        synced = self._synced_of_members(stripe, generation)
        safe = safe_end(
            fill,
            synced,
            own=synced.get(self._members.name, 0),
            alive=self._members.alive(),
            majority=self._members.majority,
        )
        first = plan_trim(state, safe)
        if first is None:
            self._note_held_back(state, fill, synced)
            return fill
        await self._streams.trim(stripe, generation, first_sequence=first)
        metrics.STRIPE_TRIMS.inc()
        logger().info("stripe.trimmed", stripe=stripe, first_sequence=first, fill=round(fill, 3))
        return fill

    def _synced_of_members(self, stripe: int, generation: int) -> dict[str, int]:
        """Member -> the last sequence that it says it has synced; 0 for one that says nothing."""
        marks = self._members.watermarks()
        found = dict.fromkeys(self._members.names, 0)
        for name in found:
            for position in marks[name].synced if name in marks else ():
                if (position.stripe, position.generation) == (stripe, generation):
                    found[name] = position.sequence
        return found

    def _note_held_back(self, state: StripeState, fill: float, synced: Mapping[str, int]) -> None:
        slowest = min(synced, key=lambda name: synced[name])
        self.held_back[state.stripe] = (
            f"stripe {state.stripe} is {fill:.0%} full; {slowest} has synced only "
            f"{synced[slowest]} of {state.first_sequence} to {state.last_sequence}"
        )
        logger().warning(
            "stripe.held_back", stripe=state.stripe, fill=round(fill, 3), synced=dict(synced)
        )


def fill_of(state: StripeState) -> float:
    """How full a stripe is, as a part of its size; 0 where it has no limit."""
    return state.bytes / state.bytes_max if state.bytes_max > 0 else 0.0


def safe_end(
    fill: float, synced: Mapping[str, int], *, own: int, alive: Sequence[str], majority: int
) -> int:
    """The last sequence that need not stay in the log, going by what the members have synced."""
    safe = min(synced.values(), default=0)
    present = sorted((synced[name] for name in alive if name in synced), reverse=True)
    if len(present) >= majority:
        if fill >= limits.TRIM_WITHOUT_ABSENT:
            safe = max(safe, present[-1])
        if fill >= limits.TRIM_WITHOUT_SLOW:
            safe = max(safe, present[majority - 1])
    return min(safe, own)


def plan_trim(state: StripeState, safe: int) -> int | None:
    """The sequence to begin at, so that the stripe falls to about `TRIM_TO`; None where nothing
    may go. Messages are not of one size, so a second trim may be needed."""
    messages = state.last_sequence - state.first_sequence + 1
    excess = state.bytes - limits.TRIM_TO * state.bytes_max
    if messages <= 0 or excess <= 0 or fill_of(state) == 0:
        return None
    wanted = state.first_sequence + math.ceil(excess * messages / state.bytes)
    first = min(wanted, safe + 1, state.last_sequence + 1)
    return first if first > state.first_sequence else None
