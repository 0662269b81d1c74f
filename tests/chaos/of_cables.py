"""Faults of what lies between machines; server i and peer i are machine i."""

from __future__ import annotations

import asyncio

from tests.chaos.fault import Fault
from tests.chaos.network import MACHINES, CannotError, Network, all_pairs
from tests.chaos.probes import Pair
from tests.chaos.relay import CLIENT


class OfMachine(Fault):
    """Something between machines; the target is `machine-N`."""

    @property
    def machine(self) -> int:
        """The number of the machine."""
        return int(self.targets[0].rpartition("-")[2])


class Cut(OfMachine):
    """Packets between the machine and some others are dropped; callers reach both sides."""

    def pairs(self) -> list[tuple[int, int]]:
        """(from, to) of what is dropped."""
        others = [one for one in MACHINES if one != self.machine]
        return [(self.machine, one) for one in others] + [(one, self.machine) for one in others]

    async def make(self) -> None:
        await check_open(self.cluster.network, self.pairs())
        self.cluster.network.drop(self.pairs())

    async def look(self) -> None:
        self.seen = await seen_cut(self.cluster.network, self.pairs())

    async def take_back(self) -> None:
        self.cluster.network.pass_again(self.pairs())


class CutOneWay(Cut):
    """What the machine sends to the others is dropped, what they send arrives."""

    def pairs(self) -> list[tuple[int, int]]:
        return [(self.machine, one) for one in MACHINES if one != self.machine]


class CutGateways(Cut):
    """The gateways and the machine do not reach each other."""

    def pairs(self) -> list[tuple[int, int]]:
        return [(self.machine, CLIENT), (CLIENT, self.machine)]


class LinkDown(OfMachine):
    """The machine's cable is out."""

    async def make(self) -> None:
        await check_open(self.cluster.network, all_pairs(self.machine))
        self.cluster.network.unplug(self.machine)

    async def look(self) -> None:
        self.seen = await seen_cut(self.cluster.network, all_pairs(self.machine))

    async def take_back(self) -> None:
        self.cluster.network.plug(self.machine)


class Slow(OfMachine):
    """Everything from and to the machine takes longer."""

    delay_ms, jitter_ms, loss = 40, 20, 0.0

    async def make(self) -> None:
        def slow() -> str:
            return self.cluster.network.slow(
                self.machine, delay_ms=self.delay_ms, jitter_ms=self.jitter_ms, loss=self.loss
            )

        by = await asyncio.to_thread(slow)
        self.note = f"{self.delay_ms} ms and {100 * self.loss:g} % by {by}"

    async def look(self) -> None:
        def why_not() -> str:
            return self.cluster.network.why_not_slow(
                self.machine, least_ms=self.delay_ms - self.jitter_ms, is_lossy=self.loss > 0
            )

        why = await asyncio.to_thread(why_not)
        self.seen = "" if why else self.note
        self.note = f"{self.note}; {why}" if why else self.note

    async def take_back(self) -> None:
        await asyncio.to_thread(self.cluster.network.slow_no_more)


class Lossy(Slow):
    """Some of what goes from and to the machine is lost."""

    delay_ms, jitter_ms, loss = 1, 0, 0.05


async def check_open(network: Network, pairs: list[Pair]) -> None:
    """Raise `CannotError` where there is nothing to cut."""
    if why := await asyncio.to_thread(network.why_not_open, pairs):
        raise CannotError(f"it is cut already: {why}")


async def seen_cut(network: Network, pairs: list[Pair]) -> str:
    """What shows that nothing gets through; "" where something does."""
    why = await asyncio.to_thread(network.why_not_cut, pairs)
    return "" if why else f"nothing gets through in {len(pairs)} directions"
