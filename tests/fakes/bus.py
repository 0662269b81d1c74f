"""The bus in memory: stripes with generations, republishing, watermarks, ids; faults on request.

It behaves as the real one does, which tests/contracts hold it to: a publish that times out may or
may not be stored; the same message id is stored once per stream; a condition that does not hold
stores nothing, whether or not anybody hears so; what is republished may be lost; a stream may be
gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import msgspec

from memsync import limits
from memsync.errors import NoQuorum, NoStripeLeader, OutcomeUnknown, Unavailable, VersionConflict
from memsync.ids import Position, RecordKey
from memsync.ports import StripeState
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


class _Message(msgspec.Struct):
    message_id: str
    data: bytes
    record: bytes | None


class _Stream(msgspec.Struct):
    generation: int
    leader: str
    messages: list[_Message] = []
    first: int = 1
    erased: set[int] = set()

    @property
    def last(self) -> int:
        return self.first + len(self.messages) - 1

    def place_of(self, message_id: str) -> int | None:
        """The sequence of the message with this id."""
        found = (s for s, m in enumerate(self.messages, self.first) if m.message_id == message_id)
        return next(found, None)

    def last_of(self, record: bytes | None) -> int:
        """The sequence of the last message on a record's subject (None: on that of frames)."""
        found = (s for s, m in enumerate(self.messages, self.first) if m.record == record)
        return max((s for s in found if s not in self.erased), default=0)


class MemoryBus:
    """What all peers share. `faults` are by stripe; `deaf` stripes republish nothing; a stream
    takes no more than `stripe_bytes_max` bytes."""

    def __init__(self, *, stripe_bytes_max: int | None = None) -> None:
        self.stripe_bytes_max = stripe_bytes_max
        self.streams: dict[int, _Stream] = {}
        self.faults: dict[int, Fault] = {}
        self.deaf: set[int] = set()
        self.blocks = 0
        self.first_block: int | None = None
        self.listeners: dict[int, list[tuple[str, Heard]]] = {}
        self.mark_listeners: list[tuple[str, Callable[[bytes], None]]] = []
        self.cut_off: set[str] = set()
        self.moves: list[tuple[int, str]] = []
        self.gate: asyncio.Event | None = None  # publishes wait here while it is set and closed

    def found(self) -> None:
        """All stripes in generation 0, and the stream of ids."""
        for stripe in range(limits.STRIPES):
            self.streams[stripe] = _Stream(0, f"nats-{stripe + 1}")
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
        position = Position(stripe, stream.generation, stream.last)
        if stripe not in self.deaf:
            for name, heard in self.listeners.get(stripe, []):
                if name not in self.cut_off:
                    loop = asyncio.get_running_loop()
                    loop.call_soon(heard, RawMessage(position, data, message_id))
        return position

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

    def peer(self, name: str) -> PeerBus:
        """The bus as one peer reaches it."""
        return PeerBus(self, name)


class PeerBus:
    """`ports.Log`, `ports.Marks`, `ports.Streams` and `ports.Servers` for one peer."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self._bus = bus
        self._name = name
        self.server_faults: dict[str, str] = {}

    def fault(self) -> str | None:
        return "cut off" if self._name in self._bus.cut_off else None

    def _check(self) -> None:
        if self.fault() is not None:
            raise Unavailable("cut off; nothing was written")

    def _stream(self, stripe: int) -> _Stream:
        self._check()
        if stripe not in self._bus.streams:
            raise NoStripeLeader(f"stripe {stripe}: no such stream")
        return self._bus.streams[stripe]

    def _of_generation(self, stripe: int, generation: int) -> _Stream:
        self._check()
        stream = self._bus.streams.get(stripe)
        if stream is None or stream.generation != generation:
            raise Unavailable(f"stripe {stripe}: no stream of generation {generation}")
        return stream

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
        await asyncio.sleep(0)
        if self._bus.gate is not None:
            await self._bus.gate.wait()
        self._stream(stripe)
        fault = self._bus.faults.get(stripe, "")
        match fault:
            case "no leader":
                raise NoStripeLeader(f"stripe {stripe} has no leader; nothing was written")
            case "full":
                raise Unavailable(f"stripe {stripe} is full; nothing was written")
            case "silent":
                raise OutcomeUnknown(f"stripe {stripe} did not answer")
            case "unknown, then no leader":
                self._bus.faults[stripe] = "no leader"
        try:
            position = self._bus.offer(stripe, message_id, data, record, after)
        except (Unavailable, VersionConflict):
            if not fault:
                raise
        if fault:
            raise OutcomeUnknown(f"stripe {stripe} did not answer")
        return position

    async def fetch(self, start: Position) -> list[RawMessage]:
        await asyncio.sleep(0)
        stream = self._of_generation(start.stripe, start.generation)
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

    async def last_of_record(
        self, stripe: int, record: RecordKey, *, timeout_s: float
    ) -> Position | None:
        await asyncio.sleep(0)
        if self._bus.faults.get(stripe) == "no leader":
            raise NoStripeLeader(f"stripe {stripe} has no leader; nothing was written")
        self._check()
        stream = self._bus.streams.get(stripe)
        last = 0 if stream is None else stream.last_of(record)
        return Position(stripe, stream.generation, last) if stream and last else None

    async def listen(self, stripe: int, heard: Heard) -> None:
        self._bus.listeners.setdefault(stripe, []).append((self._name, heard))

    def marks(self) -> PeerMarks:
        """The watermarks of this peer."""
        return PeerMarks(self._bus, self._name)

    async def generation(self, stripe: int) -> int | None:
        self._check()
        stream = self._bus.streams.get(stripe)
        return None if stream is None else stream.generation

    async def state(self, stripe: int, generation: int) -> StripeState:
        stream = self._of_generation(stripe, generation)
        return StripeState(
            stripe=stripe,
            generation=generation,
            leader=stream.leader,
            servers=SERVERS,
            first_sequence=stream.first,
            last_sequence=stream.last,
        )

    async def create(self, stripe: int, generation: int) -> None:
        self._check()
        there = self._bus.streams.setdefault(stripe, _Stream(generation, "nats-1"))
        if there.generation != generation:
            raise Unavailable(f"stripe {stripe}: generation {there.generation} is there")

    async def ids_end(self) -> int | None:
        self._check()
        return None if self._bus.first_block is None else self._bus.first_block - 1

    async def create_ids(self, first_block: int) -> None:
        self._check()
        if self._bus.first_block is None:
            self._bus.first_block = first_block

    async def delete_ids(self) -> None:
        self._check()
        self._bus.first_block = None

    async def step_down(self, stripe: int, generation: int, *, preferred: str) -> None:
        stream = self._of_generation(stripe, generation)
        if preferred == stream.leader or preferred not in SERVERS:
            raise Unavailable(f"stripe {stripe}: {preferred} cannot take over")
        stream.leader = preferred
        self._bus.moves.append((stripe, preferred))

    async def lease(self) -> int:
        """The next id block, as `IdBlocks.lease` leases it."""
        if self.fault() is not None or self._bus.first_block is None:
            raise NoQuorum("no id block; nothing was written")
        self._bus.first_block += 1
        return self._bus.first_block - 1

    async def faults(self) -> dict[str, str]:
        self._check()
        return self.server_faults


class PeerMarks:
    """`ports.Marks` for one peer."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self._bus = bus
        self._name = name

    async def tell(self, data: bytes) -> None:
        if self._name in self._bus.cut_off:
            raise Unavailable("cut off")
        for name, heard in self._bus.mark_listeners:
            if name not in self._bus.cut_off:
                asyncio.get_running_loop().call_soon(heard, data)

    async def listen(self, heard: Callable[[bytes], None]) -> None:
        self._bus.mark_listeners.append((self._name, heard))
