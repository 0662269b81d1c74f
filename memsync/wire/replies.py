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
    """Where an answer comes from (peer, other_peer, cache) and how old it is."""

    source: str = "peer"
    age_ms: float = 0.0


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question; the same shape when degraded. `latency_ms` is the peer's own."""

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


class MemoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of memories, newest first; `total` counts all that match."""

    items: list[Memory]
    total: int
    limit: int
    offset: int
    truncated: bool = False


class ApiKeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as lists show it; the secret is shown once, by create, as `key`."""

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


class ApiKeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of an organisation, newest first."""

    items: list[ApiKeyInfo]
    total: int
    limit: int
    offset: int
