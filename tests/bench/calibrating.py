"""`python -m tests.bench.calibrating FILE [--model static|minilm|none]`: fits the confidence.

Each conversation of the file (format of LoCoMo) becomes a loaded scope, and every question of the
file is asked of every one of them. It is answered where it was asked of its own conversation, is
not of the category "adversarial" (which nobody there can answer), and evidence is among the first
five. Questions put to others' conversations weigh a fifth: most questions are asked where there is
an answer. Printed are the weights for `memsync.core.recall.calibration`, and how well the ones that
were fitted without a conversation do on its questions.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync.adapters.hot_index import FaissHotIndex
from memsync.core.recall import calibration
from memsync.ids import scope_key
from memsync.ports import Embedder, Hit, Question
from memsync.wire.operations import Vector
from memsync.wire.requests import parse_moment
from tests.bench.questioning import Task, read_tasks
from tests.fakes.memories import SCOPE, memory

ADVERSARIAL = 5
ELSEWHERE_WEIGHT = 0.2
NOW_MS = 1_790_000_000_000  # long after the conversations: recency tells none apart
STEPS = 50
BINS = 10

Floats = NDArray[np.float64]


class Asked(msgspec.Struct, frozen=True):
    """A question put to a conversation, both by number; `category` 0 where it is another's."""

    asked_of: int
    belongs_to: int
    category: int
    is_answered: bool
    facts: calibration.Facts


class Loaded(msgspec.Struct, frozen=True):
    """A conversation that can be asked; `turn_of` its records' keys."""

    index: FaissHotIndex
    turn_of: dict[bytes, str]


async def ask_all(tasks: Sequence[Task], model: Embedder | None) -> list[Asked]:
    """Every question of every conversation."""
    scopes = [await _load(task, model) for task in tasks]
    found = []
    for belongs_to, task in enumerate(tasks):
        texts = [question.text for question in task.asks.questions]
        vectors = [] if model is None else list(await model.embed(texts))
        for place, question in enumerate(task.asks.questions):
            given = {} if model is None else {model.name: vectors[place]}
            for asked_of, scope in enumerate(scopes):
                hits = _search(scope, question.text, given)
                is_own = asked_of == belongs_to
                is_found = any(scope.turn_of[hit.key] in question.evidence for hit in hits)
                found.append(
                    Asked(
                        asked_of,
                        belongs_to,
                        question.category if is_own else 0,
                        is_own and is_found and question.category != ADVERSARIAL,
                        calibration.facts_of(
                            [hit.scoring for hit in hits],
                            margin=hits[0].margin,
                            by_named=hits[0].by_named,
                        ),
                    )
                )
    return found


async def _load(task: Task, model: Embedder | None) -> Loaded:
    texts = [item["text"] for item in task.items]
    vectors = None if model is None else (await model.embed(texts)).astype("<f2")
    records = [
        memory(
            turn,
            item["text"],
            at_ms=parse_moment(item["occurred_at"]),
            session_id=item["session_id"],
            counter=place,
            vector=None
            if model is None or vectors is None
            else Vector(model.name, vectors[place].tobytes()),
        )
        for place, (turn, item) in enumerate(zip(task.dia_ids, task.items, strict=True))
    ]
    index = FaissHotIndex(1 << 40)
    index.begin_load(scope_key(SCOPE))
    index.finish_load(scope_key(SCOPE), records)
    return Loaded(index, {r.key: turn for r, turn in zip(records, task.dia_ids, strict=True)})


def _search(scope: Loaded, text: str, vectors: dict[str, NDArray[np.float32]]) -> list[Hit]:
    question = Question(
        text=text,
        vectors=vectors,
        k=calibration.FIRST,
        session_id=None,
        filters=None,
        weights=None,
        now_ms=NOW_MS,
    )
    return scope.index.search(scope_key(SCOPE), question)


def fitted(asked: Sequence[Asked]) -> Floats:
    """(4,): the weights of margin, missing and other, and the base: logistic regression by
    Newton's method, with a penalty of 1 on the standardised weights."""
    facts, answered, weights = _matrix(asked), _answered(asked), _weights(asked)
    deviation = facts[:, :-1].std(axis=0) + 1e-9
    design = facts / np.append(deviation, 1.0)
    penalty = np.array([1.0, 1.0, 1.0, 1e-9])
    beta = np.zeros(4)
    for _ in range(STEPS):
        likely = _logistic(design @ beta)
        slope = design.T @ (weights * (likely - answered)) + penalty * beta
        bend = (design.T * (weights * likely * (1 - likely))) @ design + np.diag(penalty)
        beta -= np.linalg.solve(bend, slope)
    return beta / np.append(deviation, 1.0)


def left_out(asked: Sequence[Asked], conversations: int) -> Floats:
    """The confidence of each, with the weights of a fit that saw neither its conversation nor
    questions of it."""
    likely = np.zeros(len(asked))
    for number in range(conversations):
        known = [one for one in asked if number not in (one.asked_of, one.belongs_to)]
        beta = fitted(known)
        here = np.array([one.asked_of == number for one in asked])
        likely[here] = _logistic(_matrix(asked)[here] @ beta)
    return likely


def calibration_error(likely: Floats, answered: Floats) -> float:
    """ECE: the mean distance of confidence and share answered, in BINS bins of one size."""
    bins = np.array_split(np.argsort(likely, kind="stable"), BINS)
    apart = [abs(likely[b].mean() - answered[b].mean()) * len(b) for b in bins if len(b)]
    return float(sum(apart) / len(likely))


def brier(likely: Floats, answered: Floats) -> float:
    """The mean square of confidence less outcome."""
    return float(np.mean((likely - answered) ** 2))


def _matrix(asked: Sequence[Asked]) -> Floats:
    rows = [(one.facts.margin, one.facts.missing, one.facts.other, 1.0) for one in asked]
    return np.array(rows, np.float64)


def _answered(asked: Sequence[Asked]) -> Floats:
    return np.array([one.is_answered for one in asked], np.float64)


def _weights(asked: Sequence[Asked]) -> Floats:
    return np.array([1.0 if one.category else ELSEWHERE_WEIGHT for one in asked])


def _logistic(evidence: Floats) -> Floats:
    likely: Floats = 1 / (1 + np.exp(-evidence))
    return likely


def report(name: str, asked: Sequence[Asked], conversations: int) -> str:
    """The lines that are printed for one model."""
    own = np.array([one.category > 0 for one in asked])
    nobody = np.array([one.category == ADVERSARIAL for one in asked])
    answered, likely = _answered(asked), left_out(asked, conversations)
    share = answered[own].mean()
    margin, missing, other, base = fitted(asked)
    return (
        f"{name}: left out, own questions: ECE {calibration_error(likely[own], answered[own]):.3f},"
        f" Brier {brier(likely[own], answered[own]):.3f} (a constant: {share * (1 - share):.3f});"
        f" mean {likely[own & ~nobody].mean():.2f} of those with an answer,"
        f" {likely[nobody].mean():.2f} adversarial, {likely[~own].mean():.2f} elsewhere\n"
        f"{name}: fitted: BASE {base:.2f} MARGIN_WEIGHT {margin:.2f} MISSING_WEIGHT {missing:.1f}"
        f" OTHER_WEIGHT {other:.2f}"
    )


def _model(name: str) -> Embedder | None:
    # Loading one is seconds, or not possible here: only the one that is asked for.
    if name == "static":
        from memsync.adapters.models import static

        return static.load()
    if name == "minilm":
        from memsync.adapters.models import minilm

        return minilm.load()
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path, help="conversations with questions, format of LoCoMo")
    parser.add_argument(
        "--model", action="append", choices=("static", "minilm", "none"), help="may be repeated"
    )
    options = parser.parse_args(arguments)
    tasks = read_tasks(options.file)
    together: list[Asked] = []
    for name in options.model or ["static", "none"]:
        asked = asyncio.run(ask_all(tasks, _model(name)))
        together += asked
        print(report(name, asked, len(tasks)))
    print(report("together", together, len(tasks)))


if __name__ == "__main__":
    main()
