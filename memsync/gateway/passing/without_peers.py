"""What a recall is answered that no peer answers: the last good answer to the same question, else
an empty list. Both have the usual shape and say what they lack.

An answer is kept for `limits.LAST_ANSWERS_AGE_S`, under a hash of the API key, the scope as far as
the request names it, and the question with all its parameters: no key and no words of a question
stand here. It is dropped when this gateway writes for the same end user, and when it hears of a
change (`news.py`); so none is kept of a peer whose news are not heard, as of an earlier version or
while the bus is away. One that a peer was not sure of itself is not kept: it may hold what this
gateway has heard to be forgotten. Nothing is given of which a memory has expired since.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Collection
from hashlib import blake2b
from typing import Any

import msgspec

from memsync import errors, ids, limits
from memsync.clock import Clock
from memsync.gateway import metrics
from memsync.gateway.exchange import error_to_answer
from memsync.gateway.passing.question import Named
from memsync.keeping import Kept, Ticket
from memsync.ports import Answer
from memsync.wire import codec, context, replies, requests
from memsync.wire.news import about_user

CACHE, REPLICATION, SEARCH = "cache", "replication", "search"
LACKING = (CACHE, REPLICATION)  # of an answer that was kept
_NOT_KEPT = {SEARCH, REPLICATION}
HEARD_S = 2 * limits.NEWS_S  # who has told nothing for so long is not heard


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question on its way to the peers: under what its answer would be kept, and since when."""

    key: bytes
    about: tuple[bytes, ...]
    key_hash: bytes
    ticket: Ticket


class _Memory(msgspec.Struct, frozen=True):
    expires_at: str | None = None


class _Read(msgspec.Struct, frozen=True):
    """What is read of a kept answer; the rest of it is given as it is."""

    memories: list[_Memory]
    degraded_components: list[str]
    sla_target_ms: int


class LastAnswers:
    """The last good answers of this gateway. Their age goes on while the machine is suspended."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: Kept[bytes] = Kept(
            entries_max=limits.LAST_ANSWERS_MAX,
            bytes_max=limits.LAST_ANSWERS_BYTES_MAX,
            age_s_max=limits.LAST_ANSWERS_AGE_S,
        )
        self._heard_s: OrderedDict[str, float] = OrderedDict()  # the longest silent first
        metrics.LAST_ANSWERS.set_function(lambda: len(self._kept))
        metrics.LAST_ANSWERS_BYTES.set_function(lambda: self._kept.bytes_used)

    def asked(self, found: context.Context, named: Named, body: bytes) -> Asked:
        """To be called before any peer is asked."""
        key_hash = ids.secret_hash(found.api_key or "")
        user = named.end_user or found.end_user or ""
        parts = (found.project or "", user, found.consistency)
        digest = blake2b(key_hash, digest_size=16)
        for part in (*(part.encode("utf-8", "surrogatepass") for part in parts), body):
            digest.update(b"%d:" % len(part) + part)
        return Asked(
            key=digest.digest(),
            about=(about_user(user), key_hash),
            key_hash=key_hash,
            ticket=self._kept.ticket(self._clock.steady_s()),
        )

    def heard(self, member: str) -> None:
        """A peer tells its news."""
        self._heard_s[member] = self._clock.steady_s()
        self._heard_s.move_to_end(member)
        if len(self._heard_s) > 4 * limits.MEMBERS_MAX:
            self._heard_s.popitem(last=False)

    def note(self, asked: Asked, answer: Answer, degraded: Collection[str], member: str) -> None:
        """A peer answered: keep it if it is good and this gateway will hear what changes there, and
        nothing for a key that is not good."""
        if answer.status in (401, 403):
            self.drop_key(asked.key_hash, "refused")
        elif answer.status != 200 or _NOT_KEPT & set(degraded):
            return
        elif self._heard_s.get(member, -HEARD_S) <= self._clock.steady_s() - HEARD_S:
            self._kept.forget(asked.key)  # changed since, for all that is known here
        else:
            self._kept.keep(
                asked.key,
                answer.body,
                about=asked.about,
                size_bytes=len(answer.body),
                ticket=asked.ticket,
            )

    def drop_user(self, user: bytes, why: str) -> None:
        """The memories of an end user (`wire.news.about_user`) changed."""
        self._count(self._kept.drop(user), why)

    def drop_key(self, key_hash: bytes, why: str) -> None:
        """An API key (`ids.secret_hash`) changed, or is no good."""
        self._count(self._kept.drop(key_hash), why)

    def drop_all(self, why: str) -> None:
        """Anything may have changed."""
        self._count(self._kept.drop_all(), why)

    def written(self, operation: str, found: context.Context, named: Named) -> None:
        """A write goes through this gateway, or has: its caller knows of it."""
        if not operation.startswith("memory."):
            self.drop_all("written")
            return
        for user in {*named.end_users, found.end_user or ""}:
            self.drop_user(about_user(user), "written")

    def last(self, asked: Asked, *, elapsed_ms: float) -> Answer | None:
        """What is kept for a question that no peer answers, and has waited for so long."""
        found = self._kept.find(asked.key, self._clock.steady_s())
        if found is None:
            return None
        body, age_s = found
        try:
            answer = codec.from_json(body, _Read)
        except errors.MemsyncError:
            answer = None  # a peer of another version answers otherwise: an empty list is left
        if answer is None or _has_expired(answer.memories, self._clock.wall_ms()):
            self._kept.forget(asked.key)
            self._count(1, "expired")
            return None
        return _stale(body, answer, age_ms=age_s * 1000, elapsed_ms=elapsed_ms)

    def _count(self, dropped: int, why: str) -> None:
        if dropped:
            metrics.LAST_ANSWERS_DROPPED.labels(why).inc(dropped)


def _has_expired(memories: Collection[_Memory], wall_ms: int) -> bool:
    ends = [requests.parse_moment(m.expires_at) for m in memories if m.expires_at is not None]
    return any(end <= wall_ms for end in ends)


def _stale(body: bytes, answer: _Read, *, age_ms: float, elapsed_ms: float) -> Answer:
    """The kept answer as it is given now; what it is made of else stays as the peer wrote it."""
    components = [*(name for name in answer.degraded_components if name not in LACKING), *LACKING]
    now: dict[str, Any] = {
        "latency_ms": round(elapsed_ms, 2),
        "query_id": "q_" + secrets.token_hex(12),
        "degraded": True,
        "degraded_components": components,
        "freshness": replies.Freshness(source="cache", age_ms=round(age_ms, 1)),
        "sla_met": elapsed_ms <= answer.sla_target_ms,
    }
    metrics.WITHOUT_PEERS.labels("kept").inc()
    headers = {context.DEGRADED: ",".join(components)}
    fields = codec.from_json(body, dict[str, msgspec.Raw])
    return Answer(200, headers, codec.to_json({**fields, **now}))


def empty_recall(request_id: str, body: bytes, elapsed_ms: float) -> Answer:
    """The answer where nothing is kept either: empty. Raises nothing: a question that is wrong is
    answered so."""
    try:
        asked = codec.from_json(body, requests.QueryRequest)
        requests.check(requests.query_problems(asked))
    except errors.MemsyncError as error:
        return error_to_answer(error, request_id)
    metrics.WITHOUT_PEERS.labels("empty").inc()
    target_ms = limits.RECALL_BUDGET_MS[asked.computation_tier]
    components = [SEARCH, REPLICATION]
    answer = replies.QueryAnswer(
        memories=[],
        context="",
        confidence=0.0,
        latency_ms=round(elapsed_ms, 2),
        session_id=asked.session_id,
        query_intent="factual",
        query_id="q_" + secrets.token_hex(12),
        degraded=True,
        degraded_components=components,
        freshness=replies.Freshness(source="cache", age_ms=0.0),
        sla_target_ms=target_ms,
        sla_met=elapsed_ms <= target_ms,
    )
    return Answer(200, {context.DEGRADED: ",".join(components)}, codec.to_json(answer))
