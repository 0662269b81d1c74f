"""`ports.Recollection` in memory: outlives a peer's engine, as long as a test keeps it."""

from __future__ import annotations

from collections.abc import Sequence

from memsync.ids import Position


class MemoryRecollection:
    """`lose` is a power cut."""

    def __init__(self) -> None:
        self._kept: list[Position] | None = None

    def recall(self) -> list[Position] | None:
        return self._kept

    def keep(self, positions: Sequence[Position]) -> None:
        self._kept = list(positions)

    def lose(self) -> None:
        self._kept = None
