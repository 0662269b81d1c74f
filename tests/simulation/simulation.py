"""One seed: a cell is founded, harmed and used for some seconds, put right, and judged."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from typing import Any
from unittest import mock

import msgspec

from memsync import ids
from memsync.adapters.jetstream import id_blocks
from memsync.core.feedback import SIGNALS
from memsync.core.memories import content_of, is_visible
from memsync.core.records import Record, elements_of, value_of
from memsync.core.relations import RELATIONS
from memsync.wire import codec
from memsync.wire import genesis as genesis_file
from memsync.wire.operations import ApiKeyOrigin, MemoryOrigin
from tests.fakes.clock import START_MS
from tests.fakes.loop import StuckError, VirtualLoop
from tests.fakes.store import MemoryStore
from tests.simulation import quiet
from tests.simulation.asking import USERS, Client
from tests.simulation.breaks import broken
from tests.simulation.chance import chance, seeded_secrets
from tests.simulation.clients import Gateway
from tests.simulation.faults import Faults, heal
from tests.simulation.history import OK, History, KeyRow, Row, token_of
from tests.simulation.judge import Violation, judge
from tests.simulation.workload import Workload
from tests.simulation.world import Tracer, World

READY_S = 5.0  # a founded cell is ready by then
SETTLE_S = 20.0  # after everything was put right, all members are the same by then
POLL_S = 0.05
END_S = 5.0
IDS_PER_BLOCK = 48  # so few that blocks are leased all the time


class Result(msgspec.Struct):
    """What came of one seed."""

    seed: int
    violations: list[Violation]
    faults: list[str]
    planned: list[str]
    operations: dict[str, int]
    outcomes: dict[str, int]
    fresh_reads: int
    tagged_reads: int
    virtual_s: float
    callbacks: int
    digest: str


def simulate(seed: int, *, break_name: str = "", trace: Tracer | None = None) -> Result:
    """Run a seed, with the product as it is or with one of its breaks."""
    with ExitStack() as patches:
        patches.enter_context(seeded_secrets(seed))
        patches.enter_context(quiet.telemetry_quiet(is_traced=trace is not None))
        patches.enter_context(_small_blocks())
        patches.enter_context(broken(break_name))
        loop = VirtualLoop()
        loop.set_exception_handler(lambda _, context: unhandled.append(context))
        unhandled: list[dict[str, Any]] = []
        asyncio.set_event_loop(loop)
        try:
            return _run(loop, seed, trace, unhandled)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


@contextmanager
def _small_blocks() -> Iterator[None]:
    with (
        mock.patch.object(ids, "NUMBERS_PER_BLOCK", IDS_PER_BLOCK),
        mock.patch.object(id_blocks, "REFILL_BELOW", IDS_PER_BLOCK // 4),
    ):
        yield


def _run(
    loop: VirtualLoop, seed: int, trace: Tracer | None, unhandled: list[dict[str, Any]]
) -> Result:
    world = World(loop, seed, trace)
    quiet.follow(world.note)
    for part in (_story(world), _end(world)):
        try:
            loop.run_until_complete(part)
        except StuckError as error:
            world.history.troubles.append(("settle", str(error)))
        except Exception as error:  # noqa: BLE001 - a fault of the simulation is a finding as well
            what = "".join(traceback.format_exception(error))
            world.history.troubles.append(("simulation", what))
    world.history.troubles += [("process", str(context)) for context in unhandled]
    return _result(world, seed)


async def _story(world: World) -> None:
    gateway = Gateway(world, chance(world.seed, "gateway"))
    faults = Faults(world, gateway, chance(world.seed, "faults"))
    workload = Workload(world, gateway, chance(world.seed, "workload"))
    world.bus.found(genesis_file.identity(world.genesis))
    for name in world.names:
        world.start(name)
    if not await _until(world, world.is_ready, READY_S):
        world.history.troubles.append(("settle", f"not ready at first: {_how_it_is(world)}"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(faults.run())
        tasks.create_task(workload.run())
    heal(world)
    world.note("fault", "all is put right")
    if not await _until(world, lambda: _is_settled(world), SETTLE_S):
        world.history.troubles.append(("settle", _how_it_is(world)))
    await _look_once_more(workload)
    if not await _until(world, lambda: _is_settled(world), SETTLE_S):  # what came late, too
        world.history.troubles.append(("settle", _how_it_is(world)))
    _note_ending(world)


async def _until(world: World, condition: Any, timeout_s: float) -> bool:
    until_s = world.loop.time() + timeout_s
    while not condition():
        if world.loop.time() > until_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _is_settled(world: World) -> bool:
    """Whether all members are ready, fresh, and have applied the same: all that is in the log."""
    if not world.is_ready():
        return False
    engines = [world.processes[name].engine for name in world.members()]
    if any(engine is None or not engine.leases.is_fresh() for engine in engines):
        return False
    ends = [engine.progress.ends() for engine in engines if engine is not None]
    held = [[end for end in each if end.sequence] for each in ends]
    applied = {(end.stripe, end.generation): end.sequence for end in held[0]}
    has_all = all(
        applied.get((stripe, stream.generation), 0) >= stream.last
        for stripe, stream in world.bus.streams.items()
    )
    return has_all and all(each == held[0] for each in held)


def _how_it_is(world: World) -> str:
    said = []
    for name in world.names:
        process = world.processes.get(name)
        if process is None or process.engine is None:
            said.append(f"{name}: down")
            continue
        bad = {k: v for k, v in process.engine.health.checks().items() if v != "ok"}
        ends = ",".join(
            f"{p.stripe}.{p.generation}.{p.sequence}" for p in process.engine.progress.ends()
        )
        said.append(f"{name}: {bad or 'ready'} fresh={process.engine.leases.is_fresh()} at {ends}")
    return "; ".join(said)


async def _look_once_more(workload: Workload) -> None:
    """Every user's list at the end, from every member, must be answered fresh."""
    for user in USERS:
        for _ in range(3):
            await workload.asking.read(Client(0), user, "memory.list", {"limit": 100})


def _note_ending(world: World) -> None:
    history = world.history
    identifiers = _handed_out(history)
    for name in world.members():
        store = world.machines[name].disk.states[-1]
        rows = [_row(record) for record in store._records.values() if record.kind == "memory"]
        history.rows[name] = {row.key: row for row in rows}
        history.keys[name] = dict(_keys_in(store))
        history.resolved[name] = {i: store._holders[i] for i in identifiers if i in store._holders}
        state = sorted((key, codec.pack(record)) for key, record in store._records.items())
        history.states[name] = blake2b(codec.pack(state), digest_size=8).digest()
        process = world.processes.get(name)
        if process is not None and process.engine is not None:
            why = process.engine.applier.broken
            if why is not None:
                history.troubles.append(("applier", f"{name}: {why}"))


def _handed_out(history: History) -> list[int]:
    found: list[int] = []
    for event in history.events:
        if event.outcome != OK or event.effect is None:
            continue
        if event.operation == "memory.add":
            answer = event.answer
            found += answer["memory_ids"] if event.status == 200 else [answer["id"]]
        elif event.operation == "memory.bulk_add":
            found += [i for item in event.answer["results"] for i in item["memory_ids"]]
    return sorted(set(found))


def _row(record: Record) -> Row:
    is_there = isinstance(record.origin, MemoryOrigin)
    content = content_of(record) if is_there else None
    return Row(
        key=record.key,
        ids=tuple(record.ids),
        token=token_of(content.text) if content is not None else "",
        user=record.scope.end_user,
        is_visible=is_visible(record, START_MS),
        tags=tuple(value_of(record, "tags", [])) if is_there else (),
        metadata=(content.metadata or {}) if content is not None else {},
        attached=tuple(_attached(record)) if record.elements else (),
    )


def _attached(record: Record) -> Iterator[str]:
    """The words of its relations and signals."""
    for relation in elements_of(record, RELATIONS).values():
        yield codec.open_as(relation.metadata, dict)["v"]
    for signal in elements_of(record, SIGNALS).values():
        yield codec.open_as(signal.comment, str)


def _keys_in(store: MemoryStore) -> Iterator[tuple[int, KeyRow]]:
    """The API keys that callers made, by each of their ids."""
    for record in store._records.values():
        if record.kind == "api_key" and isinstance(record.origin, ApiKeyOrigin):
            is_revoked = bool(value_of(record, "revoked", False))
            row = KeyRow(record.origin.name, is_revoked, record.key)
            if row.name.startswith("k"):
                yield from ((identifier, row) for identifier in record.ids)


async def _end(world: World) -> None:
    """End all processes; whatever does not end is a finding."""
    for name in world.names:
        world.kill(name)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if not others:
        return
    _, left = await asyncio.wait(others, timeout=END_S)
    for task in left:
        world.history.troubles.append(("process", f"{task.get_name()} does not end"))


def _result(world: World, seed: int) -> Result:
    history = world.history
    operations: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    for event in history.events:
        kind = event.operation
        if event.effect is not None:
            kind = history.effects[event.effect].kind
        operations[kind] = operations.get(kind, 0) + 1
        side = "read" if event.effect is None else "write"
        outcomes[f"{side} {event.outcome}"] = outcomes.get(f"{side} {event.outcome}", 0) + 1
    violations = sorted(set(judge(history)))
    told = msgspec.json.encode(msgspec.structs.replace(history, rows={}, resolved={}, keys={}))
    return Result(
        seed=seed,
        violations=violations,
        faults=history.faults,
        planned=history.planned,
        operations=operations,
        outcomes=outcomes,
        fresh_reads=sum(event.is_fresh_read for event in history.events),
        tagged_reads=sum("replication" in event.degraded for event in history.events),
        virtual_s=round(world.loop.time(), 3),
        callbacks=world.loop.callbacks,
        digest=blake2b(told, digest_size=12).hexdigest(),
    )
