"""Everything that must stand before the first process of a local cluster starts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from memsync.errors import ConfigurationError
from memsync.local import home as homes
from memsync.local import nats, ports, process_table, secrets, settings
from memsync.local.home import Home
from memsync.local.ports import Ports


@contextmanager
def prepared(home: Home, chosen: Ports, *, fresh: bool = False) -> Iterator[None]:
    """A home that is locked, complete and whose ports are free, for as long as the context lasts.

    Raises `ConfigurationError` with one line that says what stands in the way; then nothing was
    started, and nothing that was there before is changed.
    """
    with ExitStack() as stack:
        stack.callback(os.umask, os.umask(0o077))  # what is started inherits it
        try:
            homes.make(home)
            stack.enter_context(homes.locked(home))
            _check_no_orphans(home)
            ports.check_free(chosen)
            if fresh:
                homes.clear(home)
            _complete(home, chosen)
        except OSError as error:
            where = error.filename or home.path
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full" if is_full else error.strerror
            raise ConfigurationError(f"{where}: {reason}") from error
        yield


def _complete(home: Home, chosen: Ports) -> None:
    free_bytes = shutil.disk_usage(home.path).free
    stripe_bytes = settings.stripe_bytes_max(home, chosen, free_bytes)
    secrets.keep_or_make(home, chosen.peers)
    settings.write(home, chosen, stripe_bytes)
    nats.write(home, chosen, stripe_bytes)


def _check_no_orphans(home: Home) -> None:
    """Whoever was started here before must have ended: no two may share a data folder."""
    for path in home.pid_files():
        pid = process_table.read_pid(path)
        if pid and process_table.is_running_with(pid, str(home.path)):
            raise ConfigurationError(
                f"{home.path}: {path.stem} of an earlier start still runs (pid {pid}); "
                f"end it with {homes.END}"
            )
        path.unlink(missing_ok=True)
