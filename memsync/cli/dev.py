"""`memsync dev`: a cluster of one nats-server and one peer on this machine, in one command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from memsync.cli.output import Output
from memsync.homes import HOME_DEFAULT, HOME_VARIABLE, OFFSET_MAX, OFFSET_VARIABLE
from memsync.local.home import Home


def dev(
    home: Annotated[
        Path | None,
        typer.Option(
            help=f"Where its data live (or {HOME_VARIABLE}; else ~/{HOME_DEFAULT}).",
            show_default=False,
        ),
    ] = None,
    port_offset: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=OFFSET_MAX,
            help=f"Added to every port: 8080 for HTTP, 4222 for NATS (or {OFFSET_VARIABLE}).",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start empty: remove all data, keep only the logs.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="End the one that runs in this home instead.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Once it is ready one JSON document with url, key (its file) and home."
        ),
    ] = False,
    end_with_stdin: Annotated[bool, typer.Option("--end-with-stdin", hidden=True)] = False,
) -> int:
    """Run a small cluster here until Ctrl-C: one nats-server and one peer.

    For laptops and tests. It keeps what it was told, and each of the two is started again when it
    dies; but there is one copy only, so it survives no loss of the disk. `scripts/up` in a
    checkout keeps three copies.
    """
    from memsync.local import dev as local  # what runs processes, which no other command needs

    chosen = local.home_for(os.environ, home)
    if stop:
        return _stop(chosen, Output(as_json=as_json))
    ports = local.ports_for(os.environ, port_offset)
    if end_with_stdin:
        local.end_with_standard_input()
    return local.run(chosen, ports, hint=_hint(chosen), fresh=fresh, as_json=as_json)


def _hint(home: Home) -> str:
    """How to stop it, and what other commands need to find it, unless they look there anyway."""
    from memsync.client.finding import is_found

    if is_found(home, os.environ):
        return "stop: Ctrl-C"
    return f"stop: Ctrl-C; others find it with {HOME_VARIABLE}={home.path}"


def _stop(home: Home, output: Output) -> int:
    from memsync.local import down

    was_running = down.end(home)
    if output.as_json:
        output.document({"home": str(home.path), "was_running": was_running})
    else:
        end = "memsync has ended in" if was_running else "nothing runs in"
        output.line(f"{end} {home.path}")
    return 0
