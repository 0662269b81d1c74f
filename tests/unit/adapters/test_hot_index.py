"""The hot index: filters before the cut, changes of every kind, loading, eviction."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memsync.adapters.hot_index import FaissHotIndex
from memsync.adapters.hot_index import scope as scope_module
from memsync.core.records import Record
from memsync.ids import scope_key
from memsync.ports import Change, Hit, Question, ScopeNotLoadedError
from memsync.wire import codec
from memsync.wire.operations import Vector
from memsync.wire.requests import QueryFilters
from tests.fakes.memories import NOW_MS, SCOPE, changed, memory

KEY = scope_key(SCOPE)
MINUTE = 60_000


def vector(*values: float, model: str = "m") -> Vector:
    return Vector(model, np.array(values, "<f2").tobytes())


def question(text: str, **fields: Any) -> Question:
    defaults: dict[str, Any] = {
        "vector": None, "model": "m", "k": 10, "session_id": None, "filters": None,
        "weights": {"semantic": 1.0}, "now_ms": NOW_MS + 60 * MINUTE,
    }  # fmt: skip
    return Question(text=text, **(defaults | fields))


def loaded(*records: Record, bytes_max: int = 1 << 30) -> FaissHotIndex:
    index = FaissHotIndex(bytes_max)
    index.begin_load(KEY)
    index.finish_load(KEY, records)
    return index


def names(hits: list[Hit], *records: Record) -> list[str]:
    """The hits by the `client_ref` of their records."""
    known = {record.key: record.origin.client_ref for record in records}  # type: ignore[union-attr]
    return [known[hit.key] or "" for hit in hits]


def axis(place: int) -> NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[place]


TEA = memory("tea", "Green tea in the morning", tags=["drink"], source="app", counter=1)
BOILER = memory("boiler", "The boiler leaks water", tags=["house"], source="mail", counter=2)
TRAIN = memory("train", "The night train to Graz", at_ms=NOW_MS + MINUTE, counter=3)


def test_words_find_their_memory_first() -> None:
    index = loaded(TEA, BOILER, TRAIN)
    assert names(index.search(KEY, question("leaking boiler")), TEA, BOILER, TRAIN)[0] == "boiler"


def test_meaning_finds_where_words_do_not() -> None:
    rows = [
        memory(f"m{i}", f"alpha{i}", vector=vector(*axis(i)), at_ms=NOW_MS + i) for i in range(4)
    ]
    best = loaded(*rows).search(KEY, question("unheard words", vector=axis(2)))[0]
    assert best.key == rows[2].key
    assert best.scoring["cosine"] == pytest.approx(1.0)


def test_vectors_of_other_models_are_not_compared() -> None:
    ours = memory("ours", "one", vector=vector(1, 0, 0, 0))
    other = memory("other", "two", vector=vector(1, 0, 0, 0, model="better"))
    longer = memory("longer", "three", vector=vector(1, 0, 0, 0, 0, 0))
    hits = loaded(ours, other, longer).search(KEY, question("unheard", vector=axis(0)))
    assert {hit.key: "cosine" in hit.scoring for hit in hits} == {
        ours.key: True, other.key: False, longer.key: False
    }  # fmt: skip


def test_a_vector_of_length_zero_is_none() -> None:
    (hit,) = loaded(memory("a", "one", vector=vector(0, 0, 0, 0))).search(
        KEY, question("one", vector=axis(0))
    )
    assert "cosine" not in hit.scoring


def test_terms_are_made_where_the_memory_brings_none() -> None:
    bare = memory("bare", "Leaking boilers", with_terms=False)
    assert loaded(bare).search(KEY, question("boiler"))[0].scoring["bm25"] > 0


FILTERED = [
    memory("plain", "x y", metadata={"n": 1, "lang": "de"}, tags=["a", "b"], source="app"),
    memory("later", "x y", at_ms=NOW_MS + 5 * MINUTE, metadata={"n": 2}, tags=["b"], source="mail"),
    memory("summary", "x y", is_summary=True, tags=["c"], session_id="s"),
    changed(memory("cold", "x y", metadata={"n": True}), tier="cold"),
]
AT_4_MINUTES = "2026-05-28T20:30:40Z"


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ({}, "plain later summary cold"),
        ({"tags": ["a", "c"]}, "plain summary"),
        ({"tags": ["none"]}, ""),
        ({"source": "app"}, "plain"),
        ({"sources": ["app", "mail"]}, "plain later"),
        ({"source": "app", "sources": ["mail"]}, ""),
        ({"memory_type": "summary"}, "summary"),
        ({"memory_type": "memory"}, "plain later cold"),
        ({"memory_type": "dream"}, ""),
        ({"include_summaries": False}, "plain later cold"),
        ({"include_summaries": True}, "plain later summary cold"),
        ({"tier": "cold"}, "cold"),
        ({"tier": "hot"}, "plain later summary"),
        ({"session_id": "s"}, "summary"),
        ({"session_id": "unknown"}, ""),
        ({"since": AT_4_MINUTES}, "later"),
        ({"until": AT_4_MINUTES}, "plain summary cold"),
        ({"metadata": {"n": 1}}, "plain"),
        ({"metadata": {"n": 1.0, "lang": "de"}}, "plain"),
        ({"metadata": {"n": 1, "lang": "en"}}, ""),
        ({"metadata": {"n": True}}, "cold"),
        ({"metadata": {"n": 1 << 70}}, ""),
    ],
)
def test_filters(filters: dict[str, Any], passing: str) -> None:
    hits = loaded(*FILTERED).search(KEY, question("x", filters=QueryFilters(**filters)))
    assert sorted(names(hits, *FILTERED)) == sorted(passing.split())


def test_filters_come_before_the_cut() -> None:
    loud = [memory(f"loud{i}", "boiler boiler", at_ms=NOW_MS + i) for i in range(30)]
    index = loaded(*loud, TEA)
    wanted = question("boiler", k=1, filters=QueryFilters(tags=["drink"]))
    assert [hit.key for hit in index.search(KEY, wanted)] == [TEA.key]


def test_expired_memories_do_not_appear() -> None:
    brief = memory("brief", "boiler", expires_at_ms=NOW_MS + 10)
    index = loaded(brief)
    assert index.search(KEY, question("boiler", now_ms=NOW_MS + 9))
    assert not index.search(KEY, question("boiler", now_ms=NOW_MS + 10))


def test_forgotten_ones_go_and_come_back() -> None:
    index = loaded(BOILER)
    gone = changed(BOILER, deleted=True)
    index.apply([Change(BOILER, gone)])
    assert not index.search(KEY, question("boiler"))
    index.apply([Change(gone, changed(gone, at_ms=NOW_MS + 2, deleted=False))])
    assert [hit.key for hit in index.search(KEY, question("boiler"))] == [BOILER.key]


def test_purged_ones_go() -> None:
    index = loaded(BOILER)
    purged = Record("memory", BOILER.key, SCOPE, ids=[1], purged=BOILER.origin_stamp)
    index.apply([Change(BOILER, purged)])
    assert not index.search(KEY, question("boiler"))


def test_an_update_without_its_create_is_not_there_yet() -> None:
    index = loaded()
    early = msgspec.structs.replace(changed(BOILER, tags=["x"]), origin=None, origin_stamp=None)
    index.apply([Change(None, early)])
    assert not index.search(KEY, question("boiler"))


def test_updates_change_a_row_in_its_place() -> None:
    index = loaded(BOILER)
    updated = changed(
        BOILER, at_ms=NOW_MS + 5, tags=["new"], importance=0.9, tier="warm", source="chat"
    )
    index.apply([Change(BOILER, updated)])
    for filters, count in [
        (QueryFilters(tags=["house"]), 0),
        (QueryFilters(tags=["new"], source="chat", tier="warm"), 1),
    ]:
        assert len(index.search(KEY, question("boiler", filters=filters))) == count
    assert index.search(KEY, question("boiler"))[0].scoring["importance"] == pytest.approx(0.9)


def test_another_origin_replaces_the_text() -> None:
    index = loaded(BOILER)
    earlier = memory("boiler", "Violin lessons on Friday", at_ms=NOW_MS - 1)
    index.apply([Change(BOILER, earlier)])
    (hit,) = index.search(KEY, question("violin boiler"))
    assert hit.key == BOILER.key
    assert hit.scoring["coverage"] < 1
    assert index.search(KEY, question("violin"))[0].scoring["bm25"] > 0


def test_other_scopes_and_kinds_are_ignored() -> None:
    index = loaded(BOILER)
    elsewhere = msgspec.structs.replace(SCOPE, end_user="ben")
    index.apply([Change(None, memory("b", "boiler", scope=elsewhere))])
    assert not index.is_loaded(scope_key(elsewhere))
    with pytest.raises(ScopeNotLoadedError):  # an empty answer would say that it holds nothing
        index.search(scope_key(elsewhere), question("boiler"))
    assert len(index.search(KEY, question("boiler"))) == 1


def test_changes_during_a_load_are_kept() -> None:
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    index.apply([Change(None, TEA)])
    index.apply([Change(BOILER, changed(BOILER, deleted=True))])
    assert not index.is_loaded(KEY)
    index.finish_load(KEY, [BOILER, TRAIN])
    found = index.search(KEY, question("tea boiler train"))
    assert {hit.key for hit in found} == {TEA.key, TRAIN.key}


def test_changes_that_the_rows_already_have_change_nothing() -> None:
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    index.apply([Change(None, TEA), Change(None, BOILER)])
    index.finish_load(KEY, [TEA, BOILER])
    index.apply([Change(None, BOILER)])
    assert index.search(KEY, question("tea boiler")) == loaded(TEA, BOILER).search(
        KEY, question("tea boiler")
    )


def test_a_load_that_was_dropped_does_not_come_back() -> None:
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    index.drop(KEY)
    index.finish_load(KEY, [TEA])
    assert not index.is_loaded(KEY)


def test_a_second_begin_keeps_what_the_first_has_kept() -> None:
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    index.apply([Change(None, TEA)])
    index.begin_load(KEY)
    index.finish_load(KEY, [BOILER])
    assert len(index.search(KEY, question("tea boiler"))) == 2


def test_the_longest_unused_scope_is_evicted() -> None:
    users = [msgspec.structs.replace(SCOPE, end_user=name) for name in ("a", "b", "c")]
    keys = [scope_key(user) for user in users]
    one = loaded(memory("x", "boiler"))
    index = FaissHotIndex(int(one.bytes_used * 2.5))
    for user, key in zip(users[:2], keys[:2], strict=True):
        index.begin_load(key)
        index.finish_load(key, [memory("x", "boiler", scope=user)])
    index.search(keys[0], question("boiler"))
    index.begin_load(keys[2])
    assert index.is_loaded(keys[1])
    index.finish_load(keys[2], [memory("x", "boiler", scope=users[2])])
    assert [index.is_loaded(key) for key in keys] == [True, False, True]
    assert index.scopes_loaded == 2
    assert index.bytes_used <= one.bytes_used * 2.5


def test_a_scope_larger_than_the_budget_stays_while_it_is_the_one_in_use() -> None:
    index = loaded(TEA, bytes_max=1)
    assert index.search(KEY, question("tea"))
    index.apply([Change(None, BOILER)])
    assert len(index.search(KEY, question("tea"))) == 2


def test_dropping_gives_the_bytes_back() -> None:
    index = loaded(TEA, BOILER)
    index.drop(KEY)
    assert (index.bytes_used, index.scopes_loaded) == (0, 0)


def test_neighbours_and_session_lift_a_turn_that_does_not_match_itself() -> None:
    turns = [
        memory(f"{s}{i}", text, session_id=s, at_ms=NOW_MS + 1000 * n + i)
        for n, s in enumerate("pq")
        for i, text in enumerate(
            ["violin strings broke", "yes indeed", "blue walls"]
            if s == "p"
            else ["rain came", "yes indeed", "blue walls"]
        )
    ]
    found = names(loaded(*turns).search(KEY, question("violin strings")), *turns)
    assert found[:3] == ["p0", "p1", "p2"]


def test_the_asking_session_is_lifted() -> None:
    rows = [memory(f"{s}", "boiler", session_id=s) for s in "abc"]
    assert index_first(rows, session_id="b") == "b"
    assert index_first(rows, session_id="c") == "c"


def index_first(rows: list[Record], **fields: Any) -> str:
    return names(loaded(*rows).search(KEY, question("boiler", **fields)), *rows)[0]


@pytest.mark.parametrize("text", ["", "   ", "?!", "what is it"])
def test_a_question_that_says_nothing_is_answered_with_what_is_recent(text: str) -> None:
    rows = [
        memory(f"m{i}", f"word{i}", at_ms=NOW_MS + (i * 7 % 5) * MINUTE, importance=i / 5,
               vector=vector(*axis(i % 4)))
        for i in range(5)
    ]  # fmt: skip
    asked = question(text, weights=None, vector=axis(1), k=5)
    found = names(loaded(*rows).search(KEY, asked), *rows)
    assert found == ["m2", "m4", "m1", "m3", "m0"]


def test_a_memory_of_stop_words_is_found_by_them() -> None:
    band, other = memory("band", "The Who"), memory("other", "Radio", at_ms=NOW_MS + MINUTE)
    found = loaded(band, other).search(KEY, question("the who", weights=None))
    assert names(found, band, other)[0] == "band"


def test_one_memory_and_no_memory() -> None:
    assert loaded().search(KEY, question("tea")) == []
    (hit,) = loaded(TEA).search(KEY, question("tea"))
    assert hit.score == 1.0
    (hit,) = loaded(TEA).search(KEY, question("violin"))
    assert hit.score == 0.0


def test_every_part_of_a_score_is_named_and_a_number() -> None:
    hits = loaded(TEA, BOILER, TRAIN).search(KEY, question("tea", weights=None, vector=axis(0)))
    for hit in hits:
        assert {"semantic", "recency", "importance", "bm25", "neighbours", "session"} <= set(
            hit.scoring
        )
        assert all(np.isfinite(value) for value in hit.scoring.values())
        assert 0 <= hit.score <= 1


WORDS = ["ant", "bee", "cat", "dog"]
STEP = st.tuples(
    st.sampled_from("abcdef"),  # which memory
    st.sampled_from(["put", "forget", "tags", "vector"]),
    st.sampled_from(WORDS),
    st.integers(0, 3),
)


def step(held: dict[str, Record], name: str, what: str, word: str, number: int) -> Record:
    """The next version of a memory; a `put` of a new name creates it, in one of two sessions."""
    record = held.get(name)
    if record is None or what == "put":
        session = [None, "s", "s", "t"][number]
        return memory(
            name, f"{word} {WORDS[number]}", at_ms=NOW_MS + 10 * number, counter=ord(name),
            session_id=session, vector=vector(*axis(number)), place=ord(name),
        )  # fmt: skip
    written: Any = {"forget": number % 2 == 0, "tags": [word], "vector": None}[what]
    if what == "vector":
        written = codec.seal(vector(*axis(number), model="m" if number else "n"))
    register = {"forget": "deleted"}.get(what, what)
    return changed(record, at_ms=NOW_MS + 100 + len(held), **{register: written})


@given(steps=st.lists(STEP, max_size=40), asked=st.sampled_from(WORDS), at=st.integers(0, 40))
def test_any_history_ends_as_a_rebuilt_index(
    steps: list[tuple[str, str, str, int]], asked: str, at: int
) -> None:
    """With compaction after nearly every removal, and the load in the midst of the changes."""
    held: dict[str, Record] = {}
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    for number, (name, what, word, value) in enumerate(steps):
        if number == at:
            index.finish_load(KEY, list(held.values()))
        before = held.get(name)
        held[name] = step(held, name, what, word, value)
        index.apply([Change(before, held[name])])
    if not index.is_loaded(KEY):
        index.finish_load(KEY, list(held.values()))
    rebuilt = loaded(*held.values())
    wanted = question(asked, vector=axis(1), weights=None)
    assert by_key(index.search(KEY, wanted)) == by_key(rebuilt.search(KEY, wanted))


def by_key(hits: list[Hit]) -> dict[bytes, Any]:
    return {
        bytes(hit.key): {name: pytest.approx(v, abs=1e-4) for name, v in hit.scoring.items()}
        for hit in hits
    }


@pytest.fixture(autouse=True)
def _compact_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small scopes compact too, so that the tests here see it."""
    monkeypatch.setattr(scope_module, "COMPACT_ROWS_MIN", 1)
