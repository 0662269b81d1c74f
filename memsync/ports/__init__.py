"""The ports: what the engine needs of the world, as small protocols. Adapters fill them.

Each docstring states ordering, durability, errors and what a cancelled call may have done. The same
contract tests run against the real adapter and the in-memory one (tests/contracts). What recall
asks for stands in `ports.recall`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from memsync.core.records import Change, Record
from memsync.ids import OperationKey, Position, RecordKey, Scope, ScopeKey
from memsync.ports.recall import Embedder, Hit, HotIndex, Question, Reasoner, ScopeNotLoadedError
from memsync.wire.exchange import KeptOperation, Row
from memsync.wire.operations import Frame, ItemOutcome, RawMessage, Stamp
from memsync.wire.requests import ForgetFilters


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
        """What `/ready` says: name -> "ok", "ok: what to know" or "failed: why". Ready when none
        has failed."""
        ...

    def is_recalling(self) -> bool:
        """Whether recalls can be answered at all (for `/health`)."""
        ...


class LoggedFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame with the place where it was found."""

    position: Position
    frame: Frame
    size_bytes: int


class StoredOperation(msgspec.Struct, frozen=True):
    """What is kept of a write, to answer its repeat."""

    request_hash: bytes
    stamp: Stamp
    kept_s: int
    outcome: list[ItemOutcome]


class Scrubbed(msgspec.Struct, frozen=True):
    """A part of a scrub: how many rows were looked at, the keys of those that are not what their
    hash says, and how much processor time that took."""

    rows: int
    damaged: list[RecordKey]
    worked_s: float


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

    async def fetch_from_leader(self, position: Position) -> RawMessage | None:
        """One message as the leader of its stream has it; None where the leader says that there is
        none. Raises `Unavailable`."""
        ...

    async def last_of_record(
        self, stripe: int, generation: int, record: RecordKey, *, timeout_s: float
    ) -> int:
        """The sequence of the last message on the record's own subject in this generation, as
        whichever server answers has it: it may be behind. 0 where it has none. Raises `Unavailable`
        where none answers, and where there is no such stream."""
        ...

    async def listen(self, stripe: int, heard: Callable[[RawMessage], None]) -> None:
        """From now on call `heard` with every frame as it is stored. Gaps are possible and the
        listener's to fill; so are repeats. Ends with the connection."""
        ...


class Marks(Protocol):
    """Watermarks between the members of a cell: unordered, may be lost or doubled, never stored."""

    async def tell(self, data: bytes, *, only: str | None = None) -> None:
        """Send this to all members, this one included, or to `only` one of them; raises
        `Unavailable` without a connection."""
        ...

    async def announce(self, data: bytes) -> None:
        """Send this to all members and to whoever else listens, as gateways do; raises
        `Unavailable` without a connection."""
        ...

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        """From now on call `heard` with whatever is told to all, announced, or told to this one."""
        ...


class Channel(Protocol):
    """One way out, to whoever listens: unordered, may be lost or doubled, never stored."""

    async def tell(self, data: bytes) -> None:
        """Send this; raises `Unavailable` without a connection."""
        ...


class StripeState(msgspec.Struct, frozen=True):
    """What the leader of a stripe's stream says of it. `servers` are those that hold it; `leader`
    is None while there is none, and the rest may then be old. `deleted` messages are missing from
    within the stream: always damage. `cell` is the identity of the cell that made it, "" where that
    was not noted. `current` are those of `servers` that keep up, the leader among them."""

    stripe: int
    generation: int
    leader: str | None
    servers: tuple[str, ...]
    first_sequence: int
    last_sequence: int
    bytes: int
    bytes_max: int
    deleted: int
    cell: str
    current: tuple[str, ...] = ()


class StripeCopy(msgspec.Struct, frozen=True):
    """One server's copy of a stripe. `deleted` messages are missing from within it."""

    server: str
    stripe: int
    generation: int
    first_sequence: int
    last_sequence: int
    deleted: int


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

    async def adopt(self, stripe: int, generation: int) -> None:
        """Note on a stream without an identity that it is this cell's."""
        ...

    async def trim(self, stripe: int, generation: int, *, first_sequence: int) -> None:
        """Take everything before `first_sequence` (at most one above the last) out of a stream; it
        is fine if it is gone."""
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


class Recollection(Protocol):
    """What this peer had applied, kept where the end of its process leaves it and a power cut, or
    an older copy of the store, does not: so that a process which starts can tell whether its store
    has lost anything that was told to others."""

    def recall(self) -> list[Position] | None:
        """What was kept last for this store; None where that is unknown."""
        ...

    def keep(self, positions: Sequence[Position]) -> None:
        """Remember these, before anybody is told of them."""
        ...


class Servers(Protocol):
    """The servers of the bus, asked about their settings."""

    async def faults(self) -> dict[str, str]:
        """Server -> why its acknowledgements cannot be trusted with a write; servers that do not
        answer are left out. Raises `Unavailable` where fewer than a majority answer."""
        ...

    async def copies(self) -> list[StripeCopy]:
        """What each server says of its copies of this cell's stripes; servers that do not answer
        are left out. Raises `Unavailable` where fewer than a majority answer."""
        ...


class Peers(Protocol):
    """Requests from one member of a cell to another: for rows, and for operations that another can
    do better at the moment. At most once; an answer may be lost."""

    async def ask_rows(self, member: str, wanted: bytes, *, timeout_s: float) -> bytes:
        """What `member` answers to a packed `exchange.Wanted`; raises `Unavailable`."""
        ...

    async def serve_rows(self, give: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer other members with `give`, some at a time, until cancelled."""
        ...

    async def pass_on(
        self,
        member: str,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
    ) -> Answer:
        """What `member`'s service answers. Raises `Unavailable` where it is certain that nothing
        reached it, `OutcomeUnknown` where no answer came."""
        ...


class Store(Protocol):
    """The local state. Reads see whole batches only: a write's records appear together.

    A row whose state is not what its hash says is damaged. It is never joined, never given to
    another, and read as if it were not there; `set_aside` takes it out. `on_damage`, if somebody
    listens, is called with the keys of the damaged rows that a call meets, on the event loop and
    before that call returns, each time that they are met. Those that `apply` or `join` meets have
    been set aside by then, unless the call raises.

    Any call may raise `Unavailable` (the disk is full, read-only or failing: it may be tried
    again), and `StoreDamaged` (also an `Unavailable`) where the store as a whole is damaged.
    """

    incarnation: int
    on_damage: Callable[[Sequence[RecordKey]], None] | None

    @property
    def highest_block(self) -> int:
        """The highest id block in anything that was applied here."""
        ...

    async def apply(
        self, frames: Sequence[LoggedFrame], ends: Mapping[int, Position]
    ) -> list[Change]:
        """Join the frames and set the applied positions (stripe -> position) in ONE transaction,
        with digests and operation keys. Raises `InvariantBroken`; then, and when cancelled
        before the transaction began, nothing was applied. Durable against a crash of the
        process."""
        ...

    async def join(
        self,
        rows: Sequence[Row],
        operations: Sequence[KeptOperation],
        positions: Sequence[Position],
        highest_block: int = 0,
    ) -> list[Change]:
        """Join rows and operation keys of another peer, and raise the applied positions to at least
        `positions` (of any generation) and the highest id block to at least `highest_block`, in
        ONE transaction. A row whose state is not what its hash
        says raises `InvariantBroken`, and nothing is joined."""
        ...

    async def positions(self) -> dict[tuple[int, int], int]:
        """(stripe, generation) -> the last applied sequence, as of the last committed batch."""
        ...

    async def sync(self) -> dict[tuple[int, int], int]:
        """Have everything that was committed before the call on stable storage; the positions that
        a power cut would leave."""
        ...

    async def rows_after(self, after: RecordKey, *, bytes_max: int) -> tuple[list[Row], bool]:
        """Rows with keys above `after` (b"" is the beginning) in the order of their keys, at least
        one if there is one, and whether these are the last. Damaged ones are left out."""
        ...

    async def rows(self, keys: Sequence[RecordKey]) -> list[Row]:
        """Those of `keys` that exist and are not damaged."""
        ...

    async def operations_after(
        self, scope: ScopeKey, key: OperationKey, *, limit: int
    ) -> tuple[list[KeptOperation], bool]:
        """Operation keys above (scope, key) in their order, and whether these are the last."""
        ...

    async def digests(self) -> dict[int, int]:
        """Bucket -> the sum of its rows' hashes modulo 2^64; buckets without rows may be missing.
        As of the last committed batch."""
        ...

    async def hashes(self, buckets: Sequence[int]) -> dict[RecordKey, int]:
        """Every row of these buckets with its stored hash."""
        ...

    def scrub(self, *, rows_max: int) -> AsyncIterator[Scrubbed]:
        """Compare with its hash every row that is there from now to the end, in parts of at most so
        many rows; the caller pauses between them. After the last part what holds the rows is
        checked too, unless it was lately: `StoreDamaged` where it is broken. One at a time."""
        ...

    async def set_aside(self, keys: Sequence[RecordKey]) -> None:
        """Take damaged rows out, remember them as lacking, and put their buckets' sums right. Each
        is looked at once more: one that has been healed meanwhile stays."""
        ...

    async def take_out(self, keys: Sequence[RecordKey]) -> list[Record]:
        """Set rows aside though they may be sound: nobody wrote them. What the sound ones held."""
        ...

    async def lacking(self) -> list[RecordKey]:
        """Rows that were set aside and have not been joined again from another peer (`join`)."""
        ...

    async def settle(self, keys: Sequence[RecordKey]) -> None:
        """These are not lacking: a peer that has applied all that this one has knows of no such
        rows."""
        ...

    async def recount(self) -> list[int]:
        """Add all stored hashes up again: the buckets whose kept sum was wrong (rows were lost or
        put in behind the store's back). Their kept sums are right afterwards."""
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

    async def duplicates(
        self, texts: Sequence[tuple[ScopeKey, bytes]], since_ms: int
    ) -> dict[tuple[ScopeKey, bytes], Record]:
        """Of each of these texts, as (scope, hash), the oldest memory of the scope that was created
        with it since then and is not gone; those that have none are left out."""
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

    def memories(self, scope: ScopeKey) -> AsyncIterator[list[Record]]:
        """Every memory of a scope that is not forgotten or purged, in the order of their creation,
        some at a time. Each part is one snapshot; all together are not: whoever needs that listens
        to the changes that are applied meanwhile."""
        ...

    async def vectorless(
        self, after: RecordKey, *, model: str, dimensions: int, rows_max: int
    ) -> tuple[list[RecordKey], RecordKey | None]:
        """Which of the next `rows_max` rows with keys above `after` are memories that lack a vector
        of this model (`core.recall.vectors`), and where to go on; None at the end of the store."""
        ...

    async def newest_scopes(self, *, scopes_max: int, memories_max: int) -> list[ScopeKey]:
        """About the scopes that were written to last, newest first, while their memories together
        are at most `memories_max`."""
        ...

    async def of_kind(self, kind: str) -> list[Record]:
        """Every record of a small kind (api_key, organisation, project)."""
        ...

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        """What is kept of the write with this key; nothing of one that its record keeps
        (`core.memories.is_kept_by_record`)."""
        ...


__all__ = [
    "Answer", "Backend", "Change", "Channel", "Embedder", "Hit", "HotIndex", "Log", "LoggedFrame",
    "Marks", "Peers", "Question", "RawMessage", "Reasoner", "Recollection", "Scope",
    "ScopeNotLoadedError", "Scrubbed", "Servers", "Store", "StoredOperation", "Streams",
    "StripeCopy", "StripeState",
]  # fmt: skip
