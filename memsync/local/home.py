"""The home of a local cluster: one folder that holds everything it has, and a lock.

    $MEMSYNC_HOME (default .memsync, mode 0700)
    ├── lock            held by the running cluster; says which process that is
    ├── dev.key         the development key, in clear (0600)
    ├── genesis.json    the founding document of the cell
    ├── *.creds         users of the bus: node, client, system, route (0600)
    ├── config/         nats-N.conf, peer-N.toml, gateway-N.toml
    ├── data/           nats-N/, peer-N/
    ├── logs/           <name>.log, rotated
    └── run/            <name>.pid of each process; keepers/<name>.pid of its keeper

Nothing outside this folder is touched, and a folder that holds something else is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memsync.errors import ConfigurationError
from memsync.homes import HOME_DEFAULT as HOME_DEFAULT
from memsync.homes import HOME_VARIABLE as HOME_VARIABLE
from memsync.homes import Home as Home
from memsync.homes import is_locked as is_locked
from memsync.homes import memory_of
from memsync.local import process_table

FOLDERS = ("config", "data", "logs", "run")
KEPT_WHEN_FRESH = ("lock", "logs")
CREDENTIALS = ("node", "client", "system", "route")
FILES = ("lock", "dev.key", "genesis.json", *(f"{user}.creds" for user in CREDENTIALS))
DRAFTS = tuple(f"{file}.new" for file in FILES)  # `write_private` was cut short
END = "scripts/down or memsync dev --stop"
OURS = (*FOLDERS, *FILES, *DRAFTS)


@dataclass(frozen=True)
class Owner:
    """The process that holds the lock of a home; the start time tells it from a later one."""

    pid: int
    started_ticks: int

    @property
    def is_alive(self) -> bool:
        """Whether this very process still exists."""
        return process_table.started_ticks(self.pid) == self.started_ticks


def from_environment(environment: Mapping[str, str]) -> Home:
    """The home that the environment names, else `.memsync` in the current folder."""
    return Home(Path(environment.get(HOME_VARIABLE) or HOME_DEFAULT).resolve())


def make(home: Home) -> None:
    """Make the folders, mode 0700; refuses a folder that holds anything that is not a cluster's."""
    if home.path.exists() and not home.path.is_dir():
        raise ConfigurationError(f"{home.path}: is not a folder; set {HOME_VARIABLE} to another")
    strangers = _strangers(home)
    if strangers and not home.lock.exists():
        raise ConfigurationError(
            f"{home.path}: holds {strangers[0]!r} and is no home of a cluster; "
            f"set {HOME_VARIABLE} to an empty or new folder"
        )
    for folder in (home.path, *(home.path / name for name in FOLDERS)):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def clear(home: Home) -> None:
    """Remove everything but the logs (and the lock, which the caller holds)."""
    for name in OURS:
        if name not in KEPT_WHEN_FRESH:
            _remove(home.path / name)
    make(home)


def purge(home: Home) -> list[str]:
    """Remove the home; returns the names of what is not a cluster's and was left in it."""
    left = _strangers(home)
    for folder in home.path.glob("data/*"):
        memory_of(folder).unlink(missing_ok=True)
    for name in OURS:
        _remove(home.path / name)
    if not left:
        home.path.rmdir()
    return left


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the lock; raises `ConfigurationError` if a running cluster holds it.

    The lock belongs to the open file, which forked processes share: it is free again only when the
    last of them has ended, even if the first was killed.
    """
    with open(home.lock, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = owner(home)
            who = f" (pid {found.pid})" if found else ""
            raise ConfigurationError(
                f"{home.path}: a cluster already runs here{who}; end it with {END}"
            ) from error
        ticks = process_table.started_ticks(os.getpid())
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "started_ticks": ticks}) + "\n")
        file.flush()
        yield


def owner(home: Home) -> Owner | None:
    """Who wrote the lock file last; None if it does not say."""
    try:
        fields = json.loads(home.lock.read_text(encoding="utf-8"))
        return Owner(pid=int(fields["pid"]), started_ticks=int(fields["started_ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user may read, in one step: it is there whole or not at all."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)  # a draft that a crash left may have another mode
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _strangers(home: Home) -> list[str]:
    if not home.path.is_dir():
        return []
    return sorted({entry.name for entry in home.path.iterdir()} - {*OURS})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
