"""The applier: takes frames in the order of each stripe, joins them into the store, then tells
everybody.

One batch is: decode, one transaction (records, positions, digests, operation keys), one step into
the derived indexes, positions advanced, watermark sent, waiting writers woken. What arrives while a
batch is being committed forms the next one. A frame that cannot be read, or that breaks an
invariant, stops the applier for good: this peer then says why, coordinates nothing, and goes on
answering recalls (tagged).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from memsync import limits
from memsync.core.records import Record
from memsync.engine import metrics
from memsync.engine.progress import Progress
from memsync.errors import InvariantBroken, Unavailable
from memsync.ids import Position, RecordKey
from memsync.ports import Change, LoggedFrame, Store
from memsync.tasks import is_going_on
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.operations import Frame, RawMessage, frame_id

RETRY_S = 0.5

Applied = dict[RecordKey, Record]


class Applier:
    """See the module. `derived` are told of every committed batch, in order, in one step."""

    def __init__(
        self,
        store: Store,
        progress: Progress,
        derived: Sequence[Callable[[Sequence[Change]], None]],
    ) -> None:
        self._store = store
        self._progress = progress
        self._derived = derived
        self._queue: deque[RawMessage] = deque()
        self._queue_bytes = 0
        self._applied_ids: dict[str, None] = {}  # of the last frames, the oldest first
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._own: dict[str, tuple[Frame, asyncio.Future[Applied]]] = {}
        self.broken: str | None = None  # why this peer applies no more
        self.failing: str | None = None  # why the store does not take batches right now

    def put(self, messages: Sequence[RawMessage]) -> None:
        """Queue frames, in the order of their stripe, each once."""
        self._queue.extend(messages)
        self._queue_bytes += sum(len(message.data) for message in messages)
        self._arrived.set()
        if (
            len(self._queue) >= limits.TAIL_QUEUE_FRAMES_MAX
            or self._queue_bytes >= limits.TAIL_QUEUE_BYTES_MAX
        ):
            self._room.clear()

    async def wait_room(self) -> None:
        """Wait until the queue is not full; readers of the log do this between batches."""
        await self._room.wait()

    @property
    def has_room(self) -> bool:
        """Whether frames may be queued without waiting."""
        return self._room.is_set()

    async def open_generation(self, position: Position) -> None:
        """Remember that a generation of a stripe exists (`position` has sequence 0) before anything
        in it is applied: so that it can never be made a second time should it be lost."""
        if self._progress.knows(position) or self.broken is not None:
            return
        try:
            await self._store.apply([], {position.stripe: position})
        except InvariantBroken as error:
            self._stop(error)
        else:
            self._progress.advance([position])

    def expect(self, frame: Frame) -> asyncio.Future[Applied]:
        """The records of an own frame once it is applied, from whichever stripe it comes first. The
        decoded frame is kept until then, so that it is not decoded a second time."""
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._own[frame_id(frame)] = (frame, future)
        return future

    def forget(self, frame: Frame) -> None:
        """Expect a frame no longer."""
        self._own.pop(frame_id(frame), None)

    async def run(self) -> None:
        """Apply until cancelled. A commit that has begun is finished first."""
        while is_going_on():
            await self._arrived.wait()
            batch = self._take_batch()
            if not self._queue:
                self._arrived.clear()
            if self.broken is None:
                try:
                    await self._apply(batch)
                except InvariantBroken as error:
                    self._stop(error)
            if (
                len(self._queue) < limits.TAIL_QUEUE_FRAMES_MAX // 2
                and self._queue_bytes < limits.TAIL_QUEUE_BYTES_MAX // 2
            ):
                self._room.set()

    def _stop(self, error: InvariantBroken) -> None:
        self.broken = str(error)
        self._progress.set_behind("applier", self.broken)
        metrics.APPLIER_BROKEN.set(1)
        logger().critical("applier.stopped", **describe(error))

    def _take_batch(self) -> list[RawMessage]:
        batch: list[RawMessage] = []
        size = 0
        while (
            self._queue and len(batch) < limits.APPLY_FRAMES_MAX and size < limits.APPLY_BYTES_MAX
        ):
            batch.append(self._queue.popleft())
            size += len(batch[-1].data)
        self._queue_bytes -= size
        return batch

    async def _apply(self, batch: Sequence[RawMessage]) -> None:
        started = time.perf_counter()
        frames = [self._decoded(message) for message in self._new(batch)]
        ends: dict[int, Position] = {}
        for message in batch:
            ends[message.position.stripe] = max(
                message.position, ends.get(message.position.stripe, message.position)
            )
        changes = await self._commit(frames, ends)
        for derive in self._derived:
            derive(changes)
        after = {change.after.key: change.after for change in changes}
        for logged in frames:
            self._resolve(logged.frame, after)
        self._progress.advance(ends.values())
        self._remember(batch)
        metrics.APPLY_SECONDS.observe(time.perf_counter() - started)
        metrics.FRAMES_APPLIED.inc(len(frames))

    def _new(self, batch: Sequence[RawMessage]) -> list[RawMessage]:
        """Those that were not applied lately, each once. A frame that was tried on several stripes
        comes once from each; its id is its own for ever, so equal ids are equal frames."""
        found: dict[str, RawMessage] = {}
        for place, message in enumerate(batch):
            if message.message_id not in self._applied_ids:
                found.setdefault(message.message_id or f"unnamed {place}", message)
        return list(found.values())

    def _remember(self, batch: Sequence[RawMessage]) -> None:
        for message in batch:
            if message.message_id:
                self._applied_ids[message.message_id] = None
        while len(self._applied_ids) > limits.FRAMES_REMEMBERED:
            del self._applied_ids[next(iter(self._applied_ids))]

    def _decoded(self, message: RawMessage) -> LoggedFrame:
        own = self._own.get(message.message_id)
        frame = own[0] if own is not None else codec.decode_frame(message.data)
        return LoggedFrame(position=message.position, frame=frame, size_bytes=len(message.data))

    async def _commit(
        self, frames: Sequence[LoggedFrame], ends: dict[int, Position]
    ) -> list[Change]:
        """Commit, as often as it takes: a full or slow disk delays this peer, it loses nothing."""
        while True:
            try:
                changes = await asyncio.shield(self._store.apply(frames, ends))
            except Unavailable as error:
                self.failing = error.message
                self._progress.set_behind("store", error.message)
                metrics.STORE_FAILURES.inc()
                logger().error("batch.not_committed", **describe(error))
                await asyncio.sleep(RETRY_S)
                continue
            self.failing = None
            self._progress.set_behind("store", None)
            return changes

    def _resolve(self, frame: Frame, after: Applied) -> None:
        own = self._own.pop(frame_id(frame), None)
        if own is None or own[1].done():
            return
        keys = {op.record for write in frame.writes for op in write.operations}
        own[1].set_result({key: after[key] for key in keys})
