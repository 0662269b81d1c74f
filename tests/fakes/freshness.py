"""What the service asks of the engine about other peers, answered as a test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memsync.engine.cell.leases import Freshness
from memsync.engine.cell.members import Cover
from memsync.errors import Unavailable
from memsync.ids import Position
from memsync.ports import Answer, Backend


class SetLeases:
    """`engine.leases.Leases`: as fresh as `state` says."""

    def __init__(self) -> None:
        self.state: Freshness = "fresh"

    def is_fresh(self) -> bool:
        return self.state == "fresh"

    async def wait_fresh(self, deadline_s: float) -> Freshness:
        return self.state


class SetMembers:
    """`engine.members.Members` of a cell whose others are alive; `is_covered` is what waiting for
    a cover comes to, `deaf_to` the holders of leases that are not heard."""

    def __init__(self, name: str, others: Sequence[str] = ()) -> None:
        self.name = name
        self.names = (name, *others)
        self.is_covered = True
        self.deaf_to: list[str] = []

    def alive(self) -> list[str]:
        return sorted(self.names)

    def unheard(self) -> list[str]:
        return self.deaf_to

    async def wait_covered(
        self, positions: Sequence[Position], ack: Cover, deadline_s: float
    ) -> bool:
        return self.is_covered


class DirectPeers:
    """`ports.Peers`: other members' services by name; `passed` has what was passed on."""

    def __init__(self) -> None:
        self.services: dict[str, Backend] = {}
        self.passed: list[tuple[str, str, dict[str, str]]] = []
        self.fault: Exception | None = None

    async def pass_on(
        self,
        member: str,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
    ) -> Answer:
        if member not in self.services:
            raise Unavailable(f"{member} is not reached")
        self.passed.append((member, operation, dict(headers)))
        answer = await self.services[member].call(operation, headers, body)
        if self.fault is not None:
            raise self.fault
        return answer
