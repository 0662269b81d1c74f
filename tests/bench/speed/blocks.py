"""Blocks of requests: a closed loop with so many in flight for so long, cases in turns.

A shared machine is fast now and slow a second later. So what is to be compared is measured in turns
(ours, its limit, the peer beside, ours, ...), each turn a short block, and a ratio is the median of
the ratios of the rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from tests.bench.speed.machine import Usage

PAUSE_S = 0.15  # after a block: what it left to be done is not the next one's
WARM_UP_S = 0.5  # of each case, before the first round
WARM_SHARE = 0.15  # of a block's time, before it and not counted
REFUSED_SHARE_MAX = 0.05  # of a block's requests; a machine that is loaded by others refuses some
BLOCK_S_MAX = 60.0  # beyond its own time; then something hangs

Step = Callable[[], Awaitable[None]]
Told = Callable[[str], None]


class RefusedError(Exception):
    """A request was not answered as it should be."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One block. `count` are operations that were answered, `refused` requests that were not;
    `cpu_s` is what each process used, "load" the generator."""

    count: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_s: Mapping[str, float] = {}
    refused: int = 0

    def times(self, counted: int) -> Block:
        """The same, where each step was so many operations; times stay those of steps."""
        return msgspec.structs.replace(self, count=self.count * counted)

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Processor time per operation of all processes but the generator."""
        return sum(s for name, s in self.cpu_s.items() if name != "load") / self.count * 1e3


class Case(msgspec.Struct, frozen=True):
    """Something to measure: `measure` makes a block of so many seconds."""

    name: str
    in_flight: int
    measure: Callable[[float], Awaitable[Block]]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """All blocks of a case: medians over them. `cpu_ms` is of one operation, by process."""

    name: str
    in_flight: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    refused: int
    blocks: list[Block]

    @property
    def spread(self) -> float:
        """How many times the least p50 of a block the greatest is."""
        p50s = [block.p50_ms for block in self.blocks]
        return max(p50s) / min(p50s)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that this share does not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def block_of(times_s: list[float], seconds: float, cpu_s: Mapping[str, float]) -> Block:
    """A block of requests that took so long."""
    times_s.sort()
    p50, p95, p99 = (round(quantile(times_s, share) * 1e3, 4) for share in (0.5, 0.95, 0.99))
    return Block(
        count=len(times_s), seconds=seconds, p50_ms=p50, p95_ms=p95, p99_ms=p99, cpu_s=cpu_s
    )


def case(name: str, step: Step, in_flight: int, usage: Usage, *, counted: int = 1) -> Case:
    """A case whose step is one operation, or so many as are `counted`."""

    async def measure(seconds: float) -> Block:
        await _loop(step, in_flight, seconds * WARM_SHARE)
        before, own_s = usage(), time.process_time()
        began = time.perf_counter()
        times_s, refused = await _loop(step, in_flight, seconds)
        took_s = time.perf_counter() - began
        cpu_s = {name: total - before.get(name, 0.0) for name, total in usage().items()}
        cpu_s["load"] = time.process_time() - own_s
        if len(refused) > REFUSED_SHARE_MAX * (len(times_s) + len(refused)):
            raise RefusedError(f"{len(refused)} of {len(times_s)} and more: {refused[0]}")
        block = block_of(times_s, took_s, cpu_s).times(counted)
        return msgspec.structs.replace(block, refused=len(refused))

    return Case(name, in_flight, measure)


async def _loop(
    step: Step, in_flight: int, seconds: float
) -> tuple[list[float], list[RefusedError]]:
    times_s: list[float] = []
    refused: list[RefusedError] = []
    end = time.perf_counter() + seconds

    async def worker() -> None:
        began = time.perf_counter()
        while began < end:
            try:
                await step()
            except RefusedError as error:
                refused.append(error)
                began = time.perf_counter()
                continue
            now = time.perf_counter()
            times_s.append(now - began)
            began = now

    async with asyncio.timeout(seconds + BLOCK_S_MAX), asyncio.TaskGroup() as workers:
        for _ in range(in_flight):
            workers.create_task(worker())
    return times_s, refused


async def in_turns(
    cases: Sequence[Case], *, rounds: int, seconds: float, told: Told
) -> dict[str, Figure]:
    """Measure each case once a round; every other round backwards, so that none always comes right
    after the same one."""
    blocks: dict[str, list[Block]] = {one.name: [] for one in cases}
    for one in cases:
        told(f"{one.name}, warming up")
        await one.measure(min(seconds, WARM_UP_S))
    for number in range(rounds):
        for one in cases if number % 2 == 0 else reversed(cases):
            told(f"{one.name}, round {number + 1} of {rounds}")
            await asyncio.sleep(PAUSE_S)
            blocks[one.name].append(await one.measure(seconds))
    return {one.name: figure(one, blocks[one.name]) for one in cases}


def figure(one: Case, blocks: list[Block]) -> Figure:
    """A case's blocks together."""

    def median(of: Callable[[Block], float], digits: int = 3) -> float:
        return round(statistics.median(map(of, blocks)), digits)

    return Figure(
        name=one.name,
        in_flight=one.in_flight,
        per_second=median(lambda b: b.per_second, 1),
        p50_ms=median(lambda b: b.p50_ms),
        p95_ms=median(lambda b: b.p95_ms),
        p99_ms=median(lambda b: b.p99_ms),
        cpu_ms={
            name: median(lambda b, name=name: b.cpu_s[name] / b.count * 1e3, 4)  # type: ignore[misc]
            for name in blocks[0].cpu_s
        },
        refused=sum(block.refused for block in blocks),
        blocks=blocks,
    )


def median_ratio(ones: Figure, others: Sequence[Figure], of: Callable[[Block], float]) -> float:
    """The median over the rounds of one figure's blocks by the sum of the others'."""
    limits = [sum(map(of, together)) for together in zip(*(o.blocks for o in others), strict=True)]
    return statistics.median(
        of(block) / limit for block, limit in zip(ones.blocks, limits, strict=True)
    )
