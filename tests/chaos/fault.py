"""What every fault is: it is made, it is seen to be there, and it is taken back.

A nemesis that does nothing would let everything pass. So each fault looks for itself whether it
took effect: the process has ended, no packet gets through, the disk takes no more, the clock is
apart. One of which nothing was seen does not count, and the run cannot be judged.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from nats.aio.client import Client

from tests.chaos.cluster import Cluster
from tests.chaos.network import CannotError

AFTER_KILL_S = 1.0  # so long a connection to a killed process may still be found broken


class Context:
    """What faults work on. `bus` is the driver's connection as the cluster's own user."""

    def __init__(self, cluster: Cluster, bus: Client, chance: random.Random, folder: Path) -> None:
        self.cluster = cluster
        self.bus = bus
        self.chance = chance
        self.folder = folder
        self.now: Callable[[], float] = lambda: 0.0
        self._harmed: list[tuple[str, set[int], float, float]] = []

    def harm(self, gateway: str, ports: set[int]) -> None:
        """The connections of these callers' ports are at a gateway that is now harmed."""
        self._harmed.append((gateway, ports, self.now(), float("inf")))

    def harm_no_more(self, gateway: str) -> None:
        """The gateway runs again."""
        until = self.now() + AFTER_KILL_S
        self._harmed = [
            (name, ports, began, min(end, until) if name == gateway else end)
            for name, ports, began, end in self._harmed
        ]

    def harmed(self, port: int, began: float, ended: float) -> str:
        """See `driver.Gateways`."""
        for name, ports, since, until in self._harmed:
            if port in ports and since <= ended and began <= until:
                return name
        return ""


class Fault:
    """One fault; `make`, `look` and `take_back` once each, in this order."""

    note = ""
    seen = ""  # what shows that it took effect

    def __init__(self, context: Context, targets: list[str]) -> None:
        self.context = context
        self.cluster = context.cluster
        self.targets = targets

    async def make(self) -> None:
        """Bring it about; raises `CannotError` where this machine does not let us."""
        raise NotImplementedError

    async def look(self) -> None:
        """Set `seen`, where that is to be seen while it is there and `make` has not set it."""

    async def take_back(self) -> None:
        """End it, as far as that is ours to do."""

    def is_healed(self) -> bool:
        """Whether the product has done its part, beside being ready."""
        return True

    def why_without_effect(self) -> str:
        """Why it did nothing, as far as that is known; "" where it was seen to do something."""
        return "" if self.seen else "nothing was seen of it"

    @property
    def lasts(self) -> bool:
        """Whether it stays until it is taken back."""
        return True


class Together(Fault):
    """Several at once; what one of them cannot do keeps all from being made."""

    def __init__(self, context: Context, parts: list[Fault]) -> None:
        super().__init__(context, [target for part in parts for target in part.targets])
        self._parts = parts
        self._made: list[Fault] = []

    async def make(self) -> None:
        for part in self._parts:
            try:
                await part.make()
            except CannotError:
                await self.take_back()
                raise
            finally:
                self.note = ", ".join(filter(None, (one.note for one in self._parts)))
            self._made.append(part)

    async def take_back(self) -> None:
        while self._made:
            await self._made.pop().take_back()

    async def look(self) -> None:
        for part in self._parts:
            await part.look()

    def is_healed(self) -> bool:
        return all(part.is_healed() for part in self._parts)

    def why_without_effect(self) -> str:
        return "; ".join(filter(None, (part.why_without_effect() for part in self._parts)))

    @property
    def lasts(self) -> bool:
        return any(part.lasts for part in self._parts)
