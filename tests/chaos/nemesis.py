"""One fault after the other, at its times, and what the history says of each."""

from __future__ import annotations

import asyncio
import random

from tests.chaos import history
from tests.chaos.cluster import POLL_S
from tests.chaos.driver import Driver
from tests.chaos.fault import Context, Fault
from tests.chaos.faults import made, sequence
from tests.chaos.network import CannotError

CALM_S = 3.0  # before the first fault
READY_S_MAX = 60.0
PAUSE_S = 1.0  # between a recovery and the next fault


class Nemesis:
    """Harms the cluster until its time is over."""

    def __init__(
        self, context: Context, driver: Driver, names: list[str], *, every_s: float, fault_s: float
    ) -> None:
        self._context = context
        self._driver = driver
        self._names = names
        self._every_s = every_s
        self._fault_s = fault_s

    async def run(self, until: float) -> None:
        """Faults from now on; the last one is healed, or given up, when this returns."""
        await asyncio.sleep(CALM_S)
        for name, targets in sequence(self._names, random.Random(self._context.chance.random())):
            began = self._driver.now()
            if began + self._fault_s > until:
                return
            fault = made(name, targets, self._context)
            self._driver.recorder.add(await self._suffer(name, fault))
            left = began + self._every_s - self._driver.now()
            await asyncio.sleep(max(PAUSE_S, min(left, until - self._driver.now())))

    async def _suffer(self, name: str, fault: Fault) -> history.Fault:
        now = self._driver.now
        began, skipped = now(), ""
        try:
            await self._make(fault)
        except CannotError as error:
            skipped = str(error)
        except AssertionError as error:  # a process did not do in time what was waited for
            fault.note = f"{fault.note} {error}".strip()
        taken_back = now()
        ready = None if skipped else await self._wait_healed(fault)
        return history.Fault(
            at=now(), kind=name, targets=fault.targets, began=began, taken_back=taken_back,
            ready=ready, note=fault.note, skipped=skipped,
            without_effect="" if skipped else fault.why_without_effect(),
        )  # fmt: skip

    async def _make(self, fault: Fault) -> None:
        """Make it, let it last, look, and take it back, also where making it failed half-way."""
        try:
            await fault.make()
            if fault.lasts:
                await asyncio.sleep(self._fault_s)
            await fault.look()
        except CannotError:
            raise
        except BaseException:
            await fault.take_back()
            raise
        await fault.take_back()

    async def _wait_healed(self, fault: Fault) -> float | None:
        """When all was ready again and the fault healed; None where that takes too long."""
        give_up_at = self._driver.now() + READY_S_MAX
        if await self._context.cluster.wait_ready(READY_S_MAX):
            return None
        while not await asyncio.to_thread(fault.is_healed):
            if self._driver.now() >= give_up_at:
                return None
            await asyncio.sleep(POLL_S)
        return self._driver.now()
