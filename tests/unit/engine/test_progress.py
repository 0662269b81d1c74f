"""What a peer knows of its own progress: every generation, and what is lacking beside it."""

from __future__ import annotations

from memsync import limits
from memsync.clock import SystemClock
from memsync.engine.progress import Progress, stripe_part
from memsync.ids import Position


def test_the_end_of_every_generation_is_told() -> None:
    progress = Progress(SystemClock())
    progress.load({(0, 0): 7, (1, 1): 3})
    progress.advance([Position(0, 1, 2), Position(0, 0, 5)])
    assert progress.ends() == [Position(0, 0, 7), Position(0, 1, 2), Position(1, 1, 3)]


def test_of_many_generations_the_newest_are_told() -> None:
    progress = Progress(SystemClock())
    progress.load({(2, generation): generation + 1 for generation in range(9)})
    told = progress.ends()
    assert len(told) == limits.GENERATIONS_TOLD_MAX
    assert told[-1] == Position(2, 8, 9)


def test_who_lacks_rows_is_behind_whatever_its_positions_say() -> None:
    progress = Progress(SystemClock())
    for stripe in range(limits.STRIPES):
        progress.set_behind(stripe_part(stripe), None)
    assert not progress.is_behind()
    progress.set_lacking("rows", "an empty store")
    assert progress.is_behind()
    assert progress.lacking() == {"rows": "an empty store"}
    progress.set_lacking("rows", None)
    assert not progress.is_behind()
