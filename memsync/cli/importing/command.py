"""The command `memsync import`: its options, its summary, its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from memsync.cli.exits import (
    INTERRUPTED,
    OK,
    REFUSED,
    USAGE,
    UsageProblem,
    exit_code_of,
    sentence_of,
)
from memsync.cli.importing import progress
from memsync.cli.importing.lines import read_chunks
from memsync.cli.importing.sending import Importer, Problem
from memsync.cli.importing.sources import NEITHER, Format, Owners, Source, open_source
from memsync.cli.output import Output
from memsync.cli.session import EVERYTHING, Session, with_session

PROBLEMS_SHOWN = 20
AGAIN = "the same command goes on from here and adds nothing twice"
STOPPED = {
    "bad_line": "stopped at a bad line; correct it or say --on-error skip",
    "interrupted": "interrupted",
    "failed": "stopped",
}


class OnError(StrEnum):
    """What a line that cannot be imported does."""

    STOP = "stop"
    SKIP = "skip"


class Asked(msgspec.Struct, frozen=True):
    """What to import, and how."""

    file: str
    file_format: Format
    owners: Owners
    on_error: OnError


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The result as a document. `problems` are the first hundred."""

    ended: str  # complete, bad_line, interrupted or failed
    created: int
    skipped: int
    rejected: int
    bad: int
    retries: int
    seconds: float
    lines_per_s: float
    problems: list[Problem]
    error: str | None


@with_session(*EVERYTHING)
def import_file(
    session: Session,
    file: Annotated[
        str,
        typer.Argument(help="A file of JSON lines or LoCoMo conversations; -: standard input."),
    ],
    file_format: Annotated[
        Format,
        typer.Option("--format", help="How the file is written; auto: as it looks."),
    ] = Format.AUTO,
    user_prefix: Annotated[
        str | None,
        typer.Option(help="What the end users that conversations become begin with."),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="At a line that cannot be imported: stop there (what stands before it is "
            "stored; exit code 2), or skip it and go on (exit code 1 at the end)."
        ),
    ] = OnError.STOP,
) -> int:
    """Import memories from a file of JSON lines, or of conversations in the format of LoCoMo.

    Each JSON line is an object with a text and any of these: tags, source, event_type, session_id,
    role, importance, metadata, occurred_at, ttl_minutes, client_ref, end_user_id. Blank lines are
    passed over.

    It can be repeated, after an interruption or with a longer file: what is there already is
    skipped. An item without a client_ref gets one that is made of its fields and of how many equal
    lines stand before it. So equal lines in one file are all stored, and nothing is dropped
    because a like text was added before; give a line "deduplicate": true to have that. What was
    forgotten since does not come back: its client_ref counts as there already.

    Each turn of a LoCoMo conversation becomes a memory of "Speaker: text", with its session and
    time, and each conversation an end user that is named by its sample_id (behind --user-prefix),
    or the one of --user if it is the only one. Problems are counted by turns then.
    """
    descriptor, size_bytes = _open(file)
    asked = Asked(file, file_format, Owners(session.given_user, user_prefix), on_error)
    started_s = time.monotonic()
    try:
        importer = asyncio.run(_run(session, asked, descriptor, size_bytes))
    finally:
        if descriptor != 0:
            os.close(descriptor)
    summary = _summary(importer, time.monotonic() - started_s)
    if asked.file_format is Format.AUTO and _is_of_no_format(importer):
        session.output.note(f"{file}: {NEITHER}")
    _show(session.output, summary)
    return _exit_code(importer)


async def _run(session: Session, asked: Asked, descriptor: int, size_bytes: int | None) -> Importer:
    async with session.client() as memory:
        source = await _source(asked, descriptor, size_bytes)
        with progress.shown(source.size_bytes) as show:
            importer = Importer(
                session,
                memory,
                stops_at_bad_line=asked.on_error is OnError.STOP,
                changed=show,
            )
            with _interrupts(importer, session.output):
                await importer.run(source.chunks)
    return importer


async def _source(asked: Asked, descriptor: int, size_bytes: int | None) -> Source:
    chunks = read_chunks(descriptor)
    try:
        return await open_source(chunks, asked.file_format, asked.owners, size_bytes)
    except UsageProblem as problem:
        raise UsageProblem(f"{asked.file}: {problem}") from problem


def _is_of_no_format(importer: Importer) -> bool:
    """Whether the import stopped at the first line of the file, and this was no JSON object."""
    bad_line, tally = importer.bad_line, importer.tally
    return bad_line is not None and tally.lines == 1 and bad_line.reason.startswith("not ")


@contextmanager
def _interrupts(importer: Importer, output: Output) -> Iterator[None]:
    """Ctrl-C and SIGTERM let what is in flight end; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        importer.interrupt()
        output.note("finishing what is in flight; Ctrl-C again ends at once")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _open(file: str) -> tuple[int, int | None]:
    """The file's descriptor, and its size where it has one."""
    if file == "-":
        return sys.stdin.fileno(), None
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageProblem(f"{file}: cannot be read ({reason})") from error
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        os.close(descriptor)
        raise UsageProblem(f"{file}: is a folder")
    return descriptor, found.st_size if stat.S_ISREG(found.st_mode) else None


def _summary(importer: Importer, seconds: float) -> Summary:
    tally = importer.tally
    ended, error = "complete", None
    if importer.failure is not None:
        ended, error = "failed", sentence_of(importer.failure)
    if importer.bad_line is not None:
        ended = "bad_line"
    if importer.is_interrupted:
        ended = "interrupted"
    return Summary(
        ended=ended,
        created=tally.created,
        skipped=tally.skipped,
        rejected=tally.rejected,
        bad=tally.bad,
        retries=tally.retries,
        seconds=round(seconds, 3),
        lines_per_s=round(tally.lines / seconds, 1) if seconds > 0 else 0.0,
        problems=tally.problems,
        error=error,
    )


def _show(output: Output, summary: Summary) -> None:
    for problem in summary.problems[:PROBLEMS_SHOWN]:
        output.note(f"line {problem.line}: {problem.reason}")
    left = summary.rejected + summary.bad - min(len(summary.problems), PROBLEMS_SHOWN)
    if left > 0:
        output.note(f"... and {left} more")
    if summary.error:
        output.note(f"memsync: {summary.error}")
    if summary.ended != "complete":
        output.note(f"{STOPPED[summary.ended]}: {AGAIN}")
    if output.as_json:
        output.document(summary)
        return
    output.line(
        f"{summary.created} created, {summary.skipped} skipped, {summary.rejected} rejected, "
        f"{summary.bad} bad in {summary.seconds:.1f} s ({summary.lines_per_s:.0f} lines/s)"
    )


def _exit_code(importer: Importer) -> int:
    if importer.is_interrupted:
        return INTERRUPTED
    if importer.failure is not None:
        return exit_code_of(importer.failure)
    if importer.bad_line is not None:
        return USAGE
    return REFUSED if importer.tally.rejected or importer.tally.bad else OK
