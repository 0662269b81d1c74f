"""What an operation is given: the parts of the peer, and the circumstances of one call.

`parts_of` takes them from the engine, the processes give it the rest. What comes from adapters or
from models stands here as small protocols, because the service must not import them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from memsync.clock import Clock
from memsync.core.records import Record
from memsync.engine.cell.leases import Leases
from memsync.engine.cell.members import Members
from memsync.engine.cell.membership import Standing
from memsync.engine.directory import Directory
from memsync.engine.engine import Engine
from memsync.engine.progress import Progress
from memsync.engine.writing.appender import Appender
from memsync.ids import RecordKey, Scope
from memsync.ports import Peers, Store
from memsync.service.sharing import Sharing
from memsync.wire.context import Context
from memsync.wire.operations import Vector
from memsync.wire.replies import ClusterInfo, QueryAnswer
from memsync.wire.requests import Ack, QueryRequest


class IdSource(Protocol):
    """Where memory ids come from."""

    async def take(self, count: int) -> tuple[int, int]:
        """`count` consecutive ids as (first, last); raises `NoQuorum` where none are to be had."""
        ...


class Recaller(Protocol):
    """The recall pipeline."""

    async def answer(
        self,
        scope: Scope,
        request: QueryRequest,
        *,
        deadline_s: float,
        degraded: Sequence[str] = (),
    ) -> QueryAnswer:
        """Answer a question; `degraded` names what is missing before the recall even begins."""
        ...

    async def around(
        self, scope: Scope, start: RecordKey | None, *, depth: int, limit: int, deadline_s: float
    ) -> list[tuple[RecordKey, int | None]] | None:
        """The memories around one, or all; None where they are not loaded by the deadline."""
        ...

    async def explanation(self, scope: Scope, query_id: str) -> bytes | None:
        """Why a question of this scope was answered here as it was, as JSON."""
        ...

    async def embed_for_write(
        self, texts: Sequence[str], *, organisation: int
    ) -> list[Vector | None]:
        """A vector for each text; None where no model answers in time."""
        ...


class Health(Protocol):
    """How the peer is; behind `/ready` and `/health`."""

    def checks(self) -> dict[str, str]:
        """Name of a check -> "ok" or "failed: why"."""
        ...

    def is_recalling(self) -> bool:
        """Whether recalls can be answered at all."""
        ...


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of this peer that operations work with."""

    clock: Clock
    store: Store
    directory: Directory
    appender: Appender
    progress: Progress
    leases: Leases
    members: Members
    standing: Standing
    cluster: Callable[[], ClusterInfo]
    peers: Peers
    recall: Recaller
    ids: IdSource
    sharing: Sharing
    cell_secret: str
    """What only processes of the cell know; "" where it has no accounts on the bus."""


def parts_of(engine: Engine, recall: Recaller, ids: IdSource, *, cell_secret: str) -> Parts:
    """The parts of a peer's engine, with what stands beside it."""
    return Parts(
        clock=engine.ports.clock,
        store=engine.ports.store,
        directory=engine.directory,
        appender=engine.appender,
        progress=engine.progress,
        leases=engine.leases,
        members=engine.members,
        standing=engine.standing,
        cluster=engine.report.cluster,
        peers=engine.ports.peers,
        recall=recall,
        ids=ids,
        sharing=Sharing(engine.ports.clock),
        cell_secret=cell_secret,
    )


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls: an API key as it is now. `project` is the key's pin, "" for any project."""

    key_id: int
    digest: bytes
    organisation: int
    environment: str
    project: str
    scopes: frozenset[str]
    tier: str

    @property
    def actor(self) -> str:
        """How the history names this caller."""
        return f"key:{self.key_id}"


class Exchange(msgspec.Struct):
    """What one request has come to so far; the only thing here that changes while it runs."""

    headers: dict[str, str]
    """Headers of the answer, whatever it will be."""
    is_write_sent: bool = False
    """Whether the appender was given a write: from then on a fault of ours leaves it unknown."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """The circumstances of one call. `ack` is what it names, else what its organisation has set.
    Times in seconds are those of the steady clock."""

    operation: str
    is_write: bool
    headers: Mapping[str, str]
    """As they came, with names in lower case."""
    context: Context
    key: Record
    """The API key as it was when the call came."""
    caller: Caller
    ack: Ack
    exchange: Exchange
    now_ms: int
    arrived_s: float
    deadline_s: float
