"""How this peer is: what `/ready` and `/health` say. Looked up at the moment of asking, kept
nowhere."""

from __future__ import annotations

from collections.abc import Callable

from memsync.engine.applier import Applier
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.durability import Durability
from memsync.engine.progress import Progress
from memsync.engine.streams.caretakers import Caretakers
from memsync.engine.writing.appender import Appender
from memsync.ports import Log


class Health:
    """Readiness is for writes and fresh recalls; recalls as such need only this process."""

    def __init__(
        self,
        *,
        log: Log,
        applier: Applier,
        appender: Appender,
        members: Members,
        progress: Progress,
        durability: Durability,
        leases: Leases,
        caretakers: Caretakers,
    ) -> None:
        self._log = log
        self._applier = applier
        self._appender = appender
        self._members = members
        self._progress = progress
        self._durability = durability
        self._leases = leases
        self._caretakers = caretakers
        self.is_draining = False
        self.more: dict[str, Callable[[], str]] = {}
        """Further checks, of parts that stand beside the engine."""

    def checks(self) -> dict[str, str]:
        """Name -> "ok", "ok: what to know" or "failed: why"."""
        alive = self._members.alive()
        behind = {
            part: why for part, why in self._progress.behind().items() if part.startswith("stripe")
        }
        start = None if self._progress.has_reached_start() else "its end is not known or not read"
        faults = {
            "store": self._applier.broken or self._applier.failing,
            "bus": self._log.fault(),
            "ids": None if self._appender.incarnation else "no id block leased yet",
            "membership": self._members.fault,
            "members": None
            if len(alive) >= self._members.majority
            else f"{len(alive)} of {len(self._members.names)} alive",
            "log": "; ".join(f"{part}: {why}" for part, why in sorted(behind.items())) or start,
            "rows": "; ".join(self._progress.lacking().values()) or None,
            "sync": self._durability.fault,
            "accepting": "shutting down" if self.is_draining else None,
        }
        said = {name: "ok" if why is None else f"failed: {why}" for name, why in faults.items()}
        late = self._leases.why_none()  # its reads are fresh all the same: it asks on the spot
        said["lease"] = "ok" if late is None else f"ok: {late}"
        more = {name: check() for name, check in self.more.items()}
        return said | self._caretakers.checks() | more

    def is_recalling(self) -> bool:
        """Whether recalls can be answered at all: the store is here as long as the process is."""
        return not self.is_draining
