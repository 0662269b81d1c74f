"""Where a local cluster is: the folder that holds everything it has, and its address.

Here is only what others need to find and name it (the client library, the command line); what
makes, changes and ends a cluster is `memsync.local`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from memsync.errors import ConfigurationError

HOME_VARIABLE = "MEMSYNC_HOME"
HOME_DEFAULT = ".memsync"
MEMORY = Path("/dev/shm")
OFFSET_VARIABLE = "MEMSYNC_PORT_OFFSET"
HOST = "127.0.0.1"
HTTP_PORT = 8_080
SIZE_MAX = 9  # peers, and servers: between 8080 and 8090, as limits.MEMBERS_MAX
OFFSET_MAX = 65_535 - HTTP_PORT - SIZE_MAX


@dataclass(frozen=True)
class Home:
    """Where everything of one local cluster lies."""

    path: Path

    @property
    def lock(self) -> Path:
        """The file whose lock the running cluster holds."""
        return self.path / "lock"

    @property
    def key(self) -> Path:
        """The development key, in clear."""
        return self.path / "dev.key"

    @property
    def genesis(self) -> Path:
        """The founding document."""
        return self.path / "genesis.json"

    @property
    def logs(self) -> Path:
        """The folder of all log files."""
        return self.path / "logs"

    def credentials(self, user: str) -> Path:
        """The name and password of one user of the bus, as JSON."""
        return self.path / f"{user}.creds"

    def config(self, file: str) -> Path:
        """A configuration file."""
        return self.path / "config" / file

    def data(self, name: str) -> Path:
        """The data folder of one process."""
        return self.path / "data" / name

    def log(self, name: str) -> Path:
        """The log file of one process."""
        return self.logs / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        """The file that holds the id of process `name` itself."""
        return self.path / "run" / f"{name}.pid"

    def pid_files(self) -> list[Path]:
        """The pid files of all processes, keepers last."""
        return sorted(self.path.glob("run/*.pid")) + self.keeper_pid_files()

    def keeper_pid_files(self) -> list[Path]:
        """The pid files of the keepers."""
        return sorted(self.path.glob("run/keepers/*.pid"))


def memory_of(data_dir: Path) -> Path:
    """Where a peer with this data folder keeps what is to outlive its process but not the power of
    the machine (adapters/recollection.py)."""
    name = blake2b(str(data_dir.resolve()).encode(), digest_size=12).hexdigest()
    return MEMORY / f"memsync-{os.geteuid()}-{name}"


def is_locked(home: Home) -> bool:
    """Whether a running cluster holds the lock."""
    try:
        with open(home.lock, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def offset_from(environment: Mapping[str, str]) -> int:
    """By how much the environment shifts all ports, 0 where it says nothing."""
    text = environment.get(OFFSET_VARIABLE, "").strip() or "0"
    if not text.isdecimal() or int(text) > OFFSET_MAX:
        raise ConfigurationError(
            f"{OFFSET_VARIABLE}: {text!r} is not a whole number from 0 to {OFFSET_MAX}"
        )
    return int(text)
