"""The figures to reach, one line each, with their goals: the table of issue 6.

A line's `figure` stands beside a `limit` measured in the same run. A goal is either on their ratio
or on the figure itself. What could not be measured has no figure and says why; nothing is made up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tests.bench.speed import cases
from tests.bench.speed.blocks import Block, Figure, median_ratio

SIZES = (100, 1_000, 10_000, 100_000)
SEARCH_APART_MS = 1.5
HTTP_APART_MS = 1.0
NO_POSTGRES = "no Postgres beside: --postgres DIR"
Figures = Mapping[str, Figure]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One measure. `ratio` is figure by limit; `judged` what the goal is about: "ratio", "figure",
    or "apart" (figure less limit)."""

    measure: str
    unit: str
    figure: float | None
    limit: float | None
    limit_is: str
    ratio: float | None
    goal: float
    at_most: bool
    judged: str = "ratio"
    note: str = ""

    @property
    def value(self) -> float | None:
        """What is compared with the goal."""
        if self.judged == "ratio":
            return self.ratio
        if self.judged == "apart" and self.figure is not None and self.limit is not None:
            return self.figure - self.limit
        return self.figure if self.judged == "figure" else None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def line(
    measure: str,
    unit: str,
    figure: float,
    goal: float,
    *,
    limit: float | None = None,
    limit_is: str = "",
    at_most: bool = True,
    judged: str = "figure",
    ratio: float | None = None,
) -> Line:
    """A line from plain numbers."""
    if ratio is None and limit:
        ratio = figure / limit
    return Line(
        measure=measure, unit=unit, figure=figure, limit=limit, limit_is=limit_is, ratio=ratio,
        goal=goal, at_most=at_most, judged=judged,
    )  # fmt: skip


def _p50(block: Block) -> float:
    return block.p50_ms


def _rate(block: Block) -> float:
    return block.per_second


def _beside(
    figures: Figures,
    measure: str,
    ours: str,
    limits: Sequence[str],
    goal: float,
    *,
    of: Callable[[Block], float] = _p50,
    judged: str = "ratio",
    at_most: bool = True,
) -> list[Line]:
    """A line whose limit was measured in turns with it; none where ours was not measured."""
    if ours not in figures:
        return []
    unit = "ms" if of is _p50 else "/s"
    figure = statistics.median(map(of, figures[ours].blocks))
    if any(name not in figures for name in limits):
        missing = Line(
            measure=measure, unit=unit, figure=figure, limit=None, limit_is=" + ".join(limits),
            ratio=None, goal=goal, at_most=at_most, judged=judged, note=NO_POSTGRES,
        )  # fmt: skip
        return [missing]
    limit = sum(statistics.median(map(of, figures[name].blocks)) for name in limits)
    ratio = median_ratio(figures[ours], [figures[name] for name in limits], of)
    return [
        line(
            measure, unit, figure, goal, limit=limit, limit_is=" + ".join(limits),
            at_most=at_most, judged=judged, ratio=ratio,
        )
    ]  # fmt: skip


def lines_of(figures: Figures) -> list[Line]:
    """The lines of what was measured in turns."""
    c = cases
    return [
        *_beside(figures, "add over NATS, one at a time, p50", c.ADD, [c.PUBLISH, c.REQUEST], 2.2),
        *_beside(
            figures, "adds/s over NATS, 64 in flight", c.ADD_64, [c.INSERT_64], 0.9,
            of=_rate, at_most=False,
        ),
        *_beside(
            figures, "adds/s over NATS, 256 in flight", c.ADD_256, [c.INSERT_64], 1.3,
            of=_rate, at_most=False,
        ),
        *_beside(figures, "recall over NATS among 1,000, p50", c.RECALL, [c.SELECT], 0.9),
        *_beside(
            figures, "recalls/s over NATS, 16 in flight", c.RECALL_16, [c.SELECT_16], 1.5,
            of=_rate, at_most=False,
        ),
        *_beside(
            figures, "recall over HTTP, p50 above NATS", c.WEB_RECALL, [c.BARE_RECALL],
            HTTP_APART_MS, judged="apart",
        ),
        *_beside(
            figures, "add over HTTP, p50 above NATS", c.WEB_ADD, [c.BARE_ADD], HTTP_APART_MS,
            judged="apart",
        ),
        *_beside(
            figures, "recalls/s over HTTP, 16 in flight", c.WEB_RECALL_16, [c.RECALL_16], 1_200,
            of=_rate, judged="figure", at_most=False,
        ),
        *_beside(
            figures, "adds/s over HTTP, 64 in flight", c.WEB_ADD_64, [c.ADD_64], 900,
            of=_rate, judged="figure", at_most=False,
        ),
        *_beside(
            figures, "memories/s by bulk_add of 50", c.BULK_16, [c.SQLITE], 8_000,
            of=_rate, judged="figure", at_most=False,
        ),
        *(
            found
            for size in SIZES
            for found in _beside(
                figures, f"recall among {size:,}, p50 above raw search", c.recall_of(size),
                [c.search_of(size)], SEARCH_APART_MS, judged="apart",
            )
        ),
    ]  # fmt: skip
