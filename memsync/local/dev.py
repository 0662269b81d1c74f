"""`memsync dev`: the smallest cluster, one nats-server and one peer, for laptops and tests.

The same processes, keepers, settings and formats as `scripts/up` runs, in a home of their own; the
peer itself listens where gateways would. It survives the death of each process, not that of a disk.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from memsync.errors import ConfigurationError
from memsync.homes import HOME_DEFAULT, HOME_VARIABLE
from memsync.local import progress, up
from memsync.local.home import Home
from memsync.local.ports import Ports, offset_from
from memsync.local.prepare import prepared

STANDARD_INPUT = 0
READ_BYTES = 4_096


def home_for(environment: Mapping[str, str], named: Path | None) -> Home:
    """The named home, else that of `MEMSYNC_HOME`, else `~/.memsync`."""
    chosen = named or environment.get(HOME_VARIABLE) or default_home(environment)
    if chosen is None:
        raise ConfigurationError(f"HOME is not set: name a folder with --home or {HOME_VARIABLE}")
    return Home(Path(chosen).absolute())


def default_home(environment: Mapping[str, str]) -> Path | None:
    """Where callers look without being told: `~/.memsync`, if there is such a place."""
    own = environment.get("HOME")
    return Path(own, HOME_DEFAULT) if own else None


def ports_for(environment: Mapping[str, str], offset: int | None) -> Ports:
    """One server and one peer, at this offset, else that of `MEMSYNC_PORT_OFFSET`."""
    if offset is None:
        offset = offset_from(environment)
    return Ports(offset, peers=1, servers=1, gateways=0)


def run(home: Home, ports: Ports, *, hint: str, fresh: bool = False, as_json: bool = False) -> int:
    """Prepare the home and run the cluster until it ends; returns the exit code.

    Raises `ConfigurationError` for whatever stands in the way; then nothing was started.
    """
    started_at = time.monotonic()
    with prepared(home, ports, fresh=fresh):
        tell = progress.reporter(is_brief=True, as_json=as_json)
        return up.run(home, ports, tell, hint=hint, started_at=started_at)


def end_with_standard_input() -> None:
    """From now on end as with SIGTERM when standard input ends: whoever held it is gone."""
    threading.Thread(target=_read_to_end, name="standard-input", daemon=True).start()


def _read_to_end() -> None:
    while os.read(STANDARD_INPUT, READ_BYTES):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
