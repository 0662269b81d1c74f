"""`memsync init`: the founding document of a new cell and its first API key, as two files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from memsync.cli.completing import words
from memsync.cli.exits import UsageProblem
from memsync.cli.session import Session, with_session
from memsync.clock import SystemClock
from memsync.ids import ENVIRONMENTS
from memsync.limits import MEMBERS_MAX
from memsync.local.home import Home, write_private
from memsync.wire import genesis

NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")  # as config.Name


@with_session()
def init(
    session: Session,
    member: Annotated[
        list[str], typer.Option("--member", help="Name of a peer; once for each, 3 as a rule.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for genesis.json and dev.key.")],
    cell: Annotated[str, typer.Option(help="Name of the cell.")] = "cell",
    region: Annotated[str, typer.Option(help="Name of the region.")] = "local",
    org_env: Annotated[
        str,
        typer.Option(
            help=f"Environment of the first key: {', '.join(ENVIRONMENTS)}.",
            autocompletion=words(ENVIRONMENTS),
        ),
    ] = "development",
) -> None:
    """Found a new cell.

    It writes genesis.json, the same for all peers of the cell, and the first API key. A local
    cluster does this by itself at its first scripts/up. Nothing is ever overwritten: a cell is
    founded once.
    """
    _check(member, cell, region, org_env)
    home = Home(out)
    document, key = genesis.found(
        cell=cell,
        region=region,
        members=member,
        environment=org_env,
        founded_at_ms=SystemClock().wall_ms(),
    )
    try:
        _write(home, document, key)
    except OSError as error:
        raise UsageProblem(f"--out: {error.filename or out}: {error.strerror}") from error
    output = session.output
    made = {"genesis": str(home.genesis), "key": str(home.key), "cell": genesis.identity(document)}
    if output.as_json:
        output.document(made)
        return
    output.fields(list(made.items()))
    output.note(f"copy {home.genesis} to every peer; keep {home.key} to yourself")


def _check(members: list[str], cell: str, region: str, environment: str) -> None:
    options = [("--cell", cell), ("--region", region), *(("--member", name) for name in members)]
    for option, name in options:
        if not NAME.fullmatch(name):
            raise UsageProblem(f"{option}: {name[:40]!r} is not a name like peer-1")
    if len(set(members)) != len(members):
        raise UsageProblem("--member: a name stands twice")
    if len(members) > MEMBERS_MAX:
        raise UsageProblem(f"--member: {len(members)} members, at most {MEMBERS_MAX}")
    if environment not in ENVIRONMENTS:
        raise UsageProblem(f"--org-env: {environment[:40]!r}: one of {', '.join(ENVIRONMENTS)}")


def _write(home: Home, document: genesis.Genesis, key: str) -> None:
    """Write both files; raises `UsageProblem` if one of them is there already."""
    home.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in (home.genesis, home.key):
        if path.exists() or path.is_symlink():
            raise UsageProblem(f"--out: {path} is there already and is not overwritten")
    write_private(home.key, key + "\n")
    genesis.write(home.genesis, document)
