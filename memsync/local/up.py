"""`scripts/up`: start the local cluster and stay with it until it is told to end."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

from memsync.errors import ConfigurationError
from memsync.local import home as homes
from memsync.local import ports as port_numbers
from memsync.local import processes, progress
from memsync.local.home import Home
from memsync.local.ports import Ports
from memsync.local.prepare import prepared
from memsync.local.processes import Cluster
from memsync.local.progress import Ready, Reporter

READY_WAIT_S = 60.0
HINT = "stop: Ctrl-C or scripts/down"
EXIT_CONFIGURATION = 2


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    started_at = time.monotonic()
    home = homes.from_environment(os.environ)
    try:
        ports = Ports(port_numbers.offset_from(os.environ))
        with prepared(home, ports, fresh=options.fresh):
            tell = progress.reporter()
            return run(home, ports, tell, hint=HINT, started_at=started_at)
    except ConfigurationError as error:
        print(f"scripts/up: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION


def run(home: Home, ports: Ports, tell: Reporter, *, hint: str, started_at: float) -> int:
    """Run the prepared cluster until it ends; returns the exit code.

    `hint` ends the line that says that it is ready; `started_at` is of `time.monotonic`.
    """

    def watch() -> None:
        arguments = (cluster, home, ports, tell, hint, started_at)
        threading.Thread(target=_watch, args=arguments, name="watch", daemon=True).start()

    cluster = Cluster(tell.line, on_started=watch)
    names = processes.names(ports)
    processes.load(cluster, processes.environment_for(home.path, ports.offset), names)
    tell.step(f"starting {len(names)} process groups in {home.path}")
    cluster.loop()
    tell.done()
    if cluster.was_asked_to_end:
        tell.line("memsync has ended")
        return 0
    return _failed(cluster, tell)


def _watch(
    cluster: Cluster, home: Home, ports: Ports, tell: Reporter, hint: str, started_at: float
) -> None:
    """Wait until all is ready and say so; runs beside honcho's loop."""
    missing = progress.wait(
        progress.parts(ports),
        tell,
        started_at=started_at,
        give_up_at=started_at + READY_WAIT_S,
        is_ending=lambda: cluster.is_ending,
    )
    tell.done()
    if cluster.is_ending:
        return
    cluster.is_ready = True
    if missing:
        for line in progress.describe(missing, home):
            tell.line(line)
        tell.line(f"memsync is not ready after {READY_WAIT_S:.0f} s, but goes on trying")
        return
    took_s = time.monotonic() - started_at
    tell.ready(
        Ready(
            url=f"http://{port_numbers.HOST}:{ports.http}",
            key=str(home.key),
            home=str(home.path),
            seconds=round(took_s, 3),
            hint=hint,
        )
    )


def _failed(cluster: Cluster, tell: Reporter) -> int:
    """Everything ended because one process did; its own line on standard error said why."""
    tell.line(f"memsync has ended: a process could not be kept (exit code {cluster.returncode})")
    return EXIT_CONFIGURATION if cluster.returncode == EXIT_CONFIGURATION else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/up",
        allow_abbrev=False,
        description="Start the local memsync cluster in the foreground: 3 nats-servers, 3 peers, "
        "2 gateways. Ctrl-C ends it.",
        epilog=f"Everything lives in ${homes.HOME_VARIABLE} (default ./{homes.HOME_DEFAULT}); "
        f"${port_numbers.OFFSET_VARIABLE} shifts every port.",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="start empty: remove all data, keep only the logs"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
