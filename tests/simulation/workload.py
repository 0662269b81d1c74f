"""What the callers do: every kind of operation, on few records, so that they get into each other's
way.

Some memories are shared and only updated, some count by conditional updates, the rest comes and
goes. Writes are repeated with their keys at other peers, at once or later; some names
(`client_ref`) are used by several callers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from memsync.wire import context
from tests.simulation.clients import Gateway, write_headers
from tests.simulation.history import OK, Effect, Event, all_seen
from tests.simulation.world import World

CLIENTS = 5
OPERATIONS = 100
USERS = ("ada", "bob")
PAUSE_S = 0.19  # between two operations of a caller, on average
COUNTERS = 2
SHARED = 3
LOOK_SHARE = 0.5  # of the writes: its caller reads at once what it has written
GIVE_UP_S = 25.0


class Known(msgspec.Struct):
    """A memory that the callers know of."""

    user: str
    id: int
    token: str
    use: str  # plain, shared, counter


class Client(msgspec.Struct):
    """One caller: what it has seen so far it asks to see again."""

    number: int
    positions: dict[tuple[int, int], int] = {}
    seen: set[int] = set()  # effects whose positions are among these


class Workload:
    """Runs the callers until all operations are done."""

    def __init__(self, world: World, gateway: Gateway, chance: random.Random) -> None:
        self._world = world
        self._gateway = gateway
        self._chance = chance
        self._history = world.history
        self._left = OPERATIONS
        self._words = 0
        self._known: list[Known] = []
        self._refs: list[tuple[str, str]] = []  # (user, client_ref) that somebody uses lately
        self._clients = [Client(number) for number in range(CLIENTS)]
        self._mix: list[tuple[float, Callable[[Client], Awaitable[None]]]] = [
            (16, self._add),
            (7, self._add_with_ref),
            (9, self._bulk_add),
            (17, self._update),
            (11, self._count_up),
            (7, self._forget),
            (5, self._get),
            (8, self._list),
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
        while self._left > 0 and self._world.loop.time() < GIVE_UP_S:
            await asyncio.sleep(self._chance.expovariate(1 / PAUSE_S))
            [(_, act)] = self._chance.choices(self._mix, weights)
            await act(client)

    # Writes.

    async def _add(self, client: Client, use: str = "plain") -> None:
        user, token = self._user(), self._word("m")
        body: dict[str, Any] = {"text": f"{token} is remembered", "deduplicate": False}
        if use == "counter":
            body["metadata"] = {"n": 0}
        effect = await self._effect("add", user, "memory.add", body, [token], ids=1)
        event = await self._write(client, effect)
        if use != "plain" and event.outcome != OK:
            event = await self._write(client, effect)  # the rest needs it
        self._learn(event, effect, use)

    async def _add_with_ref(self, client: Client) -> None:
        if self._refs and self._chance.random() < 0.7:
            user, ref = self._chance.choice(self._refs[-3:])
        else:
            user, ref = self._user(), self._word("r")
            self._refs.append((user, ref))
        token = self._word("m")
        body = {"text": f"{token} has a name", "client_ref": ref, "deduplicate": False}
        effect = await self._effect("add", user, "memory.add", body, [token], ids=1)
        self._learn(await self._write(client, effect), effect, "plain")

    async def _bulk_add(self, client: Client) -> None:
        user, bulk = self._user(), self._word("b")
        tokens = [self._word("m") for _ in range(self._chance.randrange(2, 6))]
        items = [{"text": f"{token} of {bulk}"} for token in tokens]
        body = {"items": items, "deduplicate": False}
        effect = await self._effect("bulk", user, "memory.bulk_add", body, tokens, ids=len(items))
        event = await self._write(client, effect)
        self._learn(event, effect, "plain")

    async def _update(self, client: Client) -> None:
        is_any = self._chance.random() < 0.25
        known = self._pick(("plain", "shared", "counter") if is_any else ("shared",))
        if known is None:
            await self._add(client)
            return
        token = self._word("t")
        body = {"memory_id": known.id, "tags": [token]}
        effect = await self._effect("update", known.user, "memory.update", body, [token])
        effect.targets = [known.id]
        await self._write(client, effect)

    async def _count_up(self, client: Client) -> None:
        """Read a counter, and raise it if nobody has done so since."""
        known = self._pick(("counter",))
        if known is None:
            await self._add(client)
            return
        read = await self.read(client, known.user, "memory.get", {"memory_id": known.id})
        found = all_seen(read)
        if not found or self._left <= 0:
            return
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.random() * 0.3)
        count, token = int(found[0].metadata["n"]) + 1, self._word("c")
        body = {
            "memory_id": known.id,
            "metadata": {"n": count, "by": token},
            "if_version": found[0].version,
        }
        effect = await self._effect("cas", known.user, "memory.update", body, [token])
        effect.targets, effect.count = [known.id], count
        event = await self._write(client, effect)
        event.basis = read.number

    async def _forget(self, client: Client) -> None:
        known = [self._pick(("plain",)) for _ in range(self._chance.choice((1, 1, 2)))]
        meant = [one for one in known if one is not None]
        if not meant:
            await self._add(client)
            return
        user = meant[0].user
        wanted = list(dict.fromkeys(one.id for one in meant if one.user == user))
        effect = await self._effect("forget", user, "memory.forget", {"memory_ids": wanted}, [])
        effect.targets = wanted
        await self._write(client, effect)

    async def _repeat(self, client: Client) -> None:
        """Ask once more for what somebody asks for or has asked for, elsewhere."""
        if not self._history.effects:
            return
        recent = self._history.effects[-12:]
        effect = self._chance.choice(recent if self._chance.random() < 0.7 else [recent[-1]])
        event = await self._write(client, effect)
        self._learn(event, effect, "plain")

    # Reads.

    async def _get(self, client: Client) -> None:
        known = self._pick(("plain", "plain", "shared", "counter"))
        if known is not None:
            await self.read(client, known.user, "memory.get", {"memory_id": known.id})

    async def _list(self, client: Client) -> None:
        await self.read(client, self._user(), "memory.list", {"limit": 100})

    async def _query(self, client: Client) -> None:
        effects = [e for e in self._history.effects[-30:] if e.kind in ("add", "bulk")]
        if not effects:
            return
        effect = self._chance.choice(effects)
        await self.read(client, effect.user, "memory.query", _question(effect))

    # What they have in common.

    def _user(self) -> str:
        return self._chance.choice(USERS)

    def _word(self, kind: str) -> str:
        self._words += 1
        return f"{kind}{self._words}x"

    def _pick(self, uses: tuple[str, ...]) -> Known | None:
        use = self._chance.choice(uses)
        known = [one for one in self._known if one.use == use]
        return self._chance.choice(known[-10:]) if known else None

    async def _effect(
        self,
        kind: str,
        user: str,
        operation: str,
        body: dict[str, Any],
        tokens: list[str],
        ids: int = 0,
    ) -> Effect:
        number = len(self._history.effects)
        key = self._chance.randbytes(16).hex()
        if self._chance.random() < 0.5:
            headers = {context.IDEMPOTENCY_KEY: key}
        else:
            headers = {context.OPERATION_KEY: f"~{key}"}
        effect = Effect(number, kind, user, operation, body, headers, tokens)
        effect.client_ref = body.get("client_ref")
        self._history.effects.append(effect)
        if ids and self._chance.random() < 0.8:
            taken = await self._gateway.take_ids(ids)
            if taken is not None:
                headers[context.IDS] = taken
        return effect

    def _event(
        self,
        client: Client,
        operation: str,
        user: str,
        body: dict[str, Any],
        headers: dict[str, str],
    ) -> Event:
        self._left -= 1
        peers = list(self._world.names)
        self._chance.shuffle(peers)
        headers = headers | {context.API_KEY: self._world.api_key, context.END_USER: user}
        event = Event(
            number=len(self._history.events),
            client=client.number,
            operation=operation,
            user=user,
            effect=None,
            body=body,
            headers=headers,
            peers=peers,
            invoked_s=self._world.loop.time(),
        )
        self._history.events.append(event)
        return event

    async def _write(self, client: Client, effect: Effect) -> Event:
        headers = write_headers(effect, self._chance)
        event = self._event(client, effect.operation, effect.user, effect.body, headers)
        event.effect = effect.number
        await self._pass_on(event)
        if event.outcome == OK and self._note_position(client, event):
            client.seen.add(effect.number)
        if event.outcome == OK and self._left > 0 and self._chance.random() < LOOK_SHARE:
            await self._look_at(client, effect, event.member)
        return event

    async def _look_at(self, client: Client, effect: Effect, writer: str) -> None:
        """Read at once what was just written, from another peer than the one that wrote it."""
        if effect.kind in ("add", "bulk"):
            await self.read(client, effect.user, "memory.query", _question(effect), last=writer)
        else:
            body = {"memory_id": effect.targets[0]}
            await self.read(client, effect.user, "memory.get", body, last=writer)

    async def read(
        self, client: Client, user: str, operation: str, body: dict[str, Any], *, last: str = ""
    ) -> Event:
        """One read; `last` is the peer that is asked last."""
        draw = self._chance.random()
        headers = {context.DEADLINE_MS: "1500"}
        if draw < 0.3:
            headers[context.CONSISTENCY] = "strong" if draw < 0.15 else "local"
        is_after = self._chance.random() < 0.5
        if is_after and client.positions:
            headers[context.MIN_POSITION] = ",".join(
                f"{stripe}.{generation}.{end}"
                for (stripe, generation), end in sorted(client.positions.items())
            )
        event = self._event(client, operation, user, body, headers)
        event.peers.sort(key=lambda peer: peer == last)
        if is_after:
            event.must_see = tuple(sorted(client.seen))
        await self._pass_on(event)
        return event

    async def _pass_on(self, event: Event) -> None:
        if self._world.is_traced:
            self._world.note(f"client-{event.client}", f"#{event.number} {_said(event)}")
        await self._gateway.pass_on(event)
        if self._world.is_traced:
            self._world.note(f"client-{event.client}", f"#{event.number} {_told(event)}")

    def _note_position(self, client: Client, event: Event) -> bool:
        for position in context.parse_positions(event.position):
            place = (position.stripe, position.generation)
            client.positions[place] = max(position.sequence, client.positions.get(place, 0))
        return bool(event.position)

    def _learn(self, event: Event, effect: Effect, use: str) -> None:
        """Know the memories that a write has made."""
        if event.outcome != OK or event.status not in (200, 201):
            return
        if effect.kind == "add" and event.status == 201:
            token = event.answer["text"].split()[0]
            self._know(Known(effect.user, event.answer["id"], token, use))
        elif effect.kind == "bulk":
            for item in event.answer["results"]:
                if item["status"] == "created":
                    token = effect.tokens[item["index"]]
                    self._know(Known(effect.user, item["memory_ids"][0], token, use))

    def _know(self, known: Known) -> None:
        if all(other.id != known.id for other in self._known):
            self._known.append(known)


def _question(effect: Effect) -> dict[str, Any]:
    """By a word that only the memories of this write have."""
    is_bulk = effect.kind == "bulk"
    word = effect.body["items"][0]["text"].split()[-1] if is_bulk else effect.tokens[0]
    return {"query": word, "k": 50}


def _said(event: Event) -> str:
    kept = {k: v for k, v in event.headers.items() if k not in (context.API_KEY, context.END_USER)}
    return f"{event.operation} {event.user} {event.body} {kept} to {'>'.join(event.peers)}"


def _told(event: Event) -> str:
    tagged = f" [{event.degraded}]" if event.degraded else ""
    return f"{event.outcome} {event.status} by {event.member}{tagged} {event.answer}"
