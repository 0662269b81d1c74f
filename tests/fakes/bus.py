"""The bus in memory: stripes with generations, republishing, watermarks, ids; faults on request.

It behaves as jetstream.md says the real one does: a publish that times out may or may not be
stored; the same message id is stored once per stream; what is republished may be lost; a stream may
be gone.
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

Fault = Literal["", "no leader", "silent", "stored but silent", "full"]
Heard = Callable[[RawMessage], None]


class _Message(msgspec.Struct):
    message_id: str
    data: bytes
    record: bytes | None


class _Stream(msgspec.Struct):
    generation: int
    leader: str
    messages: list[_Message] = []
    first: int = 1


class MemoryBus:
    """What all peers share. `faults` are by stripe; `deaf` stripes republish nothing."""

    def __init__(self) -> None:
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

    def store(self, stripe: int, message_id: str, data: bytes, record: bytes | None) -> Position:
        """Append, unless the id is there already; then tell the listeners."""
        stream = self.streams[stripe]
        for place, message in enumerate(stream.messages):
            if message.message_id == message_id:
                return Position(stripe, stream.generation, stream.first + place)
        stream.messages.append(_Message(message_id, data, record))
        sequence = stream.first + len(stream.messages) - 1
        position = Position(stripe, stream.generation, sequence)
        if stripe not in self.deaf:
            for name, heard in self.listeners.get(stripe, []):
                if name not in self.cut_off:
                    loop = asyncio.get_running_loop()
                    loop.call_soon(heard, RawMessage(position, data, message_id))
        return position

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
        stream = self._stream(stripe)
        match self._bus.faults.get(stripe, ""):
            case "no leader":
                raise NoStripeLeader(f"stripe {stripe} has no leader; nothing was written")
            case "full":
                raise Unavailable(f"stripe {stripe} is full; nothing was written")
            case "silent":
                raise OutcomeUnknown(f"stripe {stripe} did not answer")
            case "stored but silent":
                self._bus.store(stripe, message_id, data, record)
                raise OutcomeUnknown(f"stripe {stripe} did not answer")
        if after is not None and after != self._last(stream, record):
            raise VersionConflict("changed by another")
        return self._bus.store(stripe, message_id, data, record)

    def _last(self, stream: _Stream, record: RecordKey | None) -> int:
        places = [i for i, m in enumerate(stream.messages) if m.record == record]
        return stream.first + places[-1] if places else 0

    async def fetch(self, start: Position) -> list[RawMessage]:
        await asyncio.sleep(0)
        stream = self._stream(start.stripe)
        if stream.generation != start.generation:
            raise Unavailable("no such stream")
        begin = max(start.sequence, stream.first)
        return [
            RawMessage(Position(start.stripe, stream.generation, s), m.data, m.message_id)
            for s, m in enumerate(stream.messages[begin - stream.first :], begin)
        ][: limits.FETCH_BATCH_MESSAGES]

    async def last_of_record(self, stripe: int, record: RecordKey) -> int:
        await asyncio.sleep(0)
        if self._bus.faults.get(stripe) == "no leader":
            raise NoStripeLeader(f"stripe {stripe} has no leader; nothing was written")
        return self._last(self._stream(stripe), record)

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
        stream = self._stream(stripe)
        return StripeState(
            stripe=stripe,
            generation=generation,
            leader=stream.leader,
            servers=("nats-1", "nats-2", "nats-3"),
            first_sequence=stream.first,
            last_sequence=stream.first + len(stream.messages) - 1,
        )

    async def create(self, stripe: int, generation: int) -> None:
        self._check()
        self._bus.streams.setdefault(stripe, _Stream(generation, "nats-1"))

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
        self._check()
        self._bus.streams[stripe].leader = preferred
        self._bus.moves.append((stripe, preferred))

    async def lease(self) -> int:
        """The next id block."""
        self._check()
        if self._bus.first_block is None:
            raise NoQuorum("no stream of ids")
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
