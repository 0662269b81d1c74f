"""A peer's service on fakes, and callers that speak to it as HTTP and NATS do: headers and JSON."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from memsync import ids
from memsync.core.membership import founded
from memsync.core.records import Record
from memsync.engine.cell.members import Members
from memsync.engine.cell.membership import Standing
from memsync.engine.directory import Directory
from memsync.engine.progress import Progress
from memsync.ids import OperationKey, Position, ScopeKey
from memsync.ports import Answer, LoggedFrame, StoredOperation
from memsync.service.founding import genesis_writes
from memsync.service.parts import Parts
from memsync.service.service import Service
from memsync.service.sharing import Sharing
from memsync.wire import genesis
from memsync.wire.members import Watermark
from memsync.wire.operations import SCHEMA, Frame
from memsync.wire.replies import ClusterInfo, MemberInfo
from tests.fakes.appender import JoiningAppender
from tests.fakes.bus import MemoryBus
from tests.fakes.clock import START_MS
from tests.fakes.freshness import DirectPeers, SetLeases, SetMembers
from tests.fakes.recall import WordRecall
from tests.fakes.store import MemoryStore


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def wall_ms(self) -> int:
        return self.now_ms

    def steady_s(self) -> float:
        return (self.now_ms - START_MS) / 1000 + 1_000.0

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


class FailingStore(MemoryStore):
    """A store that raises `fault`, where it is set, on reading pages and operations."""

    fault: Exception | None = None

    async def page(
        self, scope: ScopeKey, *, now_ms: int, limit: int, offset: int
    ) -> tuple[list[Record], int]:
        if self.fault is not None:
            raise self.fault
        return await super().page(scope, now_ms=now_ms, limit=limit, offset=offset)

    async def operation(self, scope: ScopeKey, key: OperationKey) -> StoredOperation | None:
        if self.fault is not None:
            raise self.fault
        return await super().operation(scope, key)


class Ids:
    """Consecutive ids of block 5."""

    def __init__(self) -> None:
        self.next = ids.memory_id(0, 5, 1)
        self.taken = 0

    async def take(self, count: int) -> tuple[int, int]:
        first = self.next
        self.next += count
        self.taken += count
        return first, self.next - 1


class AllWell:
    """A health object."""

    def checks(self) -> dict[str, str]:
        return {"store": "ok"}

    def is_recalling(self) -> bool:
        return True


class Reply:
    """An answer, opened."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.json: Any = msgspec.json.decode(answer.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])

    def __repr__(self) -> str:
        return f"{self.status} {self.json}"


class World:
    """One peer, founded, with the founding key."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = FailingStore()
        self.directory = Directory()
        self.progress = Progress(self.clock)
        for part in list(self.progress.behind()):
            self.progress.set_behind(part, None)
        self.appender = JoiningAppender(self.store, self.directory, self.progress, self.clock)
        self.leases = SetLeases()
        self.members = SetMembers("peer-1", ["peer-2"])
        self.peers = DirectPeers()
        own = Watermark("peer-1", "cell", 1, 9, [], [], {}, "", 9, 0)
        members = Members(
            "peer-1",
            founded(["peer-1"]),
            "cell",
            marks=MemoryBus().peer("peer-1").marks(),
            progress=self.progress,
            clock=self.clock,
            own=lambda: own,
            incarnation=lambda: 9,
        )
        self.standing = Standing(
            members, self.progress, self.clock, label="cell", incarnation=lambda: 9
        )
        self.recall = WordRecall(self.store, self.clock)
        self.cell_secret = "secret of the cell"
        self.ids = Ids()
        self.genesis, self.key = genesis.found(
            cell="cell",
            region="local",
            members=["peer-1"],
            environment="development",
            founded_at_ms=START_MS - 1000,
        )
        self.service = self.new_service()

    def new_service(self) -> Service:
        """The service of this peer as after a restart."""
        parts = Parts(
            clock=self.clock,
            store=self.store,
            directory=self.directory,
            appender=self.appender,  # type: ignore[arg-type]
            progress=self.progress,
            leases=self.leases,  # type: ignore[arg-type]
            members=self.members,  # type: ignore[arg-type]
            standing=self.standing,
            cluster=self.cluster,
            peers=self.peers,  # type: ignore[arg-type]
            recall=self.recall,
            ids=self.ids,
            sharing=Sharing(self.clock),
            cell_secret=self.cell_secret,
        )
        return Service(parts, AllWell())

    def cluster(self) -> ClusterInfo:
        """What cluster.members shows."""
        current = self.standing.current
        return ClusterInfo(
            cell="cell",
            version=current.version,
            majority=current.majority,
            members=[MemberInfo(name=name, alive=True) for name in current.members],
            observers=[],
            removed=list(current.removed),
            stripes=[],
        )

    async def found(self) -> None:
        frame = Frame(SCHEMA, 0, 0, [genesis_writes(self.genesis)])
        logged = LoggedFrame(Position(0, 0, 0), frame, 0)
        self.directory.apply(await self.store.apply([logged], {}))

    async def twin(self) -> World:
        """Another peer of the same cell; what is written there is here once this one has `heard`
        it, and the other way round."""
        other = World()
        other.genesis, other.key, other.clock = self.genesis, self.key, self.clock
        other.appender = JoiningAppender(
            other.store, other.directory, other.progress, other.clock, incarnation=10
        )
        other.ids.next = ids.memory_id(0, 6, 1)
        other.service = other.new_service()
        await other.found()
        return other

    async def hear(self, other: World) -> None:
        """Apply everything that was written at another peer."""
        for write in other.appender.writes:
            logged = LoggedFrame(Position(1, 0, 1), Frame(SCHEMA, 10, 1, [write]), 0)
            self.directory.apply(await self.store.apply([logged], {}))

    async def call(
        self,
        operation: str,
        body: Any = None,
        *,
        user: str | None = "ada",
        key: str | None = None,
        **headers: str,
    ) -> Reply:
        """A call with the founding key unless another is given ("" for none); header names come
        with underscores: `Idempotency_Key="k"`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key != "":
            sent["X-API-Key"] = key or self.key
        if user is not None:
            sent["X-End-User-ID"] = user
        data = (
            body if isinstance(body, bytes) else msgspec.json.encode({} if body is None else body)
        )
        return Reply(await self.service.call(operation, sent, data))

    async def add(self, text: str = "the cat sleeps", **rest: Any) -> Reply:
        """memory.add; keywords with a capital are headers, `user` and `key` are the caller's."""
        named = {name: rest.pop(name) for name in list(rest) if name in ("user", "key")}
        headers = {name: rest.pop(name) for name in list(rest) if name[0].isupper()}
        return await self.call("memory.add", {"text": text, **rest}, **named, **headers)

    async def new_key(self, **fields: Any) -> str:
        """The secret of a new key."""
        reply = await self.call("keys.create", {"rate_limit_tier": "unlimited", **fields})
        assert reply.status == 201, reply
        return str(reply.json["key"])

    async def texts(self, **caller: Any) -> list[str]:
        """What the list shows, newest first."""
        reply = await self.call("memory.list", {"limit": 100}, **caller)
        assert reply.status == 200, reply
        return [item["text"] for item in reply.json["items"]]


_counter = itertools.count()


def unique() -> str:
    """A text that no other call makes."""
    return f"text number {next(_counter)}"
