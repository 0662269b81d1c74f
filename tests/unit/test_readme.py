"""The documents are true where a machine can tell: commands, options, paths, tables, lengths."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from memsync import errors
from memsync.cli.exits import EXIT_CODES
from memsync.cli.main import build_app
from memsync.service.service import OPERATIONS
from tests.docs import config_table, notices

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
DECISIONS = TOP / "memsync" / "decisions"
DOCUMENTS = [
    README,
    TOP / "memsync" / "ARCHITECTURE.md",
    TOP / "memsync" / "CHANGELOG.md",
    TOP / "memsync" / "CONFIGURATION.md",
    *sorted((TOP / "memsync" / "decisions").glob("*.md")),
]
EACH_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_LINE = re.compile(r"`([^`\n]+)`")
OUR_PATH = re.compile(r"(scripts|memsync|nodes|tests|config|\.ci)/[\w./-]*|[A-Z_]+(\.md)?|Procfile")
README_LINES_MAX = 200
UP_BY_LINE = 25
HALF_A_PAGE = 40  # lines of a decision
COMMANDS = {"add", "recall", "import", "status", "top", "keys", "init", "dev"}
DONE_WHILE_PARSED = (["--version"], ["--help"], ["--install-completion"])
NEVER_AN_ANSWER = {"NO_CLUSTER"}  # raised on the caller's side only


def commands() -> list[list[str]]:
    """Every `memsync ...` of the README, in blocks and in lines, as arguments."""
    text = README.read_text(encoding="utf-8")
    lines = [
        line for kind, block in BLOCK.findall(text) if kind == "sh" for line in block.splitlines()
    ]
    lines += [span for span in IN_LINE.findall(BLOCK.sub("", text)) if "..." not in span]
    lines += re.findall(r"^\$ (memsync .*)$", text, re.MULTILINE)  # with output
    lines = [re.sub(r"^\w+=\$\((.*)\)$", r"\1", line) for line in lines]
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("memsync ")]
    return [[re.sub(r"^\$\w+$", "1", part) for part in line[1:]] for line in found]


def test_the_readme_is_short_and_begins_with_how_to_run() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES_MAX
    assert any("scripts/up" in line for line in lines[:UP_BY_LINE])


def test_the_readme_has_commands() -> None:
    assert {line[0] for line in commands()} >= COMMANDS


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_parses(arguments: list[str]) -> None:
    if arguments in DONE_WHILE_PARSED:
        return  # to parse it is to do it
    command = typer.main.get_command(build_app())
    context = command.make_context("memsync", list(arguments))
    rest = [*context._protected_args, *context.args]
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None, f"no command {name}"
        context = command.make_context(name, list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]


def test_every_command_has_json() -> None:
    """As the README says."""
    group: Any = typer.main.get_command(build_app())
    found = dict(group.commands)
    groups = [name for name, command in found.items() if hasattr(command, "commands")]
    for group_name in groups:
        found |= found.pop(group_name).commands
    without = [
        name
        for name, command in found.items()
        if not any("--json" in part.opts for part in command.params)
    ]
    assert without == []


def test_the_readme_names_the_exit_codes() -> None:
    text = README.read_text(encoding="utf-8")
    listed = re.search(r"exit codes: ([^)]*)\)", text)
    assert listed is not None
    codes = re.findall(r"(?<!\S)(\d+) ", EXIT_CODES.partition(":")[2])
    assert re.findall(r"(\d+) ", listed[1]) == codes


def test_the_options_of_dev_and_of_the_evaluation_exist() -> None:
    text = README.read_text(encoding="utf-8")
    group: Any = typer.main.get_command(build_app())
    known = {name for part in group.commands["dev"].params for name in part.opts}
    section = text.partition("## On a laptop")[2].partition("\n## ")[0]
    assert set(re.findall(r"--[\w-]+", section)) - {"--no-deps"} <= known
    span = re.search(r"`scripts/eval FILE (.*?)`", text)
    assert span is not None
    source = (TOP / "tests" / "bench" / "evaluation.py").read_text(encoding="utf-8")
    assert [name for name in re.findall(r"--[\w-]+", span[1]) if f'"{name}"' not in source] == []


def test_the_quality_is_that_of_the_decision() -> None:
    text = README.read_text(encoding="utf-8")
    decided = (DECISIONS / "0030-what-answers-have-in-common.md").read_text("utf-8")
    row = re.search(r"^\| static model \| (\S+) .*\| (\S+) \|$", decided, re.MULTILINE)
    assert row is not None
    assert f"recall@10 {row[1]} " in text
    assert f"MRR {row[2]}." in text


@EACH_DOCUMENT
def test_every_path_exists(path: Path) -> None:
    spans = IN_LINE.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))
    named = {span.split()[0] for span in spans if OUR_PATH.fullmatch(span.split()[0])}
    named = {name for name in named if "/" in name or "." in name or name.isupper()}
    constants = {name for name in named if "/" not in name and "." not in name}
    missing = [
        name for name in named - constants if not (TOP / name).exists() and "N.toml" not in name
    ]
    assert not missing


@EACH_DOCUMENT
def test_no_document_names_a_host_of_others(path: Path) -> None:
    hosts = set(re.findall(r"\w+://([^\s/:`'\")]+)", path.read_text(encoding="utf-8")))
    assert hosts <= {"127.0.0.1", "host"}


def test_the_configuration_table_is_that_of_the_settings() -> None:
    text = config_table.DOCUMENT.read_text(encoding="utf-8")
    assert config_table.in_document(text) == config_table.table()


def test_every_setting_is_explained() -> None:
    for line in config_table.table().splitlines():
        assert all(cell.strip() for cell in line.strip("|").split("|")), line


def test_the_readme_names_every_operation_and_every_error() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in OPERATIONS if f"`{name}`" not in text] == []
    codes = {found.code for found in errors._tree(errors.MemsyncError)} - NEVER_AN_ANSWER
    assert [code for code in sorted(codes) if code not in text] == []


def test_decisions_are_numbered_and_short() -> None:
    found = [path for path in DOCUMENTS if path.parent.name == "decisions"]
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    for path in found:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= HALF_A_PAGE, path.name
        for part in ("Context", "Options", "Decision", "Consequences"):
            assert f"**{part}" in text, f"{path.name}: {part}"


def test_every_locked_package_is_in_the_notices() -> None:
    text = notices.NOTICES.read_text(encoding="utf-8")
    found = dict(re.findall(r"^(\S+) (\S+)\n    licence: \S", text, re.MULTILINE))
    assert found == notices.pinned()


def test_the_licence_is_whole() -> None:
    text = (TOP / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "9. Accepting Warranty or Additional Liability" in text
    assert "END OF TERMS AND CONDITIONS" in text
