"""Callers who make API keys, read with them, take them back, and read with those, too."""

from __future__ import annotations

from tests.simulation.asking import Asking, Client
from tests.simulation.history import OK, Event

LIVE_MAX = 3
TRIED = 3  # of those that were taken back, the last ones


class KeyHolders:
    """All of them. A key is its id and its secret."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._live: list[tuple[int, str]] = []
        self._ended: list[tuple[int, str]] = []

    async def act(self, client: Client) -> None:
        """Whatever there is to be done with keys."""
        draw = self._asking.chance.random()
        if not self._live or (draw < 0.4 and len(self._live) < LIVE_MAX):
            await self._make(client)
        elif draw < 0.7:
            await self._revoke(client)
        else:
            await self._use(client, self._asking.chance.choice([*self._live, *self._ended]))

    async def _make(self, client: Client) -> None:
        asking = self._asking
        name = asking.word("k")
        body = {"name": name, "rate_limit_tier": "unlimited"}
        effect = await asking.effect("key", asking.user(), "keys.create", body, [name])
        made = await asking.write(client, effect)
        if made.outcome == OK:
            self._live.append((made.answer["id"], made.answer["key"]))
            await self._use(client, self._live[-1], last=made.member)

    async def _revoke(self, client: Client) -> None:
        """And try at once whether another peer has heard of it."""
        asking = self._asking
        key = self._live.pop(0)
        effect = await asking.effect(
            "revoke", asking.user(), "keys.revoke", {"key_id": key[0]}, [], targets=[key[0]]
        )
        ended = await asking.write(client, effect)
        self._ended = [*self._ended, key][-TRIED:]
        await self._use(client, key, last=ended.member)

    async def _use(self, client: Client, key: tuple[int, str], *, last: str = "") -> Event | None:
        asking = self._asking
        if asking.left <= 0:
            return None
        body = {"limit": 100}
        return await asking.read(client, asking.user(), "memory.list", body, last=last, key=key)
