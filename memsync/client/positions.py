"""How far the log has come as this client knows it: what it wrote is what it reads afterwards.

The answer to a write tells the write's position. Later reads ask for it, so a peer that has not
applied it yet waits, or another one answers. Positions merge like everything else here: in any
order, and twice is harmless. What is kept is bounded: of each stripe its newest generations.
"""

from __future__ import annotations

from memsync.ids import Position
from memsync.wire import context

GENERATIONS_KEPT = 2  # of a stripe; the one before the newest may hold a write not yet everywhere


class Positions:
    """The highest known position of each (stripe, generation). One event loop, no locks."""

    def __init__(self, text: str = "") -> None:
        self._highest: dict[tuple[int, int], int] = {}
        self.merge(text)

    def merge(self, text: str) -> None:
        """Take positions in; raises `ValidationFailed` for a string that is none of ours."""
        for position in context.parse_positions(text):
            place = position.stripe, position.generation
            self._highest[place] = max(self._highest.get(place, 0), position.sequence)
        for stripe in {stripe for stripe, _ in self._highest}:
            generations = sorted(g for k, g in self._highest if k == stripe)
            for generation in generations[:-GENERATIONS_KEPT]:
                del self._highest[stripe, generation]

    def __str__(self) -> str:
        """The opaque string of the API; "" before anything is known. From any thread."""
        known = sorted(Position(k, g, sequence) for (k, g), sequence in [*self._highest.items()])
        return context.format_positions(known)


def merged(*texts: str) -> str:
    """Several of these strings as one."""
    positions = Positions()
    for text in texts:
        positions.merge(text)
    return str(positions)
