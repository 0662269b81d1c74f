"""Terminals, pipes, and text that would like to command them."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios

import pytest

from memsync.cli.output import moment, one_line, printable
from tests.unit.cli.conftest import Shell

COMMAND = [sys.executable, "-c", "from memsync.cli.main import main; main()"]
pytestmark = pytest.mark.usefixtures("url")


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a command shows where standard output and error are a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65_536)
        except OSError:  # Linux says so when the last writer has ended
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait(20) in (0, 1)
    return shown.decode()


def test_text_of_others_commands_no_terminal(shell: Shell) -> None:
    shell("add", "red \x1b[31m\ttab\nnext \x07 end")
    line = shell("list").out
    assert line.count("\t") == 3
    assert len(line.splitlines()) == 1
    assert "next � end" in line
    assert "\x1b[31m" not in on_terminal("list")


def test_a_terminal_gets_headings_and_colours_and_a_pipe_does_not(shell: Shell) -> None:
    shell("add", "green tea")
    shown = on_terminal("recall", "tea")
    assert "Score" in shown
    assert "\x1b[" in shown
    assert "Score" not in shell("recall", "tea").out


def test_no_color_is_respected(shell: Shell) -> None:
    shell("add", "green tea")
    for arguments in (["recall", "tea"], ["get", "99"]):
        shown = on_terminal(*arguments, NO_COLOR="1")
        assert shown
        assert "\x1b" not in shown


def test_help_of_a_terminal_keeps_its_examples() -> None:
    shown = on_terminal("--help", NO_COLOR="1", COLUMNS="120")
    assert "memsync recall" in shown
    assert "MEMSYNC_API_KEY" in shown


def test_a_reader_that_has_seen_enough_is_no_error(shell: Shell) -> None:
    for number in range(50):
        shell("add", f"a long text {number} " + "x" * 4_000)
    process = subprocess.Popen(
        [*COMMAND, "list", "--limit", "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(20) == 0
    process.stderr.close()


def test_cells() -> None:
    assert one_line(None) == ""
    assert one_line(["a", "b"]) == "a, b"
    assert one_line({"a": [1]}) == '{"a":[1]}'
    assert printable("a\nb\x9b\u202e") == "a\nb��"
    assert moment("2026-01-02T03:04:05+00:00", is_terminal=False) == "2026-01-02T03:04:05+00:00"
    assert moment(None, is_terminal=True) == ""
    assert moment("soon", is_terminal=True) == "soon"


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_ends_on_a_key_and_leaves_the_terminal_as_it_was(key: bytes) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(ours)
    process = subprocess.Popen(
        [*COMMAND, "top"],
        stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
        preexec_fn=lambda: _take_terminal(theirs),
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"Process" not in shown:
        shown += os.read(ours, 65_536)
    os.write(ours, key)
    while b"\x1b[?1049l" not in shown:  # back from the other screen
        shown += os.read(ours, 65_536)
    assert process.wait(20) == 0
    assert termios.tcgetattr(ours) == before
    assert b"\x1b[?25h" in shown  # the cursor is there again
    os.close(ours)


def _take_terminal(descriptor: int) -> None:
    """So that Ctrl-C goes to the command."""
    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
