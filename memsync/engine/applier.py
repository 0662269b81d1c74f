"""The applier: takes frames in the order of each stripe, joins them into the store, then tells
everybody.

One batch is: decode, one transaction (records, positions, digests, operation keys), one step into
the derived indexes, positions advanced, watermark sent, waiting writers woken. What arrives while a
batch is being committed forms the next one. A frame that cannot be read, or that breaks an
invariant, stops the applier: this peer then says why, coordinates nothing, and goes on answering
recalls (tagged).

Anti-entropy cuts the log with marks (`core.marks`): a stripe whose mark was applied is held, and
what comes for it waits among what is queued, until all stripes have reached theirs. At that moment
the buckets' sums are read, with nothing else being applied.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence

from memsync import limits
from memsync.core.marks import Cut, Hold
from memsync.core.records import Record
from memsync.engine import metrics
from memsync.engine.progress import Progress
from memsync.errors import InvariantBroken, OutcomeUnknown, Unavailable
from memsync.ids import Position, RecordKey
from memsync.ports import Change, LoggedFrame, Store
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.exchange import KeptOperation, Row
from memsync.wire.operations import Frame, RawMessage, frame_id, incarnation_in

RETRY_S = 0.5
SUMS_S = 1.0  # reading them takes a millisecond

Applied = dict[RecordKey, Record]


class Applier:
    """See the module. `derived` are told of every committed batch, in order, in one step. Messages
    at `void` positions have no effect: a person decided so."""

    def __init__(
        self,
        store: Store,
        progress: Progress,
        derived: Sequence[Callable[[Sequence[Change]], None]],
        *,
        void: Collection[Position] = (),
    ) -> None:
        self._store = store
        self.void = frozenset(void)
        self.progress = progress
        self._derived = derived
        self._queue: deque[RawMessage] = deque()
        self._held: deque[RawMessage] = deque()  # of stripes that wait at their marks
        self._queue_bytes = 0
        self._applied_ids: dict[str, None] = {}  # of the last frames, the oldest first
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._own: dict[str, tuple[Frame, asyncio.Future[Applied]]] = {}
        self.listeners: list[Callable[[Collection[int]], None]] = []  # hear whose frames came
        self.hold = Hold()
        self.cut_listeners: list[Callable[[Cut, dict[int, int]], None]] = []  # are told the sums
        self._turn = asyncio.Lock()  # one commit at a time, and what follows it, in one order
        self.broken: str | None = None  # why this peer applies no more
        self.failing: str | None = None  # why the store does not take batches right now

    def put(self, messages: Sequence[RawMessage]) -> None:
        """Queue frames, in the order of their stripe, each once."""
        self._queue.extend(messages)
        self._queue_bytes += sum(len(message.data) for message in messages)
        for message in messages:
            self.hold.note_queued(message)
        self._arrived.set()
        if (
            len(self._queue) + len(self._held) >= limits.TAIL_QUEUE_FRAMES_MAX
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
        if self.progress.knows(position) or self.broken is not None:
            return
        try:
            await self._store.apply([], {position.stripe: position})
        except InvariantBroken as error:
            self._stop(error)
        else:
            self.progress.advance([position])

    def expect(self, frame: Frame) -> asyncio.Future[Applied]:
        """The records of an own frame once it is applied, from whichever stripe it comes first. The
        decoded frame is kept until then, so that it is not decoded a second time."""
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._own[frame_id(frame)] = (frame, future)
        return future

    async def joined(self, frame: Frame, applied: asyncio.Future[Applied]) -> Applied:
        """The records of an own frame that is covered, so applied here. It may have come as rows of
        another peer, or been passed as void: then the frame itself never comes."""
        if applied.done():
            return applied.result()
        keys = list({op.record for write in frame.writes for op in write.operations})
        try:
            return await self._store.records(keys)
        except Unavailable as error:
            raise OutcomeUnknown(
                "written, but it cannot be read here; repeat it with the same key"
            ) from error

    def forget(self, frame: Frame) -> None:
        """Expect a frame no longer."""
        self._own.pop(frame_id(frame), None)

    async def join_rows(
        self,
        rows: Sequence[Row],
        operations: Sequence[KeptOperation],
        positions: Sequence[Position],
        *,
        highest_block: int,
    ) -> None:
        """Join what another peer gave, between two batches of frames: the derived indexes and all
        who wait for positions follow as they do after a batch. Raises `InvariantBroken` where the
        rows cannot be believed or this peer applies nothing; then nothing was joined."""
        async with self._turn:
            if self.broken is not None:
                raise InvariantBroken(self.broken)
            changes = await self._commit(
                lambda: self._store.join(rows, operations, positions, highest_block=highest_block)
            )
            self._derive(changes)
            self.progress.advance(positions)

    async def take_out(self, keys: Sequence[RecordKey]) -> None:
        """Set rows aside that nobody wrote, between two batches; the derived indexes drop them. May
        raise `Unavailable`; then nothing was done."""
        async with self._turn:
            taken = await self._store.take_out(keys)
            gone = [
                Change(before=record, after=Record(record.kind, record.key, record.scope))
                for record in taken
            ]
            self._derive(gone)

    async def run(self) -> None:
        """Apply until cancelled. A commit that has begun is finished first."""
        while is_going_on():
            await self._wait_arrived()
            batch = self._take_batch()
            if not self._queue:
                self._arrived.clear()
            if batch and self.broken is None:
                try:
                    async with self._turn:
                        await self._apply_or_name(batch)
                except InvariantBroken as error:
                    self._stop(error)
            if self.hold.is_on:
                await self._cut_or_pass()
            if (
                len(self._queue) + len(self._held) < limits.TAIL_QUEUE_FRAMES_MAX // 2
                and self._queue_bytes < limits.TAIL_QUEUE_BYTES_MAX // 2
            ):
                self._room.set()

    def _stop(self, error: InvariantBroken) -> None:
        self.broken = str(error)
        self.progress.set_behind("applier", self.broken)
        metrics.APPLIER_BROKEN.set(1)
        logger().critical("applier.stopped", **describe(error))

    async def _wait_arrived(self) -> None:
        """Until there are frames to be applied; while stripes are held, no longer than they are."""
        if not self.hold.is_on:
            await self._arrived.wait()
            return
        try:
            async with asyncio.timeout_at(self.hold.until_s):
                await self._arrived.wait()
        except TimeoutError:
            pass

    def _take_batch(self) -> list[RawMessage]:
        """What is to be applied next. It ends where all stripes have reached their marks."""
        batch: list[RawMessage] = []
        size = 0
        while (
            self._queue
            and len(batch) < limits.APPLY_FRAMES_MAX
            and size < limits.APPLY_BYTES_MAX
            and not self.hold.is_whole
        ):
            message = self._queue.popleft()
            if self.hold.holds(message.position.stripe):
                self._held.append(message)
                continue
            batch.append(message)
            size += len(message.data)
            if self.hold.note_taken(message, asyncio.get_running_loop().time()) is not None:
                self._let_go("overtaken")
        self._queue_bytes -= size
        return batch

    async def _cut_or_pass(self) -> None:
        """Read the sums if all stripes wait at their marks; wait no longer if that is hopeless."""
        if self.hold.is_whole and self.broken is None:
            cut = self.hold.cut()
            try:
                async with asyncio.timeout(SUMS_S), self._turn:
                    sums = await self._store.digests()
            except (Unavailable, TimeoutError):
                sums = None
            self.hold.end()
            self._let_go("store" if sums is None else None)
            if sums is not None:
                for listen in self.cut_listeners:
                    listen(cut, sums)
        elif self.broken is not None or self.hold.is_hopeless(
            asyncio.get_running_loop().time(), can_more_come=self.has_room or bool(self._queue)
        ):
            self.hold.end()
            self._let_go("late")

    def _let_go(self, passed_over: str | None) -> None:
        """Put what was held before everything else that is queued: each stripe stays in order."""
        if passed_over is not None:
            metrics.ROUNDS_PASSED.labels(passed_over).inc()
        self._queue.extendleft(reversed(self._held))
        self._held.clear()
        if self._queue:
            self._arrived.set()

    async def _apply_or_name(self, batch: Sequence[RawMessage]) -> None:
        """Apply a batch; where it cannot be, apply what comes before the message at fault, and say
        which one that is and what can be done."""
        try:
            await self._apply(batch)
        except InvariantBroken as error:
            if len(batch) == 1:
                raise _named(batch[0], error) from error
            for message in batch:
                await self._apply_or_name([message])

    def _is_void(self, message: RawMessage) -> bool:
        if message.position not in self.void:
            return False
        metrics.FRAMES_VOIDED.inc()
        logger().critical(
            "frame.voided", position=str(message.position), message_id=message.message_id[:100]
        )
        return True

    async def _apply(self, batch: Sequence[RawMessage]) -> None:
        started = time.perf_counter()
        new = [message for message in self._new(batch) if not self._is_void(message)]
        frames = [self._decoded(message) for message in new]
        ends: dict[int, Position] = {}
        for message in batch:
            ends[message.position.stripe] = max(
                message.position, ends.get(message.position.stripe, message.position)
            )
        changes = await self._commit(lambda: self._store.apply(frames, ends))
        self._derive(changes)
        after = {change.after.key: change.after for change in changes}
        for logged in frames:
            self._resolve(logged.frame, after)
        self.progress.advance(ends.values())
        coordinators = {incarnation_in(message.message_id) for message in batch}
        for listen in self.listeners:
            listen(coordinators)
        self._remember([message for message in batch if message.position not in self.void])
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

    async def _commit(self, commit: Callable[[], Awaitable[list[Change]]]) -> list[Change]:
        """Commit, as often as it takes: a full or slow disk delays this peer, it loses nothing."""
        while True:
            try:
                changes = await asyncio.shield(commit())
            except Unavailable as error:
                self.failing = error.message
                self.progress.set_behind("store", error.message)
                metrics.STORE_FAILURES.inc()
                logger().error("batch.not_committed", **describe(error))
                await pause(RETRY_S)
                continue
            self.failing = None
            self.progress.set_behind("store", None)
            return changes

    def _derive(self, changes: Sequence[Change]) -> None:
        for derive in self._derived:
            derive(changes)

    def _resolve(self, frame: Frame, after: Applied) -> None:
        own = self._own.pop(frame_id(frame), None)
        if own is None or own[1].done():
            return
        keys = {op.record for write in frame.writes for op in write.operations}
        own[1].set_result({key: after[key] for key in keys})


def _named(message: RawMessage, error: InvariantBroken) -> InvariantBroken:
    """The same error, with where it lies and the ways out."""
    place = f"{message.position.stripe}.{message.position.generation}.{message.position.sequence}"
    return InvariantBroken(
        f"{error}. It lies at {place} of the log, {len(message.data)} bytes, message id "
        f"{message.message_id[:100]!r}. If a newer version of memsync wrote it, upgrade this peer; "
        "if nobody of yours did, find out who else may publish on this bus; to pass it by without "
        f'effect, add void_positions = ["{place}"] to the settings of EVERY peer of this cell and '
        "start them again"
    )
