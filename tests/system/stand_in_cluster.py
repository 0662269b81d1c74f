"""Runs a Procfile as `scripts/up` does: for test_local_processes.py and its stand-ins.

    python -m tests.system.stand_in_cluster PROCFILE OFFSET

Prints "ready" at once when everything was started.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memsync.local import processes
from memsync.local.home import from_environment
from memsync.local.ports import Ports
from memsync.local.prepare import prepared

processes.REBORN_MIN_S = 0.0  # tests kill a keeper sooner than that


def main(procfile: Path, offset: int) -> int:
    """Run the Procfile until it ends; 0 if a signal ended it."""
    home = from_environment({"MEMSYNC_HOME": str(procfile.parent / "home")})

    def say(line: str) -> None:
        print(line, flush=True)

    def ready() -> None:
        cluster.is_ready = True
        say("ready")

    cluster = processes.Cluster(say, on_started=ready)
    ports = Ports(offset, servers=1, peers=2, gateways=0)
    with prepared(home, ports):
        environment = processes.environment_for(home.path, offset)
        processes.load(cluster, environment, processes.names(ports), procfile)
        cluster.loop()
    return 0 if cluster.was_asked_to_end else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
