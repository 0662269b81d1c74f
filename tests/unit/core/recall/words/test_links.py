"""What the best answers lead to, against a model that counts words one by one; whichever way the
rows came in, and whichever are hidden.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync import limits
from memsync.core.recall import postings as postings_module
from memsync.core.recall.bm25 import Population
from memsync.core.recall.postings import Postings
from memsync.core.recall.words import links, tail

WORDS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
SAID_MAX = 4


class Text(NamedTuple):
    """A row: the words of its text, how many of the first are names, a word that it holds beside
    its text, how it comes, and whether it is visible."""

    said: list[str]
    named: int
    beside: str
    way: str
    visible: bool

    @property
    def terms(self) -> dict[str, int]:
        return dict.fromkeys([*self.said, self.beside], 1)


TEXT = st.builds(
    Text,
    st.lists(st.sampled_from(WORDS), max_size=6, unique=True),
    st.integers(0, 2),
    st.sampled_from(WORDS),
    st.sampled_from(["append", "extend", "wait", "seal"]),
    st.booleans(),
)


@pytest.fixture(autouse=True, scope="module")
def _small_limits() -> Iterator[None]:
    """The tail becomes a segment after a few postings, and of a text the first words count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings_module, "TAIL_POSTINGS_MAX", 6)
        patch.setattr(postings_module, "SAID_MAX", SAID_MAX)
        patch.setattr(tail, "SAID_MAX", SAID_MAX)
        yield


def said_of(text: Text) -> list[str]:
    return text.said[:SAID_MAX]


def named_of(text: Text) -> list[str]:
    return text.said[: text.named]


def built(texts: list[Text]) -> Postings:
    """The postings of these rows, come in their ways."""
    postings, waiting = Postings(), list[Text]()
    for text in texts:
        waiting.append(text)
        if text.way == "extend":
            _extend(postings, waiting)
            waiting = []
        elif text.way != "wait":
            for each in waiting:
                postings.append(each.terms, len(each.said), len(named_of(each)))
            waiting = []
        if text.way == "seal":
            postings.seal()
    _extend(postings, waiting)
    return postings


def _extend(postings: Postings, texts: list[Text]) -> None:
    postings.extend(
        [text.terms for text in texts],
        [len(text.said) for text in texts],
        [len(named_of(text)) for text in texts],
    )


def population_of(postings: Postings, visible: list[bool]) -> Population:
    none = np.full(len(visible), -1, np.int32)
    return postings.population(np.array(visible, np.bool_), none, 0, previous=none, following=none)


def slow_links(
    texts: list[Text], seeds: list[int], asked: list[str], bounds: tuple[int, int]
) -> list[float] | None:
    """As the head of the module says, in words."""
    counts = Counter(word for seed in seeds for word in said_of(texts[seed]))
    leading = {word: count for word, count in counts.items() if count > 1}
    for word in {word for seed in seeds for word in named_of(texts[seed])}:
        leading[word] = counts[word] + 1
    worth = {}
    visible = [text for text in texts if text.visible]
    for word, count in leading.items():
        held = sum(word in text.terms for text in visible)
        if word not in asked and bounds[0] <= held <= bounds[1]:
            worth[word] = count * math.log(1 + (len(visible) - held + 0.5) / (held + 0.5))
    if not worth:
        return None
    shares = [
        sum(own for word, own in worth.items() if word in text.terms) if text.visible else 0.0
        for text in texts
    ]
    return [
        (0.5 if row in seeds else 1.0) * links.LIFT * share / (sum(worth.values()) + links.LITTLE)
        for row, share in enumerate(shares)
    ]


@given(
    texts=st.lists(TEXT, min_size=1, max_size=14),
    chosen=st.lists(st.integers(0, 13), min_size=1, max_size=5, unique=True),
    asked=st.lists(st.sampled_from(WORDS), max_size=2),
    bounds=st.sampled_from([(2, 3), (2, 20), (1, 5)]),
)
def test_links_are_those_of_the_slow_model(
    texts: list[Text], chosen: list[int], asked: list[str], bounds: tuple[int, int]
) -> None:
    seeds = [row for row in chosen if row < len(texts) and texts[row].visible]
    if not seeds:
        return
    postings = built(texts)
    among = population_of(postings, [text.visible for text in texts])
    spoken = postings.spoken(seeds)
    words = links.leading(spoken.said, spoken.named)
    holders = postings.holders(
        words, spoken.part, among, without=set(map(hash, asked)), bounds=bounds
    )
    found = links.links_of(holders, seeds, among)
    expected = slow_links(texts, seeds, asked, bounds)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found == pytest.approx(expected, abs=1e-6)
        assert 0 <= found.min() <= found.max() < links.LIFT


@given(texts=st.lists(TEXT, min_size=1, max_size=14))
def test_what_rows_say_survives_compaction(texts: list[Text]) -> None:
    postings = built(texts)
    kept = np.array([text.visible for text in texts])
    postings.compact(np.where(kept, np.cumsum(kept) - 1, -1))
    postings.append({"new": 1})  # not in the segment of the others
    stays = [text for text in texts if text.visible]
    for row, text in enumerate(stays):
        assert told(postings, row) == (said_of(text), named_of(text))
    assert told(postings, len(stays)) == (["new"], [])


def told(postings: Postings, row: int) -> tuple[list[str], list[str]]:
    """What a row says and names, as words."""
    word_of = {hash(word): word for word in (*WORDS, "new")}
    spoken = postings.spoken([row])
    hashes = [
        words if spoken.part is None else spoken.part.terms[words]
        for words in (spoken.said, spoken.named)
    ]
    said, named = ([word_of[word] for word in words.tolist()] for words in hashes)
    return said, named


def test_a_word_of_one_answer_leads_nowhere_and_its_name_does() -> None:
    said, named = np.array([3, 5, 4, 3, 9]), np.array([5, 3])
    assert links.leading(said, named) == {3: 3, 5: 2}
    assert links.leading(said[:0], named[:0]) == {}


def test_few_answers_of_a_small_scope_lead_on_and_need_not_agree() -> None:
    assert [links.seeds_max(rows) for rows in (1, 39, 80, 400, 9_000)] == [1, 1, 2, 10, 10]
    assert [links.held_max(rows) for rows in (1, 75, 100, 1_000, 10**6)] == [3, 3, 4, 40, 2_000]
    assert links.can_agree(5, 1_000)
    assert not links.can_agree(4, 1_000)


def test_where_search_is_approximate_only_names_of_the_first_few_lead_on() -> None:
    large = limits.EXACT_ROWS_MAX + 1
    assert links.seeds_max(large) == links.SEEDS_APPROXIMATE
    assert not links.can_agree(10, large)


def test_a_long_text_is_kept_by_its_first_words() -> None:
    postings = Postings()
    postings.append({f"word{n}": 1 for n in range(9)})
    assert len(postings.spoken([0]).said) == SAID_MAX
