"""What callers send about memories that are there: how they are related, what they were worth, and
why they were recalled. As in `requests`: types are checked while decoding, limits by `*_problems`.
"""

from __future__ import annotations

from typing import Any, Literal

from memsync import limits
from memsync.wire.requests import Body, Problems, length_problems, metadata_problems

RelationshipType = Literal[
    "similar", "derived_from", "continuation", "contradiction", "summary_of", "detail_of",
    "caused_by", "references", "supports", "extends",
]  # fmt: skip
FeedbackSignal = Literal["positive", "negative", "retrieved", "ignored"]
TO_ITSELF = "a memory is not related to itself"


class RelateRequest(Body, frozen=True, kw_only=True):
    """POST /memory/{id}/relations. `confidence` is clamped to 0..1."""

    memory_id: int
    to_memory_id: int
    relationship_type: RelationshipType
    confidence: float | None = None
    metadata: dict[str, Any] | None = None
    end_user_id: str | None = None


class FeedbackRequest(Body, frozen=True, kw_only=True):
    """POST /memory/{id}/feedback."""

    memory_id: int
    signal: FeedbackSignal
    comment: str | None = None
    end_user_id: str | None = None


class GraphRequest(Body, frozen=True, kw_only=True):
    """GET /memory/graph: of one memory and what is around it, or of all. Numbers are clamped."""

    limit: int = limits.GRAPH_NODES_DEFAULT
    memory_id: int | None = None
    depth: int = limits.TRAVERSAL_DEPTH_DEFAULT
    end_user_id: str | None = None


class ExplanationRequest(Body, frozen=True, kw_only=True):
    """GET /memory/explanations/{query_id}."""

    query_id: str
    end_user_id: str | None = None


def relate_problems(request: RelateRequest) -> Problems:
    """What is wrong with a relation."""
    found = metadata_problems(request.metadata)
    if request.memory_id == request.to_memory_id:
        found.append(("to_memory_id", TO_ITSELF))
    return found


def feedback_problems(request: FeedbackRequest) -> Problems:
    """What is wrong with a signal."""
    return length_problems("comment", request.comment, 0, limits.REASON_CHARS_MAX)
