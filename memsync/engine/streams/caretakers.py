"""Those who look after the streams in one peer: whose they are, that they are there and led, that
ids are handed out once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from memsync.engine.applier import Applier
from memsync.engine.cell.members import Members
from memsync.engine.progress import Progress
from memsync.engine.streams.id_stream import IdStream
from memsync.engine.streams.log_scrub import LogScrub
from memsync.engine.streams.ownership import OwnedLog, Ownership
from memsync.engine.streams.stripes import Stripes
from memsync.engine.streams.trimming import Synced, Trimming
from memsync.engine.tail import Tail
from memsync.ids import Position
from memsync.ports import Servers, Store, Streams


class Caretakers:
    """Each has a loop of its own, which needs the connection. `log` is what `ownership` guards."""

    def __init__(
        self,
        streams: Streams,
        log: OwnedLog,
        ownership: Ownership,
        *,
        members: Members,
        applier: Applier,
        progress: Progress,
        store: Store,
        servers: Servers,
        void: Collection[Position],
        tails: Mapping[int, Tail],
    ) -> None:
        self.ownership = ownership
        self.stripes = Stripes(streams, ownership, members, applier, progress, tails)
        self.id_stream = IdStream(streams, log, members)
        self.synced = Synced(store, progress)
        self.trimming = Trimming(streams, ownership, members, self.stripes, self.synced)
        self.log_scrub = LogScrub(
            servers,
            log,
            ownership,
            members=members,
            progress=progress,
            stripes=self.stripes,
            void=void,
        )

    def loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Their loops by name."""
        return {
            "stripes": self.stripes.run,
            "id-stream": self.id_stream.run,
            "synced": self.synced.run,
            "trimming": self.trimming.run,
            "log-scrub": self.log_scrub.run,
        }

    def checks(self) -> dict[str, str]:
        """What they add to readiness."""
        foreign = self.ownership.fault
        held_back = "; ".join(why for _, why in sorted(self.trimming.held_back.items()))
        return {
            "cell": "ok" if foreign is None else f"failed: {foreign}",
            "stripes": self.stripes.verdict(),
            "log_copies": self.log_scrub.verdict(),
            "trimming": f"ok: {held_back}" if held_back else "ok",
        }
