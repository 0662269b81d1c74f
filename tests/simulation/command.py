"""scripts/simulate: many seeds, several at once, or one seed with everything that happened.

Exit codes: 0 when no seed failed and no kind of fault was too rare (with --break: when the break
was caught), 1 else, 2 for a wrong argument.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import Pool

import msgspec

from tests.simulation.breaks import BREAKS
from tests.simulation.faults import FAULTS, KINDS
from tests.simulation.simulation import Result, simulate
from tests.simulation.world import Tracer

FAULT_SHARE_MIN = 0.05
FAULT_SHARES_FROM = 100  # seeds; of fewer, chance says more than the plan
SHOWN_CHARS = 600
CHUNK = 4
GENERATIONS = (50_000, 20, 100)  # of the garbage collector


class Summary(msgspec.Struct):
    """What came of many seeds."""

    first: int
    seeds: int
    break_name: str
    failed: list[Result]
    faults: dict[str, int]  # that took effect
    faults_least: int  # in one seed
    planned: dict[str, int]
    operations: dict[str, int]
    outcomes: dict[str, int]
    fresh_reads: int
    tagged_reads: int
    virtual_s: float
    seconds: float
    digests: dict[int, str]

    @property
    def rare(self) -> list[str]:
        """Faults that took effect too seldom to say much."""
        total = sum(self.faults.values())
        if self.seeds < FAULT_SHARES_FROM:
            return []
        return [kind for kind in KINDS if self.faults.get(kind, 0) < FAULT_SHARE_MIN * total]


def run(
    seeds: Sequence[int], *, break_name: str, jobs: int, trace: Tracer | None = None
) -> Summary:
    """Run these seeds; with a break, until one has caught it. `trace` is told all that happens, of
    one seed only."""
    started = time.monotonic()
    faults: Counter[str] = Counter()
    planned: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    summary = Summary(
        first=seeds[0],
        seeds=0,
        break_name=break_name,
        failed=[],
        faults={},
        faults_least=FAULTS,
        planned={},
        operations={},
        outcomes={},
        fresh_reads=0,
        tagged_reads=0,
        virtual_s=0.0,
        seconds=0.0,
        digests={},
    )
    for result in _results(seeds, break_name, jobs, trace):
        summary.seeds += 1
        faults.update(result.faults)
        summary.faults_least = min(summary.faults_least, len(result.faults))
        planned.update(result.planned)
        operations.update(result.operations)
        outcomes.update(result.outcomes)
        summary.fresh_reads += result.fresh_reads
        summary.tagged_reads += result.tagged_reads
        summary.virtual_s += result.virtual_s
        summary.digests[result.seed] = result.digest
        if result.violations:
            summary.failed.append(result)
            if break_name:
                break
    summary.faults, summary.operations = dict(faults), dict(operations)
    summary.outcomes, summary.planned = dict(outcomes), dict(planned)
    summary.seconds = round(time.monotonic() - started, 1)
    return summary


def _results(
    seeds: Sequence[int], break_name: str, jobs: int, trace: Tracer | None
) -> Iterator[Result]:
    one = partial(simulate, break_name=break_name, trace=trace)
    if jobs == 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    with Pool(jobs, initializer=gc.set_threshold, initargs=GENERATIONS) as pool:
        yield from pool.imap(one, seeds, chunksize=CHUNK)


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Have Python look for garbage less often: a seed leaves cycles, but not many, and looking
    through all that was imported again and again took 14 % of the time (measured)."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*GENERATIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def reproduction(result: Result, break_name: str) -> str:
    """The line that shows this seed again."""
    broken = f" --break {break_name}" if break_name else ""
    return f"scripts/simulate --seed {result.seed}{broken} --trace"


def report(summary: Summary) -> Iterator[str]:
    """What a person reads."""
    for result in summary.failed:
        yield f"seed {result.seed}: {reproduction(result, summary.break_name)}"
        for violation in result.violations:
            yield f"    {violation.kind}: {violation.what[-SHOWN_CHARS:]}"
    yield ""
    yield f"{summary.seeds} seeds from {summary.first} in {summary.seconds} s"
    yield f"    {summary.virtual_s:.0f} virtual seconds"
    yield _table("operations", summary.operations)
    yield _table("outcomes", summary.outcomes)
    yield f"    reads that had to be fresh {summary.fresh_reads}, tagged {summary.tagged_reads}"
    total = sum(summary.faults.values()) or 1
    each = total / max(1, summary.seeds)
    least = summary.faults_least
    yield f"    faults that took effect, of those begun: {each:.1f} a seed, at least {least}"
    for kind in sorted(KINDS, key=lambda kind: (-summary.faults.get(kind, 0), kind)):
        count = summary.faults.get(kind, 0)
        begun = summary.planned.get(kind, 0)
        yield f"      {kind:12} {count:7} {100 * count / total:5.1f} % of {begun}"
    if summary.rare:
        yield f"    too rare: {', '.join(summary.rare)}"
    yield _verdict(summary)


def _verdict(summary: Summary) -> str:
    if summary.break_name:
        caught = f"caught by seed {summary.failed[0].seed}" if summary.failed else "NOT CAUGHT"
        return f"{summary.break_name}: {caught}"
    if summary.failed:
        return f"{len(summary.failed)} seeds failed"
    return "no promise was broken"


def _table(name: str, counts: dict[str, int]) -> str:
    told = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return f"    {name}: {told}"


def _show(at_s: float, who: str, what: str) -> None:
    print(f"{at_s:9.4f} {who:10} {what}")


def main(arguments: Iterable[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (default 200)")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happened")
    parser.add_argument("--break", dest="break_name", default="", choices=["", *BREAKS])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a report")
    asked = parser.parse_args(list(arguments))
    if asked.seeds < 1 or asked.jobs < 1:
        parser.error("--seeds and --jobs are at least 1")
    if asked.trace and asked.seed is None:
        parser.error("--trace needs --seed")
    seeds = (
        [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.seeds)
    )
    trace = _show if asked.trace else None
    with _seldom_collecting():
        summary = run(seeds, break_name=asked.break_name, jobs=asked.jobs, trace=trace)
    if asked.json:
        print(msgspec.json.encode(summary).decode())
    else:
        print("\n".join(report(summary)))
    return exit_code(summary)


def exit_code(summary: Summary) -> int:
    """See above."""
    if summary.break_name:
        return 0 if summary.failed else 1
    is_bad = summary.failed or summary.rare or summary.faults_least < FAULTS
    return 1 if is_bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
