"""What a person or a script sees: tables and colours on a terminal, plain lines in a pipe, or JSON.

Standard output carries the result and nothing else; notes and errors go to standard error. Text of
others is shown without its control characters, which could command the terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memsync.cli.exits import OK, Failure, code_of, exit_code_of, sentence_of
from memsync.wire import codec

Cell = object  # shown by str; None is shown as nothing


class Output:
    """Where one command writes."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.is_terminal = sys.stdout.isatty()

    def document(self, value: object) -> None:
        """A result as one line of JSON; bytes are JSON already."""
        body = value if isinstance(value, bytes) else codec.to_json(value)
        self._write(body.decode().strip())

    def line(self, *cells: Cell) -> None:
        """A result in one line, its cells separated by tabs."""
        self._write("\t".join(one_line(cell) for cell in cells))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Rows under headings; in a pipe tab-separated and without headings."""
        if not self.is_terminal:
            for row in rows:
                self.line(*row)
            return
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for number, name in enumerate(columns):
            is_last = number == len(columns) - 1
            shown.add_column(name, no_wrap=not is_last, overflow="fold")
        for row in rows:
            shown.add_row(*(Text(printable(cell)) for cell in row))
        console(sys.stdout).print(shown)

    def fields(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        """Names and values, one pair a line; those without a value are left out."""
        self.table(
            ("Field", "Value"), [pair for pair in pairs if pair[1] not in (None, "", [], {})]
        )

    def note(self, text: str) -> None:
        """A remark on standard error."""
        note(text)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()  # a reader that went away is noticed here, not at the end
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OK) from None


def note(text: str, style: str = "yellow") -> None:
    """A remark on standard error."""
    if sys.stderr.isatty():
        console(sys.stderr).print(Text(printable(text), style=style))
    else:
        print(one_line(text), file=sys.stderr)


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Say what went wrong: to a person, and with `--json` also as a document on standard output."""
    note(f"memsync: {sentence_of(failure)}", style="red")
    if as_json:
        error = {
            "code": code_of(failure),
            "message": str(failure),
            "definite": getattr(failure, "definite", True),
            "details": getattr(failure, "details", None),
            "exit_code": exit_code_of(failure),
        }
        Output(as_json=True).document({"error": error})


def console(file: TextIO) -> Console:
    """A console of rich for a terminal; without any colour or emphasis where `NO_COLOR` is set."""
    if os.environ.get("NO_COLOR"):
        return Console(file=file, color_system=None, highlight=False)
    return Console(file=file, highlight=False)


def printable(value: Cell) -> str:
    """A value as text that commands no terminal; its own line ends are kept."""
    text = _as_text(value)
    return "".join(c if c.isprintable() or c == "\n" else "�" if c != "\t" else " " for c in text)


def one_line(value: Cell) -> str:
    """A value as text in one line."""
    return " ".join(printable(value).split("\n"))


def moment(text: str | None, *, is_terminal: bool) -> str:
    """A time of the API: local and short for a person, as it came for a script."""
    if not text or not is_terminal:
        return text or ""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return text


def _as_text(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list):
        return (
            ", ".join(map(str, value)) if _is_plain(value) else msgspec.json.encode(value).decode()
        )
    return str(value)


def _is_plain(value: dict[str, object] | list[object]) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | int) for item in value)
