"""The questions of two hops: a name leads from what is like them to the answer, nothing else."""

from __future__ import annotations

import pytest

from memsync.core.recall.lexical import terms_of
from memsync.core.recall.traits import names_of
from tests.bench.questioning import hops_task

TASK = hops_task()
TEXTS = [item["text"] for item in TASK.items]
QUESTIONS = TASK.asks.questions
COUNT = len(QUESTIONS)
ANSWERS, BRIDGES = TEXTS[:COUNT], TEXTS[COUNT : 2 * COUNT]


def test_there_are_enough_of_them() -> None:
    assert COUNT >= 24
    assert len(TEXTS) == 2 * COUNT + 500
    assert len(set(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("place", range(COUNT))
def test_only_a_name_leads_to_the_answer(place: int) -> None:
    question, answer, bridge = QUESTIONS[place], ANSWERS[place], BRIDGES[place]
    assert question.evidence == {TASK.dia_ids[place]}
    asked, said = terms_of(question.text).keys(), terms_of(answer).keys()
    assert not asked & said
    assert asked & terms_of(bridge).keys()
    (name,) = terms_of(bridge).keys() & said
    assert name in names_of(bridge)
    holders = [text for text in TEXTS if name in terms_of(text)]
    assert sorted(holders) == sorted([answer, bridge])
