"""Short facts among long chatter: what holds the question's words comes before what talks much.

Recall@10 over conversations does not see this order; a caller who asks for one memory does.
"""

from __future__ import annotations

import random

import pytest

from memsync.adapters.hot_index import FaissHotIndex
from memsync.ids import scope_key
from memsync.ports import Question
from tests.fakes.memories import NOW_MS, SCOPE, memory

KEY = scope_key(SCOPE)
FACTS = {
    "My wifi password is hunter2.": "what is the wifi password?",
    "Anna is vegan.": "is Anna vegan?",
    "I parked on level 3.": "where did I park?",
    "The code is 4711.": "what is the code?",
    "My shoe size is 43.": "what is my shoe size?",
    "Tom hates olives.": "what does Tom hate?",
    "Flight LH123 lands at 9.": "when does the flight land?",
    "Keys are under the mat.": "where are the keys?",
    "We named the cat Miso.": "what is the cat's name?",
    "Rent is 900 euros.": "how much is the rent?",
    "The plumber is Mr Huber.": "who is the plumber?",
    "Lisa plays cello.": "which instrument does Lisa play?",
}
WHO = ("my brother", "the neighbour", "our teacher", "a colleague", "my cousin", "the boss")
DID = ("talked for hours about", "wanted to show us", "has been complaining about",
       "spent the whole weekend with", "was really excited about")  # fmt: skip
WHAT = (
    "the garden and the tomatoes that grow behind the house",
    "holidays in Portugal and the terrible hotel they stayed in",
    "that new film with the horses and the music everybody likes",
    "the broken washing machine and the repair that cost a fortune",
    "a trip to the mountains with rain and fog on every single day",
)


def chatter(chance: random.Random) -> str:
    one, other = (
        " ".join((chance.choice(WHO), chance.choice(DID), chance.choice(WHAT))) for _ in range(2)
    )
    return f"{one}, and {other}."


@pytest.mark.parametrize("turns", [12, 25])
def test_a_short_fact_comes_before_the_chatter_beside_it(turns: int) -> None:
    chance = random.Random(3)
    first = 0
    for fact, question in FACTS.items():
        texts = [chatter(chance) for _ in range(turns)]
        texts[turns // 2] = fact
        rows = [
            memory(f"m{i}", text, at_ms=NOW_MS + i * 60_000, counter=i, session_id="s")
            for i, text in enumerate(texts)
        ]
        index = FaissHotIndex(1 << 30)
        index.begin_load(KEY)
        index.finish_load(KEY, rows)
        asked = Question(
            text=question, vectors={}, k=1, session_id=None, filters=None, weights=None,
            now_ms=NOW_MS + 86_400_000,
        )  # fmt: skip
        first += index.search(KEY, asked)[0].key == rows[turns // 2].key
    assert first >= len(FACTS) - 1
