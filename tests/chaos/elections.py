"""Hears from the servers whenever they have elected a leader for a stripe's stream.

They say it in the cell's account, once for each election, whoever is elected. So it is known how
often a stripe lost its leader while conditional updates were refused: after a cut it may lose it
twice, when a server is gone and when it is back with a newer term.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg

from memsync import limits
from memsync.local import secrets
from memsync.wire.subjects import CellName
from tests.chaos.history import Elected, Recorder

SUBJECT = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*"


class Elections:
    """Notes every election once, over however many connections it is heard."""

    def __init__(self, recorder: Recorder, now: Callable[[], float]) -> None:
        self._recorder = recorder
        self._now = now
        self._heard: set[str] = set()

    async def listen(self, client: Client) -> None:
        """From now on hear them over this connection, too."""
        await client.subscribe(SUBJECT, cb=self._take)

    async def _take(self, message: Msg) -> None:
        said = json.loads(message.data)
        if said["id"] in self._heard:
            return
        self._heard.add(said["id"])
        cell = CellName(secrets.REGION, secrets.CELL)
        for stripe in range(limits.STRIPES):
            if cell.generation_of(stripe, said["stream"]) is not None:
                leader = said.get("leader", "")
                self._recorder.add(Elected(at=self._now(), stripe=stripe, leader=leader))
