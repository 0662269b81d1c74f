"""Approximate search in large scopes: nearly what exact search finds, filters inside, and it
follows what changes. "Large" is a few thousand memories here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from memsync import limits
from memsync.adapters.hot_index import FaissHotIndex, frame, search, vectors
from memsync.adapters.hot_index import index as index_module
from memsync.adapters.hot_index import scope as scope_module
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.core.recall.ranking import beside
from memsync.core.records import Record
from memsync.ids import scope_key
from memsync.ports import Change, Hit, Question
from memsync.wire import codec
from memsync.wire.operations import Vector
from memsync.wire.requests import QueryFilters
from tests.fakes.memories import NOW_MS, SCOPE, changed, memory

KEY = scope_key(SCOPE)
ROWS, DIMENSIONS, SUBJECTS = 4_000, 32, 40
QUESTIONS = 60
MINUTE = 60_000
LONG = " ".join(f"strange{n}" for n in range(30))  # a text that says much, in words of its own


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """A scope is large early, and its frame is a small part of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "EXACT_ROWS_MAX", 1_000)
        patch.setattr(vectors, "FRESH_MAX", 8)
        patch.setattr(scope_module, "COMPACT_ROWS_MIN", 64)
        for name, value in (
            ("HOLDING_WORDS", 96), ("BY_WORDS", 48), ("BY_LIFT", 16), ("BY_MEANING", 96),
            ("ASKED", 256), ("LEAST", 8), ("LEAST_ASKED", 32), ("SAMPLE", 400), ("WHOLE_MAX", 200),
            ("ASKED_MAX", 2_000), ("BY_COLUMN", 32),
        ):  # fmt: skip
            patch.setattr(frame, name, value)
        yield


def _of(subject: int, random: np.random.Generator, noise: float = 0.6) -> np.ndarray:
    """A vector near those of its subject."""
    own = np.random.default_rng(1_000 + subject).standard_normal(DIMENSIONS)
    found = own + noise * random.standard_normal(DIMENSIONS)
    return (found / np.linalg.norm(found)).astype(np.float32)


def packed(values: np.ndarray) -> Vector:
    return Vector("m", values.astype("<f2").tobytes())


def text_of(subject: int, random: np.random.Generator) -> str:
    own = [f"word{subject}x{n}" for n in random.zipf(1.6, 4) % 12]
    common = [f"common{n}" for n in random.zipf(1.4, 5) % 60]
    return " ".join([*own, *common])


@cache
def records() -> tuple[Record, ...]:
    """Sessions of twelve turns, each about one subject."""
    random = np.random.default_rng(1)
    made = []
    for number in range(ROWS):
        subject = number // 12 * 7 % SUBJECTS
        made.append(
            memory(
                f"m{number}",
                text_of(subject, random),
                at_ms=NOW_MS + number,
                counter=number,
                session_id=f"s{number // 12}",
                vector=packed(_of(subject, random)),
                tags=[f"of{number % 50}", "even" if number % 2 == 0 else "odd"],
            )
        )
    return tuple(made)


def loaded(*, is_built: bool, rows: tuple[Record, ...] | None = None) -> FaissHotIndex:
    index = FaissHotIndex(1 << 30)
    index.begin_load(KEY)
    index.finish_load(KEY, records() if rows is None else rows)
    if is_built:
        assert index.to_build() == [KEY]
        index.build(KEY)
        assert index.to_build() == []
    return index


@cache
def untouched(*, is_built: bool) -> FaissHotIndex:
    """One for all tests that change nothing."""
    return loaded(is_built=is_built)


def question(number: int, **fields: Any) -> Question:
    random = np.random.default_rng(number)
    subject = number % SUBJECTS
    defaults: dict[str, Any] = {
        "vectors": {"m": _of(subject, random)}, "k": 10, "session_id": None, "filters": None,
        "weights": None, "now_ms": NOW_MS + 60 * MINUTE,
    }  # fmt: skip
    text = " ".join(text_of(subject, random).split()[1:6:2])
    return Question(**({"text": f"What about {text}?"} | defaults | fields))


def keys(hits: list[Hit]) -> set[bytes]:
    return {bytes(hit.key) for hit in hits}


def agreement(one: FaissHotIndex, other: FaissHotIndex, **fields: Any) -> float:
    """The share of the first ten of one that the other finds, over all questions."""
    shares = []
    for number in range(QUESTIONS):
        asked = question(number, **fields)
        exact = keys(one.search(KEY, asked))
        shares.append(len(exact & keys(other.search(KEY, asked))) / len(exact))
    return float(np.mean(shares))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": "unheard of"},
        {"session_id": "s17"},
        {"filters": QueryFilters(tags=["even"])},
        {"filters": QueryFilters(tags=["of3"])},
        {"filters": QueryFilters(tags=["of3", "of4", "of5", "of6", "of7", "of8"])},
        {"weights": {"semantic": 1.0}},
        {"text": ""},
        {"weights": {"importance": 1.0}},
        {"weights": {"cluster": 1.0}},
        {"weights": {"recency": 1.0, "semantic": 1.0}},
    ],
)
def test_it_finds_nearly_what_exact_search_finds(fields: dict[str, Any]) -> None:
    exact, approximate = untouched(is_built=False), untouched(is_built=True)
    assert agreement(exact, approximate, **fields) >= 0.98


def test_scores_and_their_parts_are_nearly_the_exact_ones() -> None:
    exact, approximate = untouched(is_built=False), untouched(is_built=True)
    for number in range(QUESTIONS):
        asked = question(number)
        expected = {hit.key: hit for hit in exact.search(KEY, asked)}
        for hit in approximate.search(KEY, asked):
            if hit.key in expected:
                assert hit.score == pytest.approx(expected[hit.key].score, abs=0.03)
                for name in ("bm25", "near", "cosine", "coverage", "importance"):
                    own, other = hit.scoring[name], expected[hit.key].scoring[name]
                    assert own == pytest.approx(other, abs=1e-4)


def test_a_filter_that_words_and_vectors_do_not_know_is_inside_the_search() -> None:
    index = untouched(is_built=True)
    for number in range(0, QUESTIONS, 7):
        hits = index.search(KEY, question(number, filters=QueryFilters(tags=[f"of{number % 50}"])))
        assert len(hits) == 10
        rows = {record.key: place for place, record in enumerate(records())}
        assert {rows[hit.key] % 50 for hit in hits} == {number % 50}


def test_what_comes_later_is_found_at_once() -> None:
    index = loaded(is_built=True)
    random = np.random.default_rng(5)
    for number in range(20):  # more than are added to the coarse vectors at once
        late = _of(500 + number, random, noise=0.0)
        record = memory(f"late{number}", LONG, at_ms=NOW_MS + 10**6 + number, vector=packed(late))
        index.apply([Change(None, record)])
        asked = question(0, text="unheard of", vectors={"m": late}, weights={"semantic": 1.0})
        assert index.search(KEY, asked)[0].key == record.key


def test_a_vector_that_changes_is_found_as_it_is_now() -> None:
    index, random = loaded(is_built=True), np.random.default_rng(1)
    before = memory("changing", LONG, at_ms=NOW_MS + 10**6, vector=packed(_of(1, random)))
    others = [
        memory(f"other{n}", LONG, at_ms=NOW_MS + 10**6, vector=packed(_of(n, random)))
        for n in range(20)
    ]
    index.apply([Change(None, record) for record in (before, *others)])
    now = _of(900, random, noise=0.0)
    asked = question(0, text="unheard of", vectors={"m": now}, k=50, weights={"semantic": 1.0})
    assert before.key not in keys(index.search(KEY, asked))
    index.apply([Change(before, changed(before, vector=codec.seal(packed(now))))])
    (found,) = [hit for hit in index.search(KEY, asked) if hit.key == before.key]
    assert found.scoring["cosine"] == pytest.approx(1.0, abs=1e-3)


def test_what_is_forgotten_or_expires_is_not_found() -> None:
    asked = question(3)
    index = loaded(is_built=True)
    first = index.search(KEY, asked)
    by_key = {record.key: record for record in records()}
    for hit in first[:5]:
        record = by_key[hit.key]
        index.apply([Change(record, changed(record, deleted=True))])
    for hit in first[5:]:
        record = by_key[hit.key]
        index.apply([Change(record, changed(record, expires_at_ms=asked.now_ms))])
    assert not keys(first) & keys(index.search(KEY, asked))


def test_relations_lead_to_memories_that_neither_words_nor_vectors_find() -> None:
    index = loaded(is_built=True)
    asked = question(3, traversal_depth=1, k=50, weights={"semantic": 1.0, "graph": 5.0})
    hits = index.search(KEY, asked)
    other = next(record for record in reversed(records()) if record.key not in keys(hits))
    index._loaded[KEY].relations.put(hits[0].key, {other.key: 1.0})
    (led,) = [hit for hit in index.search(KEY, asked) if hit.key == other.key]
    assert led.scoring["graph"] > 0


def test_names_lead_to_memories_that_neither_words_nor_vectors_find() -> None:
    random = np.random.default_rng(8)
    meant = _of(700, random)
    said = "Somebody said that Zanzibar and Pemba and Unguja are nice"
    hit = memory("hit", said, counter=ROWS, vector=packed(meant))
    far = [
        memory(f"far{n}", f"By boat to {names} {LONG}", counter=ROWS + 1 + n)
        for n, names in enumerate([*6 * ["Unguja, Pemba and Zanzibar"], "Madagascar"])
    ]
    asked = question(3, text="Who said that it is nice?", vectors={"m": meant}, k=50)
    for is_built in (False, True):
        index = loaded(is_built=is_built, rows=(*records(), hit, *far))
        found = {one.key: one.scoring["links"] for one in index.search(KEY, asked)}
        assert all(found.get(one.key, 0) > 0.1 for one in far[:-1])
        assert far[-1].key not in found
        lacking: set[str] = set()
        untold = msgspec.structs.replace(asked, traversal_depth=0)
        assert not {one.key for one in far} & keys(index.search(KEY, untold, lacking))
        assert lacking == {"expansion"}


def test_after_rows_were_renumbered_it_is_exact_until_it_is_built_again() -> None:
    index = loaded(is_built=True)
    for record in records()[: ROWS // 2 + 100]:
        index.apply([Change(record, changed(record, deleted=True))])
    assert index.to_build() == [KEY]
    kept = records()[ROWS // 2 + 100 :]
    exact = loaded(is_built=False, rows=kept)
    assert agreement(exact, index) == 1.0
    index.build(KEY)
    assert agreement(exact, index) >= 0.98


def test_it_is_built_again_once_the_scope_has_grown_by_a_quarter() -> None:
    index = loaded(is_built=False, rows=records()[:2_000])
    index.build(KEY)
    for record in records()[2_000:2_500]:
        index.apply([Change(None, record)])
    assert index.to_build() == []
    index.apply([Change(None, records()[2_500])])
    assert index.to_build() == [KEY]


def test_a_small_scope_and_one_of_two_models_are_searched_exactly() -> None:
    index = loaded(is_built=False, rows=records()[:900])
    assert index.to_build() == []
    both = loaded(is_built=True)
    record = records()[5]
    other = Vector("n", np.eye(4)[0].astype("<f2").tobytes())
    both.apply([Change(record, changed(record, vector=codec.seal(other)))])
    asked = question(1, vectors={**question(1).vectors, "n": np.eye(4, dtype=np.float32)[0]})
    hits = both.search(KEY, msgspec.structs.replace(asked, k=50))
    assert len(hits) == 50


def test_what_happens_while_it_is_built_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    index = loaded(is_built=False)
    late = _of(700, np.random.default_rng(2), noise=0.0)
    new = memory("late", LONG, at_ms=NOW_MS + 10**6, vector=packed(late))
    coarse = index_coarse(monkeypatch, lambda: index.apply([Change(None, new)]))
    index.build(KEY)
    assert len(coarse) == 1
    asked = question(0, text="unheard of", vectors={"m": late}, weights={"semantic": 1.0})
    assert index.search(KEY, asked)[0].key == new.key


def test_a_scope_that_went_while_it_was_built_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    index = loaded(is_built=False)
    index_coarse(monkeypatch, lambda: index.drop(KEY))
    index.build(KEY)
    assert (index.scopes_loaded, index.bytes_used) == (0, 0)


def index_coarse(monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> list[Any]:
    """Have something happen right after the coarse vectors are made, before they are adopted."""
    made = []

    def build(source: Any) -> Any:
        made.append(real(source))
        meanwhile()
        return made[-1]

    real = index_module.Coarse
    monkeypatch.setattr(index_module, "Coarse", build)
    return made


def test_its_size_is_counted() -> None:
    index = loaded(is_built=False)
    before = index.bytes_used
    index.build(KEY)
    assert index.bytes_used - before >= ROWS * DIMENSIONS // 4


def test_contexts_are_what_ranking_makes_of_neighbours() -> None:
    scope = LoadedScope()
    scope.extend(records()[:30])
    scope.seal()
    held = scope.vectors.to_build() or scope.vectors._models[0]
    source = held.snapshot(scope.beside_each_other())
    centre = np.zeros(DIMENSIONS, np.float32)
    asked = _of(3, np.random.default_rng(1))
    cosines = held.take(np.arange(30)) @ asked
    columns = scope.columns
    expected = cosines + 0.5 * beside(cosines, columns["previous"], columns["following"])
    assert source.contexts(np.arange(30), centre) @ asked == pytest.approx(expected, abs=1e-4)


def test_a_load_makes_no_clusters_who_weighs_them_does() -> None:
    scope = LoadedScope()
    scope.extend(records()[:200])
    scope.seal()
    search.search(scope, question(1), set())
    assert scope.clusters.size_bytes == 0
    hits = search.search(scope, question(1, weights={"semantic": 1.0, "cluster": 1.0}), set())
    assert scope.clusters.size_bytes > 0
    assert all("cluster" in hit.scoring for hit in hits)
