"""One run: load and nemesis side by side, then the healing, the last reads, the unknown settled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from nats.aio.client import Client

from memsync.adapters.jetstream import connection
from memsync.config import NatsSettings
from tests.chaos import stores
from tests.chaos.cluster import PEERS, Cluster
from tests.chaos.driver import Connection, Driver, Process, Request
from tests.chaos.elections import Elections
from tests.chaos.fault import Context
from tests.chaos.history import Note, Operation, Recorder, Run
from tests.chaos.nemesis import Nemesis
from tests.chaos.workloads import Worker, World, crew
from tests.system.callers import NatsWay

BUS_CONNECTIONS = 2
READY_S = 60.0
EQUAL_S = 90.0  # anti-entropy and scrub have their rounds of a minute
EQUAL_POLL_S = 0.5
LIST_LIMIT = 100
READERS = 6  # last reads of one peer at once
TRIES = 3
TRY_AGAIN_S = 0.5


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for. Seconds; `rate` is operations a second, of all callers."""

    seed: int
    seconds: float
    faults: list[str]
    every_s: float
    fault_s: float
    rate: float


async def run(plan: Plan, cluster: Cluster, recorder: Recorder, folder: Path) -> None:
    """The whole run; what happened is in the recorder."""
    chance = random.Random(plan.seed)
    options = {"seconds": f"{plan.seconds:g}", "every": f"{plan.every_s:g}",
               "fault": f"{plan.fault_s:g}", "faults": ", ".join(plan.faults),
               "network": cluster.network.says}  # fmt: skip
    recorder.add(Run(at=0.0, seed=plan.seed, options=options, peers=list(PEERS)))
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(_bus(cluster, "node", 0))
        context = Context(cluster, own, chance, folder)
        driver = Driver(recorder, cluster.key, context)
        context.now = driver.now
        elections = Elections(recorder, driver.now)
        for number in range(len(cluster.servers)):  # one of them hears it, whatever is cut off
            await elections.listen(await stack.enter_async_context(_bus(cluster, "node", number)))
        world = World(random.Random(chance.random()))
        workers = await _hire(stack, driver, cluster, world)
        nemesis = Nemesis(context, driver, plan.faults, every_s=plan.every_s, fault_s=plan.fault_s)
        await _under_load(plan, driver, workers, nemesis)
        await _finish(driver, cluster, world)


async def _under_load(plan: Plan, driver: Driver, workers: list[Worker], nemesis: Nemesis) -> None:
    stop, pace_s = asyncio.Event(), len(workers) / plan.rate

    async def work(worker: Worker) -> None:
        while not stop.is_set():
            sent = driver.recorder.last
            await worker.step()
            rounds = max(1, min(3, driver.recorder.last - sent))
            await asyncio.sleep(worker.chance.expovariate(1 / (pace_s * rounds)))

    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(work(worker))
        if plan.faults:
            await nemesis.run(plan.seconds)
        await asyncio.sleep(max(0.0, plan.seconds - driver.now()))
        stop.set()


async def _hire(
    stack: AsyncExitStack, driver: Driver, cluster: Cluster, world: World
) -> list[Worker]:
    ways = [
        NatsWay(await stack.enter_async_context(_bus(cluster, "client", number)))
        for number in range(BUS_CONNECTIONS)
    ]
    names: list[str] = []

    def http(name: str) -> Process:
        link = Connection(cluster.url)
        stack.push_async_callback(link.client.aclose)
        return Process(driver, name, link)

    def bus(name: str) -> Process:
        names.append(name)
        return Process(driver, name, ways[len(names) % len(ways)])

    return crew(world, http, bus)


@asynccontextmanager
async def _bus(cluster: Cluster, user: str, first: int) -> AsyncIterator[Client]:
    """A connection as one of the bus's users, kept alive when its server freezes."""
    servers = cluster.servers[first:] + cluster.servers[:first]
    settings = NatsSettings(servers=servers, credentials=str(cluster.home.credentials(user)))
    client = await connection.connect(settings, f"chaos-{user}-{first}")
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(connection.watchdog(client))
            try:
                yield client
            finally:
                watch.cancel()
    finally:
        await connection.close(client)


async def _finish(driver: Driver, cluster: Cluster, world: World) -> None:
    """Wait until all is healed, read everything on every peer that is, settle, read again."""
    recorder = driver.recorder
    missing = await cluster.wait_ready(READY_S)
    if missing:
        text = f"not ready {READY_S:.0f} s after the last fault: {', '.join(missing)}"
        recorder.add(Note(at=driver.now(), text=text, is_blocking=True, unready=missing))
    peers = [peer for peer in PEERS if peer not in missing]
    await _wait_equal(cluster, driver, peers)
    await _last_reads(driver, cluster, world, "healed", peers)
    if driver.unsettled:
        await _settle(driver, cluster)
        await _wait_equal(cluster, driver, peers)
        await _last_reads(driver, cluster, world, "settled", peers)
    for peer in peers:
        found = await asyncio.to_thread(stores.digest, cluster.store(peer), peer, driver.now())
        recorder.add(found)
        held = await asyncio.to_thread(stores.attached, cluster.store(peer), peer, driver.now())
        recorder.add(held)


async def _wait_equal(cluster: Cluster, driver: Driver, peers: list[str]) -> None:
    """Until the stores of these have equal positions and sums and whole rows; they may never."""
    give_up_at = driver.now() + EQUAL_S
    while driver.now() < give_up_at:
        found = [
            await asyncio.to_thread(stores.digest, cluster.store(peer), peer, 0.0) for peer in peers
        ]
        are_whole = not any(one.damaged or one.problem for one in found)
        if are_whole and all(
            (one.positions, one.sums) == (found[0].positions, found[0].sums) for one in found
        ):
            return
        await asyncio.sleep(EQUAL_POLL_S)


async def _settle(driver: Driver, cluster: Cluster) -> None:
    """Ask for every unknown write again, with its key."""
    link = Connection(cluster.url)
    process = Process(driver, "settler", link)
    async with link.client:
        for first, request in [*driver.unsettled.items()]:
            for _ in range(TRIES):
                if not _is_open(await process.repeat(request, first)):
                    break
                await asyncio.sleep(TRY_AGAIN_S)


def _is_open(operation: Operation) -> bool:
    """Whether asking once more might tell more."""
    return not operation.is_ok and (operation.end.status in (0, 429) or operation.end.status >= 500)


async def _last_reads(
    driver: Driver, cluster: Cluster, world: World, phase: str, peers: list[str]
) -> None:
    async with asyncio.TaskGroup() as group:
        for peer in peers:
            group.create_task(_read_peer(driver, cluster.peer_url(peer), peer, world, phase))


async def _read_peer(driver: Driver, url: str, peer: str, world: World, phase: str) -> None:
    """Everything that one peer has, by users and by ids, from its own store."""
    users = iter(list(world.users))

    async def read_users(process: Process) -> None:
        for user in users:
            shown = await _read_user(process, user, (peer, phase))
            for ref, ids in world.ids.get(user, {}).items():
                for identifier in sorted(ids - shown):
                    await _tried(
                        process,
                        Request(
                            op="get", user=user, body={"memory_id": identifier}, refs=[ref],
                            final=(peer, phase),
                        ),
                    )  # fmt: skip

    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for number in range(READERS):
            link = Connection(url)
            stack.push_async_callback(link.client.aclose)
            group.create_task(read_users(Process(driver, f"last-{peer}-{number}", link)))


async def _read_user(process: Process, user: str, final: tuple[str, str]) -> set[int]:
    """The ids that are listed. A user has less than a page, so one answer is all."""
    request = Request(op="list", user=user, body={"limit": LIST_LIMIT}, final=final)
    done = await _tried(process, request)
    if not done.is_ok:
        text = f"{final[0]}: what {user} has could not be read at the end ({done.end.code})"
        process.driver.recorder.add(Note(at=process.driver.now(), text=text, is_blocking=True))
    return {seen.id for seen in done.end.seen}


async def _tried(process: Process, request: Request) -> Operation:
    for _ in range(TRIES - 1):
        done = await process.do(request)
        if done.is_ok:
            return done
        await asyncio.sleep(TRY_AGAIN_S)
    return await process.do(request)
