"""Bulks against a deliberately dumb model: Hypothesis looks for one that is judged otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.service.world import World

ITEM = st.fixed_dictionaries(
    {"text": st.sampled_from(["one", "two", "three", "?!", ""])},
    optional={
        "client_ref": st.sampled_from(["r", "s"]),
        "deduplicate": st.booleans(),
        "end_user_id": st.sampled_from(["ada", "bob"]),
    },
)
BULKS = st.lists(st.lists(ITEM, min_size=1, max_size=6), min_size=1, max_size=4)


class Model:
    """One item after the other, with plain look-ups in what was stored."""

    def __init__(self) -> None:
        self.refs: set[tuple[str, str]] = set()
        self.texts: set[tuple[str, str]] = set()

    def judge(self, item: dict[str, Any]) -> tuple[str, str | None]:
        user, text, ref = item.get("end_user_id", "ada"), item["text"], item.get("client_ref")
        if not text:
            return "rejected", "text: empty"
        if ref is not None and (user, ref) in self.refs:
            return "skipped", "already_ingested"
        if text == "?!":
            return "skipped", "no_high_value_content"
        if item.get("deduplicate", True) and (user, text) in self.texts:
            return "skipped", "duplicate"
        self.texts.add((user, text))
        if ref is not None:
            self.refs.add((user, ref))
        return "created", None


@example(bulks=[[{"text": "one", "client_ref": "r"}, {"text": "?!", "client_ref": "r"}]])
@settings(deadline=None, max_examples=150)
@given(bulks=BULKS)
def test_bulks_agree_with_the_model(bulks: list[list[dict[str, Any]]]) -> None:
    asyncio.run(compare(bulks))


async def compare(bulks: list[list[dict[str, Any]]]) -> None:
    world, model = World(), Model()
    await world.found()
    for items in bulks:
        reply = await world.call("memory.bulk_add", {"items": items})
        assert reply.status == 200, reply
        results = [(result["status"], result["reason"]) for result in reply.json["results"]]
        assert results == [model.judge(item) for item in items]
        for item, result in zip(items, reply.json["results"], strict=True):
            if result["status"] == "rejected" or result["reason"] == "no_high_value_content":
                assert result["memory_ids"] == []
                continue
            [identifier] = result["memory_ids"]
            user = item.get("end_user_id", "ada")
            read = await world.call("memory.get", {"memory_id": identifier}, user=user)
            assert read.status == 200
            if result["reason"] != "already_ingested":
                assert read.json["text"] == item["text"]
