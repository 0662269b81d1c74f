"""Whether the bus may be trusted with writes: every server must sync before it acknowledges.

A majority of servers that lose power together would else lose what was acknowledged. Checked at
start and then regularly, since servers come and go with settings of their own.
"""

from __future__ import annotations

from memsync.errors import Unavailable
from memsync.ports import Servers
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger

CHECK_S = 20.0
RETRY_S = 0.5


class Durability:
    """`fault` says why no write may be taken; None where all is well. `is_required` is False in
    profile `development`, where a lazy server is only logged."""

    def __init__(self, servers: Servers, *, is_required: bool) -> None:
        self._servers = servers
        self._is_required = is_required
        self.fault: str | None = "the servers' sync settings are not checked yet"

    async def run(self) -> None:
        """Check until cancelled. A check that fails leaves the last verdict standing."""
        while is_going_on():
            try:
                self._judge(await self._servers.faults())
            except Unavailable as error:
                if self.fault is not None:
                    self._set(f"the servers' sync settings cannot be checked: {error.message}")
                logger().warning("durability.not_checked", **describe(error))
            await pause(RETRY_S if self.fault is not None else CHECK_S)

    def _judge(self, faults: dict[str, str]) -> None:
        said = "; ".join(f"{server} {fault}" for server, fault in sorted(faults.items()))
        self._set(said or None)

    def _set(self, fault: str | None) -> None:
        if fault is not None and not self._is_required:
            logger().warning("durability.not_required", fault=fault)
            fault = None
        if fault != self.fault:
            logger().info("durability.judged", fault=fault)
        self.fault = fault
