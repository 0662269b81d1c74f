"""What callers did and what they were told: the judge reads nothing else, but for the final stores.

An **effect** is what one operation key is to bring about; it may be asked for several times, by
several callers (`Event`s). A token is a word that no other write has: whoever sees it has seen that
write.
"""

from __future__ import annotations

from typing import Any

import msgspec

NEVER = float("inf")
DEFINITE, UNKNOWN, OK = "fail", "unknown", "ok"


class Seen(msgspec.Struct, frozen=True):
    """A memory as an answer showed it."""

    id: int
    token: str
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    version: str
    client_ref: str | None = None


class Effect(msgspec.Struct):
    """What one operation key asks for. `tokens` are those of the memories it adds, or the one that
    an update, a relation, a signal or a key carries; `targets` the ids that it is about. A `text`
    is an add that is not to be stored beside its like, so several of them have one token."""

    number: int
    kind: str  # add, bulk, text, update, cas, forget, relate, feedback, key, revoke
    user: str
    operation: str
    body: dict[str, Any]
    headers: dict[str, str]
    tokens: list[str] = []
    targets: list[int] = []
    client_ref: str | None = None
    source: str | None = None  # of what an add stores; or whose memories a forget means
    count: int | None = None  # what a conditional update of a counter raises it to


class Event(msgspec.Struct):
    """One request of one caller. `effect` is its effect's number, None for reads."""

    number: int
    client: int
    operation: str
    user: str
    effect: int | None
    body: dict[str, Any]
    headers: dict[str, str]
    peers: list[str]
    invoked_s: float
    ended_s: float = NEVER
    outcome: str = UNKNOWN
    status: int = 0
    member: str = ""
    answer: Any = None
    degraded: str = ""
    position: str = ""
    must_see: tuple[int, ...] = ()  # effects whose positions the read names
    basis: int | None = None  # the read that a conditional update goes by
    key_id: int | None = None  # the API key that it goes by, where that is not the founder's

    @property
    def ack(self) -> str:
        """What the write waited for."""
        return self.headers.get("Memsync-Ack", "quorum")

    @property
    def is_fresh_read(self) -> bool:
        """Whether it is a read that must show all that was acknowledged before."""
        consistency = self.headers.get("Memsync-Consistency", "session")
        return (
            self.effect is None
            and self.outcome == OK
            and consistency != "local"
            and "replication" not in self.degraded
        )


class Row(msgspec.Struct, frozen=True):
    """A memory in a store at the end."""

    key: bytes
    ids: tuple[int, ...]
    token: str
    user: str
    is_visible: bool
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    attached: tuple[str, ...] = ()  # the tokens of its relations and signals


class KeyRow(msgspec.Struct, frozen=True):
    """An API key in a store at the end; `record` is the key of its record."""

    name: str
    is_revoked: bool
    record: bytes = b""


class History(msgspec.Struct):
    """Everything that is judged. `rows` are each member's at the end, by record key; `resolved` is
    what its store makes of each id that was handed out."""

    effects: list[Effect] = []
    events: list[Event] = []
    rows: dict[str, dict[bytes, Row]] = {}
    resolved: dict[str, dict[int, bytes]] = {}
    keys: dict[str, dict[int, KeyRow]] = {}  # each member's, by id; the founder's is not among them
    states: dict[str, bytes] = {}  # a digest over everything in a member's store
    faults: list[str] = []  # those that took effect
    planned: list[str] = []
    troubles: list[tuple[str, str]] = []  # what the harness itself saw: (kind, what)


def token_of(text: str) -> str:
    """The token in a memory's text."""
    return text.split()[0] if text else ""


def seen_in(memory: dict[str, Any]) -> Seen:
    """A memory of an answer."""
    return Seen(
        id=memory["id"],
        token=token_of(memory["text"]),
        tags=tuple(memory["tags"]),
        metadata=memory["metadata"],
        version=memory["version"],
        client_ref=memory.get("client_ref"),
    )


def all_seen(event: Event) -> list[Seen]:
    """The memories that a read was answered with."""
    if event.outcome != OK or event.answer is None:
        return []
    match event.operation:
        case "memory.get":
            return [seen_in(event.answer)]
        case "memory.list":
            return [seen_in(memory) for memory in event.answer["items"]]
        case "memory.query":
            return [seen_in(memory) for memory in event.answer["memories"]]
        case "memory.graph":
            return [seen_in(memory) for memory in event.answer["nodes"]]
        case _:
            return []
