"""What the parts of a question find, beside what it finds by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memsync.engine.recall.reasoning import PART_WEIGHT, with_parts
from memsync.ids import RecordKey
from memsync.ports import Hit


def hits(**scores: float) -> list[Hit]:
    return [
        Hit(key=RecordKey(name.encode()), score=score, scoring={"coverage": 0.1})
        for name, score in scores.items()
    ]


def names(found: list[Hit]) -> str:
    return " ".join(hit.key.decode() for hit in found)


def test_the_better_half_of_what_the_question_finds_stays() -> None:
    own = hits(a=1.0, b=0.8, c=0.7, d=0.6)
    found = with_parts(own, [hits(x=1.0, y=0.95), hits(z=1.0)], 4)
    assert names(found) == "a x z b"
    assert [hit.score for hit in found] == [1.0, PART_WEIGHT, PART_WEIGHT, 0.8]
    assert names(with_parts(hits(a=0.3), [hits(x=1.0)], 1)) == "a"


SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1), max_size=8)


@given(own=SCORES, parts=st.lists(SCORES, max_size=3), k=st.integers(1, 6))
def test_it_is_a_ranking_of_both(
    own: dict[str, float], parts: list[dict[str, float]], k: int
) -> None:
    ours = sorted(hits(**own), key=lambda hit: -hit.score)[:k]
    found = with_parts(ours, [hits(**part) for part in parts], k)
    known = {hit.key for hit in ours} | {name.encode() for part in parts for name in part}
    assert len(found) == min(k, len(known))
    assert {hit.key for hit in ours[: max(1, k // 2)]} <= {hit.key for hit in found} <= known
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
