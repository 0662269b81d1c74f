"""The answer stage: hits and records to what the caller reads, within its limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memsync import limits
from memsync.core import memories
from memsync.core.recall import calibration
from memsync.core.records import Record
from memsync.engine.recall.kept.shown import Showing
from memsync.ids import RecordKey, Scope
from memsync.ports import Hit
from memsync.wire import codec, replies

COVERAGE_SHARE = 0.7  # of support, where there are vectors; cosine has the rest
FRAME_BYTES = 4_096  # of an answer, beside its memories and its context


def recalled(
    hits: Sequence[Hit], held: Mapping[RecordKey, Showing], *, scope: Scope, now_ms: int
) -> list[replies.RecalledMemory]:
    """The hits that are still visible, in their order."""
    found = []
    for hit in hits:
        showing = held.get(hit.key)
        if showing is None or showing.record.scope != scope:
            continue
        if memories.is_visible(showing.record, now_ms):
            memory = replies.RecalledMemory(**showing.fields, score=hit.score, scoring=hit.scoring)
            found.append(memory)
    return found


def shown(
    held: Mapping[RecordKey, Showing], memories: Sequence[replies.RecalledMemory]
) -> list[Record]:
    """The records of the memories in an answer."""
    by_id = {showing.fields["id"]: showing.record for showing in held.values()}
    return [by_id[memory.id] for memory in memories]


def within_bytes(
    found: Sequence[replies.RecalledMemory],
) -> tuple[list[replies.RecalledMemory], bool]:
    """The first of them that fit into an answer together, and whether any had to stay out."""
    left = limits.ANSWER_BYTES_MAX - limits.CONTEXT_BYTES_MAX * 6 - FRAME_BYTES
    kept: list[replies.RecalledMemory] = []
    for memory in found:
        left -= len(codec.to_json(memory)) + 1
        if left < 0:
            return kept, True
        kept.append(memory)
    return kept, False


def context_of(found: Sequence[replies.RecalledMemory]) -> str:
    """The memories as lines for a prompt, best first, with their day; at most CONTEXT_BYTES_MAX
    bytes of UTF-8, whole memories only."""
    lines: list[str] = []
    left = limits.CONTEXT_BYTES_MAX
    for memory in found:
        day = (memory.occurred_at or memory.created_at)[:10]
        speaker = f"{memory.role}: " if memory.role else ""
        line = f"- [{day}] {speaker}{memory.text}"
        left -= len(line.encode("utf-8", "surrogatepass")) + 1
        if left < 0:
            break
        lines.append(line)
    return "\n".join(lines)


def confidence_of(hits: Sequence[Hit]) -> float:
    """0..1: how probably one of the first memories holds what was asked. Raises `ValueError` where
    that cannot be reckoned."""
    if not hits:
        return 0.0
    scorings = [hit.scoring for hit in hits]
    facts = calibration.facts_of(scorings, margin=hits[0].margin, by_named=hits[0].by_named)
    return round(calibration.confidence_of(facts), 4)


def support_of(hits: Sequence[Hit]) -> float:
    """0..1: how much of the question the best memories hold, by words (weighted by how telling
    each is) and, where there are vectors, by meaning. Instead of a probability."""
    return round(max((_support(hit.scoring) for hit in hits), default=0.0), 4)


def _support(scoring: Mapping[str, float]) -> float:
    coverage = min(scoring.get("coverage", 0.0), 1.0)
    cosine = scoring.get("cosine")
    if cosine is None:
        return coverage
    return COVERAGE_SHARE * coverage + (1 - COVERAGE_SHARE) * min(max(cosine, 0.0), 1.0)
