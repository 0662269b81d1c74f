"""A history in the making, for tests of the judge: each request takes the time that it is given."""

from __future__ import annotations

from typing import Any

from tests.simulation.history import OK, Effect, Event, History, KeyRow, Row
from tests.simulation.judge import judge

USER = "ada"


class Forged:
    """A history in the making. Each write and read takes a tenth of a second."""

    def __init__(self) -> None:
        self.history = History()
        self.now_s = 0.0
        self._ids = 0

    def add(self, token: str, *, source: str | None = None, **more: Any) -> int:
        """An add, answered; its id."""
        effect = self._effect("add", "memory.add", tokens=[token])
        effect.source = source
        return self._added(effect, **more)

    def text(self, token: str, **more: Any) -> int:
        """An add that is not to be stored beside its like, and is stored; its id."""
        return self._added(self._effect("text", "memory.add", tokens=[token]), **more)

    def text_again(self, token: str, stored: int, **more: Any) -> Event:
        """Another add of the text, which is told that it is stored as this one."""
        effect = self._effect("text", "memory.add", tokens=[token])
        answer = {"status": "skipped", "reason": "duplicate", "memory_ids": [stored]}
        return self.event(effect, answer, **more)

    def _added(self, effect: Effect, **more: Any) -> int:
        self._ids += 1
        answer = {"id": self._ids, "text": f"{effect.tokens[0]} x"}
        self.event(effect, answer, **({"status": 201} | more))
        return self._ids

    def bulk(self, *tokens: str, **more: Any) -> list[int]:
        """A bulk add, answered; its ids."""
        made = [self._ids + 1 + place for place in range(len(tokens))]
        self._ids += len(tokens)
        effect = self._effect("bulk", "memory.bulk_add", tokens=list(tokens))
        effect.body = {"items": [{"text": f"{token} of b9x"} for token in tokens]}
        results = [
            {"index": place, "status": "created", "memory_ids": [one]}
            for place, one in enumerate(made)
        ]
        self.event(effect, {"results": results}, **more)
        return made

    def update(self, target: int, token: str, **more: Any) -> Event:
        """An update of the tags."""
        effect = self._effect("update", "memory.update", tokens=[token], targets=[target])
        return self.event(effect, {}, **more)

    def count(self, target: int, count: int, token: str, **more: Any) -> Event:
        """A conditional update of a counter."""
        effect = self._effect("cas", "memory.update", tokens=[token], targets=[target])
        effect.count = count
        return self.event(effect, {}, **more)

    def forget(self, *targets: int, answer: list[int] | None = None, **more: Any) -> Event:
        """A forget that is answered with its ids, or with others."""
        effect = self._effect("forget", "memory.forget", targets=list(targets))
        return self.event(effect, list(targets) if answer is None else answer, **more)

    def forget_source(self, source: str, *answer: int, **more: Any) -> Event:
        """A forget of all that has this source, answered with these."""
        effect = self._effect("forget", "memory.forget")
        effect.source = source
        return self.event(effect, list(answer), **more)

    def relate(self, start: int, end: int, token: str, **more: Any) -> Event:
        """A relation of one type."""
        effect = self._effect("relate", "memory.relate", tokens=[token], targets=[start, end])
        effect.body = {"relationship_type": "similar"}
        return self.event(effect, {"id": 1}, **({"status": 201} | more))

    def signal(self, target: int, token: str, total: int = 1, **more: Any) -> Event:
        """A signal, after which its memory has so many."""
        effect = self._effect("feedback", "memory.feedback", tokens=[token], targets=[target])
        return self.event(effect, {"summary": {"total_signals": total}}, **more)

    def key(self, name: str, **more: Any) -> int:
        """An API key, answered; its id."""
        self._ids += 1
        effect = self._effect("key", "keys.create", tokens=[name])
        self.event(effect, {"id": self._ids, "key": "secret"}, **({"status": 201} | more))
        return self._ids

    def revoke(self, identifier: int, **more: Any) -> Event:
        """It is taken back."""
        effect = self._effect("revoke", "keys.revoke", targets=[identifier])
        return self.event(effect, {"id": identifier}, **more)

    def again(self, event: Event, answer: Any, **more: Any) -> Event:
        """The same request once more."""
        assert event.effect is not None
        return self.event(self.history.effects[event.effect], answer, **more)

    def _effect(self, kind: str, operation: str, **more: Any) -> Effect:
        effect = Effect(len(self.history.effects), kind, USER, operation, {}, {}, **more)
        self.history.effects.append(effect)
        return effect

    def event(self, effect: Effect | None, answer: Any, **more: Any) -> Event:
        """One request, answered unless `more` says otherwise."""
        fields: dict[str, Any] = {
            "number": len(self.history.events),
            "client": 0,
            "operation": effect.operation if effect else "",
            "user": USER,
            "effect": None if effect is None else effect.number,
            "body": {} if effect is None else effect.body,
            "headers": {},
            "peers": [],
            "invoked_s": self.now_s,
            "ended_s": self.now_s + 0.1,
            "outcome": OK,
            "status": 200,
            "answer": answer,
        }
        event = Event(**(fields | more))
        self.history.events.append(event)
        self.now_s += 0.2
        return event

    def list(self, *memories: dict[str, Any], **more: Any) -> Event:
        """A list that shows these."""
        answer = {"items": list(memories)}
        return self.event(None, answer, operation="memory.list", **more)

    def query(self, word: str, *memories: dict[str, Any], **more: Any) -> Event:
        """A recall by a word that shows these."""
        body = {"query": word}
        answer = {"memories": list(memories)}
        return self.event(None, answer, operation="memory.query", body=body, **more)

    def graph(
        self, of: int, nodes: list[dict[str, Any]], *edges: tuple[int, int, str], **more: Any
    ) -> Event:
        """The graph around a memory, with (from, to, token) for each relation."""
        drawn = [
            {"from_memory_id": start, "to_memory_id": end, "metadata": {"v": token}}
            for start, end, token in edges
        ]
        answer = {"nodes": nodes, "edges": drawn}
        body = {"memory_id": of}
        return self.event(None, answer, operation="memory.graph", body=body, **more)

    def use(self, identifier: int, **more: Any) -> Event:
        """A list that is read by this API key, of a user who has nothing."""
        return self.list(key_id=identifier, user="nobody", **more)

    def get(self, memory: dict[str, Any], **more: Any) -> Event:
        """A get that shows this."""
        body = {"memory_id": memory["id"]}
        return self.event(None, memory, operation="memory.get", body=body, **more)

    def end(self, *rows: Row, member: str = "peer-1") -> None:
        """What a member holds at the end."""
        self.history.rows[member] = {row.key: row for row in rows}
        self.history.resolved[member] = {one: row.key for row in rows for one in row.ids}

    def end_of_keys(self, rows: dict[int, KeyRow], member: str = "peer-1") -> None:
        """The API keys that a member holds at the end."""
        self.history.keys[member] = rows

    def kinds(self) -> set[str]:
        """What the judge says."""
        return {violation.kind for violation in judge(self.history)}


def memory(identifier: int, token: str, **more: Any) -> dict[str, Any]:
    """A memory as an answer shows it."""
    fields: dict[str, Any] = {
        "id": identifier, "text": f"{token} x", "tags": [], "metadata": {}, "version": "v",
    }  # fmt: skip
    return fields | more


def row(identifier: int, token: str, **more: Any) -> Row:
    """A memory as a store holds it."""
    fields: dict[str, Any] = {
        "key": bytes([identifier]), "ids": (identifier,), "token": token, "user": USER,
        "is_visible": True, "tags": (), "metadata": {},
    }  # fmt: skip
    return Row(**(fields | more))
