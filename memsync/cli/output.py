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
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from memsync.cli.exits import OK, Failure, code_of, exit_code_of, sentence_of
from memsync.wire import codec

Cell = object  # shown by str; None is shown as nothing
STATES = {  # others are red
    "ready": "green",
    "answering": "green",
    "alive": "green",
    "unseen": "yellow",
    "observer": "yellow",
    "no member": "yellow",
}
LAST_COLUMN_MIN = 24  # narrower than this, a column of wrapped text is hard to read
GAP = 2
LONG_TEXT = 600  # characters of a memory that a list shows on a terminal; `get` shows all


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
        console(sys.stdout).print(fitting(columns, rows, width()))

    def fields(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        """Names and values, one pair a line; those without a value are left out."""
        self.table(
            ("Field", "Value"), [pair for pair in pairs if pair[1] not in (None, "", [], {})]
        )

    def note(self, text: str) -> None:
        """A warning on standard error."""
        note(text)

    def remark(self, text: str) -> None:
        """What is good to know, on standard error."""
        note(text, style="dim")

    def state(self, text: str) -> Cell:
        """A word for how something is, in its colour on a terminal."""
        return Text(text, style=STATES.get(text, "red")) if self.is_terminal else text

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()  # a reader that went away is noticed here, not at the end
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OK) from None


def fitting(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    columns_max: int,
    spare: Sequence[str] = (),
) -> RenderableType:
    """A table without the columns that are empty. Where it would be wider than `columns_max`, the
    `spare` columns go one by one, the last one first; then each row becomes a block of lines, so
    that nothing is cut."""
    texts = [[_shown(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(columns)) if not texts or any(row[i].plain for row in texts)]
    if not kept:
        return Text()
    if _least_width(columns, texts, kept) > columns_max:
        if spare:
            narrower = [i for i in range(len(columns)) if columns[i] != spare[-1]]
            left = [[row[i] for i in narrower] for row in texts]
            return fitting([columns[i] for i in narrower], left, columns_max, spare[:-1])
        return Group(*(_block(columns, kept, row) for row in texts))
    table = _table()
    for i in kept:
        table.add_column(columns[i], no_wrap=i != kept[-1], overflow="fold")
    for row in texts:
        table.add_row(*(row[i] for i in kept))
    return table


def _least_width(
    columns: Sequence[str], rows: Sequence[Sequence[Text]], kept: Sequence[int]
) -> int:
    """How wide a table must be: only its last column may be wrapped."""
    widths = [max([len(columns[i]), *(row[i].cell_len for row in rows)]) for i in kept]
    return sum(widths[:-1]) + GAP * (len(kept) - 1) + min(widths[-1], LAST_COLUMN_MIN)


def _block(columns: Sequence[str], kept: Sequence[int], row: Sequence[Text]) -> RenderableType:
    """One row, a line for each of its values; the first one is the heading."""
    first, *others = kept
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for i in others:
        if row[i].plain:
            table.add_row("  " + columns[i], row[i])
    heading = Text(f"{columns[first]} ", style="bold")
    return Group(heading.append_text(row[first]), table)


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")


def _shown(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


def shortened(text: str, *, is_terminal: bool) -> str:
    """A long text as a list shows it: cut for a person, whole for a script."""
    if not is_terminal or len(text) <= LONG_TEXT:
        return text
    return text[: LONG_TEXT - 1].rstrip() + "…"


def width() -> int:
    """How many characters a line of the terminal has."""
    return console(sys.stdout).width


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
    if isinstance(value, Text):
        return value.plain
    if isinstance(value, dict | list):
        return (
            ", ".join(map(str, value)) if _is_plain(value) else msgspec.json.encode(value).decode()
        )
    return str(value)


def _is_plain(value: dict[str, object] | list[object]) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | int) for item in value)
