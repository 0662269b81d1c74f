"""Answers of the version of a scope that this peer has: kept until anything of the scope changes.

An answer is kept under its scope and its question with all parameters. Every change of a memory
that this peer applies drops what is kept of its scope, in the same step in which the hot index
takes it; an answer that was begun before the change is not kept after it (`memsync.keeping`). So
what is found here is what the scope says, as of the last write that this peer applied. What changes
by time alone bounds it too: no answer outlives the next expiry in its scope, nor
`limits.RESULTS_AGE_S`, since how recent a memory is moves on. Only answers that lacked nothing are
kept. Whether this peer may answer as fresh is asked before, as for any recall.

What fails here costs no answer: the recall goes on without, tagged `cache`, and its breaker leaves
the cache alone for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from memsync import ids, limits
from memsync.clock import Clock
from memsync.core.records import Record
from memsync.engine.recall import breakers as calls
from memsync.engine.recall import metrics
from memsync.engine.recall.breakers import Breakers
from memsync.ids import RecordKey, Scope, ScopeKey
from memsync.keeping import Kept, Ticket
from memsync.ports import Change
from memsync.telemetry import logger
from memsync.wire import codec
from memsync.wire.replies import Freshness, QueryAnswer
from memsync.wire.requests import QueryRequest

_HITS, _MISSES = (metrics.RESULTS_LOOKED.labels(result) for result in ("hit", "miss"))
PROVIDER = "result-cache"  # its name among those of the breakers
# An answer in memory takes more than its JSON (measured with tracemalloc, see tests).
BYTES_PER_JSON_BYTE = 4
# What a request says that does not change what is found.
_APART = dict.fromkeys(
    ("consistency", "min_position", "end_user_id", "user_id", "tenant_id", "project_id",
     "environment")
)  # fmt: skip


class Result(msgspec.Struct, frozen=True):
    """An answer, the records that it shows, and the moment (wall clock) from which another memory
    of its scope is gone."""

    answer: QueryAnswer
    records: tuple[RecordKey, ...]
    until_ms: int | None


class Looked(msgspec.Struct, frozen=True):
    """What a look came to: an answer and the records that it shows, or what is needed to keep the
    one that is made instead."""

    key: bytes
    organisation: int
    scope: ScopeKey
    ticket: Ticket
    answer: QueryAnswer | None
    records: tuple[RecordKey, ...]


class Results:
    """The answers that are kept in this process. `apply` is one of those that are told of every
    batch of changes."""

    def __init__(self, clock: Clock, breakers: Breakers, kept: Kept[Result] | None = None) -> None:
        self._clock = clock
        if kept is None:
            kept = Kept(
                entries_max=limits.RESULTS_MAX,
                bytes_max=limits.RESULTS_BYTES_MAX,
                age_s_max=limits.RESULTS_AGE_S,
            )
        self._kept = kept
        self._breakers = breakers
        self._breakers.show_state(PROVIDER)
        metrics.RESULTS_BYTES.set_function(lambda: self._kept.bytes_used)

    def apply(self, changes: Sequence[Change]) -> None:
        """Let go of what is kept of the scopes that a batch changed."""
        scopes = {change.after.scope for change in changes if _is_news(change)}
        for scope in scopes:
            self._kept.drop(ids.scope_key(scope))

    def look(self, scope: Scope, request: QueryRequest, lacking: set[str]) -> Looked | None:
        """The answer to a question, if one is kept. None where the cache is of no use now: then
        `lacking` has `cache`."""
        ticket = self._breakers.ask(scope.organisation, PROVIDER)
        if ticket is None:
            lacking.add("cache")
            return None
        try:
            looked = self._look(scope, request)
        except Exception as error:  # noqa: BLE001 - a recall stage: answered without it, tagged
            self._failed(ticket, error, lacking)
            return None
        if looked.answer is None:
            self._breakers.given_up(ticket)  # `keep` follows, and tells
        else:
            self._breakers.succeeded(ticket)
        (_MISSES if looked.answer is None else _HITS).inc()
        return looked

    def keep(self, looked: Looked, result: Result, lacking: set[str]) -> None:
        """Keep what was made after a look. It must have lacked nothing by itself."""
        ticket = self._breakers.ask(looked.organisation, PROVIDER)
        if ticket is None:
            return
        try:
            size_bytes = len(codec.to_json(result.answer)) * BYTES_PER_JSON_BYTE
            self._kept.keep(
                looked.key,
                result,
                about=(looked.scope,),
                size_bytes=size_bytes,
                ticket=looked.ticket,
            )
        except Exception as error:  # noqa: BLE001 - a recall stage: the answer is there without it
            self._failed(ticket, error, lacking)
        else:
            self._breakers.succeeded(ticket)

    def _look(self, scope: Scope, request: QueryRequest) -> Looked:
        # As JSON: msgpack has no integers beyond 64 bits, and a filter may ask for one.
        question = codec.to_json(msgspec.structs.replace(request, **_APART))
        scope_key = ids.scope_key(scope)
        key = blake2b(question, key=scope_key, digest_size=16).digest()
        now_s = self._clock.steady_s()
        found = self._kept.find(key, now_s)
        answer: QueryAnswer | None = None
        records: tuple[RecordKey, ...] = ()
        if found is not None:
            result, age_s = found
            if result.until_ms is None or self._clock.wall_ms() < result.until_ms:
                answer, records = _given(result.answer, age_ms=age_s * 1000), result.records
        ticket = self._kept.ticket(now_s)
        return Looked(key, scope.organisation, scope_key, ticket, answer, records)

    def _failed(self, ticket: calls.Ticket, error: Exception, lacking: set[str]) -> None:
        self._breakers.failed(ticket)
        lacking.add("cache")
        metrics.PROVIDER_FAILURES.labels(PROVIDER).inc()
        logger().warning("results.failed", error=type(error).__name__)


def _given(answer: QueryAnswer, *, age_ms: float) -> QueryAnswer:
    """The kept answer as it is given now."""
    return msgspec.structs.replace(answer, freshness=Freshness(age_ms=round(age_ms, 3)))


def _is_news(change: Change) -> bool:
    """Whether a change may be seen in an answer; what is only counted (uses) moves it too little to
    matter for `limits.RESULTS_AGE_S`."""
    before, after = change.before, change.after
    if after.kind != "memory":
        return False
    return before is None or _without_counts(before) != _without_counts(after)


def _without_counts(record: Record) -> tuple[object, ...]:
    return (
        record.ids, record.origin_stamp, record.registers, record.elements, record.purged,
        record.origin is None,
    )  # fmt: skip
