"""Embedding again: every memory gets a vector of the primary's model, sooner or later.

A memory lacks one if no provider answered when it was written, if another model's did, or since the
settings name another model. Whoever is the first member alive looks through its store once after
its start, a page at a time, and from then on at every change that it applies; what lacks a vector
is embedded in small batches, for at most half of the time, and written as an update of the register
`vector`. That changes neither `version` nor `updated_at`, and a repeat of it changes nothing: so
nothing has to be remembered. A crash, another first member or a provider that is away only mean
that it goes on later. A batch that fails is halved: a text that the provider refuses ends up alone,
behind all others, and is tried again as seldom as a provider that is away. Recall goes on
meanwhile, as `engine.recall.embedding` says.

A record may still get another text in its first seconds, when two peers took one `client_ref` at
once: it is left alone until a frame of that time would have been given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from memsync import ids, limits
from memsync.clock import Clock
from memsync.core.memories import content_of, origin_of
from memsync.core.recall.vectors import REGISTER, lacks_vector
from memsync.core.records import Record, stamps_of
from memsync.engine.cell.members import Members
from memsync.engine.recall import metrics
from memsync.engine.recall.embedding import Embedding, packed
from memsync.engine.writing.appender import Appender
from memsync.errors import MemsyncError, OutcomeUnknown, Unavailable
from memsync.ids import RecordKey, Scope
from memsync.ports import Change, Store
from memsync.tasks import is_going_on, pause
from memsync.telemetry import describe, logger
from memsync.wire import codec
from memsync.wire.operations import Update, Vector, Write

LOOK_S = 1.0  # between two looks whether there is something to do
RIPE_MS = int(limits.FRAME_S_MAX * 1_000)
FIRST_FOR_S = 2.0  # a peer that has just started has not heard the others yet
BACKOFF_S_MAX = 60.0
_SCOPE = Scope(0, "", "", "")  # of the write; each update names the scope of its memory


class Reembedding:
    """See the module. `apply` is one of the engine's `derived`."""

    def __init__(
        self, store: Store, embedding: Embedding, clock: Clock, *, look_s: float = LOOK_S
    ) -> None:
        self._store = store
        self._embedding = embedding
        self._clock = clock
        self._look_s = look_s
        self._pending: dict[RecordKey, bool] = {}  # whether it failed by itself
        self._batch = limits.REEMBED_BATCH
        self._after: RecordKey | None = RecordKey(b"")  # None: the whole store was looked through
        self._first_since_s: float | None = None
        self._failures = 0

    @property
    def remaining(self) -> int:
        """How many memories are known to lack a vector."""
        return len(self._pending)

    def said(self) -> str | None:
        """What a person may want to know; None where nothing lacks a vector."""
        if not self._pending:
            return None
        more = " or more" if self._after is not None else ""
        return f"{self.remaining}{more} memories wait for a vector of {self._embedding.model}"

    def apply(self, changes: Sequence[Change]) -> None:
        """Note which of these memories lack a vector, and which do no longer."""
        if not self._embedding.dimensions:
            return
        for change in changes:
            if change.after.kind == "memory":
                if self._lacks(change.after):
                    self._note(change.after.key)
                else:
                    self._pending.pop(change.after.key, None)

    async def run(self, appender: Appender, members: Members) -> None:
        """Embed what lacks a vector, whenever this falls to this member; until cancelled."""
        if not self._embedding.dimensions:
            await asyncio.Event().wait()  # nothing to do, for as long as there is a peer
        while is_going_on():
            began_s = self._clock.steady_s()
            is_busy = False
            if self._is_ours(members):
                is_busy = await self._turn(appender)
            metrics.MEMORIES_TO_EMBED.set(self.remaining)
            took_s = self._clock.steady_s() - began_s
            backoff_s = min(self._look_s * 2**self._failures, BACKOFF_S_MAX)
            rest_s = max(took_s, limits.REEMBED_PAUSE_S)
            await pause(rest_s if is_busy and not self._failures else backoff_s)

    def _is_ours(self, members: Members) -> bool:
        """Whether this member has been the first for a while, so that two seldom do the same."""
        now_s = self._clock.steady_s()
        if not (members.is_first_alive() and members.has_majority()):
            self._first_since_s = None
            return False
        if self._first_since_s is None:
            self._first_since_s = now_s
        return members.is_only_one() or now_s - self._first_since_s >= FIRST_FOR_S

    async def _turn(self, appender: Appender) -> bool:
        """Look through one more page and embed one batch; whether there is more to do at once.
        Failures are over once a batch was written, or nothing is left."""
        try:
            await self._look_further()
            is_done = await self._embed_some(appender)
        except OutcomeUnknown:
            return True  # if it was written it is applied, and noted; else it is done again
        except MemsyncError as error:
            self._failures = min(self._failures + 1, 16)
            logger().warning("memories.not_embedded", left=self.remaining, **describe(error))
            return False
        if is_done or not self._pending:
            self._failures = 0
        return is_done or self._after is not None

    async def _look_further(self) -> None:
        if self._after is None or len(self._pending) >= limits.REEMBED_PENDING_MAX:
            return
        found, self._after = await self._store.vectorless(
            self._after,
            model=self._embedding.model,
            dimensions=self._embedding.dimensions,
            rows_max=limits.REEMBED_ROWS,
        )
        for key in found:
            self._note(key)

    def _note(self, key: RecordKey) -> None:
        if key in self._pending:
            return
        if len(self._pending) < limits.REEMBED_PENDING_MAX:
            self._pending[key] = False
        else:
            self._after = RecordKey(b"")  # one that is let go of is found again

    async def _embed_some(self, appender: Appender) -> bool:
        """Embed a batch and write it; whether there was one. Raises `Unavailable` where no provider
        embeds it, and what the appender raises."""
        keys = self._next()
        if not keys:
            return False
        records = await self._store.records(keys)
        for key in keys:
            if key not in records or not self._lacks(records[key]):
                self._pending.pop(key, None)
        ripe_ms = self._clock.wall_ms() - RIPE_MS
        due = [
            record
            for key in keys
            if (record := records.get(key)) is not None
            and self._lacks(record)
            and origin_of(record).created_at_ms <= ripe_ms
        ]
        for key in keys:  # those that are too young go to the end
            if key in self._pending:
                self._pending[key] = self._pending.pop(key)
        if not due:
            return False
        vectors = await self._embedding.by_primary([content_of(one).text for one in due])
        if vectors is None:
            self._part(due)
            raise Unavailable(f"no provider embeds a batch of {len(due)}")
        self._batch = min(2 * self._batch, limits.REEMBED_BATCH)
        await self._write(appender, due, [self._packed(vector) for vector in vectors])
        for record in due:
            self._pending.pop(record.key, None)
        metrics.MEMORIES_EMBEDDED.inc(len(due))
        return True

    def _next(self) -> list[RecordKey]:
        """The next batch. What failed by itself comes one by one, after all else."""
        keys = [key for key, has_failed in self._pending.items() if not has_failed]
        return keys[: self._batch] or list(self._pending)[:1]

    def _part(self, failed: Sequence[Record]) -> None:
        """One text that a provider refuses must not keep the others of its batch from theirs."""
        self._batch = max(1, len(failed) // 2)
        if len(failed) == 1:
            self._pending[failed[0].key] = True

    def _packed(self, vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Vector:
        model = self._embedding.model
        return packed(model, vector) if vector.any() else Vector(model, b"")

    def _lacks(self, record: Record) -> bool:
        return lacks_vector(record, self._embedding.model, self._embedding.dimensions)

    async def _write(
        self, appender: Appender, records: Sequence[Record], vectors: Sequence[Vector]
    ) -> None:
        """One write for a batch; raises what the appender raises."""
        write = Write(
            key=ids.new_operation_key(),
            request_hash=b"",
            kept_s=limits.OPERATION_KEY_OURS_S,
            scope=_SCOPE,
            actor="peer",
            reason="embedded again",
            stamp=appender.stamp(above=[s for one in records for s in stamps_of(one)]),
            outcome=[],
            operations=[
                Update(one.key, one.scope, one.kind, {REGISTER: codec.pack(codec.seal(vector))})
                for one, vector in zip(records, vectors, strict=True)
            ],
        )
        deadline_s = self._clock.steady_s() + limits.DEADLINE_S_DEFAULT
        await appender.write(write, ack="quorum", deadline_s=deadline_s)
