"""The command `memsync top`: a screen that is drawn again every second, lines, or JSON lines."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.live import Live

from memsync.cli.exits import OK
from memsync.cli.output import Output, console, width
from memsync.cli.session import CLUSTER, Session, with_session
from memsync.cli.status.processes import Places, check_anybody, places_of
from memsync.cli.top import showing
from memsync.cli.top.sample import Sample, compare
from memsync.cli.top.watching import Reading, Watch
from memsync.clock import SystemClock
from memsync.wire.requests import format_moment

INTERVAL_S_MIN = 0.2
INTERVAL_S_MAX = 3_600.0
ENDING_KEYS = b"qQ\x03\x04"
KEYS_BYTES = 64

Show = Callable[[Sample], None]


@with_session(*CLUSTER)
def top(
    session: Session,
    interval: Annotated[
        float,
        typer.Option(min=INTERVAL_S_MIN, max=INTERVAL_S_MAX, help="Seconds between two looks."),
    ] = 1.0,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many; without it q or Ctrl-C ends it.")
    ] = None,
) -> int:
    """Watch what the cluster does: requests, times, lag, leaders, memory.

    On a terminal a screen that is drawn again every second until q or Ctrl-C; else a line, or with
    --json a JSON document in a line, for each interval. Exit code 3 if nothing answers at first.
    """
    places = places_of(session.keyless_target)
    asyncio.run(_run(Watch(places), session.output, interval, count, _check(places)))
    return OK


def _check(places: Places) -> Callable[[Reading], None]:
    return lambda reading: check_anybody(reading.processes, places)


async def _run(
    watch: Watch,
    output: Output,
    interval_s: float,
    count: int | None,
    check: Callable[[Reading], None],
) -> None:
    try:
        read_at_s = time.monotonic()
        first = await watch.read()
        check(first)
        with _ending() as ended, _shown(output, first, is_counted=count is not None) as show:
            before = first
            left = count
            while left != 0 and not await _is_over(ended, read_at_s + interval_s):
                now_s = time.monotonic()
                after = await watch.read()
                show(_compared(before, after, now_s - read_at_s))
                before, read_at_s = after, now_s
                left = None if left is None else left - 1
    finally:
        await watch.close()


def _compared(before: Reading | None, after: Reading, interval_s: float) -> Sample:
    at = format_moment(SystemClock().wall_ms())
    return compare(before, after, interval_s=interval_s, at=at)


async def _is_over(ended: asyncio.Event, until_s: float) -> bool:
    """Wait until a time of `time.monotonic`; whether the end was asked for."""
    try:
        async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
            await ended.wait()
    except TimeoutError:
        return False
    return True


@contextmanager
def _shown(output: Output, first: Reading, *, is_counted: bool) -> Iterator[Show]:
    """A function that shows a sample. The terminal is as before afterwards; what was counted
    stays on it."""
    if output.as_json:
        yield output.document
        return
    if not output.is_terminal:
        yield lambda sample: output.line(showing.line(sample))
        return
    last = _compared(None, first, 0.0)
    place = console(sys.stdout)

    def show(sample: Sample) -> None:
        nonlocal last
        last = sample
        live.update(showing.screen(sample, width()), refresh=True)

    with Live(console=place, screen=True, auto_refresh=False) as live:
        show(last)
        yield show
    if is_counted:
        place.print(showing.screen(last, width()))


@contextmanager
def _ending() -> Iterator[asyncio.Event]:
    """Set by q, Ctrl-C and SIGTERM; keys are read without echo where standard input is a
    terminal, which is as before afterwards."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            with _keys(loop, ended):
                yield ended
        else:
            yield ended
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def _keys(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> Iterator[None]:
    descriptor = sys.stdin.fileno()

    def read() -> None:
        pressed = os.read(descriptor, KEYS_BYTES)
        if not pressed or any(key in ENDING_KEYS for key in pressed):
            ended.set()
            loop.remove_reader(descriptor)

    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
