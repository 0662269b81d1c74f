"""`scripts/chaos`: harm a cluster of its own under load, and judge what callers saw.

Exit codes: 0 nothing is wrong; 1 something is; 2 wrong usage; 3 it cannot be judged; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from memsync.errors import ConfigurationError, MemsyncError
from memsync.homes import Home
from memsync.local import process_table
from tests.chaos import chart, disks, faults, figures, history, network, report
from tests.chaos.checking import judge
from tests.chaos.cluster import (
    PEERS,
    InterruptedRunError,
    NotStartedError,
    run_interruptibly,
    running,
    take_signals,
)
from tests.chaos.history import Crashed, History, HistoryError, Note, Recorder
from tests.chaos.network import CannotError, Machines, Network, Relayed
from tests.chaos.run import Plan, run
from tests.faults_of_ours import faults_of_ours

PREFIX = "memsync-chaos-"
EXIT_VIOLATION, EXIT_USAGE, EXIT_CANNOT, EXIT_INTERRUPTED = 1, 2, 3, 130


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        names = faults.chosen(options.faults) if options.faults else [*faults.MIXES[options.mix]]
        if options.from_history is not None:
            return tell(history.read(options.from_history), options)
    except (ValueError, HistoryError) as error:
        print(f"scripts/chaos: {error}", file=sys.stderr)
        return EXIT_USAGE
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    if not network.is_inside() and not options.relay:
        if (why := network.why_not()) is None:
            os.environ.setdefault("TMPDIR", tempfile.gettempdir())
            network.enter("tests.chaos", [*arguments, "--seed", str(seed)])
        print(f"no network namespaces here ({why}): a relay takes their place", file=sys.stderr)
    plan = Plan(
        seed=seed, seconds=options.seconds, faults=[] if options.no_faults else names,
        every_s=options.every, fault_s=options.fault_s, rate=options.rate,
    )  # fmt: skip
    take_signals()
    try:
        return tell(_ran(plan, options), options)
    except InterruptedRunError:
        print("scripts/chaos: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception:  # noqa: BLE001 - the top: a fault of ours must not look like a violation
        traceback.print_exc()
        return EXIT_CANNOT


def _ran(plan: Plan, options: argparse.Namespace) -> History:
    """Do it. What keeps it from being judged is in the history."""
    with ExitStack() as stack:
        file = None
        if options.history is not None:
            file = stack.enter_context(options.history.open("wb"))
        recorder = Recorder(file)
        try:
            folder = stack.enter_context(_folder(keep=options.keep))
            where: Network = Machines() if network.is_inside() else Relayed()
            print(f"{where.says}; seed {plan.seed}; in {folder}", file=sys.stderr)
            is_small = where.can_mount and any("disk full" in name for name in plan.faults)
            small = [PEERS[2]] if is_small else []

            def mount(home: Home) -> None:
                for peer in small:
                    disks.mount(home.data(peer))
                    stack.callback(disks.unmount, home.data(peer))

            with running(folder / "home", where, before_start=mount) as cluster:
                run_interruptibly(run(plan, cluster, recorder, folder))
                for process, lines in faults_of_ours(cluster.home.logs).items():
                    for line in lines:
                        recorder.add(Crashed(at=plan.seconds, process=process, line=line))
        except (NotStartedError, CannotError, ConfigurationError, MemsyncError) as error:
            recorder.add(Note(at=0.0, text=f"did not run: {error}", is_blocking=True))
        return recorder.history()


def tell(found: History, options: argparse.Namespace) -> int:
    """Judge and report; returns the exit code."""
    verdict = judge(found)
    numbers = figures.figures_of(found, verdict)
    if options.plot is not None:
        chart.draw(found, options.plot)
    if options.json:
        print(json.dumps(report.as_json(found, verdict, numbers), indent=1))
    else:
        report.show(found, verdict, numbers, Console(width=report.WIDTH))
    if verdict.anomalies:
        return EXIT_VIOLATION
    return EXIT_CANNOT if verdict.cannot else 0


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """A folder of the run's own, below one that names this process; what a killed run left goes."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        found = re.fullmatch(rf"{PREFIX}(\d+)-(\d+)-\w+", left.name)
        if found and process_table.started_ticks(int(found[1])) != int(found[2]):
            shutil.rmtree(left, ignore_errors=True)
    own = f"{PREFIX}{os.getpid()}-{process_table.started_ticks(os.getpid())}-"
    path = Path(tempfile.mkdtemp(prefix=own))
    try:
        yield path
    finally:
        if keep:
            kept = parent / f"kept-{path.name}"
            path.rename(kept)
            print(f"kept: {kept}", file=sys.stderr)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        allow_abbrev=False,
        description="Harm a cluster of its own under load, and judge what callers saw.",
        epilog=f"Faults: {', '.join(faults.FAULTS)}. The beginning of a name means all with it "
        "(kill, store); a + between names brings them together (kill peer+freeze nats). Exit "
        "codes: 0 nothing is wrong, 1 a violation, 2 wrong usage, 3 it cannot be judged.",
    )
    add = parser.add_argument
    add("--seconds", type=float, default=120.0, help="how long the load lasts")
    add("--seed", type=int, help="the same faults at the same targets, the same callers")
    add("--faults", default="", help="only these, separated by commas")
    add("--mix", choices=[*faults.MIXES], default="one", help="one: kills and freezes; or more")
    add("--every", type=float, default=20.0, help="seconds from one fault to the next")
    add("--fault-s", type=float, default=5.0, help="how long a fault lasts that has a length")
    add("--rate", type=float, default=50.0, help="requests a second, of all callers together")
    add("--no-faults", action="store_true", help="load only: what the machine does without harm")
    add("--relay", action="store_true", help="no namespaces, but a TCP relay between processes")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--plot", type=Path, metavar="PNG", help="write a timeline")
    add("--history", type=Path, metavar="FILE", help="write every event, one JSON line each")
    add("--from-history", type=Path, metavar="FILE", help="judge a saved history, run nothing")
    add("--keep", action="store_true", help="keep the home of the cluster, with stores and logs")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
