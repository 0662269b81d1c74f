"""`scripts/config_table`: the table of `memsync/CONFIGURATION.md`, from the settings' docstrings.

Printed, or with `--write` put between the two markers there.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from pathlib import Path

import msgspec

from memsync import config

DOCUMENT = Path(__file__).parents[2] / "memsync" / "CONFIGURATION.md"
BEGIN, END = "<!-- scripts/config_table -->\n", "<!-- end -->"
WHERE = {
    config.PeerSettings: "peer",
    config.EndpointSettings: "peer, `[endpoints.NAME]`",
    config.GatewaySettings: "gateway",
    config.NatsSettings: "both, `[nats]`",
}
UNITS = {1024**3: "GiB", 1024**2: "MiB"}


def table() -> str:
    """The table as Markdown, one line for each field."""
    lines = ["| File of a | Field | Default | Meaning |", "|---|---|---|---|"]
    for kind, where in WHERE.items():
        meanings = _meanings(kind)
        lines += [
            f"| {where} | `{field.name}` | {_default(field)} | {meanings[field.name]} |"
            for field in msgspec.structs.fields(kind)
        ]
    return "\n".join(lines) + "\n"


def _meanings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> the docstring below it, in one line."""
    [tree] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split()).replace("|", "\\|")
    return found


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory()
    if isinstance(value, int):
        for size, unit in UNITS.items():
            if value and value % size == 0:
                return f"`{value}` ({value // size} {unit})"
    return f"`{json.dumps(value)}`"


def in_document(text: str) -> str:
    """What stands between the markers now."""
    return text.partition(BEGIN)[2].partition(END)[0]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/config_table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into memsync/CONFIGURATION.md")
    if not parser.parse_args().write:
        print(table(), end="")
        return 0
    text = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"scripts/config_table: {DOCUMENT.name} lacks the markers", file=sys.stderr)
        return 1
    DOCUMENT.write_text(before + begin + table() + end + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
