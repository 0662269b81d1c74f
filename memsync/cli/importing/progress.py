"""What a person sees of an import that runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memsync.cli.importing.sending import Tally
from memsync.cli.output import console, note

LINE_EVERY_S = 5.0


@contextmanager
def shown(size_bytes: int | None) -> Iterator[Callable[[Tally], None]]:
    """A function that shows a tally, on standard error; `size_bytes` is the file's, if known."""
    started_s = time.monotonic()
    if not sys.stderr.isatty():
        yield _plain(started_s)
        return
    columns = (
        TextColumn("[bold]import"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%" if size_bytes else ""),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("import", total=size_bytes, counts="")

        def show(tally: Tally) -> None:
            counts = _counts(tally, time.monotonic() - started_s)
            bar.update(task, completed=tally.done_bytes, counts=counts)

        yield show


def _plain(started_s: float) -> Callable[[Tally], None]:
    """Lines for a log: one every few seconds."""
    last_s = started_s

    def show(tally: Tally) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= LINE_EVERY_S:
            last_s = now_s
            note(f"import: {_counts(tally, now_s - started_s)}")

    return show


def _counts(tally: Tally, seconds: float) -> str:
    rate = tally.lines / seconds if seconds > 0 else 0.0
    text = f"{tally.created} created, {tally.skipped} skipped, {tally.rejected} rejected"
    if tally.bad:
        text += f", {tally.bad} bad"
    if tally.retries:
        text += f", {tally.retries} retries"
    return f"{text}, {rate:.0f} lines/s"
