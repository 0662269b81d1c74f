"""The bus in memory: stripes with generations, republishing, watermarks, ids; faults on request.

It behaves as the real one does, which tests/contracts hold it to: a publish that times out may or
may not be stored; the same message id is stored once per stream; a condition that does not hold
stores nothing, whether or not anybody hears so; what is republished may be lost; a stream may be
gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Literal, Protocol, TypeVar

import msgspec

from memsync import limits
from memsync.errors import NoQuorum, NoStripeLeader, OutcomeUnknown, Unavailable, VersionConflict
from memsync.ids import Position, RecordKey
from memsync.ports import Answer, Backend, StripeCopy, StripeState
from memsync.wire.operations import RawMessage

Fault = Literal[
    "",
    "no leader",
    "full",
    "silent",  # nothing is stored and nobody is told
    "stored but silent",  # what may be stored is; nobody is told
    "unknown, then no leader",  # "stored but silent" once, from then on "no leader"
]
Heard = Callable[[RawMessage], None]
SERVERS = ("nats-1", "nats-2", "nats-3")
BUS = "bus"  # as a place that messages go to and come from
ENDED = "an ended process"
API_TIMEOUT_S = 1.0  # of a question about streams
T = TypeVar("T")


class SilentError(Exception):
    """Whoever was asked does not answer. It may have done what it was asked to do."""


class Network(Protocol):
    """How everything travels that goes from one place (a member's name, or `BUS`) to another."""

    def send(self, kind: str, source: str, target: str, deliver: Callable[[], None]) -> None:
        """Have `deliver` called once, later, or never."""
        ...

    async def ask(self, kind: str, source: str, do: Callable[[], T], *, timeout_s: float) -> T:
        """What the bus answers, which does `do` when it is asked; raises what that raises, and
        `SilentError` where no answer comes."""
        ...

    async def call(
        self, kind: str, source: str, target: str, do: Callable[[], Awaitable[T]], timeout_s: float
    ) -> T:
        """What another member answers; raises as `ask` does."""
        ...


class Wires:
    """A network on which everything arrives in order, after `takes_s`: at once, where it is 0."""

    takes_s = 0.0

    def send(self, kind: str, source: str, target: str, deliver: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if self.takes_s:
            loop.call_later(self.takes_s, deliver)
        else:
            loop.call_soon(deliver)

    async def ask(self, kind: str, source: str, do: Callable[[], T], *, timeout_s: float) -> T:
        await asyncio.sleep(self.takes_s)
        return do()

    async def call(
        self, kind: str, source: str, target: str, do: Callable[[], Awaitable[T]], timeout_s: float
    ) -> T:
        await asyncio.sleep(self.takes_s)
        answering = asyncio.ensure_future(do())
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answering)  # who answers does not hear who gave up
        except TimeoutError as error:
            raise SilentError from error


class LongWires(Wires):
    """A load without a pause needs that time goes on, also where it is virtual."""

    takes_s = 0.004


class _Message(msgspec.Struct):
    message_id: str
    data: bytes
    record: bytes | None


class _Stream(msgspec.Struct):
    generation: int
    leader: str
    messages: list[_Message] = []
    first: int = 1
    cell: str = "cell"  # whose it is
    erased: set[int] = set()
    ids: dict[str, int] = {}  # of every message that was stored, also of those that are gone

    @property
    def last(self) -> int:
        return self.first + len(self.messages) - 1

    def place_of(self, message_id: str) -> int | None:
        """The sequence of the message with this id."""
        return self.ids.get(message_id)

    def last_of(self, record: bytes | None, lag: int = 0) -> int:
        """The sequence of the last message on a record's subject (None: on that of frames), where
        the newest `lag` messages of the stream have not arrived."""
        found = (s for s, m in enumerate(self.messages, self.first) if m.record == record)
        here = (s for s in found if s <= self.last - lag and s not in self.erased)
        return max(here, default=0)


class MemoryBus:
    """What all peers share. `faults` are by stripe; `deaf` stripes republish nothing; a stream
    takes no more than `stripe_bytes_max` bytes."""

    def __init__(
        self, *, stripe_bytes_max: int | None = None, network: Network | None = None
    ) -> None:
        self.network: Network = network or Wires()
        self.stripe_bytes_max = stripe_bytes_max
        self.streams: dict[int, _Stream] = {}
        self.faults: dict[int, Fault] = {}
        self.faults_met: Counter[int] = Counter()  # publishes that met one
        self.deaf: set[int] = set()
        self.blocks = 0
        self.first_block: int | None = None
        self.leased = 0  # the highest block that was told to all
        self.listeners: dict[int, list[tuple[str, Heard]]] = {}
        self.mark_listeners: list[tuple[str, Callable[[bytes], None]]] = []
        self.announcement_listeners: list[tuple[str, Callable[[bytes], None]]] = []
        self.lease_listeners: list[tuple[str, Callable[[int], None]]] = []  # of leased id blocks
        self.cut_off: set[str] = set()
        self.moves: list[tuple[int, str]] = []
        self.givers: dict[str, Callable[[bytes], Awaitable[bytes]]] = {}
        self.giving: dict[str, int] = {}  # answers in the making, by member
        self.services: dict[str, Backend] = {}  # who answers what is passed on, by member
        # By how many messages the server is behind that says what is last on a record's subject.
        self.lag: Callable[[], int] = lambda: 0
        self.gate: asyncio.Event | None = None  # publishes wait here while it is set and closed

    def found(self, cell: str = "cell") -> None:
        """All stripes in generation 0, and the stream of ids."""
        for stripe in range(limits.STRIPES):
            self.streams[stripe] = _Stream(0, f"nats-{stripe + 1}", cell=cell)
        self.first_block = 1

    def lose(self, stripe: int) -> None:
        """The stream of a stripe is gone, with all that was in it."""
        del self.streams[stripe]

    def erase(self, stripe: int, sequence: int) -> None:
        """One message is gone from within the stream."""
        self.streams[stripe].erased.add(sequence)

    def purge(self, stripe: int) -> None:
        """The stream is empty and goes on counting where it was."""
        stream = self.streams[stripe]
        stream.first = stream.last + 1
        stream.messages.clear()
        stream.erased.clear()

    def store(self, stripe: int, message_id: str, data: bytes, record: bytes | None) -> Position:
        """Append, unless the id is there already; then tell the listeners."""
        stream = self.streams[stripe]
        if (place := stream.place_of(message_id)) is not None:
            return Position(stripe, stream.generation, place)
        stream.messages.append(_Message(message_id, data, record))
        if message_id:
            stream.ids[message_id] = stream.last
        message = RawMessage(Position(stripe, stream.generation, stream.last), data, message_id)
        if stripe not in self.deaf:
            for name, heard in self.listeners.get(stripe, []):
                if name not in self.cut_off:
                    self.network.send("frame", BUS, name, partial(heard, message))
        return message.position

    def offer(
        self, stripe: int, message_id: str, data: bytes, record: bytes | None, after: int | None
    ) -> Position:
        """Store as the leader would, or raise what it answers."""
        stream = self.streams[stripe]
        if len(data) > limits.NATS_PAYLOAD_BYTES_MAX:
            raise Unavailable(f"{len(data)} bytes are too many; nothing was written")
        if stream.place_of(message_id) is None:
            if after is not None and after != stream.last_of(record):
                raise VersionConflict("changed by another")
            if self._is_full(stream, len(data)):
                raise Unavailable(f"stripe {stripe} is full; nothing was written")
        return self.store(stripe, message_id, data, record)

    def _is_full(self, stream: _Stream, more_bytes: int) -> bool:
        held = sum(len(message.data) for message in stream.messages)
        return self.stripe_bytes_max is not None and held + more_bytes > self.stripe_bytes_max

    def take(
        self, stripe: int, message_id: str, data: bytes, record: bytes | None, after: int | None
    ) -> Position:
        """Offer to a stripe as it is at the moment, with its fault."""
        if stripe not in self.streams:
            raise NoStripeLeader(f"stripe {stripe}: no such stream")
        fault = self.faults.get(stripe, "")
        self.faults_met[stripe] += bool(fault)
        match fault:
            case "no leader":
                raise NoStripeLeader(f"stripe {stripe} has no leader; nothing was written")
            case "full":
                raise Unavailable(f"stripe {stripe} is full; nothing was written")
            case "silent":
                raise SilentError
            case "unknown, then no leader":
                self.faults[stripe] = "no leader"
        try:
            position = self.offer(stripe, message_id, data, record, after)
        except (Unavailable, VersionConflict):
            if not fault:
                raise
        if fault:
            raise SilentError
        return position

    def of_generation(self, stripe: int, generation: int) -> _Stream:
        """The stream of a generation; raises `Unavailable` where it is not there."""
        stream = self.streams.get(stripe)
        if stream is None or stream.generation != generation:
            raise Unavailable(f"stripe {stripe}: no stream of generation {generation}")
        return stream

    def generation(self, stripe: int) -> int | None:
        """The generation of a stripe that there is."""
        stream = self.streams.get(stripe)
        return None if stream is None else stream.generation

    def state(self, stripe: int, generation: int) -> StripeState:
        """What the leader says."""
        stream = self.of_generation(stripe, generation)
        return StripeState(
            stripe=stripe,
            generation=generation,
            leader=None if self.faults.get(stripe) == "no leader" else stream.leader,
            servers=SERVERS,
            first_sequence=stream.first,
            last_sequence=stream.last,
            bytes=sum(len(message.data) for message in stream.messages),
            bytes_max=self.stripe_bytes_max or -1,
            deleted=len(stream.erased),
            cell=stream.cell,
            current=SERVERS,
        )

    def create(self, stripe: int, generation: int, cell: str) -> None:
        """Make a generation, unless it is there."""
        there = self.streams.setdefault(stripe, _Stream(generation, "nats-1", cell=cell))
        if there.generation != generation:
            raise Unavailable(f"stripe {stripe}: generation {there.generation} is there")

    def adopt(self, stripe: int, generation: int, cell: str) -> None:
        """Note whose a stream is, unless that is noted."""
        stream = self.of_generation(stripe, generation)
        stream.cell = stream.cell or cell

    def copies(self) -> list[StripeCopy]:
        """All servers have the same."""
        return [
            StripeCopy(server, k, s.generation, s.first, s.last, len(s.erased))
            for server in SERVERS
            for k, s in self.streams.items()
        ]

    def trim(self, stripe: int, generation: int, first_sequence: int) -> None:
        """Take everything before `first_sequence` out."""
        stream = self.of_generation(stripe, generation)
        gone = min(max(0, first_sequence - stream.first), len(stream.messages))
        del stream.messages[:gone]
        stream.first += gone
        stream.erased = {sequence for sequence in stream.erased if sequence >= stream.first}

    async def give(self, member: str, wanted: bytes) -> bytes:
        """What a member gives; one that gives to others already does not answer."""
        if member not in self.givers or self.giving.get(member, 0) >= limits.EXCHANGE_SERVED_MAX:
            raise SilentError
        self.giving[member] = self.giving.get(member, 0) + 1
        try:
            return await self.givers[member](wanted)
        finally:
            if member in self.giving:
                self.giving[member] -= 1

    async def serve(
        self, member: str, operation: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """What a member's service answers."""
        if member not in self.services:
            raise SilentError
        return await self.services[member].call(operation, headers, body)

    def disown(self, bus: PeerBus, marks: PeerMarks, peers: PeerPeers) -> None:
        """A process has ended: nobody hears it any more, and it hears nothing."""
        name = bus._name
        self.mark_listeners[:] = [entry for entry in self.mark_listeners if entry[0] != name]
        self.lease_listeners[:] = [entry for entry in self.lease_listeners if entry[0] != name]
        for listeners in self.listeners.values():
            listeners[:] = [entry for entry in listeners if entry[0] != name]
        self.givers.pop(name, None)
        self.giving.pop(name, None)
        self.services.pop(name, None)
        self.cut_off.add(ENDED)
        bus._name = marks._name = peers._name = ENDED

    def peer(self, name: str) -> PeerBus:
        """The bus as one peer reaches it."""
        return PeerBus(self, name)


class PeerBus:
    """`ports.Log`, `ports.Marks`, `ports.Streams` and `ports.Servers` for one peer."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self.identity = "cell"
        self.server_faults: dict[str, str] = {}

    def fault(self) -> str | None:
        return "cut off" if self._name in self._bus.cut_off else None

    def _check(self) -> None:
        if self.fault() is not None:
            raise Unavailable("cut off; nothing was written")

    async def _ask(self, kind: str, do: Callable[[], T], timeout_s: float = API_TIMEOUT_S) -> T:
        self._check()
        try:
            return await self._bus.network.ask(kind, self._name, do, timeout_s=timeout_s)
        except SilentError as error:
            raise Unavailable(f"{kind}: no answer") from error

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
        if self._bus.gate is not None:
            await self._bus.gate.wait()
        self._check()
        do = partial(self._bus.take, stripe, message_id, data, record, after)
        try:
            return await self._bus.network.ask("publish", self._name, do, timeout_s=timeout_s)
        except SilentError as error:
            raise OutcomeUnknown(f"stripe {stripe} did not answer") from error

    async def fetch(self, start: Position) -> list[RawMessage]:
        return await self._ask("fetch", partial(self._fetch, start), limits.FETCH_TIMEOUT_S)

    def _fetch(self, start: Position) -> list[RawMessage]:
        stream = self._bus.of_generation(start.stripe, start.generation)
        begin = max(start.sequence, stream.first)
        found: list[RawMessage] = []
        size_bytes = 0
        for sequence, message in enumerate(stream.messages[begin - stream.first :], begin):
            if sequence in stream.erased:
                continue
            size_bytes += len(message.data)
            if len(found) >= limits.FETCH_BATCH_MESSAGES or (
                found and size_bytes > limits.FETCH_BATCH_BYTES
            ):
                break
            position = Position(start.stripe, stream.generation, sequence)
            found.append(RawMessage(position, message.data, message.message_id))
        return found

    async def fetch_from_leader(self, position: Position) -> RawMessage | None:
        do = partial(self._fetch_from_leader, position)
        return await self._ask("fetch_from_leader", do, limits.FETCH_TIMEOUT_S)

    def _fetch_from_leader(self, position: Position) -> RawMessage | None:
        stream = self._bus.of_generation(position.stripe, position.generation)
        if self._bus.faults.get(position.stripe) == "no leader":
            raise Unavailable(f"stripe {position.stripe} has no leader")
        is_there = stream.first <= position.sequence <= stream.last
        if not is_there or position.sequence in stream.erased:
            return None
        message = stream.messages[position.sequence - stream.first]
        return RawMessage(position, message.data, message.message_id)

    async def last_of_record(
        self, stripe: int, generation: int, record: RecordKey, *, timeout_s: float
    ) -> int:
        do = partial(self._last_of_record, stripe, generation, record)
        return await self._ask("last", do, timeout_s)

    def _last_of_record(self, stripe: int, generation: int, record: RecordKey) -> int:
        return self._bus.of_generation(stripe, generation).last_of(record, self._bus.lag())

    async def listen(self, stripe: int, heard: Heard) -> None:
        self._bus.listeners.setdefault(stripe, []).append((self._name, heard))

    def peers(self) -> PeerPeers:
        """The other members, as this peer asks them."""
        return PeerPeers(self._bus, self._name)

    def marks(self) -> PeerMarks:
        """The watermarks of this peer."""
        return PeerMarks(self._bus, self._name)

    async def generation(self, stripe: int) -> int | None:
        return await self._ask("generation", partial(self._bus.generation, stripe))

    async def state(self, stripe: int, generation: int) -> StripeState:
        return await self._ask("state", partial(self._bus.state, stripe, generation))

    async def create(self, stripe: int, generation: int) -> None:
        await self._ask("create", partial(self._bus.create, stripe, generation, self.identity))

    async def adopt(self, stripe: int, generation: int) -> None:
        await self._ask("adopt", partial(self._bus.adopt, stripe, generation, self.identity))

    async def trim(self, stripe: int, generation: int, *, first_sequence: int) -> None:
        await self._ask("trim", partial(self._bus.trim, stripe, generation, first_sequence))

    async def ids_end(self) -> int | None:
        return await self._ask("ids_end", self._ids_end)

    def _ids_end(self) -> int | None:
        return None if self._bus.first_block is None else self._bus.first_block - 1

    async def create_ids(self, first_block: int) -> None:
        await self._ask("create_ids", partial(self._create_ids, first_block))

    def _create_ids(self, first_block: int) -> None:
        if self._bus.first_block is None:
            self._bus.first_block = first_block

    async def delete_ids(self) -> None:
        await self._ask("delete_ids", self._delete_ids)

    def _delete_ids(self) -> None:
        self._bus.first_block = None

    async def step_down(self, stripe: int, generation: int, *, preferred: str) -> None:
        await self._ask("step_down", partial(self._step_down, stripe, generation, preferred))

    def _step_down(self, stripe: int, generation: int, preferred: str) -> None:
        stream = self._bus.of_generation(stripe, generation)
        if preferred == stream.leader or preferred not in SERVERS:
            raise Unavailable(f"stripe {stripe}: {preferred} cannot take over")
        stream.leader = preferred
        self._bus.moves.append((stripe, preferred))

    async def lease(self) -> int:
        """The next id block, as `IdBlocks.lease` leases it."""
        try:
            return await self._ask("lease", self._lease)
        except Unavailable as error:
            raise NoQuorum("no id block; nothing was written") from error

    def _lease(self) -> int:
        if self._bus.first_block is None:
            raise NoQuorum("no id block; nothing was written")
        block = self._bus.first_block
        self._bus.first_block += 1
        self._bus.leased = max(self._bus.leased, block)
        return block

    def leased(self) -> int:
        """The highest block that any leaser told of."""
        return self._bus.leased

    async def faults(self) -> dict[str, str]:
        return await self._ask("faults", lambda: self.server_faults)

    async def copies(self) -> list[StripeCopy]:
        return await self._ask("copies", self._bus.copies)


class PeerMarks:
    """`ports.Marks` for one peer."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self._bus = bus
        self._name = name

    async def tell(self, data: bytes, *, only: str | None = None) -> None:
        self._send(data, [(n, h) for n, h in self._bus.mark_listeners if only in (n, None)])

    async def announce(self, data: bytes) -> None:
        self._send(data, [*self._bus.mark_listeners, *self._bus.announcement_listeners])

    def _send(self, data: bytes, listeners: Sequence[tuple[str, Callable[[bytes], None]]]) -> None:
        if self._name in self._bus.cut_off:
            raise Unavailable("cut off")
        for name, heard in listeners:
            if name not in self._bus.cut_off:
                self._bus.network.send("mark", self._name, name, partial(heard, data))

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        self._bus.mark_listeners.append((self._name, heard))


class PeerPeers:
    """`ports.Peers` for one peer."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self._bus = bus
        self._name = name

    async def ask_rows(self, member: str, wanted: bytes, *, timeout_s: float) -> bytes:
        self._check(member, self._bus.givers)
        do = partial(self._bus.give, member, wanted)
        try:
            return await self._bus.network.call("rows", self._name, member, do, timeout_s)
        except SilentError as error:
            raise Unavailable(f"{member} did not answer") from error

    async def serve_rows(self, give: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._bus.givers[self._name] = give
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if self._bus.givers.get(self._name) is give:  # not another process of this name
                del self._bus.givers[self._name]

    async def pass_on(
        self,
        member: str,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        timeout_s: float,
    ) -> Answer:
        self._check(member, self._bus.services)
        do = partial(self._bus.serve, member, operation, headers, body)
        try:
            return await self._bus.network.call("pass_on", self._name, member, do, timeout_s)
        except SilentError as error:
            raise OutcomeUnknown(f"{member} did not answer") from error

    def _check(self, member: str, there: Mapping[str, object]) -> None:
        if not {self._name, member}.isdisjoint(self._bus.cut_off) or member not in there:
            raise Unavailable(f"{member} is not reached")
