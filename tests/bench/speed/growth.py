"""Whether a peer that holds many end users is slower for each: two peers side by side.

Each is `memsync dev` on a store that was filled without the API (tests/bench/filling.py); one has
few users, the other many. Recalls of both are measured in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from memsync.ids import Scope
from memsync.local.home import Home
from memsync.local.ports import Ports, choose_free
from memsync.wire import genesis as genesis_file
from tests.bench.filling import fill, parts_of
from tests.bench.one_peer import Caller, OnePeer, Timing
from tests.bench.speed.blocks import Told
from tests.bench.speed.goals import Line, line

FEW = 10
MEMORIES = 50
TOUCHED = 2_000  # of many users, before recalls count as warm; a few hundred of them are asked
WARM = 200
ROUNDS = 15
COUNT = 40  # recalls in a block
LOADED_S = 60.0
FLAT = 1.2
TOUCH_MS = 5.0


class Side(msgspec.Struct, frozen=True):
    """A running peer and who asks it."""

    users: list[str]
    caller: Caller


async def lines(folder: Path, users: int, told: Told) -> list[Line]:
    """First touch and warm recalls: with few users, and with so many."""
    async with _side(folder / "few", FEW, told) as few, _side(folder / "many", users, told) as many:
        touch_few = await _touch(few, told)
        touch_many = await _touch(many, told)
        warm: dict[bool, list[float]] = {True: [], False: []}
        for number in range(ROUNDS):
            told(f"warm recalls, round {number + 1} of {ROUNDS}")
            for is_many in (True, False) if number % 2 else (False, True):
                warm[is_many].append(await _warm(many if is_many else few, number))
    p50_few, p50_many = (statistics.median(warm[is_many]) * 1e3 for is_many in (False, True))
    pairs = zip(warm[True], warm[False], strict=True)
    return [
        line(
            f"recall in a warm scope, {users:,} users of {MEMORIES}, p50", "ms", p50_many, FLAT,
            limit=p50_few, limit_is=f"the same with {FEW} users", judged="ratio",
            ratio=statistics.median(one / other for one, other in pairs),
        ),
        line(
            f"first touch of a scope of {MEMORIES}, {users:,} users, p50", "ms", touch_many,
            TOUCH_MS, limit=touch_few, limit_is=f"the same with {FEW} users",
        ),
    ]  # fmt: skip


@asynccontextmanager
async def _side(folder: Path, users: int, told: Told) -> AsyncIterator[Side]:
    home = Home(folder)
    peer = OnePeer(home, choose_free(Ports(peers=1, servers=1, gateways=0)))
    told(f"founding a cell for {users:,} users")
    with peer.running():
        pass  # the cell is founded, its streams are made
    cell = genesis_file.read(home.genesis)
    names = [f"user-{number}" for number in range(users)]
    sizes = [
        (Scope(cell.organisation.id, "", cell.key.environment, name), MEMORIES) for name in names
    ]
    parts = list(parts_of(sizes, int(time.time() * 1e3)))
    total = users * MEMORIES
    await fill(
        home.data("peer-1"), genesis_file.identity(cell), parts,
        lambda done: told(f"filling a store: {done:,} of {total:,}"),
    )  # fmt: skip
    scopes: Mapping[str, tuple[int, int]] = {
        name: (number * MEMORIES, MEMORIES) for number, name in enumerate(names)
    }
    with peer.running():
        async with peer.caller(scopes) as caller:
            yield Side(names, caller)


async def _touch(side: Side, told: Told) -> float:
    """The median of first touches in milliseconds; loads the scopes that are asked later."""
    times = []
    chosen = side.users[:TOUCHED]
    for number, user in enumerate(chosen):
        if number % 100 == 0:
            told(f"first touch: {number:,} of {len(chosen):,}")
        times.append(await side.caller.wait_recalled(user, within_s=LOADED_S))
    return statistics.median(times) * 1e3


async def _warm(side: Side, number: int) -> float:
    """The median of a block of recalls in seconds, over users in turns."""
    timing = Timing()
    for place in range(COUNT):
        user = side.users[(number * COUNT + place) % min(WARM, len(side.users))]
        timing.add(await side.caller.recalls(user, count=1))
    return timing.at(0.5)
