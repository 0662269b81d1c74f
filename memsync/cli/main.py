"""`memsync`: the command line. Its commands, its help, and how it ends."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from memsync import __version__
from memsync.cli import cluster, dev, founding, keys, memories, organisations, relations
from memsync.cli.exits import (
    EXIT_CODES,
    FAILURES,
    INTERRUPTED,
    OK,
    REFUSED,
    USAGE,
    UsageProblem,
    exit_code_of,
)
from memsync.cli.importing import command as importing
from memsync.cli.output import note, show_failure
from memsync.cli.status import command as status
from memsync.cli.top import command as watching

HELP = """A memory for AI agents that survives its servers.

  memsync dev                                    start a cluster (scripts/up: one of three copies)
  memsync add "Ada prefers green tea" --tag tea  remember
  memsync recall "what does Ada drink?"          recall by meaning
  memsync import notes.jsonl                     remember a whole file
  memsync status                                 how the cluster is
  memsync top                                    what it does, second by second
  memsync --install-completion                   let your shell complete all this with Tab

It finds a local cluster in $MEMSYNC_HOME, ./.memsync or ~/.memsync, or asks $MEMSYNC_URL (or
--url) with the key in $MEMSYNC_API_KEY. An option counts before the environment, the environment
before a cluster that is found. Every command has its own --help, and --json for scripts.
"""


def build_app() -> typer.Typer:
    """All commands. Help is boxed and coloured on a terminal only."""
    style: Any = {"rich_markup_mode": "rich" if sys.stdout.isatty() else None}
    app = typer.Typer(
        help=_paragraphs(HELP),
        epilog=_paragraphs(EXIT_CODES),
        pretty_exceptions_enable=False,
        **style,
    )
    app.callback()(_root)
    app.command("add")(memories.add)
    app.command("recall")(memories.recall)
    app.command("get")(memories.get)
    app.command("update")(memories.update)
    app.command("forget")(memories.forget)
    app.command("list")(memories.list_memories)
    app.command("relate")(relations.relate)
    app.command("feedback")(relations.feedback)
    app.command("graph")(relations.graph)
    app.command("explain")(relations.explain)
    app.command("import")(importing.import_file)
    app.command("status")(status.status)
    app.command("top")(watching.top)
    app.command("init")(founding.init)
    app.command("dev")(dev.dev)
    key_app = typer.Typer(**style)
    key_app.command("create")(keys.create)
    key_app.command("list")(keys.list_keys)
    key_app.command("revoke")(keys.revoke)
    app.add_typer(key_app, name="keys", help="Make, list and revoke API keys.")
    cluster_app = typer.Typer(**style)
    cluster_app.command("members")(cluster.members)
    cluster_app.command("join")(cluster.join)
    cluster_app.command("remove")(cluster.remove)
    app.add_typer(cluster_app, name="cluster", help="Show and change who belongs to the cell.")
    org_app = typer.Typer(**style)
    org_app.command("show")(organisations.show)
    org_app.command("set")(organisations.set_defaults)
    app.add_typer(org_app, name="org", help="Show and set what counts for your organisation.")
    return app


def _paragraphs(text: str) -> str:
    """Help text whose line ends are kept."""
    return "\n\n".join("\b\n" + part for part in text.strip().split("\n\n"))


def _say_version(asked: bool) -> None:
    if asked:
        print(f"memsync {__version__}")
        raise typer.Exit(OK)


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """What stands before a command."""


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code, whatever happens."""
    as_json = "--json" in arguments
    try:
        _check_encoding(arguments)
        ended = build_app()(arguments or ["--help"], prog_name="memsync", standalone_mode=False)
        return ended if isinstance(ended, int) else OK
    except FAILURES as failure:
        show_failure(failure, as_json=as_json)
        return exit_code_of(failure)
    except TyperException as error:
        return _say_usage(error, as_json=as_json)
    except typer.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # the top of the process: a person gets one line, not a traceback
        if os.environ.get("MEMSYNC_DEBUG"):
            raise
        note(f"memsync: a fault of memsync itself: {type(error).__name__}: {error}", style="red")
        note("set MEMSYNC_DEBUG=1 to see where", style="red")
        return REFUSED


def _say_usage(error: Any, *, as_json: bool) -> int:
    """What click found wrong with the command line."""
    place = getattr(error, "ctx", None)
    hint = f" (see {place.command_path} --help)" if place is not None else ""
    show_failure(UsageProblem(f"{error.format_message()}{hint}"), as_json=as_json)
    return USAGE


def _check_encoding(arguments: list[str]) -> None:
    for argument in arguments:
        if not _is_text(argument):
            raise UsageProblem(f"an argument is not UTF-8: {argument[:60]!r}")


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def main() -> None:
    """The entry point: ends the process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.disable(logging.CRITICAL)  # libraries talk to logs; this command talks to a person
    sys.exit(run(sys.argv[1:]))
