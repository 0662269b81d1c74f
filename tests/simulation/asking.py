"""What all callers have in common: one request after the other, by what they know of each other.

Writes are repeated with their keys; what was just written is read at once from another peer; reads
name the positions of what their caller has seen.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from memsync.wire import context
from tests.simulation.clients import Gateway, write_headers
from tests.simulation.facts import bulk_of
from tests.simulation.history import OK, Effect, Event
from tests.simulation.world import World

USERS = ("ada", "bob")
LOOK_SHARE = 0.5  # of the writes: its caller reads at once what it has written
KNOWN_LATELY = 10


class Known(msgspec.Struct):
    """A memory that the callers know of."""

    user: str
    id: int
    token: str
    use: str  # plain, named, text, shared, counter


class Client(msgspec.Struct):
    """One caller: what it has seen so far it asks to see again."""

    number: int
    positions: dict[tuple[int, int], int] = {}
    seen: set[int] = set()  # effects whose positions are among these


class Asking:
    """How callers ask, and what they know together. `left` is how many requests are to come."""

    def __init__(self, world: World, gateway: Gateway, chance: random.Random, *, left: int) -> None:
        self.world = world
        self.chance = chance
        self.history = world.history
        self.left = left
        self._gateway = gateway
        self._words = 0
        self._known: list[Known] = []

    def user(self) -> str:
        """Whose memories are meant next."""
        return self.chance.choice(USERS)

    def word(self, kind: str) -> str:
        """A word that nobody else has."""
        self._words += 1
        return f"{kind}{self._words}x"

    def know(self, known: Known) -> None:
        """From now on callers may ask for it."""
        if all(other.id != known.id for other in self._known):
            self._known.append(known)

    def known(self, *uses: str) -> list[Known]:
        """What there was of these uses lately."""
        return [one for one in self._known if one.use in uses][-KNOWN_LATELY:]

    def pick(self, *uses: str) -> Known | None:
        """A memory of one of these uses, if there is one of it."""
        known = self.known(self.chance.choice(uses))
        return self.chance.choice(known) if known else None

    async def effect(
        self,
        kind: str,
        user: str,
        operation: str,
        body: dict[str, Any],
        tokens: list[str],
        *,
        ids: int = 0,
        targets: list[int] | None = None,
    ) -> Effect:
        """Something to bring about, with a key of the caller's or of a gateway's."""
        number = len(self.history.effects)
        key = self.chance.randbytes(16).hex()
        if self.chance.random() < 0.5:
            headers = {context.IDEMPOTENCY_KEY: key}
        else:
            headers = {context.OPERATION_KEY: f"~{key}"}
        effect = Effect(number, kind, user, operation, body, headers, tokens, targets or [])
        effect.client_ref = body.get("client_ref")
        effect.source = body.get("source") or body.get("filters", {}).get("source")
        self.history.effects.append(effect)
        if ids and self.chance.random() < 0.8:
            taken = await self._gateway.take_ids(ids)
            if taken is not None:
                headers[context.IDS] = taken
        return effect

    async def write(self, client: Client, effect: Effect) -> Event:
        """Ask for it once."""
        headers = write_headers(effect, self.chance)
        event = self._event(client, effect.operation, effect.user, effect.body, headers)
        event.effect = effect.number
        await self._pass_on(event)
        if event.outcome == OK and self._note_position(client, event) and effect.kind != "text":
            client.seen.add(effect.number)
        if event.outcome == OK and self.left > 0 and self.chance.random() < LOOK_SHARE:
            await self._look_at(client, effect, event)
        return event

    async def _look_at(self, client: Client, effect: Effect, written: Event) -> None:
        """Read at once what was just written, from another peer than the one that wrote it."""
        user, last = effect.user, written.member
        if effect.kind in ("add", "bulk", "text"):
            await self.read(client, user, "memory.query", question(effect), last=last)
        elif effect.kind == "relate":
            body = {"memory_id": effect.targets[0], "depth": 1, "limit": 100}
            await self.read(client, user, "memory.graph", body, last=last)
        elif effect.targets and effect.kind != "revoke":
            body = {"memory_id": effect.targets[0]}
            await self.read(client, user, "memory.get", body, last=last)
        elif effect.kind == "forget":
            await self.read(client, user, "memory.list", {"limit": 100}, last=last)

    async def read(
        self,
        client: Client,
        user: str,
        operation: str,
        body: dict[str, Any],
        *,
        first: str = "",
        last: str = "",
        key: tuple[int, str] | None = None,
    ) -> Event:
        """One read; `first` and `last` are the peers that are asked first and last, `key` an API
        key's id and secret."""
        draw = self.chance.random()
        headers = {context.DEADLINE_MS: "1500"}
        if draw < 0.3:
            headers[context.CONSISTENCY] = "strong" if draw < 0.15 else "local"
        is_after = self.chance.random() < 0.5
        if is_after and client.positions:
            headers[context.MIN_POSITION] = ",".join(
                f"{stripe}.{generation}.{end}"
                for (stripe, generation), end in sorted(client.positions.items())
            )
        event = self._event(client, operation, user, body, headers)
        event.peers.sort(key=lambda peer: (peer != first, peer == last))
        if is_after:
            event.must_see = tuple(sorted(client.seen))
        if key is not None:
            event.key_id, event.headers[context.API_KEY] = key
        await self._pass_on(event)
        return event

    def _event(
        self,
        client: Client,
        operation: str,
        user: str,
        body: dict[str, Any],
        headers: dict[str, str],
    ) -> Event:
        self.left -= 1
        peers = list(self.world.names)
        self.chance.shuffle(peers)
        headers = headers | {context.API_KEY: self.world.api_key, context.END_USER: user}
        event = Event(
            number=len(self.history.events),
            client=client.number,
            operation=operation,
            user=user,
            effect=None,
            body=body,
            headers=headers,
            peers=peers,
            invoked_s=self.world.loop.time(),
        )
        self.history.events.append(event)
        return event

    async def _pass_on(self, event: Event) -> None:
        if self.world.is_traced:
            self.world.note(f"client-{event.client}", f"#{event.number} {_said(event)}")
        await self._gateway.pass_on(event)
        if self.world.is_traced:
            self.world.note(f"client-{event.client}", f"#{event.number} {_told(event)}")

    def _note_position(self, client: Client, event: Event) -> bool:
        for position in context.parse_positions(event.position):
            place = (position.stripe, position.generation)
            client.positions[place] = max(position.sequence, client.positions.get(place, 0))
        return bool(event.position)


def question(effect: Effect) -> dict[str, Any]:
    """By a word that only the memories of this write have, or only those of its text."""
    return {"query": bulk_of(effect) or effect.tokens[0], "k": 50}


def _said(event: Event) -> str:
    kept = {k: v for k, v in event.headers.items() if k not in (context.API_KEY, context.END_USER)}
    key = "" if event.key_id is None else f"by key {event.key_id} "
    said = f"{event.operation} {event.user} {event.body} {kept} {key}"
    return f"{said}to {'>'.join(event.peers)}"


def _told(event: Event) -> str:
    tagged = f" [{event.degraded}]" if event.degraded else ""
    return f"{event.outcome} {event.status} by {event.member}{tagged} {event.answer}"
