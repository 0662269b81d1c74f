"""What callers get back: the bodies of answers, field names exactly as in the API."""

from __future__ import annotations

from typing import Any

import msgspec


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A memory as callers see it. Times are ISO 8601; `version` is opaque, to be compared."""

    id: int
    text: str
    summary: str | None = None
    source: str | None = None
    event_type: str | None = None
    created_at: str
    updated_at: str
    tags: list[str]
    importance: float
    metadata: dict[str, Any]
    is_summary: bool = False
    user_id: int
    session_id: str | None = None
    tier: str = "hot"
    expires_at: str | None = None
    key_points: list[str] = []
    quality_score: float | None = None
    memory_type: str = "memory"
    occurred_at: str | None = None
    role: str | None = None
    end_user_id: str
    client_ref: str | None = None
    version: str


class RecalledMemory(Memory, frozen=True, kw_only=True):
    """A memory in the answer to a question: `score` 0..1 and the parts that it is made of."""

    score: float
    scoring: dict[str, float]


class AddSkipped(msgspec.Struct, frozen=True, kw_only=True):
    """An add that stored nothing: `already_ingested`, `duplicate` or `no_high_value_content`."""

    status: str = "skipped"
    reason: str
    memory_ids: list[int]
    candidates_extracted: int = 1
    candidates_stored: int = 0


class BulkItem(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item: created, skipped or rejected."""

    index: int
    status: str
    memory_ids: list[int]
    reason: str | None = None


class BulkAdded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a bulk add."""

    total: int
    created: int
    skipped: int
    rejected: int
    results: list[BulkItem]


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """Where an answer comes from, and how old it is. `peer`: the one that was asked; `other_peer`:
    one that it passed the question on to, being behind itself; `cache`: a gateway's, or nobody."""

    source: str = "peer"
    age_ms: float = 0.0


class ExplainedStage(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage took, and what the answer lacks because of it: then a fallback was used."""

    stage: str
    took_ms: float
    lacking: list[str]


class ExplainedCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A memory of the answer: its rank from 1, its score, and the parts that it is made of."""

    memory_id: int
    rank: int
    score: float
    parts: dict[str, float]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a question was answered as it was. `member` answered it; `weights` are what the parts of
    a score were weighed with, none for an answer that was kept from before; `models` those whose
    vectors of the question were compared; `filters` the names of those that were set."""

    query_id: str
    member: str
    created_at: str
    query_intent: str
    k: int
    traversal_depth: int
    computation_tier: str
    filters: list[str]
    weights: dict[str, float]
    models: list[str]
    stages: list[ExplainedStage]
    candidates: list[ExplainedCandidate]
    confidence: float
    degraded_components: list[str]
    freshness: Freshness
    latency_ms: float
    sla_met: bool
    truncated: bool = False


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question; the same shape when degraded. `latency_ms` is the peer's own;
    `explanation` is there where it was asked for."""

    memories: list[RecalledMemory]
    context: str
    confidence: float
    latency_ms: float
    session_id: str | None
    query_intent: str
    query_id: str
    degraded: bool
    degraded_components: list[str]
    freshness: Freshness
    sla_target_ms: int
    sla_met: bool
    truncated: bool = False
    explanation: Explanation | msgspec.UnsetType = msgspec.UNSET


class MemoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of memories, newest first; `total` counts all that match."""

    items: list[Memory]
    total: int
    limit: int
    offset: int
    truncated: bool = False


class RelationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A relation from one memory to another."""

    id: int
    from_memory_id: int
    to_memory_id: int
    relationship_type: str
    confidence: float
    metadata: dict[str, Any] | None = None
    created_at: str


class FeedbackTrend(msgspec.Struct, frozen=True, kw_only=True):
    """How the last signals run: `momentum` positive, negative or neutral, `consistency` 0..1, and
    what a step is multiplied with for it, 0.5..1.5."""

    momentum: str
    consistency: float
    trend_multiplier: float
    recent_count: int


class FeedbackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All signals on a memory."""

    total_signals: int
    signal_counts: dict[str, int]
    trend: FeedbackTrend


class FeedbackTaken(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a signal. `adjustment` is what it changed; `influenced_ranking` whether it did
    change anything that ranks."""

    memory_id: int
    signal: str
    importance_before: float
    importance_after: float
    adjustment: float
    influenced_ranking: bool
    summary: FeedbackSummary


class GraphNode(Memory, frozen=True, kw_only=True):
    """A memory in the graph. `distance`: how many relations away from the memory asked for; null
    where none was."""

    distance: int | None = None


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Memories and the relations between them. `truncated`: there are more than fit."""

    nodes: list[GraphNode]
    edges: list[RelationInfo]
    truncated: bool = False


class ApiKeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as lists show it; the secret, `key`, is told by create only."""

    id: int
    name: str
    prefix: str
    environment: str
    scopes: list[str]
    project_id: str | None
    rate_limit_tier: str
    status: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    usage_count: int
    organisation: str
    key: str | None = None


class OrganisationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation. `ack` counts for its writes that name no `Memsync-Ack`."""

    id: int
    slug: str
    name: str
    ack: str


class MemberInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the peer that answers knows it. `positions` are "stripe.generation.sequence" of
    what it has applied, `lag_entries` how many frames it lacks that another has. `lease`: it
    answers reads as fresh. `clock_offset_ms` is against the clock of the peer that answers;
    `membership` the version that it goes by. One that was not heard has only its name."""

    name: str
    alive: bool
    positions: list[str] = []
    lag_entries: int | None = None
    lease: bool = False
    clock_offset_ms: float | None = None
    incarnation: int = 0
    membership: str = ""


class StripeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stripe of the log and the server that leads it."""

    stripe: int
    generation: int
    leader: str | None


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who belongs to the cell. `observers` run and may be joined; `removed` end if they are started
    again. `version` is what `if_version` is compared with."""

    cell: str
    version: str
    majority: int
    members: list[MemberInfo]
    observers: list[str]
    removed: list[str]
    stripes: list[StripeInfo]


class ApiKeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of an organisation, newest first."""

    items: list[ApiKeyInfo]
    total: int
    limit: int
    offset: int
