"""Explanations on the disk: a fraction of their JSON, and read again as they were."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.adapters.sqlite.packing import BYTES_MAX, DICTIONARY, packed, unpacked
from memsync.limits import EXPLANATION_BYTES_MAX
from memsync.wire import codec
from memsync.wire.replies import ExplainedCandidate, ExplainedStage, Explanation, Freshness

PARTS = ("semantic", "importance", "recency", "bm25", "near", "coverage", "cosine", "neighbours",
         "session", "lift")  # fmt: skip
STAGES = ("load", "embed", "search", "rank", "read", "answer", "all")


def explained(k: int) -> bytes:
    """One with numbers that are all different."""
    chance = iter((n * 0.618_034) % 1 for n in range(1, 100_000))
    return codec.to_json(
        Explanation(
            query_id="q_019e707b7680233276b75751.peer-2",
            member="peer-2",
            created_at="2026-11-30T20:26:40.123+00:00",
            query_intent="temporal",
            k=k,
            traversal_depth=2,
            computation_tier="medium",
            filters=[],
            weights={"semantic": 0.9, "importance": 0.05, "recency": 0.05},
            models=["wordllama-l2-supercat-256"],
            stages=[
                ExplainedStage(stage=name, took_ms=round(next(chance), 3), lacking=[])
                for name in STAGES
            ],
            candidates=[
                ExplainedCandidate(
                    memory_id=int(1e15 * next(chance)),
                    rank=rank,
                    score=round(next(chance), 6),
                    parts={name: round(next(chance), 6) for name in PARTS},
                )
                for rank in range(1, k + 1)
            ],
            confidence=0.7861,
            degraded_components=[],
            freshness=Freshness(),
            latency_ms=1.234,
            sla_met=True,
        )
    )


@pytest.mark.parametrize("k", [0, 1, 5, 50])
def test_it_is_a_third_at_the_most_and_comes_back(k: int) -> None:
    """Real ones have fewer digits that differ: a fifth (see the module)."""
    body = explained(k)
    assert len(packed(body)) < len(body) / 3
    assert unpacked(packed(body)) == body


@given(st.binary(max_size=3_000))
def test_whatever_it_is_it_comes_back(body: bytes) -> None:
    assert unpacked(packed(body)) == body


@given(st.binary(max_size=300))
def test_nothing_that_lies_on_the_disk_raises(data: bytes) -> None:
    for one in (data, b"\x01" + data):
        found = unpacked(one)
        assert found is None or isinstance(found, bytes)


def test_what_is_cut_off_or_unfolds_to_too_much_is_not_told() -> None:
    whole = packed(explained(5))
    assert unpacked(whole[:-3]) is None
    assert unpacked(packed(b"x" * (BYTES_MAX + 1))) is None
    assert BYTES_MAX > 2 * EXPLANATION_BYTES_MAX


def test_the_dictionary_stays_what_it_is() -> None:
    """What was written with another one cannot be read: see the module before changing this."""
    assert blake2b(DICTIONARY, digest_size=8).hexdigest() == "1f16e0d35cecb967"
