"""Every filter of a question is inside the search, before the cut to k: more than k memories that
answer better and do not pass take nobody's place. By every way that a scope can be searched: exact,
approximate, and by words alone where ranking is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memsync import limits
from memsync.adapters.hot_index import FaissHotIndex, frame
from memsync.core.records import Record
from memsync.ids import scope_key
from memsync.ports import Question
from memsync.wire.operations import Vector
from memsync.wire.requests import QueryFilters, format_moment
from tests.fakes.memories import NOW_MS, SCOPE, changed, memory

KEY = scope_key(SCOPE)
K, LOUD, BESIDE = 3, 160, 80
DIMENSIONS = 16
MINUTE_MS = 60_000
LATER_MS = NOW_MS + 100 * MINUTE_MS
BETWEEN = format_moment(NOW_MS + 50 * MINUTE_MS)

# A filter, what the loud memories are that it keeps out, and what those are that it lets through.
CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"memory_type": "memory"}, {"is_summary": True}, {}),
    ({"memory_type": "summary"}, {}, {"is_summary": True}),
    ({"include_summaries": False}, {"is_summary": True}, {}),
    ({"tier": "warm"}, {}, {"tier": "warm"}),
    ({"tier": "hot"}, {"tier": "cold"}, {}),
    ({"session_id": "s"}, {"session_id": "t"}, {"session_id": "s"}),
    ({"since": BETWEEN}, {}, {"at_ms": LATER_MS}),
    ({"until": BETWEEN}, {"at_ms": LATER_MS}, {}),
    ({"tags": ["drink", "meal"]}, {"tags": ["house"]}, {"tags": ["day", "meal"]}),
    ({"source": "app"}, {"source": "mail"}, {"source": "app"}),
    ({"sources": ["app", "book"]}, {"source": "mail"}, {"source": "book"}),
    ({"metadata": {"lang": "de"}}, {"metadata": {"lang": "en"}}, {"metadata": {"lang": "de"}}),
]


def vector(number: int, likeness: float) -> Vector:
    """One whose cosine to the question's is about `likeness`."""
    random = np.random.default_rng(number)
    values = random.normal(0, 0.05, DIMENSIONS).astype(np.float32)
    values[0] = likeness
    values[1] = np.sqrt(1 - likeness * likeness)
    return Vector("m", (values / np.linalg.norm(values)).astype("<f2").tobytes())


def made(number: int, text: str, likeness: float, fields: dict[str, Any]) -> Record:
    fields = dict(fields)
    tier = fields.pop("tier", None)
    at_ms = fields.pop("at_ms", NOW_MS) + number
    found = memory(
        f"{text} {number}", text, at_ms=at_ms, counter=number, vector=vector(number, likeness),
        **fields,
    )  # fmt: skip
    return found if tier is None else changed(found, tier=tier, at_ms=at_ms + 1)


def loaded(rows: list[Record], *, is_built: bool) -> FaissHotIndex:
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    index.finish_load(KEY, rows)
    if is_built:
        assert index.to_build() == [KEY]
        index.build(KEY)
        assert index.to_build() == []
    return index


@pytest.mark.parametrize("way", ["exact", "approximate", "unranked"])
@pytest.mark.parametrize(
    ("filters", "loud", "passing"), CASES, ids=[f"{next(iter(one[0].items()))}" for one in CASES]
)
def test_what_does_not_pass_takes_nobodys_place(
    filters: dict[str, Any],
    loud: dict[str, Any],
    passing: dict[str, Any],
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EXACT_ROWS_MAX", LOUD)
    monkeypatch.setattr(frame, "WHOLE_MAX", K - 1)
    for name in ("HOLDING_WORDS", "BY_WORDS", "BY_LIFT", "BY_MEANING", "ASKED", "SAMPLE"):
        monkeypatch.setattr(frame, name, 16)  # the loud ones alone are more than these
    better = [made(n, "boiler boiler leaking", 0.99, loud) for n in range(LOUD)]
    wanted = [made(LOUD + n, "a boiler among words", 0.5, passing) for n in range(K)]
    beside = [made(LOUD + K + n, "other things", 0.0, loud) for n in range(BESIDE)]
    index = loaded([*better, *wanted, *beside], is_built=way == "approximate")
    asked = np.zeros(DIMENSIONS, np.float32)
    asked[0] = 1.0

    def found(filters: QueryFilters | None) -> set[bytes]:
        question = Question(
            text="leaking boiler",
            vectors={"m": asked},
            k=K,
            session_id=None,
            filters=filters,
            weights={"semantic": 1.0},
            now_ms=LATER_MS + 1000 * MINUTE_MS,
            is_ranked=way != "unranked",
        )
        return {bytes(hit.key) for hit in index.search(KEY, question)}

    assert found(None) <= {bytes(record.key) for record in better}  # these do answer better
    assert found(QueryFilters(**filters)) == {bytes(record.key) for record in wanted}


def test_every_filter_of_the_api_has_a_case() -> None:
    assert {name for filters, *_ in CASES for name in filters} == set(
        QueryFilters.__struct_fields__
    )
