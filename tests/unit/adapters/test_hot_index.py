"""The hot index: filters before the cut, changes of every kind, loading, eviction."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from memsync import limits
from memsync.adapters.hot_index import FaissHotIndex
from memsync.adapters.hot_index import scope as scope_module
from memsync.adapters.hot_index.facets import facet
from memsync.core.recall import graph, ranking
from memsync.core.recall.words import links
from memsync.core.records import Record, join_operation
from memsync.ids import scope_key
from memsync.ports import Change, Hit, Question, ScopeNotLoadedError
from memsync.wire import codec
from memsync.wire.operations import Count, Vector
from memsync.wire.requests import QueryFilters
from tests.fakes.memories import NOW_MS, SCOPE, changed, key_of, memory, related, stamp

KEY = scope_key(SCOPE)
MINUTE = 60_000


def vector(*values: float, model: str = "m") -> Vector:
    return Vector(model, np.array(values, "<f2").tobytes())


def question(text: str, **fields: Any) -> Question:
    defaults: dict[str, Any] = {
        "vectors": {}, "k": 10, "session_id": None, "filters": None,
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
    best = loaded(*rows).search(KEY, question("unheard words", vectors={"m": axis(2)}))[0]
    assert best.key == rows[2].key
    assert best.scoring["cosine"] == pytest.approx(1.0)


def test_vectors_of_other_models_are_not_compared() -> None:
    ours = memory("ours", "one", vector=vector(1, 0, 0, 0))
    other = memory("other", "two", vector=vector(1, 0, 0, 0, model="better"))
    longer = memory("longer", "three", vector=vector(1, 0, 0, 0, 0, 0))
    hits = loaded(ours, other, longer).search(KEY, question("unheard", vectors={"m": axis(0)}))
    assert {hit.key: "cosine" in hit.scoring for hit in hits} == {
        ours.key: True, other.key: False, longer.key: False
    }  # fmt: skip


def test_each_row_is_compared_with_the_vector_of_its_own_model() -> None:
    """While memories are embedded again, a scope holds vectors of two models. The cosines of one
    lie all higher than those of the other, which says nothing of its memories."""
    rows = [
        memory(f"m{i}", f"alpha{i}", counter=i, vector=vector(*values, model=model))
        for i, (model, values) in enumerate(
            [("m", (1, 0, 0, 0)), ("m", (0, 1, 0, 0)), ("n", (0.9, 0.1, 0, 0)), ("n", (1, 0, 0, 0))]
        )
    ]
    index = loaded(*rows)
    assert sorted(index.models(KEY)) == ["m", "n"]
    asked = {"m": axis(0), "n": np.array([0.995, 0.0995, 0, 0], np.float32)}
    hits = {hit.key: hit for hit in index.search(KEY, question("unheard words", vectors=asked))}
    cosines = [hits[row.key].scoring["cosine"] for row in rows]
    assert cosines == pytest.approx([1, 0, 0.905, 0.995], abs=1e-3)
    scores = [hits[row.key].score for row in rows]
    assert scores[0] == pytest.approx(scores[3])
    assert scores[1] == pytest.approx(scores[2])
    assert scores[0] > scores[2]  # joint deviations would put it far above alpha1


def test_a_model_that_no_row_has_any_more_is_gone() -> None:
    row = memory("a", "one", vector=vector(1, 0, 0, 0))
    index = loaded(row)
    assert list(index.models(KEY)) == ["m"]
    after = changed(row, vector=codec.seal(vector(0, 1, 0, 0, model="n")))
    index.apply([Change(row, after)])
    assert list(index.models(KEY)) == ["n"]
    (hit,) = index.search(KEY, question("one", vectors={"m": axis(0), "n": axis(1)}))
    assert hit.scoring["cosine"] == pytest.approx(1)
    index.drop(KEY)
    assert list(index.models(KEY)) == []


def test_a_vector_of_length_zero_is_none() -> None:
    (hit,) = loaded(memory("a", "one", vector=vector(0, 0, 0, 0))).search(
        KEY, question("one", vectors={"m": axis(0)})
    )
    assert "cosine" not in hit.scoring


def test_terms_are_made_where_the_memory_brings_none() -> None:
    bare = memory("bare", "Leaking boilers", with_terms=False)
    assert loaded(bare).search(KEY, question("boiler"))[0].scoring["bm25"] > 0


def first(query: str, *records: Record) -> str:
    """The name of what answers best."""
    return names(loaded(*records).search(KEY, question(query)), *records)[0]


def test_what_the_named_person_says_is_lifted() -> None:
    ada = memory("ada", "Ada: the harbour is lovely", session_id="a", counter=1)
    ben = memory("ben", "Ben: the harbour is lovely", session_id="b", counter=2)
    assert first("What does Ben say of the harbour?", ada, ben) == "ben"
    assert first("What does Ada say of the harbour?", ada, ben) == "ada"


def test_who_asks_when_gets_what_says_when() -> None:
    went = memory("went", "the harbour trip went on for long hours", counter=1)
    dated = memory("dated", "the harbour trip went on until last Sunday", counter=2)
    assert first("When was the harbour trip?", went, dated) == "dated"


def test_what_was_asked_is_answered_by_the_next_turn() -> None:
    asked = memory("asked", "Which harbour did you like?", session_id="s", counter=1)
    answer = memory("answer", "Trieste, for the old lighthouse", session_id="s", counter=2)
    apart = memory("apart", "Ceramics, for the old kitchen", session_id="t", counter=3)
    assert first("Which harbour was it?", apart, asked, answer) == "answer"


def test_a_topic_is_a_part_of_the_score_where_there_are_enough_vectors() -> None:
    topics = [vector(1, 0.1, 0, 0), vector(0, 0, 1, 0.1)]
    rows = [memory(f"{n}", f"text {n}", vector=topics[n % 2], counter=n) for n in range(20)]
    asked = question("x", vectors={"m": axis(2)}, weights={"cluster": 1.0}, k=20)
    hits = loaded(*rows).search(KEY, asked)
    assert sorted(names(hits, *rows)[:10], key=int) == [f"{n}" for n in range(1, 20, 2)]
    assert hits[0].score == pytest.approx(hits[0].scoring["cluster"])
    assert hits[0].scoring["cluster"] > hits[-1].scoring["cluster"] == pytest.approx(0.5, abs=0.01)
    few = loaded(*rows[:9]).search(KEY, asked)
    assert "cluster" not in few[0].scoring


def test_hits_say_how_far_ahead_they_are_and_whether_the_named_says_them() -> None:
    rows = [
        memory(f"{n}", f"Ada: harbour {'light ' * n}", session_id=f"{n}", counter=n)
        for n in range(9)
    ]
    rows.append(memory("ben", "Ben: harbour", session_id="ben", counter=9))
    index = loaded(*rows)
    few, many = (index.search(KEY, question("harbour light", k=k)) for k in (2, 10))
    assert [hit.margin for hit in few] == [hit.margin for hit in many[:2]]
    relevance = [hit.scoring["semantic"] for hit in many]
    assert many[0].margin == pytest.approx(relevance[0] - np.mean(relevance[1:5]), abs=1e-5)
    assert {hit.by_named for hit in many} == {None}
    named = {hit.key: hit.by_named for hit in index.search(KEY, question("Ben harbour"))}
    assert (named.pop(rows[-1].key), set(named.values())) == (True, {False})


DAY = 24 * 60 * MINUTE


def test_a_time_that_the_question_names_lifts_what_is_of_it() -> None:
    days = [memory(f"{n}", "swam in the harbour", at_ms=NOW_MS - n * DAY) for n in range(30)]
    index = loaded(*days)
    ago = question("swam in the harbour ten days ago", now_ms=NOW_MS)
    assert names(index.search(KEY, ago), *days)[0] == "10"
    later = question("swam in the harbour ten days ago", now_ms=NOW_MS, asked_ms=NOW_MS - 10 * DAY)
    assert names(index.search(KEY, later), *days)[0] == "20"
    assert len(index.search(KEY, later)) == 10  # soft: the others are there


def test_recency_is_relative_to_the_moment_of_the_question() -> None:
    old, new = memory("old", "x", at_ms=NOW_MS - 20 * DAY), memory("new", "x", at_ms=NOW_MS)
    asked = question("x", weights={"recency": 1.0}, asked_ms=NOW_MS - 20 * DAY)
    scores = {hit.key: hit.score for hit in loaded(old, new).search(KEY, asked)}
    assert scores == {old.key: 1, new.key: 1}  # what comes later counts as now


def test_an_assistant_counts_less_unless_it_is_asked_for() -> None:
    person = memory("person", "the harbour hotel is cheap", role="user", counter=1)
    model = memory("model", "the harbour hotel is cheap and near", role="assistant", counter=2)
    hits = loaded(person, model).search(KEY, question("near harbour hotel"))
    assert hits[0].score == pytest.approx(0.6)
    assert names(hits, person, model)[0] == "model"
    asked = loaded(person, model).search(KEY, question("what near hotel did you name?"))
    assert asked[0].score == pytest.approx(1.0)


def test_who_speaks_is_known_however_a_memory_comes() -> None:
    ada = memory("ada", "Ada: harbour", session_id="a")
    ben = memory("ben", "Ben: harbour", session_id="b", counter=1)
    index = loaded(ada)
    index.apply([Change(None, ben)])
    lifts = {
        name: hit.scoring["lift"]
        for hit in index.search(KEY, question("harbour Ada Ben"))
        for name in names([hit], ada, ben)
    }
    assert lifts["ada"] == pytest.approx(lifts["ben"])
    (hit, other) = index.search(KEY, question("harbour Ben"))
    assert hit.scoring["lift"] == pytest.approx(other.scoring["lift"] + 1)


def test_who_speaks_no_more_is_nobody() -> None:
    ada = memory("ada", "Ada: harbour", session_id="a")
    ben = memory("ben", "Ben: harbour", session_id="b", counter=1)
    index = loaded(ada, ben)
    assert {hit.by_named for hit in index.search(KEY, question("harbour Ben"))} == {True, False}
    gone = changed(ben, deleted=True)
    index.apply([Change(ben, gone)])
    asked = question("harbour Ben")
    assert index.search(KEY, asked) == loaded(ada, gone).search(KEY, asked)
    assert {hit.by_named for hit in index.search(KEY, asked)} == {None}


def test_of_a_long_question_the_rarest_words_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUERY_TERMS_MAX", 2)
    rows = [memory(f"{n}", f"harbour light number{n}", counter=n) for n in range(9)]
    rows.append(memory("boat", "harbour light boat", counter=9))
    rows.append(memory("boats", "quay boat", counter=10))
    index = loaded(*rows)
    unheard = " ".join(f"unheard{n}" for n in range(40))
    for broken in (False, True):
        if broken:
            monkeypatch.setattr(ranking, "relevance_of", None)
        hits = index.search(KEY, question(f"{unheard} harbour light boat quay", k=20))
        found = {hit.key for hit in hits if hit.scoring["bm25"] > 0}
        assert found == {rows[-1].key, rows[-2].key}
        assert names(hits, *rows)[0] == "boats"


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
    asked = question(text, weights=None, vectors={"m": axis(1)}, k=5)
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
    hits = loaded(TEA, BOILER, TRAIN).search(
        KEY, question("tea", weights=None, vectors={"m": axis(0)})
    )
    for hit in hits:
        assert {"semantic", "recency", "importance", "bm25", "neighbours", "session"} <= set(
            hit.scoring
        )
        assert all(np.isfinite(value) for value in hit.scoring.values())
        assert 0 <= hit.score <= 1


def around(index: FaissHotIndex, name: str | None, **fields: Any) -> list[tuple[str, int | None]]:
    """The memories around one, by their names."""
    given: dict[str, Any] = {"depth": 3, "limit": 50, "now_ms": NOW_MS} | fields
    start = None if name is None else key_of(name)
    known = {key_of(other): other for other in (*"abcdef", "tea", "boiler", "train", "filler")}
    return [(known[key], distance) for key, distance in index.around(KEY, start, **given)]


FILLER = [memory(f"f{n}", f"tea number {n} is served", counter=20 + n) for n in range(12)]
DEFAULTS: dict[str, Any] = {"weights": None, "k": 3}


def test_what_is_related_to_a_hit_is_recalled_with_it() -> None:
    hit = memory("a", "green tea from Uji by train", counter=4)
    index = loaded(BOILER, hit, *FILLER)
    asked = question("green tea from Uji", **DEFAULTS)
    assert BOILER.key not in [one.key for one in index.search(KEY, asked)]
    assert all("graph" not in one.scoring for one in index.search(KEY, asked))
    index.apply([Change(BOILER, related(BOILER, "a", confidence=0.9))])
    hits = index.search(KEY, asked)
    assert names(hits[:2], hit, BOILER, *FILLER) == ["a", "boiler"]
    assert [one.scoring["graph"] for one in hits[:2]] == pytest.approx([0.0, 0.9], abs=0.01)
    assert hits[1].scoring["bm25"] == 0


def test_relations_of_what_is_forgotten_lead_nowhere() -> None:
    hit, middle = memory("a", "green tea from Uji", counter=4), memory("b", "nothing", counter=5)
    index = loaded(related(hit, "b"), related(middle, "boiler"), BOILER, *FILLER)
    assert around(index, "a") == [("a", 0), ("b", 1), ("boiler", 2)]
    index.apply([Change(middle, changed(related(middle, "boiler"), deleted=True))])
    assert around(index, "a") == [("a", 0)]
    assert around(index, "b") == []
    back = changed(related(middle, "boiler"), deleted=False, at_ms=NOW_MS + 9)
    index.apply([Change(middle, back)])
    assert around(index, "boiler") == [("boiler", 0), ("b", 1), ("a", 2)]
    index.apply([Change(middle, changed(back, expires_at_ms=NOW_MS + 20, at_ms=NOW_MS + 10))])
    assert around(index, "a", now_ms=NOW_MS + 21) == [("a", 0)]


def test_what_is_related_must_pass_the_filters() -> None:
    hit = memory("a", "green tea from Uji", tags=["drink"], counter=4)
    index = loaded(related(hit, "boiler"), BOILER, *FILLER)
    wanted = question("green tea from Uji", filters=QueryFilters(tags=["drink"]), **DEFAULTS)
    assert names(index.search(KEY, wanted), hit) == ["a"]


def test_a_search_without_time_for_expansion_says_so() -> None:
    hit = memory("a", "green tea from Uji", counter=4)
    for rows, lacks in [
        ([hit], set()),  # nothing that it could lead to
        ([hit, *FILLER], {"expansion"}),
        ([related(hit, "f1"), *FILLER], {"expansion"}),
    ]:
        lacking: set[str] = set()
        asked = question("green tea", traversal_depth=0, **DEFAULTS)
        hits = loaded(*rows).search(KEY, asked, lacking)
        assert lacking == lacks
        assert all(not one.scoring["links"] and "graph" not in one.scoring for one in hits)


WORKS = memory("works", "Anna has worked at Globex since spring", tags=["a"], counter=40)
CITY = memory("city", "The head office of Globex moved to Graz", tags=["a", "b"], counter=41)
COMMON = memory("common", "Since spring they moved the office chairs", tags=["a"], counter=42)
CHATTER = [
    memory(f"c{n}", f"Chair number {n} has worked since spring in the office", counter=50 + n)
    for n in range(60)
]
EMPLOYER = question("Where does Anna work?", **DEFAULTS)


def found_by_name(index: FaissHotIndex, asked: Question = EMPLOYER) -> list[str]:
    return names(index.search(KEY, asked), WORKS, CITY, COMMON, *CHATTER)


def test_a_name_in_the_answer_leads_to_what_else_is_said_of_it() -> None:
    index = loaded(WORKS, CITY, COMMON, *CHATTER)
    hits = index.search(KEY, EMPLOYER)
    assert found_by_name(index)[:2] == ["works", "city"]
    assert hits[1].scoring["bm25"] == 0  # it has no word of the question
    assert hits[1].scoring["links"] > 0.1
    everything = index.search(KEY, msgspec.structs.replace(EMPLOYER, k=50))
    led = {hit.key for hit in everything if hit.scoring["links"]}
    assert led == {CITY.key}  # the best stays the best, and words that many share lead nowhere


def test_what_two_answers_have_in_common_leads_to_the_rest() -> None:
    told = [
        "Anna went to the pottery class", "Anna dropped a bowl in the class", "Anna burnt a bowl",
        "Anna sold the pottery", "Anna glazed it", "Anna slept",
    ]  # fmt: skip
    others = ["The bowl is on the shelf", "A plate is on the shelf", "Somebody slept on the train"]
    rows = [memory(f"t{n}", text, counter=n) for n, text in enumerate([*told, *others])]
    rows += [memory(f"o{n}", f"noise{n} hum{n}", counter=20 + n) for n in range(391)]
    hits = loaded(*rows).search(KEY, question("Anna", weights=None, k=50))
    linked = {hit.key: hit.scoring["links"] for hit in hits}
    assert linked[rows[6].key] > 0.1  # two of the answers have a bowl
    assert not linked.get(rows[7].key)
    assert not linked.get(rows[8].key)  # only one of them slept


def test_a_day_is_no_link() -> None:
    """Days are terms of a memory so that questions find them; that two answers are of one day leads
    to nothing else of that day."""
    day = 24 * 60 * MINUTE
    rows = [memory(f"t{n}", f"Anna went{n}", at_ms=NOW_MS, counter=n) for n in range(6)]
    rows.append(memory("same", "Nothing else", at_ms=NOW_MS, counter=9))
    number = datetime.fromtimestamp(NOW_MS / 1000, UTC).day
    moments = [NOW_MS + n * day for n in range(1, 410)]
    rows += [
        memory(f"o{n}", f"noise{n}", at_ms=at_ms)
        for n, at_ms in enumerate(moments)
        if datetime.fromtimestamp(at_ms / 1000, UTC).day != number
    ]
    hits = loaded(*rows).search(KEY, question("Anna", now_ms=NOW_MS + 999 * day, k=50))
    assert all(hit.scoring["links"] == 0 for hit in hits)


def test_what_a_name_leads_to_must_pass_the_filters() -> None:
    index = loaded(WORKS, CITY, COMMON, *CHATTER)
    for tags, expected in [(["a"], ["works", "city", "common"]), (["b"], ["city"])]:
        asked = msgspec.structs.replace(EMPLOYER, filters=QueryFilters(tags=tags))
        assert found_by_name(index, asked) == expected
    # What does not pass leads nowhere either, and is lifted by nothing.
    asked = msgspec.structs.replace(EMPLOYER, filters=QueryFilters(tags=["b"]))
    assert index.search(KEY, asked)[0].scoring["links"] == 0


def test_names_lead_nowhere_outside_of_the_scope() -> None:
    other = msgspec.structs.replace(SCOPE, end_user="ben")
    elsewhere = memory("city", "The head office of Globex moved to Graz", scope=other)
    index = loaded(WORKS, COMMON, *CHATTER)
    index.begin_load(scope_key(other))
    index.finish_load(scope_key(other), [elsewhere])
    hits = index.search(KEY, msgspec.structs.replace(EMPLOYER, k=50))
    assert elsewhere.key not in {hit.key for hit in hits}
    assert all(hit.scoring["links"] == 0 for hit in hits)
    (hit,) = index.search(scope_key(other), EMPLOYER)
    assert hit.scoring["links"] == 0


def test_links_follow_what_changes() -> None:
    index = loaded(WORKS, COMMON, *CHATTER)
    index.apply([Change(None, CITY)])  # comes later
    assert found_by_name(index)[1] == "city"
    forgotten = changed(CITY, deleted=True)
    index.apply([Change(CITY, forgotten)])
    assert "city" not in found_by_name(index)
    back = changed(CITY, deleted=False, at_ms=NOW_MS + 5)
    index.apply([Change(forgotten, back)])
    assert found_by_name(index)[1] == "city"
    gone = changed(WORKS, expires_at_ms=NOW_MS + 1)
    index.apply([Change(WORKS, gone)])
    assert "city" not in found_by_name(index)  # nobody names it any more


def test_links_are_there_again_after_an_eviction() -> None:
    index = loaded(WORKS, CITY, COMMON, *CHATTER, bytes_max=1)
    other = scope_key(msgspec.structs.replace(SCOPE, end_user="ben"))
    index.begin_load(other)
    index.finish_load(other, [TEA])
    assert not index.is_loaded(KEY)
    index.begin_load(KEY)
    for record in (CITY, WORKS):  # one page after the other
        index.extend_load(KEY, [record])
    index.finish_load(KEY, [COMMON, *CHATTER])
    assert found_by_name(index)[:2] == ["works", "city"]


def test_another_origin_leads_elsewhere() -> None:
    index = loaded(WORKS, CITY, COMMON, *CHATTER)
    earlier = memory("works", "Anna has worked at Initech since spring", at_ms=NOW_MS - MINUTE)
    index.apply([Change(WORKS, earlier)])
    assert "city" not in found_by_name(index)
    index.apply([Change(earlier, WORKS)])
    assert found_by_name(index)[:2] == ["works", "city"]


def test_links_that_fail_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    index = loaded(WORKS, CITY, COMMON, *CHATTER)
    monkeypatch.setattr(links, "leading", None)
    lacking: set[str] = set()
    hits = index.search(KEY, EMPLOYER, lacking)
    assert hits[0].key == WORKS.key
    assert lacking == {"expansion"}


def test_relations_that_fail_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    index = loaded(related(TEA, "boiler"), BOILER)
    monkeypatch.setattr(graph, "SEEDS", "many")
    lacking: set[str] = set()
    assert names(index.search(KEY, question("tea", **DEFAULTS), lacking), TEA, BOILER)[0] == "tea"
    assert lacking == {"expansion"}


def test_ranking_that_fails_leaves_the_order_by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    index = loaded(TEA, BOILER, TRAIN)
    monkeypatch.setattr(ranking, "relevance_of", None)
    lacking: set[str] = set()
    hits = index.search(KEY, question("the night train", k=2), lacking)
    assert names(hits, TEA, BOILER, TRAIN)[0] == "train"
    assert [hit.score for hit in hits] == [1.0, 0.0]
    assert hits[0].scoring["coverage"] == pytest.approx(1.0)
    assert lacking == {"ranking"}
    wanted = question("train", filters=QueryFilters(tags=["drink"]))
    assert names(index.search(KEY, wanted, lacking), TEA, BOILER, TRAIN) == ["tea"]
    assert index.search(KEY, question("x", filters=QueryFilters(tags=["none"])), lacking) == []


def test_all_memories_those_with_relations_first() -> None:
    old = related(memory("a", "old", counter=4, at_ms=NOW_MS - MINUTE), "boiler")
    index = loaded(TEA, BOILER, TRAIN, old)
    found = [name for name, _ in around(index, None)]
    assert found == ["boiler", "a", "train", "tea"]
    assert [name for name, _ in around(index, None, limit=2)] == found[:2]
    with pytest.raises(ScopeNotLoadedError):
        FaissHotIndex(1).around(KEY, None, depth=1, limit=1, now_ms=NOW_MS)


def counted(record: Record, uses: int) -> Record:
    count = Count(record.key, record.scope, "memory", {"uses": {"1": uses}}, {})
    return join_operation(record, count, stamp(NOW_MS + 500))


def test_what_is_used_more_comes_first_among_equals() -> None:
    one, other = memory("a", "green tea", counter=4), memory("b", "green tea", counter=5)
    index = loaded(one, other, BOILER)
    asked = question("green tea", weights=None)
    assert names(index.search(KEY, asked), one, other, BOILER)[0] == "b"
    assert all("usage" not in hit.scoring for hit in index.search(KEY, asked))
    index.apply([Change(one, counted(one, 9))])
    hits = index.search(KEY, asked)
    assert names(hits, one, other, BOILER)[0] == "a"
    assert [hit.scoring["usage"] for hit in hits[:2]] == pytest.approx([0.460517, 0.0])
    assert by_key(hits) == by_key(loaded(counted(one, 9), other, BOILER).search(KEY, asked))


def test_counts_leave_a_row_as_it_is() -> None:
    """What is only counted or attached does not make the whole row anew, and ends the same."""
    record = memory("a", "green tea", tags=["x"], vector=vector(*axis(1)), counter=4)
    gone = changed(record, deleted=True)
    index = loaded(record, BOILER)
    later = related(counted(record, 3), "boiler")
    index.apply([Change(record, later)])
    asked = question("tea", vectors={"m": axis(1)}, weights=None)
    assert by_key(index.search(KEY, asked)) == by_key(loaded(later, BOILER).search(KEY, asked))
    index.apply([Change(later, gone), Change(gone, counted(gone, 5))])
    assert names(index.search(KEY, asked), BOILER) == ["boiler"]


WORDS = ["ant", "bee", "Cat", "Dog"]  # the latter two are names, where no sentence begins
STEP = st.tuples(
    st.sampled_from("abcdef"),  # which memory
    st.sampled_from(["put", "forget", "tags", "vector", "relate", "count"]),
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
    if what == "count":
        return counted(record, number)
    if what == "relate":
        return related(record, "abcdef"[number], at_ms=NOW_MS + 100 + len(held))
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
    wanted = question(asked, vectors={"m": axis(1)}, weights=None)
    assert by_key(index.search(KEY, wanted)) == by_key(rebuilt.search(KEY, wanted))
    for name in "abcdef":
        found = [one.around(KEY, key_of(name), depth=2, limit=9, now_ms=NOW_MS)
                  for one in (index, rebuilt)]  # fmt: skip
        assert dict(found[0]) == dict(found[1])


def by_key(hits: list[Hit]) -> dict[bytes, Any]:
    return {
        bytes(hit.key): {name: pytest.approx(v, abs=1e-4) for name, v in hit.scoring.items()}
        for hit in hits
    }


@pytest.fixture(autouse=True)
def _compact_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small scopes compact too, so that the tests here see it."""
    monkeypatch.setattr(scope_module, "COMPACT_ROWS_MIN", 1)


def test_a_facet_holds_nothing_of_what_it_is_of() -> None:
    """It is found again after a forget only by who knows what was said."""
    said = "".join(["hid", "den"])
    holders = sys.getrefcount(said)
    assert facet("metadata", "note", said) == facet("metadata", "note", "hidden")
    assert facet("tag", said) != facet("metadata", "note", said)
    assert sys.getrefcount(said) == holders
