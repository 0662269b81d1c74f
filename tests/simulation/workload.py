"""What the callers do: every kind of operation, on few records, so that they get into each other's
way.

Some memories are shared and only updated, some count by conditional updates, the rest comes and
goes: by ids, or all of a source at once. Writes are repeated with their keys at other peers, at
once or later; some names (`client_ref`) are used by several callers, and some texts, which are not
to be stored beside their like. Memories are related and given feedback (`attachers`), and API keys
are made, used and taken back (`key_holders`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tests.simulation.asking import Asking, Client, Known, question
from tests.simulation.attachers import Attachers
from tests.simulation.clients import Gateway
from tests.simulation.history import OK, Effect, Event, all_seen
from tests.simulation.key_holders import KeyHolders
from tests.simulation.world import World

CLIENTS = 5
OPERATIONS = 100
PAUSE_S = 0.19  # between two operations of a caller, on average
COUNTERS = 2
SHARED = 3
GIVE_UP_S = 25.0


class Workload:
    """Runs the callers until all operations are done."""

    def __init__(self, world: World, gateway: Gateway, chance: random.Random) -> None:
        self._world = world
        self._chance = chance
        self.asking = Asking(world, gateway, chance, left=OPERATIONS)
        self._refs: list[tuple[str, str]] = []  # (user, client_ref) that somebody uses lately
        self._texts: list[tuple[str, str]] = []
        self._sources: list[tuple[str, str]] = []
        self._clients = [Client(number) for number in range(CLIENTS)]
        attachers, holders = Attachers(self.asking), KeyHolders(self.asking)
        self._mix: list[tuple[float, Callable[[Client], Awaitable[None]]]] = [
            (14, self._add),
            (6, self._add_with_ref),
            (4, self._add_text),
            (8, self._bulk_add),
            (15, self._update),
            (10, self._count_up),
            (5, self._forget),
            (3, self._forget_source),
            (4, attachers.relate),
            (4, attachers.feedback),
            (4, holders.act),
            (3, self._get),
            (6, self._list),
            (4, self._query),
            (9, self._repeat),
        ]

    async def run(self) -> None:
        """All callers at once, each one operation after the other."""
        await self._prepare()
        async with asyncio.TaskGroup() as callers:
            for client in self._clients:
                callers.create_task(self._call(client))

    async def _prepare(self) -> None:
        async with asyncio.TaskGroup() as first:
            for number in range(COUNTERS + SHARED):
                use = "counter" if number < COUNTERS else "shared"
                client = self._clients[number % CLIENTS]
                first.create_task(self._add(client, use=use))

    async def _call(self, client: Client) -> None:
        weights = [weight for weight, _ in self._mix]
        while self.asking.left > 0 and self._world.loop.time() < GIVE_UP_S:
            await asyncio.sleep(self._chance.expovariate(1 / PAUSE_S))
            [(_, act)] = self._chance.choices(self._mix, weights)
            await act(client)

    def _lately(self, used: list[tuple[str, str]], kind: str) -> tuple[str, str]:
        """(user, word) that others use, too, or a new one."""
        if used and self._chance.random() < 0.7:
            return self._chance.choice(used[-3:])
        used.append((self.asking.user(), self.asking.word(kind)))
        return used[-1]

    # Writes.

    async def _add(self, client: Client, use: str = "plain") -> None:
        user, token = self.asking.user(), self.asking.word("m")
        body: dict[str, Any] = {"text": f"{token} is remembered", "deduplicate": False}
        if use == "counter":
            body["metadata"] = {"n": 0}
        elif use == "plain" and self._chance.random() < 0.5:
            user, body["source"] = self._lately(self._sources, "s")
        effect = await self.asking.effect("add", user, "memory.add", body, [token], ids=1)
        event = await self.asking.write(client, effect)
        if use != "plain" and event.outcome != OK:
            event = await self.asking.write(client, effect)  # the rest needs it
        self._learn(event, effect, use)

    async def _add_with_ref(self, client: Client) -> None:
        user, ref = self._lately(self._refs, "r")
        token = self.asking.word("m")
        body = {"text": f"{token} has a name", "client_ref": ref, "deduplicate": False}
        effect = await self.asking.effect("add", user, "memory.add", body, [token], ids=1)
        self._learn(await self.asking.write(client, effect), effect, "named")

    async def _add_text(self, client: Client) -> None:
        user, word = self._lately(self._texts, "d")
        body = {"text": f"{word} once"}
        effect = await self.asking.effect("text", user, "memory.add", body, [word], ids=1)
        self._learn(await self.asking.write(client, effect), effect, "text")

    async def _bulk_add(self, client: Client) -> None:
        user, bulk = self.asking.user(), self.asking.word("b")
        tokens = [self.asking.word("m") for _ in range(self._chance.randrange(2, 6))]
        items = [{"text": f"{token} of {bulk}"} for token in tokens]
        body = {"items": items, "deduplicate": False}
        effect = await self.asking.effect(
            "bulk", user, "memory.bulk_add", body, tokens, ids=len(items)
        )
        self._learn(await self.asking.write(client, effect), effect, "plain")

    async def _update(self, client: Client) -> None:
        is_any = self._chance.random() < 0.25
        known = self.asking.pick(*(("plain", "shared", "counter") if is_any else ("shared",)))
        if known is None:
            await self._add(client)
            return
        token = self.asking.word("t")
        body = {"memory_id": known.id, "tags": [token]}
        effect = await self.asking.effect(
            "update", known.user, "memory.update", body, [token], targets=[known.id]
        )
        await self.asking.write(client, effect)

    async def _count_up(self, client: Client) -> None:
        """Read a counter, and raise it if nobody has done so since."""
        known = self.asking.pick("counter")
        if known is None:
            await self._add(client)
            return
        read = await self.asking.read(client, known.user, "memory.get", {"memory_id": known.id})
        found = all_seen(read)
        if not found or self.asking.left <= 0:
            return
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.random() * 0.3)
        count, token = int(found[0].metadata["n"]) + 1, self.asking.word("c")
        body = {
            "memory_id": known.id,
            "metadata": {"n": count, "by": token},
            "if_version": found[0].version,
        }
        effect = await self.asking.effect(
            "cas", known.user, "memory.update", body, [token], targets=[known.id]
        )
        effect.count = count
        event = await self.asking.write(client, effect)
        event.basis = read.number

    async def _forget(self, client: Client) -> None:
        uses = ("plain", "plain", "named", "text")
        known = [self.asking.pick(*uses) for _ in range(self._chance.choice((1, 1, 2)))]
        meant = [one for one in known if one is not None]
        if not meant:
            await self._add(client)
            return
        user = meant[0].user
        wanted = list(dict.fromkeys(one.id for one in meant if one.user == user))
        body = {"memory_ids": wanted}
        effect = await self.asking.effect("forget", user, "memory.forget", body, [], targets=wanted)
        await self.asking.write(client, effect)

    async def _forget_source(self, client: Client) -> None:
        if not self._sources:
            await self._add(client)
            return
        user, source = self._chance.choice(self._sources[-3:])
        body = {"filters": {"source": source}}
        effect = await self.asking.effect("forget", user, "memory.forget", body, [])
        await self.asking.write(client, effect)

    async def _repeat(self, client: Client) -> None:
        """Ask once more for what somebody asks for or has asked for, elsewhere."""
        effects = self._world.history.effects
        if not effects:
            return
        recent = effects[-12:]
        effect = self._chance.choice(recent if self._chance.random() < 0.7 else [recent[-1]])
        event = await self.asking.write(client, effect)
        self._learn(event, effect, "named" if effect.client_ref else "plain")

    # Reads.

    async def _get(self, client: Client) -> None:
        known = self.asking.pick("plain", "named", "text", "shared", "counter")
        if known is not None:
            body = {"memory_id": known.id}
            await self.asking.read(client, known.user, "memory.get", body)

    async def _list(self, client: Client) -> None:
        await self.asking.read(client, self.asking.user(), "memory.list", {"limit": 100})

    async def _query(self, client: Client) -> None:
        made = ("add", "bulk", "text")
        effects = [e for e in self._world.history.effects[-30:] if e.kind in made]
        if not effects:
            return
        effect = self._chance.choice(effects)
        asked = question(effect)
        found = await self.asking.read(client, effect.user, "memory.query", asked)
        if self.asking.left > 0 and found.member:  # the same peer, which may have kept its answer
            await asyncio.sleep(self._chance.random() * 0.4)
            await self.asking.read(client, effect.user, "memory.query", asked, first=found.member)

    def _learn(self, event: Event, effect: Effect, use: str) -> None:
        """Know the memories that a write has made."""
        if event.outcome != OK:
            return
        if effect.kind in ("add", "text") and event.status == 201:
            use = "text" if effect.kind == "text" else use
            self.asking.know(Known(effect.user, event.answer["id"], effect.tokens[0], use))
        elif effect.kind == "bulk":
            for item in event.answer["results"]:
                if item["status"] == "created":
                    token = effect.tokens[item["index"]]
                    self.asking.know(Known(effect.user, item["memory_ids"][0], token, use))
