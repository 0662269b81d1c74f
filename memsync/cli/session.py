"""One run of a command: the options that every command has, and one question to the cluster.

`with_session` gives a command these options (`--json`, `--user`, ...) and a `Session` made of them,
so that a command's own function names only what is its own.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import inspect
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from memsync import limits
from memsync.cli.exits import UsageProblem
from memsync.cli.output import Output
from memsync.client import Client, finding
from memsync.client.answers import READS, Reply
from memsync.client.calling import Settings
from memsync.client.connecting import USER_VARIABLE
from memsync.client.finding import Target
from memsync.errors import OutcomeUnknown

TIMEOUT_S = 2 * limits.DEADLINE_S_DEFAULT
WHERE = "Where and who"
NO_KEY = "none"  # stands where none is sent

JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")
]
SHARED = {
    "user": Annotated[
        str | None,
        typer.Option(
            help=f"Whose memories: the end user (or {USER_VARIABLE}; else the login name).",
            rich_help_panel=WHERE,
        ),
    ],
    "project": Annotated[
        str | None,
        typer.Option(help="The project of the memories: its slug or id.", rich_help_panel=WHERE),
    ],
    "url": Annotated[
        str | None,
        typer.Option(
            help="Address of a gateway or peer "
            f"(or {finding.URL_VARIABLE}; else the local cluster).",
            rich_help_panel=WHERE,
        ),
    ],
    "nats_url": Annotated[
        str | None,
        typer.Option(
            help="Send NATS requests instead, to nats://user:password@host:port,... "
            f"(or {finding.NATS_URL_VARIABLE}).",
            rich_help_panel=WHERE,
        ),
    ],
    "home": Annotated[
        Path | None,
        typer.Option(
            help="Home of the local cluster (or MEMSYNC_HOME; else ./.memsync or ~/.memsync).",
            rich_help_panel=WHERE,
        ),
    ],
}
CLUSTER = ("url", "nats_url", "home")
EVERYTHING = ("user", "project", *CLUSTER)
KeyOption = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="A key of your own; repeating with it is safe (24 h)."),
]


class Session:
    """What the shared options say. The target is looked for when it is first needed."""

    def __init__(self, given: dict[str, Any], *, as_json: bool) -> None:
        self._given = given
        self.output = Output(as_json=as_json)

    @functools.cached_property
    def target(self) -> Target:
        """Whom to ask."""
        names = {name: self._given.get(name) for name in CLUSTER}
        return finding.find(
            os.environ, url=names["url"], servers=names["nats_url"], home=names["home"]
        )

    @functools.cached_property
    def keyless_target(self) -> Target:
        """Whom to ask for what needs no key: none has to be given."""
        names = {name: self._given.get(name) for name in CLUSTER}
        return finding.find(
            os.environ,
            url=names["url"],
            servers=names["nats_url"],
            home=names["home"],
            api_key=NO_KEY,
        )

    @property
    def given_user(self) -> str | None:
        """The end user that `--user` names, whatever the environment says."""
        given: str | None = self._given.get("user")
        return given

    @functools.cached_property
    def user(self) -> str:
        """The end user."""
        found = self._given.get("user") or os.environ.get(USER_VARIABLE)
        if found:
            return str(found)
        try:
            return getpass.getuser()
        except (KeyError, OSError) as error:
            raise UsageProblem(f"no login name: give --user or {USER_VARIABLE}") from error

    def body(self, operation: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request: the fields that were given, and the end user."""
        found = {name: value for name, value in fields.items() if value not in (None, [])}
        if operation.startswith("memory."):
            found.setdefault("end_user_id", self.user)
        return found

    def ask(self, operation: str, fields: Mapping[str, Any], *, key: str | None = None) -> Reply:
        """Ask, and again only where an answer was lost; raises what `exits.FAILURES` lists."""
        key = None if operation in READS else _checked_key(key) or new_idempotency_key()
        try:
            return asyncio.run(self._ask(operation, self.body(operation, fields), key))
        except OutcomeUnknown as error:
            error.message = f"{error.message}. {_repeat(key)}"
            error.args = (error.message,)
            raise
        except KeyboardInterrupt:
            if operation not in READS:
                self.output.note(f"interrupted, the outcome is not known. {_repeat(key)}")
            raise

    def client(self) -> Client:
        """A client of the target; nothing is sent yet. A refusal is told, not tried again."""
        settings = Settings(project=self._given.get("project"), timeout_s=TIMEOUT_S, retries=False)
        return Client(self.target, settings)

    async def _ask(self, operation: str, body: dict[str, Any], key: str | None) -> Reply:
        async with self.client() as memory:
            return await memory.call(operation, body, idempotency_key=key)


def with_session(*shared: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command a `Session` as its first argument, and the options `shared` and `--json`."""

    def wrap(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**values: Any) -> Any:
            given = {name: values.pop(name) for name in shared}
            return command(Session(given, as_json=values.pop("as_json")), **values)

        own = list(inspect.signature(command).parameters.values())[1:]
        hints = get_type_hints(command, include_extras=True)
        parameters = [one.replace(annotation=hints[one.name]) for one in own]
        parameters += [_option("as_json", JsonOption, default=False)]
        parameters += [_option(name, SHARED[name], default=None) for name in shared]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return wrap


def _option(name: str, annotation: Any, *, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def new_idempotency_key() -> str:
    """A key for a write whose caller gave none, so that it can be repeated."""
    return "cli-" + secrets.token_hex(12)


def _repeat(key: str | None) -> str:
    return f"Repeat the same command with --idempotency-key {key} to learn it"


def _checked_key(key: str | None) -> str | None:
    if key is not None and (not key.isascii() or not key.isprintable() or key != key.strip()):
        raise UsageProblem("--idempotency-key: only printable ASCII characters")
    return key


def read_standard_input() -> str:
    """All of standard input as text; raises `UsageProblem` where it is not UTF-8."""
    if sys.stdin.isatty():
        Output(as_json=False).note("reading from the terminal; end with Ctrl-D")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageProblem(f"standard input is not UTF-8: {error}") from error
