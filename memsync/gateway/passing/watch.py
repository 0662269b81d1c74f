"""How the peers are, asked of their own ports every second: for `/ready`, `/health` and routing.

It notices a frozen peer before a caller's request does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from memsync.gateway.passing.routing import Suspects
from memsync.tasks import is_going_on

ASK_EVERY_S = 1.0
ASK_TIMEOUT_S = 0.8


class PeerWatch:
    """The last known state of each peer: "ready", "not ready", or why it did not answer."""

    def __init__(
        self, urls: Mapping[str, str], client: httpx.AsyncClient, suspects: Suspects
    ) -> None:
        self._urls = {member: url.rstrip("/") + "/ready" for member, url in urls.items()}
        self._client = client
        self._suspects = suspects
        self.states = dict.fromkeys(urls, "not asked yet")

    async def run(self) -> None:
        """Ask for ever; ends when cancelled."""
        while is_going_on():
            await self.ask_all()
            await asyncio.sleep(ASK_EVERY_S)

    async def ask_all(self) -> None:
        """Ask every peer once."""
        await asyncio.gather(*(self._ask(member) for member in self._urls))

    def is_any_alive(self) -> bool:
        """Whether some peer answered, ready or not: one that is not ready still recalls."""
        return any(state in ("ready", "not ready") for state in self.states.values())

    def check(self) -> str:
        """The line of `/ready`: a majority must be ready, as writes need one."""
        ready = sum(state == "ready" for state in self.states.values())
        needed = len(self.states) // 2 + 1
        if ready >= needed:
            return "ok"
        told = ", ".join(f"{member} {state}" for member, state in sorted(self.states.items()))
        return f"failed: {ready} of {len(self.states)} ready, {needed} needed ({told})"

    async def _ask(self, member: str) -> None:
        try:
            response = await self._client.get(self._urls[member], timeout=ASK_TIMEOUT_S)
        except httpx.HTTPError as error:
            self.states[member] = type(error).__name__
            self._suspects.failed(member, asyncio.get_running_loop().time())
            return
        self.states[member] = "ready" if response.status_code == 200 else "not ready"
