"""What questions are after."""

from __future__ import annotations

import pytest

from memsync.core.intent import query_intent, recency_intent


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
