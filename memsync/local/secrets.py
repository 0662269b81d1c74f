"""The secrets of a local cluster: users of the bus, the development key, the founding document.

What is there is kept, what is missing is made; what does not fit together is named as damaged,
because a guess here would lock people out of their own data.
"""

from __future__ import annotations

import secrets

import msgspec

from memsync import ids
from memsync.clock import SystemClock
from memsync.errors import ConfigurationError
from memsync.local.home import CREDENTIALS, Home, write_private
from memsync.wire import genesis

CELL = "cell"
REGION = "local"
PASSWORD_BYTES = 24


class Credentials(msgspec.Struct, frozen=True):
    """A user of the bus; `inbox_prefix` is where the user may hear answers."""

    user: str
    password: str
    inbox_prefix: str


def keep_or_make(home: Home, peers: int) -> genesis.Genesis:
    """Make what is missing; returns the founding document, of peer-1 to peer-`peers`."""
    for user in CREDENTIALS:
        if not home.credentials(user).exists():
            _make_credentials(home, user)
    if not home.genesis.exists() and not home.key.exists():
        _found(home, [f"peer-{number}" for number in range(1, peers + 1)])
    return _checked(home, peers)


def credentials(home: Home, user: str) -> Credentials:
    """Read one user's credentials; raises `ConfigurationError` if the file is damaged."""
    path = home.credentials(user)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{path}: damaged ({error}); remove it and it is made anew at the next start"
        ) from error


def _make_credentials(home: Home, user: str) -> None:
    made = Credentials(
        user=user, password=secrets.token_hex(PASSWORD_BYTES), inbox_prefix=f"_INBOX_{user}"
    )
    write_private(home.credentials(user), msgspec.json.encode(made).decode() + "\n")


def _found(home: Home, members: list[str]) -> None:
    left = next((home.path / "data").iterdir(), None)
    if left is not None:
        raise _damaged(home, f"there is {left} but neither genesis.json nor dev.key")
    document, key = genesis.found(
        cell=CELL,
        region=REGION,
        members=members,
        environment="development",
        founded_at_ms=SystemClock().wall_ms(),
    )
    write_private(home.key, key + "\n")
    draft = home.genesis.with_name(f"{home.genesis.name}.new")
    genesis.write(draft, document)
    draft.chmod(0o600)
    draft.replace(home.genesis)


def _checked(home: Home, peers: int) -> genesis.Genesis:
    if not home.genesis.exists():
        raise _damaged(home, "there is dev.key but no genesis.json")
    if not home.key.exists():
        raise _damaged(home, "there is genesis.json but no dev.key")
    document = genesis.read(home.genesis)
    if ids.secret_hash(home.key.read_text(encoding="utf-8").strip()) != document.key.hash:
        raise _damaged(home, "dev.key is not the key that genesis.json was founded with")
    if len(document.members) != peers:
        raise ConfigurationError(
            f"{home.path}: is of a cluster of {len(document.members)} peers, and {peers} would be "
            "started: choose another home, or lose the data and start empty with --fresh"
        )
    return document


def _damaged(home: Home, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{home.path}: damaged: {what}. Put the missing file back, "
        "or lose the data and start empty with --fresh"
    )
