"""How the peers are, asked of their own ports every two seconds, and more often while fewer than a
majority are ready: for `/ready`, `/health` and routing.

It notices a frozen peer before a caller's request does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from memsync.gateway.passing.members import Members
from memsync.gateway.passing.routing import Suspects
from memsync.tasks import is_going_on, pause

ASK_EVERY_S = 2.0
ASK_WAITING_S = 0.2  # while `check` fails: whoever starts a cluster waits for it
ASK_TIMEOUT_S = 0.8


class PeerWatch:
    """The last known state of each peer: "ready", "not ready", or why it did not answer."""

    def __init__(
        self,
        urls: Mapping[str, str],
        members: Members,
        client: httpx.AsyncClient,
        suspects: Suspects,
    ) -> None:
        self._urls = {member: url.rstrip("/") + "/ready" for member, url in urls.items()}
        self._members = members
        self._client = client
        self._suspects = suspects
        self.states = dict.fromkeys(urls, "not asked yet")

    async def run(self) -> None:
        """Ask for ever; ends when cancelled."""
        while is_going_on():
            await self.ask_all()
            await pause(ASK_EVERY_S if self.check() == "ok" else ASK_WAITING_S)

    async def ask_all(self) -> None:
        """Ask every member with a known address once."""
        await asyncio.gather(*(self._ask(member) for member in self._watched()))

    def _watched(self) -> list[str]:
        return [member for member in self._members.names() if member in self._urls]

    def is_any_alive(self) -> bool:
        """Whether some peer answered, ready or not: one that is not ready still recalls."""
        return any(self.states[m] in ("ready", "not ready") for m in self._watched())

    def check(self) -> str:
        """The line of `/ready`: a majority must be ready, as writes need one. Members whose address
        is not in the settings are asked over the bus only and do not count here."""
        watched = self._watched()
        ready = sum(self.states[member] == "ready" for member in watched)
        needed = len(watched) // 2 + 1
        if ready >= needed:
            return "ok"
        told = ", ".join(f"{member} {self.states[member]}" for member in watched)
        return f"failed: {ready} of {len(watched)} ready, {needed} needed ({told})"

    async def _ask(self, member: str) -> None:
        try:
            response = await self._client.get(self._urls[member], timeout=ASK_TIMEOUT_S)
        except httpx.HTTPError as error:
            self.states[member] = type(error).__name__
            self._suspects.failed(member, asyncio.get_running_loop().time())
            return
        self.states[member] = "ready" if response.status_code == 200 else "not ready"
