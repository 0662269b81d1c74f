"""The breakers of a peer: one for each organisation and provider, so that what one organisation's
questions do to a provider takes it from nobody else. A stage of a recall that is reckoned in this
process (`expand`, `rank`, `explain`) has one of its own, as if it were a provider: what fails at
each question of an organisation is left out for a while, not tried and logged each time.

Only those that something has failed at since their last success are held, the longest untouched
ones are forgotten beyond `limits.BREAKERS_MAX`, and a forgotten one is closed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Literal

import msgspec

from memsync import limits
from memsync.clock import Clock
from memsync.core.recall.breaker import Breaker, State
from memsync.engine.recall import metrics
from memsync.telemetry import logger

# Stages, as names of providers.
EXPAND: Literal["expand"] = "expand"
RANK: Literal["rank"] = "rank"
EXPLAIN: Literal["explain"] = "explain"
STATES: tuple[State, ...] = ("open", "probing")


class Ticket(msgspec.Struct, frozen=True):
    """Leave to make one call; to be given back with what came of it."""

    organisation: int
    provider: str
    number: int


class Breakers:
    """`ask` before each call, then exactly one of `succeeded`, `failed` and `given_up`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: OrderedDict[tuple[int, str], Breaker] = OrderedDict()

    def ask(self, organisation: int, provider: str) -> Ticket | None:
        """A ticket for a call; None while the breaker is open."""
        held = self._held.get((organisation, provider))
        number = 0 if held is None else held.ask(self._clock.steady_s())
        return None if number is None else Ticket(organisation, provider, number)

    def succeeded(self, ticket: Ticket) -> None:
        """The provider answered as it should."""
        key = (ticket.organisation, ticket.provider)
        held = self._held.get(key)
        if held is None:
            return
        was = held.state(self._clock.steady_s())
        held.succeeded(ticket.number)
        if held.is_untroubled:
            del self._held[key]
            if was != "closed":
                logger().info("breaker.closed", organisation=key[0], provider=key[1])

    def failed(self, ticket: Ticket) -> None:
        """The provider did not answer, or not as it should."""
        key = (ticket.organisation, ticket.provider)
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = Breaker()
            if len(self._held) > limits.BREAKERS_MAX:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        if held.failed(ticket.number, self._clock.steady_s()):
            metrics.BREAKER_OPENED.labels(key[1]).inc()
            logger().warning("breaker.opened", organisation=key[0], provider=key[1])

    def given_up(self, ticket: Ticket) -> None:
        """Nobody waited long enough to tell."""
        held = self._held.get((ticket.organisation, ticket.provider))
        if held is not None:
            held.given_up(ticket.number)

    def show_state(self, provider: str) -> None:
        """Have the metric of this provider computed whenever it is read: breakers turn with time,
        too."""

        def count(state: State) -> int:
            return self.troubled().get(provider, {}).get(state, 0)

        for state in STATES:
            metrics.BREAKER_STATE.labels(provider, state).set_function(partial(count, state))

    def troubled(self) -> Mapping[str, Mapping[State, int]]:
        """Provider -> for how many organisations its breaker is open, and probing; those without
        any are left out."""
        now_s = self._clock.steady_s()
        found: dict[str, Counter[State]] = {}
        for (_, provider), held in self._held.items():
            state = held.state(now_s)
            if state != "closed":
                found.setdefault(provider, Counter())[state] += 1
        return found
