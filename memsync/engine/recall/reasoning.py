"""The reason stage: a chat model splits a question into searches that together answer it.

It is asked at tier high only, whose budget of 2 s has room for it, beside the other stages, so that
it makes no recall later; and of what the question finds by itself the better half stays in the
answer. How sure the answer is follows from what the question finds by itself. Dates in the question
are understood without it (core/recall). Without a configured model nothing is lacking; with one
that does not answer in time `reasoning` is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from memsync.clock import Clock
from memsync.engine.recall import metrics
from memsync.engine.recall.breakers import Breakers
from memsync.errors import NoRoom, Unavailable
from memsync.ports import Hit, Reasoner
from memsync.telemetry import describe, logger
from memsync.wire.requests import ComputationTier

REASON_SHARE = 0.6  # of the time of the recall
REASONER = "reasoner"  # as the name of a provider
# What a part finds counts so much: its best hit comes behind the best of the question itself.
PART_WEIGHT = 0.9


class Reasoning:
    """A reasoner, or none, with failure as an answer."""

    def __init__(self, reasoner: Reasoner | None, breakers: Breakers, clock: Clock) -> None:
        self._reasoner = reasoner
        self._breakers = breakers
        self._clock = clock
        if reasoner is not None:
            breakers.show_state(REASONER)

    def is_wanted(self, question: str, tier: ComputationTier) -> bool:
        """Whether there is something to ask, and somebody to ask it."""
        return self._reasoner is not None and tier == "high" and bool(question.strip())

    async def parts_of(
        self, question: str, *, organisation: int, until_s: float
    ) -> list[str] | None:
        """Other searches for a question, by `until_s` (steady clock); None where the model does
        not answer."""
        timeout_s = until_s - self._clock.steady_s()
        ticket = self._breakers.ask(organisation, REASONER) if timeout_s > 0 else None
        if ticket is None or self._reasoner is None:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                parts = await self._reasoner.parts_of(question)
        except asyncio.CancelledError:
            self._breakers.given_up(ticket)
            raise
        except NoRoom:
            self._breakers.given_up(ticket)  # our overload, maybe by another organisation
            return None
        except Exception as error:  # noqa: BLE001 - a recall stage: the question stands as it is
            self._breakers.failed(ticket)
            metrics.PROVIDER_FAILURES.labels(REASONER).inc()
            told = describe(error) if isinstance(error, Unavailable) else {}
            logger().warning("reasoning.failed", **(told or {"error": type(error).__name__}))
            return None
        self._breakers.succeeded(ticket)
        return [part for part in parts if part.strip() and part != question]


def with_parts(own: Sequence[Hit], found: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """The best k of what the question found and of what its parts found, best first; the first half
    of what the question found by itself is always among them. A hit's `reasoned` is the best score
    that a part gave it."""
    reasoned: dict[bytes, Hit] = {}
    for hits in found:
        for hit in hits:
            if hit.key not in reasoned or hit.score > reasoned[hit.key].score:
                reasoned[hit.key] = hit
    ranked = {hit.key: hit for hit in own}
    for key, part in reasoned.items():
        before = ranked.get(part.key, part)
        score = PART_WEIGHT * part.score
        if key in ranked:
            score = max(score, before.score)
        scoring = {**before.scoring, "reasoned": part.score}
        ranked[part.key] = msgspec.structs.replace(before, score=round(score, 6), scoring=scoring)
    kept = {hit.key for hit in own[: max(1, k // 2)]}
    chosen = sorted(ranked.values(), key=lambda hit: (hit.key not in kept, -hit.score))[:k]
    return sorted(chosen, key=lambda hit: -hit.score)
