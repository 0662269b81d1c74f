"""`scripts/bench [MODE]`: which measurement to run; `scripts/bench MODE --help` says more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial

from tests.bench import healing, leases, scale
from tests.bench.speed import gate, modes

DEFAULT = "all"
MODES: Mapping[str, Callable[[list[str]], int]] = {
    **{mode: partial(modes.main, mode=mode) for mode in modes.MODES},
    "gate": gate.main,
    "healing": healing.main,
    "leases": leases.main,
    "scale": scale.main,
}


def main(arguments: list[str]) -> int:
    """Run the mode that comes first; returns the exit code."""
    if arguments and arguments[0] in MODES:
        return MODES[arguments[0]](arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        print(
            f"scripts/bench: no mode {arguments[0]!r}; one of {', '.join(MODES)}", file=sys.stderr
        )
        return 2
    return MODES[DEFAULT](arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
