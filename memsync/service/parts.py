"""What an operation is given: the parts of the peer, and the circumstances of one call.

The parts are joined in `memsync/nodes/`. Those that come from adapters or from models stand here as
small protocols, because the service must not import them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from memsync.clock import Clock
from memsync.engine.appender import Appender
from memsync.engine.directory import Directory
from memsync.engine.progress import Progress
from memsync.ids import Scope
from memsync.ports import Store
from memsync.service.sharing import Sharing
from memsync.wire.context import Context
from memsync.wire.operations import Vector
from memsync.wire.replies import QueryAnswer
from memsync.wire.requests import QueryRequest


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

    async def embed_for_write(self, texts: Sequence[str]) -> list[Vector | None]:
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
    recall: Recaller
    ids: IdSource
    sharing: Sharing


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
    """The circumstances of one call. Times in seconds are those of the steady clock."""

    operation: str
    context: Context
    caller: Caller
    exchange: Exchange
    now_ms: int
    arrived_s: float
    deadline_s: float
