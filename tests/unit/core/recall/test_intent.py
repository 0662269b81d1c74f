"""What questions are after."""

from __future__ import annotations

import pytest

from memsync.core.recall.intent import asks_assistant, asks_when, query_intent, recency_intent


@pytest.mark.parametrize(
    ("question", "intent"),
    [
        ("What is my LATEST address?", "strong"),
        ("Where does Ben live now", "strong"),
        ("what have I read recently?", "some"),
        ("What did we plan last week", "some"),
        ("When did Anna move to Graz?", "none"),
        ("Is the snowman known?", "none"),
        ("", "none"),
    ],
)
def test_recency(question: str, intent: str) -> None:
    assert recency_intent(question) == intent


@pytest.mark.parametrize(
    ("question", "intent"),
    [
        ("", "browse"),
        ("what is it?", "browse"),
        ("When did Anna move?", "temporal"),
        ("How many cats has Ben?", "count"),
        ("Who fixed the boiler?", "person"),
        ("Where is the key?", "place"),
        ("Why did the build fail?", "reason"),
        ("Which tea does she prefer?", "preference"),
        ("my current job", "recent"),
        ("boiler pressure", "factual"),
    ],
)
def test_kinds(question: str, intent: str) -> None:
    assert query_intent(question) == intent


@pytest.mark.parametrize(
    ("question", "asks"),
    [
        ("When did Anna move?", True),
        ("What year was the boiler built", True),
        ("HOW LONG AGO did she leave?", True),
        ("when's the dentist?", True),
        ("Since when has Ben had a cat?", True),
        ("when?", True),
        ("Do you remember when Anna moved?", True),
        ("And when will she be back?", True),
        ("What did she say when I was ill?", False),
        ("When I was ill, what did she say?", False),
        ("What did she eat whenever it rained?", False),
        ("Where is the timetable?", False),
    ],
)
def test_asking_when(question: str, *, asks: bool) -> None:
    assert asks_when(question) == asks


@pytest.mark.parametrize(
    ("question", "asks"),
    [
        ("Which hotel did you recommend?", True),
        ("What did the assistant say of Graz?", True),
        ("Which hotel did Anna recommend to young people?", False),
    ],
)
def test_asking_for_what_the_assistant_said(question: str, *, asks: bool) -> None:
    assert asks_assistant(question) == asks
