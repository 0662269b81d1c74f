"""`scripts/eval`: how well a cluster recalls the conversations of a file in the format of LoCoMo.

Each conversation is added over HTTP for an end user of its own, as `memsync import` would write it
down, and each of its questions is asked as it is. Printed are recall@k and MRR of turns (of the
first 50 that come back) by category of question, and how long a caller waited for an answer.

With --paraphrases or --hops, memories and questions of our own take the place of a file.

A cluster of its own is started in a temporary home unless --url names one; it is asked once it has
embedded all that was added. Where --url names one, the users are named by a hash of what is added,
so that a repeat adds nothing twice and finds the same.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
import msgspec
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from memsync.cli.exits import (
    FAILURES,
    INTERRUPTED,
    OK,
    UsageProblem,
    exit_code_of,
    sentence_of,
)
from memsync.client import finding
from memsync.errors import NoCluster
from memsync.wire import codec
from tests.bench import chart, scoring
from tests.bench.questioning import (
    ASKED_K,
    Evaluator,
    Task,
    Where,
    hops_task,
    paraphrase_task,
    read_tasks,
)
from tests.bench.scoring import Row
from tests.system.conftest import running_cluster

KS = (5, 10, 20)
TIMEOUT_S = 30.0
PEERS = (1, 2, 3)  # of a cluster of its own


class Latency(msgspec.Struct, frozen=True):
    """What a caller waited for an answer, one question at a time, in milliseconds."""

    p50: float
    p95: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All that the evaluation found out, as `--json` prints it."""

    conversations: int
    turns: int
    created: int
    categories: list[Row]
    overall: Row
    latency_ms: Latency
    degraded: int
    without_evidence: int
    unknown_labels: int
    embedding_s: float
    unembedded: int
    seconds: float


async def evaluate(tasks: Sequence[Task], where: Where, ks: Sequence[int]) -> Result:
    """Add and ask everything; raises what `exits.FAILURES` lists."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    began_s = time.monotonic()
    progress = Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        with progress:
            evaluator = Evaluator(http, where, progress)
            outcomes = await evaluator.run(tasks)
    *categories, overall = scoring.rows_of(outcomes, ks)
    times_ms = [outcome.seconds * 1e3 for outcome in outcomes]
    p50, p95 = (round(scoring.percentile(times_ms, share), 3) for share in (0.5, 0.95))
    return Result(
        conversations=len(tasks),
        turns=sum(len(task.items) for task in tasks),
        created=evaluator.created,
        categories=categories,
        overall=overall,
        latency_ms=Latency(p50, p95),
        degraded=evaluator.degraded,
        without_evidence=sum(task.asks.without_evidence for task in tasks),
        unknown_labels=sum(task.asks.unknown_labels for task in tasks),
        embedding_s=evaluator.embedding_s,
        unembedded=evaluator.unembedded,
        seconds=round(time.monotonic() - began_s, 3),
    )


@contextmanager
def place(url: str | None, api_key: str | None, embedder: str = "") -> Iterator[Where]:
    """The cluster that --url names, or one that lives as long as this."""
    if url is not None:
        given = {finding.KEY_VARIABLE: api_key} if api_key else {}
        target = finding.find({**os.environ, **given}, url=url)
        assert target.url is not None
        yield Where(target.url, target.api_key)
        return
    with ExitStack() as stack:
        folder = stack.enter_context(
            # Interrupted while it starts, a server may end a moment later than what started it.
            tempfile.TemporaryDirectory(prefix="memsync-eval-", ignore_cleanup_errors=True)
        )
        if sys.stderr.isatty():
            print("starting a cluster in a temporary home", file=sys.stderr)
        try:
            cluster = stack.enter_context(running_cluster(Path(folder) / "home", embedder=embedder))
        except AssertionError as error:
            raise NoCluster(f"the cluster did not start: {error}") from error
        peers = tuple(cluster.peer_url(number) for number in PEERS)
        yield Where(cluster.url, cluster.api_key, peers)


def table(result: Result, ks: Sequence[int]) -> Table:
    """The figures for a person."""
    shown = Table()
    shown.add_column("questions about turns")
    for column in ("count", *(f"r@{k}" for k in ks), "MRR"):
        shown.add_column(column, justify="right")
    for row in [*result.categories, result.overall]:
        recalls = [f"{100 * row.recall[k]:.1f}" for k in ks]
        shown.add_row(row.name, str(row.questions), *recalls, f"{100 * row.mrr:.1f}")
    shown.rows[-2].end_section = True
    return shown


def _show(result: Result, ks: Sequence[int]) -> None:
    Console().print(table(result, ks))
    print(
        f"{result.turns} turns of {result.conversations} conversations, {result.overall.questions} "
        f"questions in {result.seconds:.1f} s; an answer took p50 {result.latency_ms.p50:.1f} ms, "
        f"p95 {result.latency_ms.p95:.1f} ms; waited {result.embedding_s:.1f} s for vectors"
    )


def _ks(text: str) -> list[int]:
    found = sorted({int(one) for one in text.split(",")})
    if not all(1 <= k <= ASKED_K for k in found):
        raise ValueError(text)
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/eval",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="Exit codes: 0 done; 1 the server refused; 2 wrong usage or file; 3 no cluster; "
        "130 interrupted.",
    )
    parser.add_argument(
        "file", type=Path, nargs="?", help="conversations with questions, format of LoCoMo"
    )
    parser.add_argument(
        "--paraphrases",
        action="store_true",
        help="instead of a file: our own questions that share no word with their answer",
    )
    parser.add_argument(
        "--hops",
        action="store_true",
        help="instead of a file: our own questions whose answer another memory leads to by a name",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write a bar chart")
    parser.add_argument(
        "--k", type=_ks, default=KS, metavar="K,..", help="recall at which k, 1 to 50 (5,10,20)"
    )
    parser.add_argument("--url", help="a running cluster, instead of one of its own")
    parser.add_argument(
        "--api-key", help=f"its key (or {finding.KEY_VARIABLE}; else that of the local cluster)"
    )
    parser.add_argument(
        "--embedder",
        choices=("static", "minilm", "none"),
        default="",
        help="of a cluster of its own; minilm is a package that has to be installed",
    )
    options = parser.parse_args(arguments)
    if (options.file is not None) + options.paraphrases + options.hops != 1:
        parser.error("name a FILE, or --paraphrases, or --hops")
    if options.embedder and options.url is not None:
        parser.error("--embedder: not with --url")
    if options.api_key and options.url is None:
        parser.error("--api-key: only with --url")
    if options.plot and not options.plot.absolute().parent.is_dir():
        parser.error(f"--plot: {options.plot.absolute().parent} is no folder")
    return options


def _run(options: argparse.Namespace) -> None:
    ks = options.k
    if options.paraphrases:
        tasks = [paraphrase_task()]
    else:
        tasks = [hops_task()] if options.hops else read_tasks(options.file)
    with place(options.url, options.api_key, options.embedder) as where:
        result = uvloop.run(evaluate(tasks, where, ks))
    if options.json:
        print(codec.to_json(result).decode())
    else:
        _show(result, ks)
    if result.degraded:
        problem = f"{result.degraded} answers were degraded: these figures are not comparable"
        print(f"scripts/eval: {problem}", file=sys.stderr)
    if result.unembedded:
        problem = f"{result.unembedded} memories had no vector yet: these figures are too low"
        print(f"scripts/eval: {problem}", file=sys.stderr)
    if options.plot:
        title = f"recall of turns, {result.turns} turns, {result.overall.questions} questions"
        try:
            chart.draw([*result.categories, result.overall], ks, title, options.plot)
        except OSError as error:
            raise UsageProblem(f"{options.plot}: cannot be written ({error.strerror})") from error


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM ends it as Ctrl-C does: a cluster of its own must not be left behind."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _options(arguments)
    try:
        _run(options)
    except FAILURES as failure:
        print(f"scripts/eval: {sentence_of(failure)}", file=sys.stderr)
        return exit_code_of(failure)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
