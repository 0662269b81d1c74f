"""What callers send, over HTTP, NATS and from the CLI: bodies as structs, and the checks on them.

Field names are those of the API, exactly. Types are checked while decoding (the first wrong one is
named); limits are checked by `problems_of`, which names them all. Numbers with a range are clamped.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from memsync import errors, limits
from memsync.config import Name

ComputationTier = Literal["low", "medium", "high"]
Consistency = Literal["local", "session", "strong"]
Ack = Literal["log", "quorum", "all"]
DefaultAck = Literal["quorum", "all"]  # of an organisation; `log` is for single requests

WEIGHTS = ("semantic", "cluster", "recency", "importance", "usage", "graph")
API_KEY_SCOPES = (
    "memory:read", "memory:add", "memory:delete", "memory:*", "org:admin", "org:cross_project_read",
)  # fmt: skip
TIERS = ("hot", "warm", "cold")
RATE_LIMIT_TIERS = ("free", "pro", "enterprise", "unlimited")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Fields of the hosted API that the key and headers tell here: accepted, ignored."""

    user_id: Any = None
    tenant_id: Any = None
    project_id: Any = None
    environment: Any = None


class AddItem(Body, frozen=True, kw_only=True):
    """A memory to add. Times are ISO 8601; a time without an offset is UTC."""

    text: str | None = None
    content: str | None = None
    source: str | None = None
    event_type: str | None = None
    tags: list[str] | None = None
    importance: float | None = None
    session_id: str | None = None
    role: str | None = None
    metadata: dict[str, Any] | None = None
    end_user_id: str | None = None
    client_ref: str | None = None
    ttl_minutes: int | None = None
    occurred_at: str | None = None
    deduplicate: bool | None = None

    @property
    def body(self) -> str:
        """The text, under whichever of its two names it came."""
        return self.text if self.text is not None else self.content or ""


class AddRequest(AddItem, frozen=True, kw_only=True):
    """POST /memory/add."""


class BulkAddRequest(Body, frozen=True, kw_only=True):
    """POST /memory/bulk-add. Stored as a whole or not at all."""

    items: list[AddItem]
    deduplicate: bool = True
    end_user_id: str | None = None


class QueryFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a recalled memory must be. `tags`: any of them; `since`, `until`: on `created_at`."""

    memory_type: str | None = None
    source: str | None = None
    sources: list[str] | None = None
    tags: list[str] | None = None
    since: str | None = None
    until: str | None = None
    include_summaries: bool | None = None
    tier: str | None = None
    session_id: str | None = None
    metadata: dict[str, Any] | None = None


class QueryRequest(Body, frozen=True, kw_only=True):
    """POST /memory/query. `now`: the moment that the question's dates ("last week") and recency are
    relative to, where it is not that of the request."""

    query: str
    k: int = limits.RECALL_K_DEFAULT
    filters: QueryFilters | None = None
    session_id: str | None = None
    traversal_depth: int = limits.TRAVERSAL_DEPTH_DEFAULT
    weights: dict[str, float] | None = None
    computation_tier: ComputationTier = "medium"
    consistency: Consistency | None = None
    min_position: str | None = None
    explain: bool = False
    now: str | None = None
    end_user_id: str | None = None


class GetRequest(Body, frozen=True, kw_only=True):
    """GET /memory/{id}."""

    memory_id: int
    end_user_id: str | None = None


class UpdateRequest(Body, frozen=True, kw_only=True):
    """PATCH /memory/{id}. `metadata` is replaced whole. A field that is null is left as it is."""

    memory_id: int
    tags: list[str] | None = None
    importance: float | None = None
    metadata: dict[str, Any] | None = None
    source: str | None = None
    event_type: str | None = None
    if_version: str | None = None
    end_user_id: str | None = None


class ForgetFilters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which memories to forget. `tags`: all of them; `before`, `after`: on `created_at`."""

    source: str | None = None
    event_type: str | None = None
    tags: list[str] | None = None
    tier: str | None = None
    before: str | None = None
    after: str | None = None


class ForgetRequest(Body, frozen=True, kw_only=True):
    """DELETE /memory/forget: exactly one of `memory_ids` and `filters`."""

    memory_ids: list[int] | None = None
    filters: ForgetFilters | None = None
    dry_run: bool = False
    reason: str | None = None
    end_user_id: str | None = None


class ListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GET /memory/list and GET /v1/memory/{tenant_id}/{user_id}/list (here the two are meant)."""

    limit: int = limits.LIST_LIMIT_DEFAULT
    offset: int = 0
    tenant_id: str | None = None
    user_id: str | None = None
    end_user_id: str | None = None


class KeyCreateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /org/api-keys. `organisation` is the CLI's: the slug of one that is made if need be."""

    name: str = ""
    environment: str = "development"
    scopes: list[str] = msgspec.field(default_factory=lambda: ["memory:*"])
    project_id: str | None = None
    rate_limit_tier: str = "pro"
    expires_at: str | None = None
    organisation: str | None = None


class KeyListRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GET /org/api-keys."""

    limit: int = limits.LIST_LIMIT_MAX
    offset: int = 0


class KeyRevokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /org/api-keys/{id}/revoke."""

    key_id: int


class OrganisationGetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GET /org."""


class OrganisationUpdateRequest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """PATCH /org. `ack` counts for writes that name no `Memsync-Ack`."""

    ack: DefaultAck


class ClusterRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """GET /admin/cluster."""


class MemberRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /admin/cluster/join and POST /admin/cluster/remove."""

    name: Name
    if_version: str | None = None


Problems = list[tuple[str, str]]  # (field, reason)


def clamp(value: float, low: float, high: float) -> float:
    """`value`, moved into low..high."""
    return min(max(value, low), high)


def parse_moment(text: str) -> int:
    """ISO 8601 to milliseconds since 1970; without an offset it is UTC. Raises `ValueError`."""
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def format_moment(at_ms: int) -> str:
    """Milliseconds since 1970 to ISO 8601 with offset."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def check(problems: Problems) -> None:
    """Raise a 422 that names every problem, or return."""
    if problems:
        field, reason = problems[0]
        details = [{"field": name, "reason": why} for name, why in problems]
        raise errors.ValidationFailed(f"{field}: {reason}", details=details)


def text_problems(item: AddItem) -> Problems:
    """What is wrong with the text of an item; in a bulk this rejects the item, not the request."""
    if item.text is None and item.content is None:
        return [("text", "required")]
    if len(item.body) > limits.TEXT_CHARS_MAX:
        return [("text", f"{len(item.body)} characters, at most {limits.TEXT_CHARS_MAX}")]
    return []


def item_problems(item: AddItem) -> Problems:
    """What is wrong with an item beside its text."""
    return [
        *_names(item, ("source", "event_type", "session_id", "role")),
        *_tags(item.tags),
        *metadata_problems(item.metadata),
        *length_problems("end_user_id", item.end_user_id, 1, limits.END_USER_CHARS_MAX),
        *length_problems("client_ref", item.client_ref, 1, limits.CLIENT_REF_CHARS_MAX),
        *_moment("occurred_at", item.occurred_at),
        *_ttl(item.ttl_minutes),
    ]


def bulk_problems(request: BulkAddRequest) -> Problems:
    """What is wrong with a bulk as a whole, or with an item beside its text."""
    count = len(request.items)
    if not 1 <= count <= limits.BULK_ITEMS_MAX:
        return [("items", f"{count} items, 1 to {limits.BULK_ITEMS_MAX} in one request")]
    return [
        (f"items[{index}].{field}", reason)
        for index, item in enumerate(request.items)
        for field, reason in item_problems(item)
    ]


def query_problems(request: QueryRequest) -> Problems:
    """What is wrong with a question."""
    found = _weights(request.weights) + length_problems("session_id", request.session_id, 0, 256)
    found += _moment("now", request.now)
    if (filters := request.filters) is not None:
        found += [("filters." + field, reason) for field, reason in _filter_problems(filters)]
    return found


def _filter_problems(filters: QueryFilters) -> Problems:
    found = _names(filters, ("memory_type", "source", "session_id"))
    found += _tags(filters.tags) + metadata_problems(filters.metadata)
    found += _moment("since", filters.since) + _moment("until", filters.until) + _tier(filters.tier)
    sources = filters.sources or []
    if len(sources) > limits.TAGS_MAX:
        found.append(("sources", f"{len(sources)} entries, at most {limits.TAGS_MAX}"))
    else:
        for source in sources:
            found += length_problems("sources", source, 0, limits.NAME_CHARS_MAX)
    if not found and filters.since and filters.until:
        found += _order("since", filters.since, "until", filters.until)
    return found


def update_problems(request: UpdateRequest) -> Problems:
    """What is wrong with an update; one that names no field changes nothing and is refused."""
    fields = ("tags", "importance", "metadata", "source", "event_type")
    if all(getattr(request, name) is None for name in fields):
        return [("body", "name at least one of " + ", ".join(fields))]
    return [
        *_names(request, ("source", "event_type")),
        *_tags(request.tags),
        *metadata_problems(request.metadata),
    ]


def forget_problems(request: ForgetRequest) -> Problems:
    """What is wrong with a forget: it must say exactly one thing about which memories it means."""
    if (request.memory_ids is None) == (request.filters is None):
        return [("memory_ids", "give exactly one of memory_ids and filters")]
    found = length_problems("reason", request.reason, 0, limits.REASON_CHARS_MAX)
    if request.memory_ids is not None:
        count = len(request.memory_ids)
        if not 1 <= count <= limits.FORGET_IDS_MAX:
            found.append(("memory_ids", f"{count} ids, 1 to {limits.FORGET_IDS_MAX}"))
        return found
    assert request.filters is not None
    return found + [("filters." + f, why) for f, why in _forget_filter_problems(request.filters)]


def _forget_filter_problems(filters: ForgetFilters) -> Problems:
    if all(getattr(filters, name) is None for name in filters.__struct_fields__):
        return [("before", "set at least one criterion; to forget everything, a wide one")]
    found = _names(filters, ("source", "event_type")) + _tags(filters.tags) + _tier(filters.tier)
    found += _moment("before", filters.before) + _moment("after", filters.after)
    if not found and filters.before and filters.after:
        found += _order("after", filters.after, "before", filters.before)
    return found


def key_problems(request: KeyCreateRequest) -> Problems:
    """What is wrong with a key to be made."""
    from memsync.ids import ENVIRONMENTS

    found = length_problems("name", request.name, 0, limits.NAME_CHARS_MAX)
    found += _one_of("environment", request.environment, ENVIRONMENTS)
    found += _one_of("rate_limit_tier", request.rate_limit_tier, RATE_LIMIT_TIERS)
    found += _moment("expires_at", request.expires_at)
    found += length_problems("project_id", request.project_id, 1, limits.PROJECT_CHARS_MAX)
    if not request.scopes:
        found.append(("scopes", "name at least one"))
    for scope in request.scopes:
        found += _one_of("scopes", scope, API_KEY_SCOPES)
    return found


def length_problems(field: str, value: str | None, low: int, high: int) -> Problems:
    """A text that is there has `low` to `high` characters."""
    if value is None or low <= len(value) <= high:
        return []
    return [(field, f"{len(value)} characters, {low} to {high}")]


def _names(body: msgspec.Struct, fields: tuple[str, ...]) -> Problems:
    return [
        problem
        for field in fields
        for problem in length_problems(field, getattr(body, field), 0, limits.NAME_CHARS_MAX)
    ]


def _tags(tags: list[str] | None) -> Problems:
    if tags is None:
        return []
    if len(tags) > limits.TAGS_MAX:
        return [("tags", f"{len(tags)} tags, at most {limits.TAGS_MAX}")]
    lengths = [len(tag) for tag in tags if not 1 <= len(tag) <= limits.TAG_CHARS_MAX]
    if not lengths:
        return []
    return [("tags", f"a tag of {lengths[0]} characters, 1 to {limits.TAG_CHARS_MAX}")]


def metadata_problems(metadata: dict[str, Any] | None) -> Problems:
    """Metadata that is there is neither too deep nor too large."""
    if metadata is None:
        return []
    if _is_deeper(metadata, limits.METADATA_DEPTH_MAX):
        return [("metadata", f"nested deeper than {limits.METADATA_DEPTH_MAX}")]
    size = len(msgspec.json.encode(metadata))
    if size <= limits.METADATA_BYTES_MAX:
        return []
    return [("metadata", f"{size} bytes as JSON, at most {limits.METADATA_BYTES_MAX}")]


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether it is nested so deep that some reader of the log might not be able to read it."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(part, depth - 1) for part in parts)


def _moment(field: str, text: str | None) -> Problems:
    if text is None:
        return []
    try:
        at_ms = parse_moment(text)
        format_moment(at_ms)  # an offset can move the first and the last day out of the calendar
    except (ValueError, OverflowError):
        return [(field, "not an ISO 8601 date or time, like 2026-05-08T13:00:00Z")]
    return [] if at_ms > -(1 << 46) else [(field, "too long ago")]


def _order(first: str, first_text: str, second: str, second_text: str) -> Problems:
    if parse_moment(first_text) <= parse_moment(second_text):
        return []
    return [(first, f"is later than {second}: the range is empty")]


def _ttl(minutes: int | None) -> Problems:
    if minutes is None or 1 <= minutes <= 100 * 365 * 24 * 60:
        return []
    return [("ttl_minutes", f"{minutes}, from 1 to 100 years")]


def _tier(tier: str | None) -> Problems:
    return [] if tier is None else _one_of("tier", tier, TIERS)


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> Problems:
    if value in allowed:
        return []
    return [(field, f"{value[:40]!r} is not one of {', '.join(allowed)}")]


def _weights(weights: dict[str, float] | None) -> Problems:
    if weights is None:
        return []
    found = [
        ("weights." + name[:40], f"unknown weight, one of {', '.join(WEIGHTS)}")
        for name in weights
        if name not in WEIGHTS
    ]
    found += [("weights." + name, "negative") for name, value in weights.items() if value < 0]
    if not found and sum(weights.values()) <= 0:
        found.append(("weights", "all zero: at least one must be above 0"))
    return found
