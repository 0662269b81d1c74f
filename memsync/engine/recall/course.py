"""The course of one recall: its deadline, what each stage took, and what is lacking so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import msgspec

from memsync.clock import Clock
from memsync.engine.recall import metrics
from memsync.ports import Hit, Question

Stage = Literal[
    "load", "embed", "reason", "search", "expand", "rank", "read", "answer", "cache", "explain",
    "all"
]  # fmt: skip
STAGES: tuple[Stage, ...] = get_args(Stage)
_SECONDS = {name: metrics.RECALL_SECONDS.of(name) for name in STAGES}
_NOTHING: frozenset[str] = frozenset()


class Report(msgspec.Struct, frozen=True):
    """What a stage took, and what the answer lacks because of it."""

    stage: Stage
    took_ms: float
    lacking: tuple[str, ...] = ()


class Course:
    """One recall under way. Times are seconds of the steady clock."""

    def __init__(self, clock: Clock, deadline_s: float, lacking: Sequence[str]) -> None:
        self.now_s = clock.steady_s
        self.started_s = clock.steady_s()
        self.deadline_s = deadline_s
        self.lacking = set(lacking)
        self.reports: list[Report] = []
        self.weights: Mapping[str, float] = {}  # of the last search
        self.models: tuple[str, ...] = ()

    def note_search(self, question: Question, hits: Sequence[Hit]) -> None:
        """Remember what a search went by."""
        self.models = tuple(question.vectors)
        if hits:
            self.weights = hits[0].weights

    def note_part(self, name: Stage, took_s: float | None, lacking: set[str]) -> None:
        """Report what was done inside another stage; None: it was left out."""
        if took_s is not None:
            _SECONDS[name].observe(took_s)
        self.reports.append(Report(name, round((took_s or 0.0) * 1_000, 3), tuple(lacking)))
        self.lacking |= lacking

    def after(self, share: float) -> float:
        """When a share of the whole time is over."""
        return self.started_s + share * (self.deadline_s - self.started_s)

    def left(self, share: float = 1.0) -> float:
        """When a share of the time that is left now is over."""
        now_s = self.now_s()
        return now_s + share * (self.deadline_s - now_s)

    def stage(self, name: Stage) -> _Measured:
        """Measure a stage, whatever becomes of it: `with course.stage("embed"):`."""
        return _Measured(self, name)


class _Measured:
    """One stage under way."""

    __slots__ = ("_began_s", "_course", "_lacked", "_name")

    def __init__(self, course: Course, name: Stage) -> None:
        self._course = course
        self._name = name
        self._lacked = set(course.lacking) if course.lacking else _NOTHING
        self._began_s = course.now_s()

    def __enter__(self) -> None: ...

    def __exit__(self, *raised: object) -> None:
        course = self._course
        took_s = course.now_s() - self._began_s
        _SECONDS[self._name].observe(took_s)
        lacking: tuple[str, ...] = ()
        if course.lacking != self._lacked:
            lacking = tuple(sorted(course.lacking - self._lacked))
        course.reports.append(Report(self._name, round(took_s * 1_000, 3), lacking))
