"""Callers, and the gateway that they go through: it asks one peer, and on silence the next.

The attempts are walked through by the product's own code. Where the request goes over the bus it
meets what the network does to the bus; where it goes to a peer's own port it does not.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from memsync import errors
from memsync.gateway.passing.attempts import (
    NoAnswerError,
    NotDeliveredError,
    Outcome,
    Result,
    judge,
    walk,
)
from memsync.gateway.passing.leased_ids import HighestHeard
from memsync.gateway.passing.members import Members
from memsync.gateway.passing.routing import Attempt
from memsync.ports import Answer
from memsync.wire import context
from tests.fakes.bus import SilentError
from tests.simulation.history import DEFINITE, OK, UNKNOWN, Effect, Event
from tests.simulation.network import PORT
from tests.simulation.process import BusIds
from tests.simulation.world import World

GATEWAY = "gateway"
BY_BUS, BY_PORT = "bus", "port"


class _Unobserved:
    """Nobody learns from the attempts."""

    def started(self, attempt: Attempt, beside: int) -> None:
        """Begun."""

    def ended(self, attempt: Attempt, result: Result) -> None:
        """Ended."""

    def overtaken(self, attempt: Attempt, age_s: float) -> None:
        """Overtaken."""

    def is_promising(self, attempt: Attempt) -> bool:
        """Everybody is."""
        return True

    def again(self) -> None:
        """Another round."""


class Gateway:
    """Passes requests on to peers, as `gateway.passing` does."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self._heard = HighestHeard(Members(world.names))
        bus = world.bus.peer(GATEWAY)
        self._ids = BusIds(world.bus, bus, GATEWAY, self._heard.highest)
        world.bus.lease_listeners.append((GATEWAY, self._ids.hear))
        world.bus.announcement_listeners.append((GATEWAY, self._hear))
        self._marks: list[bytes] = []

    def _hear(self, data: bytes) -> None:
        """Kept until it matters: reading every mark would cost more than it shows."""
        self._marks.append(data)
        del self._marks[:-9]

    async def take_ids(self, count: int) -> str | None:
        """Ids for a write, as the header says them; None where there are none."""
        for mark in self._marks:
            self._heard.take(mark)
        self._marks.clear()
        try:
            first, last = await self._ids.take(count)
        except errors.Unavailable:
            return None
        return f"{first}-{last}"

    async def pass_on(self, event: Event) -> None:
        """Have a request answered, and note the answer."""
        world = self._world
        body = msgspec.json.encode(event.body)
        deadline_s = float(event.headers[context.DEADLINE_MS]) / 1000
        until_s = event.invoked_s + deadline_s

        def attempts() -> list[Attempt]:
            return [
                Attempt(self._chance.choice((BY_BUS, BY_PORT)), member)
                for member in [*event.peers, *event.peers]
            ]

        async def ask(attempt: Attempt) -> Result:
            left_s = until_s - world.loop.time()
            headers = event.headers | {context.DEADLINE_MS: str(max(1.0, left_s * 1000))}
            answer = await self._ask(attempt, event.operation, headers, body, left_s)
            return judge(event.operation, answer)

        outcome = await walk(
            attempts,
            ask,
            _Unobserved(),
            patience_s=self._chance.uniform(0.3, 0.5),
            until_s=until_s,
        )
        note_outcome(event, outcome)
        event.ended_s = world.tick()

    async def _ask(
        self, attempt: Attempt, operation: str, headers: dict[str, str], body: bytes, left_s: float
    ) -> Answer:
        member = attempt.member
        if member not in self._world.bus.services:
            raise NotDeliveredError(f"{member} is down, or no member")
        source = GATEWAY if attempt.way == BY_BUS else PORT
        try:
            return await self._world.network.call(
                "request",
                source,
                member,
                lambda: self._world.bus.serve(member, operation, headers, body),
                max(0.001, left_s),
            )
        except SilentError as error:
            raise NoAnswerError(f"{member} did not answer") from error


def note_outcome(event: Event, outcome: Outcome) -> None:
    """What the caller is told."""
    answer = outcome.answer
    if answer is None:
        event.outcome = DEFINITE if outcome.is_definite else UNKNOWN
        return
    event.outcome = OK if answer.status < 400 else DEFINITE
    event.status = answer.status
    event.member = outcome.member
    event.answer = msgspec.json.decode(answer.body)
    event.degraded = answer.headers.get(context.DEGRADED, "")
    event.position = answer.headers.get(context.POSITION, "")


def write_headers(effect: Effect, chance: random.Random) -> dict[str, Any]:
    """What one request of a write carries beside what all of its requests carry."""
    draw = chance.random()
    ack = {"Memsync-Ack": "all"} if draw < 0.08 else {"Memsync-Ack": "log"} if draw < 0.14 else {}
    return effect.headers | ack | {context.DEADLINE_MS: str(chance.choice((1500, 2500, 4000)))}
