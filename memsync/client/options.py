"""What a caller can say with each call: the fields of the request structs, and how it is made.

Every call takes `end_user` (instead of the client's) and `timeout_s` (for the whole call, all
attempts included). Times are ISO 8601 texts or `datetime`; one without an offset is UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from memsync.wire.requests import Ack, ComputationTier, Consistency, ForgetFilters, QueryFilters

Moment = str | datetime
Fields = Mapping[str, Any]
Items = Sequence[Any]  # of a bulk: texts, mappings of the fields of `AddItem`, or such structs


class CallOptions(TypedDict, total=False):
    """How any call is made."""

    end_user: str | None
    timeout_s: float | None


class ReadOptions(CallOptions, total=False):
    """How a read is made. `min_position`: at least as new as this (see `Client.position`)."""

    consistency: Consistency | None
    min_position: str | None


class WriteOptions(CallOptions, total=False):
    """How a write is made. With an `idempotency_key` of one's own, it can be repeated safely for
    24 h, also by another process."""

    ack: Ack | None
    idempotency_key: str | None


class AddOptions(WriteOptions, total=False):
    """The fields of `AddRequest` beside the text."""

    source: str | None
    event_type: str | None
    tags: Sequence[str] | None
    importance: float | None
    session_id: str | None
    role: str | None
    metadata: Fields | None
    client_ref: str | None
    ttl_minutes: int | None
    occurred_at: Moment | None
    deduplicate: bool | None


class BulkAddOptions(WriteOptions, total=False):
    """The fields of `BulkAddRequest` beside the items."""

    deduplicate: bool


class QueryOptions(ReadOptions, total=False):
    """The fields of `QueryRequest` beside the question."""

    k: int
    filters: QueryFilters | Fields | None
    session_id: str | None
    traversal_depth: int
    weights: Mapping[str, float] | None
    computation_tier: ComputationTier
    explain: bool
    now: Moment | None


class UpdateOptions(WriteOptions, total=False):
    """The fields of `UpdateRequest` beside the id."""

    tags: Sequence[str] | None
    importance: float | None
    metadata: Fields | None
    source: str | None
    event_type: str | None
    if_version: str | None


class ForgetOptions(WriteOptions, total=False):
    """The fields of `ForgetRequest` beside the ids."""

    filters: ForgetFilters | Fields | None
    dry_run: bool
    reason: str | None


class RelateOptions(WriteOptions, total=False):
    """The fields of `RelateRequest` beside the ids and the type."""

    confidence: float | None
    metadata: Fields | None


class FeedbackOptions(WriteOptions, total=False):
    """The fields of `FeedbackRequest` beside the id and the signal."""

    comment: str | None


class GraphOptions(ReadOptions, total=False):
    """The fields of `GraphRequest` beside the id."""

    limit: int
    depth: int


class ListOptions(ReadOptions, total=False):
    """The fields of `ListRequest`."""

    limit: int
    offset: int


class KeyOptions(WriteOptions, total=False):
    """The fields of `KeyCreateRequest`."""

    name: str
    environment: str
    scopes: Sequence[str]
    project_id: str | None
    rate_limit_tier: str
    expires_at: Moment | None
    organisation: str | None


OPTIONS = ("end_user", "timeout_s", "consistency", "min_position", "ack", "idempotency_key")
"""What does not go into a body."""
