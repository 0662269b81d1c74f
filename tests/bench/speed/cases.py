"""What the modes measure in turns, by name. `x16` is with sixteen in flight.

One at a time both sides ask with the official client libraries (nats-py, psycopg), as callers do:
the time is what a caller waits. With several in flight bare sockets ask, since there the work of
the generator would be taken from the processors that are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.speed import raw
from tests.bench.speed.blocks import Case, Step, case
from tests.bench.speed.postgres import Postgres
from tests.bench.speed.rig import BULK, Rig

PUBLISH, REQUEST = "raw R3 publish, nats-py", "raw request-reply, nats-py"
BARE_PUBLISH, BARE_REQUEST = "raw R3 publish", "raw request-reply"
PUBLISH_64, REQUEST_16 = "raw R3 publish x64", "raw request-reply x16"
SQLITE = "raw SQLite, rows in batches of 256"
ADD, BARE_ADD = "add over NATS, nats-py", "add over NATS"
ADD_16, ADD_64, ADD_256 = "add over NATS x16", "add over NATS x64", "add over NATS x256"
BULK_16 = "memories by bulk_add over NATS x16"
RECALL, BARE_RECALL = "recall over NATS, nats-py", "recall over NATS"
RECALL_16 = "recall over NATS x16"
WEB_ADD, WEB_ADD_64 = "add over HTTP", "add over HTTP x64"
WEB_RECALL, WEB_RECALL_16 = "recall over HTTP", "recall over HTTP x16"
INSERT, INSERT_16 = "Postgres insert, psycopg", "Postgres insert x16"
INSERT_64 = "Postgres insert x64"
SELECT, SELECT_16 = "pgvector recall, psycopg", "pgvector recall x16, three nodes"


def search_of(memories: int) -> str:
    """The name of raw FAISS search among so many."""
    return f"raw FAISS search in {memories:,}"


def recall_of(memories: int) -> str:
    """The name of recalls in a scope of so many."""
    return f"recall over NATS in a scope of {memories:,}"


class Cases:
    """Makes the cases of a rig; each mode picks its own."""

    def __init__(self, rig: Rig, postgres: Postgres | None, folder: Path) -> None:
        self._rig = rig
        self._postgres = postgres
        self._folder = folder

    def limits(self, sizes: Sequence[int]) -> list[Case]:
        """What the bus, the index and the store alone can do."""
        rig = self._rig
        return [
            self._case(PUBLISH, rig.library_publish),
            self._case(REQUEST, rig.library_request),
            self._case(BARE_PUBLISH, rig.raw_publish),
            self._case(BARE_REQUEST, rig.raw_request),
            self._case(PUBLISH_64, rig.raw_publish, 64),
            self._case(REQUEST_16, rig.raw_request, 16),
            raw.inserts(SQLITE, self._folder),
            *(raw.searches(search_of(size), size) for size in sizes),
        ]

    def write(self) -> list[Case]:
        """Adds, each beside its limit."""
        rig, peer = self._rig, self._postgres
        return [
            self._case(PUBLISH, rig.library_publish),
            self._case(REQUEST, rig.library_request),
            self._case(ADD, rig.library_add),
            *([peer.case(INSERT, "insert", 1)] if peer else []),
            self._case(BARE_PUBLISH, rig.raw_publish),
            self._case(BARE_ADD, rig.add),
            self._case(ADD_16, rig.add, 16),
            *([peer.case(INSERT_16, "insert", 16)] if peer else []),
            self._case(PUBLISH_64, rig.raw_publish, 64),
            self._case(ADD_64, rig.add, 64),
            *([peer.case(INSERT_64, "insert", 64)] if peer else []),
            self._case(ADD_256, rig.add, 256),
            raw.inserts(SQLITE, self._folder),
            case(BULK_16, rig.bulk_add, 16, rig.usage, counted=BULK),
        ]

    def recall(self, users: Sequence[str]) -> list[Case]:
        """Recalls of these end users, each beside its limit."""
        rig, peer = self._rig, self._postgres
        return [
            self._case(REQUEST, rig.library_request),
            self._case(RECALL, rig.library_recalls(users)),
            *([peer.case(SELECT, "recall", 1)] if peer else []),
            self._case(BARE_REQUEST, rig.raw_request),
            self._case(BARE_RECALL, rig.recalls(users)),
            self._case(REQUEST_16, rig.raw_request, 16),
            self._case(RECALL_16, rig.recalls(users), 16),
            *([peer.case(SELECT_16, "recall", 16, nodes=3)] if peer else []),
        ]

    def sizes(self, users: dict[int, str]) -> list[Case]:
        """Recalls in scopes by size, each beside bare search in as many vectors."""
        found = []
        for size, user in users.items():
            found.append(raw.searches(search_of(size), size))
            found.append(self._case(recall_of(size), self._rig.recalls([user])))
        return found

    def http(self, users: Sequence[str]) -> list[Case]:
        """Recalls and adds at the gateways, beside those over NATS."""
        rig = self._rig
        return [
            self._case(BARE_REQUEST, rig.raw_request),
            self._case(BARE_ADD, rig.add),
            self._case(WEB_ADD, rig.web_add),
            self._case(BARE_RECALL, rig.recalls(users)),
            self._case(WEB_RECALL, rig.web_recalls(users)),
            self._case(RECALL_16, rig.recalls(users), 16),
            self._case(WEB_RECALL_16, rig.web_recalls(users), 16),
            self._case(ADD_64, rig.add, 64),
            self._case(WEB_ADD_64, rig.web_add, 64),
        ]

    def _case(self, name: str, step: Step, in_flight: int = 1) -> Case:
        return case(name, step, in_flight, self._rig.usage)


def once_each(cases: Sequence[Case]) -> list[Case]:
    """The cases without those that came before under the same name."""
    return list({one.name: one for one in reversed(cases)}.values())[::-1]
