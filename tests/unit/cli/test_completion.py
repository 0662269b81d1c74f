"""Completion in the shell: the scripts, and what they ask the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from memsync.cli.main import main; main()"]
TOP = Path(__file__).parents[3]
ENDED_S = 60.0


def run(home: Path, *arguments: str, **variables: str) -> str:
    """What the command writes to standard output, run as a shell runs it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(TOP)}
    ended = subprocess.run(
        [*COMMAND, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=ENDED_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def completed(home: Path, *words: str) -> list[str]:
    """What bash is offered for the last of the words behind `memsync`."""
    line = " ".join(["memsync", *words])
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return run(home, _MEMSYNC_COMPLETE="complete_bash", **asked).split()


@pytest.mark.parametrize(
    ("shell", "part"),
    [
        ("bash", "complete -o default -F _memsync_completion memsync"),
        ("zsh", "compdef _memsync_completion memsync"),
        ("fish", "complete --command memsync"),
    ],
)
def test_each_shell_has_a_script(shell: str, part: str, tmp_path: Path) -> None:
    script = run(
        tmp_path, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert part in script
    assert "_MEMSYNC_COMPLETE=complete_" + shell in script
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=script, text=True, check=True, timeout=ENDED_S)


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/memsync.sh"),
        ("zsh", ".zfunc/_memsync"),
        ("fish", ".config/fish/completions/memsync.fish"),
    ],
)
def test_a_script_is_installed_for_this_user(shell: str, file: str, tmp_path: Path) -> None:
    variable = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    told = run(tmp_path, "--install-completion", shell, **variable)
    assert str(tmp_path / file) in told
    assert "_MEMSYNC_COMPLETE" in (tmp_path / file).read_text()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("to",), ["top"]),
        (("re",), ["recall", "relate"]),
        (("keys", ""), ["create", "list", "revoke"]),
        (("top", "--int"), ["--interval"]),
        (("import", "--form"), ["--format"]),
        (("import", "--format", ""), ["auto", "jsonl", "locomo"]),
        (("import", "--on-error", "s"), ["stop", "skip"]),
        (("recall", "--tier", ""), ["low", "medium", "high"]),
        (("recall", "--consistency", "s"), ["session", "strong"]),
        (("forget", "--tier", "c"), ["cold"]),
        (("keys", "create", "--env", "s"), ["staging"]),
        (("keys", "create", "--tier", "f"), ["free"]),
        (("init", "--org-env", "p"), ["production"]),
    ],
)
def test_commands_options_and_values_are_completed(
    words: tuple[str, ...], offered: list[str], tmp_path: Path
) -> None:
    assert completed(tmp_path, *words) == offered


def test_zsh_and_fish_are_told_what_each_is(tmp_path: Path) -> None:
    asked = {"_TYPER_COMPLETE_ARGS": "memsync sta"}
    zsh = run(tmp_path, _MEMSYNC_COMPLETE="complete_zsh", **asked)
    assert '"status":"Show how the cluster is."' in zsh
    fish = run(
        tmp_path,
        _MEMSYNC_COMPLETE="complete_fish",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        **asked,
    )
    assert fish.strip() == "status\tShow how the cluster is."


def test_the_help_says_how_to_get_it(tmp_path: Path) -> None:
    assert "memsync --install-completion" in run(tmp_path, "--help")
