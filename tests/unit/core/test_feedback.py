"""Signals and importance: reckoned from the set of signals, whoever has it, in whatever order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync.core import feedback
from memsync.core.feedback import importance_of
from memsync.core.records import Record, join_operation, value_of
from memsync.wire import codec
from memsync.wire.operations import Attach, Signal, Stamp, Update
from tests.fakes import memories

NAMES = sorted(feedback.STEPS)
DAY_MS = 86_400_000
signals = st.lists(st.tuples(st.integers(1, 40 * DAY_MS), st.sampled_from(NAMES)), max_size=25)


def attach(record: Record, key: str, signal: str, at_ms: int) -> tuple[Attach, Stamp]:
    stamp = memories.stamp(memories.NOW_MS + at_ms)
    element = codec.pack(Signal(stamp=stamp, signal=signal, comment=None))
    by_key = {feedback.SIGNALS: {key: element}}
    return Attach(record.key, record.scope, "memory", by_key), stamp


def with_signals(record: Record, given: list[tuple[int, str]]) -> Record:
    for number, (at_ms, signal) in enumerate(given):
        record = join_operation(record, *attach(record, f"k{number}", signal, at_ms))
    return record


def in_a_row(signal: str, count: int) -> list[tuple[int, str]]:
    return [(number + 1, signal) for number in range(count)]


def dumb(given: float, sent: list[tuple[int, str]]) -> float:
    """The documented formula, looked up anew for every signal."""
    found = given
    ordered = sorted((at_ms, f"k{number}", name) for number, (at_ms, name) in enumerate(sent))
    for place, (at_ms, _, name) in enumerate(ordered):
        recent = [n for t, _, n in ordered[: place + 1] if at_ms - t <= 30 * DAY_MS][-10:]
        worth = {"positive": 5, "negative": -5, "retrieved": 1, "ignored": -1}
        balance = sum(worth[n] for n in recent) / sum(abs(worth[n]) for n in recent)
        multiplier = 0.5 + abs(balance) if len(recent) >= 3 else 1.0
        found = min(max(found + worth[name] * 0.02 * multiplier, 0.05), 1.0)
    return found


@given(signals)
def test_importance_is_that_of_the_dumb_formula(sent: list[tuple[int, str]]) -> None:
    record = with_signals(memories.memory("m", "text", importance=0.4), sent)
    assert importance_of(record) == pytest.approx(dumb(0.4, sent), abs=1e-4)
    assert 0.05 <= importance_of(record) <= 1


@given(signals, st.randoms(use_true_random=False))
def test_peers_that_hear_of_signals_in_any_order_agree(
    sent: list[tuple[int, str]], chance: random.Random
) -> None:
    start = memories.memory("m", "text")
    operations = [attach(start, f"k{n}", name, at) for n, (at, name) in enumerate(sent)]
    one = with_signals(start, sent)
    chance.shuffle(operations)
    other: Record | None = start
    for operation, stamp in operations + operations[:2]:
        other = join_operation(other, operation, stamp)
    assert other == one
    assert importance_of(other) == importance_of(one)


def test_what_agrees_moves_further_and_what_is_mixed_less() -> None:
    start = memories.memory("m", "text", importance=0.5)
    steps = []
    for last in range(1, 5):
        course = feedback.course_of(0.5, None, feedback.signals_of(
            with_signals(start, in_a_row("positive", last))))  # fmt: skip
        steps.append(round(course.after - course.before, 6))
    assert steps == [0.1, 0.1, 0.15, 0.15]
    mixed = [(1, "positive"), (2, "negative"), (3, "positive"), (4, "negative")]
    course = feedback.course_of(0.5, None, feedback.signals_of(with_signals(start, mixed)))
    assert (course.trend.momentum, course.trend.consistency) == ("neutral", 0.0)
    assert round(course.before - course.after, 6) == 0.05


def test_signals_of_long_ago_are_no_trend() -> None:
    start = memories.memory("m", "text")
    old = in_a_row("negative", 5)
    late = [(31 * DAY_MS, "positive")]
    course = feedback.course_of(0.5, None, feedback.signals_of(with_signals(start, old + late)))
    assert (course.trend.recent_count, course.trend.momentum) == (1, "positive")


def test_nothing_but_signals_leaves_the_importance_that_was_given() -> None:
    assert importance_of(memories.memory("m", "text", importance=0.01)) == 0.01
    moved = with_signals(memories.memory("m", "text", importance=0.01), [(1, "ignored")])
    assert importance_of(moved) == 0.05


def test_an_importance_that_a_caller_sets_is_where_it_goes_on() -> None:
    record = with_signals(memories.memory("m", "text"), in_a_row("negative", 9))
    assert importance_of(record) == 0.05
    update = Update(record.key, record.scope, "memory", {"importance": codec.pack(0.6)})
    record = join_operation(record, update, memories.stamp(memories.NOW_MS + 50))
    assert importance_of(record) == value_of(record, "importance") == 0.6
    record = join_operation(record, *attach(record, "late", "positive", 60))
    assert importance_of(record) == pytest.approx(0.6 + 0.1 * 1.3)


def test_the_bounds_hold_whatever_comes() -> None:
    start = memories.memory("m", "text")
    assert importance_of(with_signals(start, in_a_row("positive", 50))) == 1.0
    assert importance_of(with_signals(start, in_a_row("negative", 50))) == 0.05
