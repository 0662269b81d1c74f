"""Each component of the closed list: an answer names it when it was missing, and nothing else.

`explainability` has its tests in test_explaining.py; a whole provider behind HTTP in
test_provider_faults.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from memsync.core.recall import graph, ranking
from memsync.engine.recall.pipeline import COMPONENTS
from memsync.errors import Unavailable
from memsync.ports import Reasoner
from memsync.wire import codec
from memsync.wire.operations import Attach, Relation
from tests.fakes.memories import NOW_MS, SCOPE, create, key_of, stamp
from tests.fakes.recall_bench import Bench, LetterModel, bench, texts


class NoReasoner:
    """A chat model that is away."""

    async def parts_of(self, question: str) -> list[str]:
        raise Unavailable("away")


def related() -> Attach:
    """The car and the tea belong together."""
    relation = Relation(
        stamp=stamp(NOW_MS + 1), to=key_of("tea"), type="extends", confidence=1.0, metadata=None
    )
    elements = {"relations": {"one": codec.pack(relation)}}
    return Attach(key_of("car"), SCOPE, "memory", elements)


@contextmanager
def broken(b: Bench, model: LetterModel, component: str) -> Iterator[None]:
    """A recall in which one component fails."""
    with pytest.MonkeyPatch.context() as patched:
        match component:
            case "embedding":
                model.error = Unavailable("away")
            case "search":
                b.store.error = Unavailable("disk")
            case "expansion":
                patched.setattr(graph, "SEEDS", "many")
            case "ranking":
                patched.setattr(ranking, "relevance_of", None)
            case "reasoning":
                b.tier = "high"
            case "cache":
                patched.setattr(b.embedding, "_cache", None)
        yield


@pytest.mark.parametrize(
    "component", ["embedding", "search", "expansion", "reasoning", "ranking", "cache"]
)
async def test_what_was_missing_is_named_and_nothing_else(component: str) -> None:
    reasoner: Reasoner = NoReasoner()
    model = LetterModel()
    async with bench(model, reasoner=reasoner) as b:
        await b.write(create("car", "The car is blue"), create("tea", "Green tea", identifier=2))
        await b.write(related())
        assert (await b.ask("first car")).degraded_components == []
        with broken(b, model, component):
            answer = await b.ask("blue car")
        assert answer.degraded
        # What is not ranked has no calibrated confidence, either.
        also = ["calibration"] if component == "ranking" else []
        assert answer.degraded_components == [component, *also]
        if component == "ranking":
            assert answer.confidence > 0.9  # the first holds every word
        assert component in COMPONENTS
        if component == "search":
            assert answer.memories == []
        else:
            assert texts(answer)[0] == "The car is blue"


async def test_what_the_caller_knows_to_lack_is_named_too() -> None:
    async with bench(LetterModel()) as b:
        await b.write(create("car", "The car is blue"))
        answer = await b.ask("car", degraded=["replication"])
        assert answer.degraded_components == ["replication"]


async def test_several_are_named_in_the_order_of_the_list() -> None:
    model = LetterModel()
    async with bench(model, reasoner=NoReasoner()) as b:
        await b.write(create("car", "The car is blue"))
        model.error = Unavailable("away")
        b.tier = "high"
        answer = await b.ask("car", degraded=["replication"])
        assert answer.degraded_components == ["embedding", "reasoning", "replication"]
