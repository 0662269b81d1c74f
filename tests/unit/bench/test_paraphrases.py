"""The paraphrases: enough of them, of our own, and no question shares a word with its answer."""

from __future__ import annotations

import re

import pytest
import Stemmer

from memsync.core.recall.lexical import terms_of
from tests.bench.questioning import paraphrase_task

TASK = paraphrase_task()
TEXTS = [item["text"] for item in TASK.items]
QUESTIONS = TASK.asks.questions
ANSWERS = TEXTS[: len(QUESTIONS)]


def stems(text: str) -> set[str]:
    """Of every word, stop words too."""
    return set(Stemmer.Stemmer("english").stemWords(re.findall(r"\w+", text.casefold())))


def test_there_are_enough_of_them() -> None:
    assert len(QUESTIONS) >= 60
    assert len(TEXTS) - len(QUESTIONS) == 500
    assert len(set(TEXTS)) == len(TEXTS)
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("place", range(len(QUESTIONS)))
def test_a_question_shares_no_stem_with_its_answer(place: int) -> None:
    question, answer = QUESTIONS[place], ANSWERS[place]
    assert question.evidence == {TASK.dia_ids[place]}
    assert not stems(question.text) & stems(answer)
    assert not terms_of(question.text).keys() & terms_of(answer).keys()
    assert stems(question.text)
    assert stems(answer)


def test_the_others_are_no_mere_noise() -> None:
    """Most questions share a word with some of the others, so that words alone lead astray."""
    others = [terms_of(text).keys() for text in TEXTS[len(QUESTIONS) :]]
    led_astray = sum(
        any(terms_of(question.text).keys() & other for other in others) for question in QUESTIONS
    )
    assert led_astray > len(QUESTIONS) / 2
    assert len(set().union(*others)) > 1_200
