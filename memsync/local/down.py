"""`scripts/down`: end the cluster of a home, whatever state it is in."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from memsync.errors import ConfigurationError
from memsync.local import home as homes
from memsync.local import process_table
from memsync.local.home import Home

OWNER_WAIT_S = 25.0  # `processes.KILL_WAIT_S` and a little
KEEPER_WAIT_S = 12.0  # the keepers kill after 10 s
KILLED_WAIT_S = 5.0
POLL_S = 0.05
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    home = homes.from_environment(os.environ)
    try:
        was_running = end(home)
        print(
            f"memsync has ended in {home.path}" if was_running else f"nothing runs in {home.path}"
        )
        if options.purge:
            _purge(home)
    except ConfigurationError as error:
        print(f"scripts/down: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except (OSError, TimeoutError) as error:
        print(f"scripts/down: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def end(home: Home) -> bool:
    """End everything that runs in `home`; returns whether anything did.

    First its owner is asked, which ends the rest in order; then, if the owner was killed before,
    the keepers; what is left after that is killed. Raises `TimeoutError` if something outlives
    that.
    """
    was_running = _end_owner(home)
    keepers = _running(home, home.keeper_pid_files())
    for pid in keepers:
        process_table.send(pid, signal.SIGTERM)
    _wait(lambda: not _running(home, home.keeper_pid_files()), KEEPER_WAIT_S if keepers else 0)
    left = _running(home, [*home.keeper_pid_files(), *home.pid_files()])
    for pid in left:
        process_table.send(pid, signal.SIGKILL)
    is_over = _wait(lambda: not _is_running(home), KILLED_WAIT_S)
    if not is_over:
        raise TimeoutError(f"{home.path}: processes still run: {_running(home, home.pid_files())}")
    for path in home.pid_files():
        path.unlink(missing_ok=True)
    return was_running or bool(keepers) or bool(left)


def _end_owner(home: Home) -> bool:
    """Ask the process that holds the lock; kill it if it does not end."""
    owner = homes.owner(home)
    if owner is None or not homes.is_locked(home) or not owner.is_alive:
        return False
    process_table.send(owner.pid, signal.SIGTERM)
    if not _wait(lambda: not owner.is_alive, OWNER_WAIT_S):
        process_table.send(owner.pid, signal.SIGKILL)
    return True


def _is_running(home: Home) -> bool:
    return homes.is_locked(home) or bool(_running(home, home.pid_files()))


def _running(home: Home, files: list[Path]) -> list[int]:
    """The living processes of these pid files. Each has the home among its arguments: a pid that
    was used again by the kernel belongs to something else and is left alone."""
    pids = dict.fromkeys(process_table.read_pid(path) for path in files)
    return [pid for pid in pids if pid and process_table.is_running_with(pid, str(home.path))]


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(POLL_S)
    return True


def _purge(home: Home) -> None:
    if not home.path.exists():
        return
    if not home.lock.exists():
        raise ConfigurationError(f"{home.path}: is no home of a cluster; nothing was removed")
    with homes.locked(home):
        left = homes.purge(home)
    if left:
        print(f"{home.path} also holds {', '.join(left)}, which were left there")
    else:
        print(f"{home.path} was removed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/down",
        allow_abbrev=False,
        description="End the local memsync cluster. Does nothing if none runs.",
        epilog=f"The cluster is the one of ${homes.HOME_VARIABLE} "
        f"(default ./{homes.HOME_DEFAULT}).",
    )
    parser.add_argument(
        "--purge", action="store_true", help="then remove its folder: data, key, logs, everything"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
