"""The ports: what the engine needs of the world, as small protocols. Adapters fill them.

Each docstring states ordering, durability, errors and what a cancelled call may have done. The same
contract tests run against the real adapter and the in-memory one (tests/contracts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.core.records import Record
from memsync.ids import OperationKey, Position, RecordKey, Scope, ScopeKey
from memsync.wire.operations import Frame, ItemOutcome, RawMessage, Stamp
from memsync.wire.requests import ForgetFilters, QueryFilters


class Answer(msgspec.Struct, frozen=True):
    """What a backend says to one request: HTTP status, headers, JSON body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Backend(Protocol):
    """Whoever answers operations: this process's service, or peers behind the bus."""

    async def call(self, operation: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer `operation` ("memory.add", ...). Never raises but for cancellation; a write
        that is cancelled may still happen."""
        ...

    def checks(self) -> dict[str, str]:
        """What `/ready` says: name -> "ok" or "failed: why". Ready when all are ok."""
        ...

    def is_recalling(self) -> bool:
        """Whether recalls can be answered at all (for `/health`)."""
        ...


class LoggedFrame(msgspec.Struct, frozen=True):
    """A frame with the place where it was found."""

    position: Position
    frame: Frame
    size_bytes: int


class Change(msgspec.Struct, frozen=True):
    """A record before and after a batch was joined in."""

    before: Record | None
    after: Record


class StoredOperation(msgspec.Struct, frozen=True):
    """What is kept of a write, to answer its repeat."""

    request_hash: bytes
    stamp: Stamp
    kept_s: int
    outcome: list[ItemOutcome]


class Log(Protocol):
    """The stripes of a cell. Order holds inside one generation of a stripe and nowhere else."""

    def fault(self) -> str | None:
        """Why the bus cannot be asked at all; None where it can."""
        ...

    async def publish(
        self,
        stripe: int,
        message_id: str,
        data: bytes,
        *,
        record: RecordKey | None = None,
        after: int | None = None,
        timeout_s: float,
    ) -> Position:
        """Store one frame on a majority of servers (fsynced). The same `message_id` within the
        duplicate window answers the first one's position, before anything else is looked at.
        Raises `NoStripeLeader` or `Unavailable` where it is certain that nothing was stored,
        `VersionConflict` where `after` is not the last sequence of `record`'s subject, and
        `OutcomeUnknown` else. What a cancelled call did is unknown too."""
        ...

    async def fetch(self, start: Position) -> list[RawMessage]:
        """Messages from `start` on, in order, as many as one batch holds; [] at the end of
        whichever server answered, which may be behind. Any one surviving server answers. Raises
        `Unavailable`."""
        ...

    async def last_of_record(
        self, stripe: int, record: RecordKey, *, timeout_s: float
    ) -> Position | None:
        """The last message on the record's own subject, as the stripe's leader knows it; None where
        there is none, or no stream. Raises `NoStripeLeader`."""
        ...

    async def listen(self, stripe: int, heard: Callable[[RawMessage], None]) -> None:
        """From now on call `heard` with every frame as it is stored. Gaps are possible and the
        listener's to fill; so are repeats. Ends with the connection."""
        ...


class Marks(Protocol):
    """Watermarks between the members of a cell: unordered, may be lost or doubled, never stored."""

    async def tell(self, data: bytes) -> None:
        """Send this member's watermark to all; raises `Unavailable` without a connection."""
        ...

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """From now on call `heard` with every member's, this one's included."""
        ...


class StripeState(msgspec.Struct, frozen=True):
    """What the meta leader knows of a stripe's stream. `servers` are those that hold it."""

    stripe: int
    generation: int
    leader: str | None
    servers: tuple[str, ...]
    first_sequence: int
    last_sequence: int


class Streams(Protocol):
    """The streams of a cell as things to be made and looked after. Every call raises `Unavailable`
    where the bus cannot say; each may be repeated."""

    async def generation(self, stripe: int) -> int | None:
        """The highest generation of a stripe that there is; None where there is no stream."""
        ...

    async def state(self, stripe: int, generation: int) -> StripeState:
        """The stream of a generation as it is now."""
        ...

    async def create(self, stripe: int, generation: int) -> None:
        """Make a generation of a stripe; it is fine if somebody else just did."""
        ...

    async def ids_end(self) -> int | None:
        """The last id block that was handed out; None where the stream of ids does not exist."""
        ...

    async def create_ids(self, first_block: int) -> None:
        """Make the stream of ids so that its first block is `first_block`."""
        ...

    async def delete_ids(self) -> None:
        """Take the stream of ids away; for one that hands out what was handed out before."""
        ...

    async def step_down(self, stripe: int, generation: int, *, preferred: str) -> None:
        """Ask the leader of a stripe to hand over to the server `preferred`."""
        ...


class Servers(Protocol):
    """The servers of the bus, asked about their settings."""

    async def faults(self) -> dict[str, str]:
        """Server -> why its acknowledgements cannot be trusted with a write; servers that do not
        answer are left out. Raises `Unavailable` where fewer than a majority answer."""
        ...


class Store(Protocol):
    """The local state. Reads see whole batches only: a write's records appear together."""

    incarnation: int

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Join the frames and set the applied positions (stripe -> position) in ONE transaction,
        with digests and operation keys. Raises `InvariantBroken`; then, and when cancelled
        before the transaction began, nothing was applied. Durable against a crash of the
        process."""
        ...

    async def positions(self) -> dict[tuple[int, int], int]:
        """(stripe, generation) -> the last applied sequence, as of the last committed batch."""
        ...

    async def record(self, key: RecordKey) -> Record | None:
        """One record, visible or not."""
        ...

    async def records(self, keys: Sequence[RecordKey]) -> dict[RecordKey, Record]:
        """Those of `keys` that exist, read from one snapshot."""
        ...

    async def records_by_id(self, identifiers: Sequence[int]) -> dict[int, Record]:
        """Those ids that resolve, with their records, read from one snapshot."""
        ...

    async def duplicate(self, scope: ScopeKey, text_hash: bytes, since_ms: int) -> Record | None:
        """The oldest memory of the scope with this text that was created since then, visible or
        not."""
        ...

    async def page(
        self, scope: ScopeKey, *, now_ms: int, limit: int, offset: int
    ) -> tuple[list[Record], int]:
        """Visible memories, newest first, and how many there are in all."""
        ...

    async def matching(
        self, scope: ScopeKey, filters: ForgetFilters, *, now_ms: int, limit: int
    ) -> list[Record]:
        """Visible memories that a forget by filter means, oldest first."""
        ...

    async def memories(self, scope: ScopeKey) -> list[Record]:
        """Every memory of a scope that is not forgotten or purged, in the order of its creation."""
        ...

    async def newest_scopes(self, *, scopes_max: int, memories_max: int) -> list[ScopeKey]:
        """The scopes that were written to last, newest first, while their memories together are at
        most `memories_max`."""
        ...

    async def of_kind(self, kind: str) -> list[Record]:
        """Every record of a small kind (api_key, organisation, project)."""
        ...

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        """What is kept of the write with this key."""
        ...


class Embedder(Protocol):
    """Text to vectors. Raises `memsync.errors.Unavailable` where the model cannot answer."""

    name: str
    dimensions: int

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimensions) float32, rows of length 1; zeros for a text without a known word."""
        ...


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question as the index needs it. `vector` is (dim,) float32, or None: lexical only."""

    text: str
    vector: NDArray[np.float32] | None
    model: str
    k: int
    session_id: str | None
    filters: QueryFilters | None
    weights: Mapping[str, float] | None
    now_ms: int


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One result: its score 0..1 and the named parts that it was made of."""

    key: RecordKey
    score: float
    scoring: dict[str, float]


class ScopeNotLoadedError(Exception):
    """The scope is not in the hot index, or no longer: which says nothing of what it holds."""


class HotIndex(Protocol):
    """The loaded scopes, searched in memory. Derived state: may be thrown away at any time, also
    between a look whether a scope is loaded and the search in it, by a load in another thread."""

    def is_loaded(self, scope: ScopeKey) -> bool:
        """Whether the scope can be searched at once."""
        ...

    def begin_load(self, scope: ScopeKey) -> None:
        """From now on keep the changes of this scope, until `finish_load` or `drop`."""
        ...

    def finish_load(self, scope: ScopeKey, memories: Sequence[Record]) -> None:
        """Take the rows that were read after `begin_load`, then the changes kept since. May run in
        another thread."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Take a batch in one step; scopes that are not loaded ignore it."""
        ...

    def drop(self, scope: ScopeKey) -> None:
        """Forget a scope."""
        ...

    def search(self, scope: ScopeKey, question: Question) -> list[Hit]:
        """The best k visible memories of a loaded scope, best first. Raises
        `ScopeNotLoadedError`."""
        ...


__all__ = [
    "Answer",
    "Backend",
    "Change",
    "Embedder",
    "Hit",
    "HotIndex",
    "Log",
    "LoggedFrame",
    "Marks",
    "Question",
    "RawMessage",
    "Scope",
    "ScopeNotLoadedError",
    "Servers",
    "Store",
    "StoredOperation",
    "Streams",
    "StripeState",
]  # fmt: skip
