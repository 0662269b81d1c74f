"""Conditional writes on real engines: one winner, and what becomes of one whose answer was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from memsync import limits
from memsync.core import memories
from memsync.core.records import Record, version_of
from memsync.engine.writing.appender import Condition, Written
from memsync.engine.writing.conditional import _Doubt
from memsync.errors import (
    MemsyncError,
    NoStripeLeader,
    OutcomeUnknown,
    Unavailable,
    VersionConflict,
)
from memsync.ids import Position, RecordKey
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, retag, running_cell, write_of
from tests.fakes.store import MemoryStore

KEY = create(1).record
HOME = int.from_bytes(KEY[:4], "big") % limits.STRIPES


def founded() -> MemoryBus:
    bus = MemoryBus()
    bus.found()
    return bus


async def add(peer: CellPeer) -> str:
    """Add memory 1 on every peer; its version."""
    await peer.appender.write(
        write_of(peer, "key-1", create(1)), ack="all", deadline_s=peer.clock.steady_s() + 5
    )
    return await version_at(peer)


async def version_at(peer: CellPeer) -> str:
    """The version of memory 1 in a peer's store."""
    record = await peer.record(KEY)
    assert record is not None
    return version_of(record)


async def update(
    peer: CellPeer, version: str, tag: str = "new", *, key: str = "update", budget_s: float = 5.0
) -> Written:
    """Tag memory 1 if it has this version."""
    return await peer.appender.write(
        write_of(peer, key, retag(1, tag)),
        ack="quorum",
        deadline_s=peer.clock.steady_s() + budget_s,
        condition=Condition(record=KEY, version=version),
    )


def tags(written: Written) -> list[str]:
    """The tags of memory 1 as a write left them."""
    return memories.view(written.records[KEY]).tags


def on_subject(bus: MemoryBus) -> int:
    """How many messages lie on the record's own subject."""
    return sum(message.record == KEY for message in bus.streams[HOME].messages)


@pytest.mark.parametrize("lag", [0, 1, 3])
async def test_one_of_many_wins_however_far_behind_the_server_is_that_is_asked(lag: int) -> None:
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        asked = 0

        def behind() -> int:
            nonlocal asked
            asked += 1
            return lag if asked % 3 else 0

        cell.bus.lag = behind

        async def one(number: int) -> str | MemsyncError:
            try:
                peer, tag = cell[number % 3], f"tag-{number}"
                return tags(await update(peer, version, tag, key=f"update-{number}"))[0]
            except MemsyncError as error:
                return error

        results = await asyncio.gather(*(one(n) for n in range(9)))
        won = [result for result in results if isinstance(result, str)]
        lost = [result for result in results if isinstance(result, VersionConflict)]
        assert (len(won), len(lost)) == (1, 8)
        assert on_subject(cell.bus) == 1
        after = await cell[0].record(KEY)
        assert after is not None
        assert memories.view(after).tags == won
        assert all(e.details == {"current_version": version_of(after)} for e in lost)


async def test_one_after_another_go_through_at_servers_that_are_behind() -> None:
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        lags = iter([0, 2, 0, 1, 1, 0, 3, 0])
        cell.bus.lag = lambda: next(lags, 0)
        for number in range(4):
            await update(cell[number % 3], version, f"tag-{number}", key=f"update-{number}")
            version = await version_at(cell[number % 3])
        assert on_subject(cell.bus) == 4


async def test_without_a_leader_of_its_stripe_it_is_refused_at_once_for_certain() -> None:
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        cell.bus.faults[HOME] = "no leader"
        began = cell[0].clock.steady_s()
        with pytest.raises(NoStripeLeader) as refused:
            await update(cell[0], version)
        assert refused.value.definite
        assert cell[0].clock.steady_s() - began < 1.0
        cell.bus.faults.clear()
        assert tags(await update(cell[0], version)) == ["new"]


async def test_one_whose_answer_was_lost_is_found_again() -> None:
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        cell.bus.faults[HOME] = "stored but silent"
        assert tags(await update(cell[0], version)) == ["new"]
        assert on_subject(cell.bus) == 1


class Silent:
    """A stripe whose leader is silent at first, then `then`; well again from the `count`-th publish
    on."""

    def __init__(self, cell: Cell, then: str, count: int) -> None:
        self.asked = 0
        peer = cell[0]
        real = peer.bus.publish
        cell.bus.faults[HOME] = "silent"

        async def publish(*arguments: Any, **more: Any) -> Position:
            self.asked += 1
            if self.asked >= count:
                cell.bus.faults.pop(HOME, None)
            try:
                return await real(*arguments, **more)
            finally:
                if HOME in cell.bus.faults:
                    cell.bus.faults[HOME] = then  # type: ignore[assignment]

        peer.bus.publish = publish  # type: ignore[method-assign]


@pytest.mark.parametrize("then", ["silent", "no leader", "full"])
async def test_one_that_was_not_answered_goes_on_until_there_is_a_leader(then: str) -> None:
    """It must not be left unknown for what is refused later: only one of its publishes counts."""
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        stripe = Silent(cell, then, 4)
        assert tags(await update(cell[0], version)) == ["new"]
        assert (stripe.asked, on_subject(cell.bus)) == (4, 1)


async def test_a_doubt_is_over_when_another_went_first() -> None:
    """What followed on the subject was refused by the leader, or will be: that is certain."""
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        real = cell[0].bus.publish

        async def overtaken(*arguments: Any, **more: Any) -> Position:
            cell[0].bus.publish = real  # type: ignore[method-assign]
            await update(cell[1], version, "theirs", key="other")
            raise OutcomeUnknown("no answer")

        cell[0].bus.publish = overtaken  # type: ignore[method-assign]
        with pytest.raises(VersionConflict):
            await update(cell[0], version, "mine")
        assert on_subject(cell.bus) == 1


async def test_a_doubt_is_not_over_by_what_a_server_that_is_behind_says() -> None:
    """The lost publish was to follow what the server had not heard of."""
    async with running_cell(founded()) as cell:
        await update(cell[1], await add(cell[0]), "first", key="first")
        await update(cell[1], await version_at(cell[1]), "second", key="second")
        version = await version_at(cell[1])

        async def has_it() -> bool:
            return await version_at(cell[0]) == version

        await eventually(has_it, "peer-1 has the second")
        real = cell[0].bus.publish
        ghosts: list[Callable[[], Any]] = []

        async def lost(*arguments: Any, **more: Any) -> Position:
            cell.bus.lag = lambda: len(cell.bus.streams[HOME].messages) - 1  # the first is known
            cell[0].bus.publish = again  # type: ignore[method-assign]
            ghosts.append(lambda: real(*arguments, **more))
            raise OutcomeUnknown("no answer")

        async def again(*arguments: Any, **more: Any) -> Position:
            cell.bus.lag = lambda: 0
            cell[0].bus.publish = real  # type: ignore[method-assign]
            return await real(*arguments, **more)

        cell[0].bus.publish = lost  # type: ignore[method-assign]
        assert tags(await update(cell[0], version, "mine")) == ["mine"]
        with pytest.raises(VersionConflict):
            await ghosts[0]()  # it arrives after all
        assert on_subject(cell.bus) == 3


def test_a_doubt_of_one_generation_is_not_over_by_another() -> None:
    doubt = _Doubt()
    for generation in (0, 1):
        doubt.error = OutcomeUnknown("no answer")
        doubt.note(Position(HOME, generation, 4))
    doubt.note(Position(HOME, 1, 2))
    for last in (Position(HOME, 1, 4), Position(HOME, 1, 5), Position(HOME, 0, 3)):
        doubt.settle(last)
        assert doubt.error is not None
    doubt.settle(Position(HOME, 0, 5))
    assert doubt.error is None


async def test_one_left_unknown_is_not_called_definite_later() -> None:
    """Its publish timed out but was stored; then the stripe has no leader to ask."""
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        cell.bus.deaf.update(range(limits.STRIPES))
        real = cell[0].bus.publish

        async def stored_but_lost(*arguments: Any, **more: Any) -> Position:
            await real(*arguments, **more)
            cell.bus.faults[HOME] = "no leader"
            cell[0].bus.fetch = nothing  # type: ignore[method-assign]
            raise OutcomeUnknown("no answer")

        async def nothing(*arguments: Any, **more: Any) -> list[Any]:
            return []

        cell[0].bus.publish = stored_but_lost  # type: ignore[method-assign]
        with pytest.raises(OutcomeUnknown) as unknown:
            await update(cell[0], version, budget_s=1.0)
        assert not unknown.value.definite


async def test_one_in_doubt_ends_when_the_majority_dies() -> None:
    async with running_cell(founded()) as cell:
        version = await add(cell[0])
        cell.bus.faults[HOME] = "silent"
        began = cell[0].clock.steady_s()
        updating = asyncio.create_task(update(cell[0], version, budget_s=9.0))
        await cell.stop("peer-2")
        await cell.stop("peer-3")
        with pytest.raises(OutcomeUnknown):
            await updating
        assert cell[0].clock.steady_s() - began < 2 * limits.WATERMARK_SILENT_S


async def test_a_peer_that_is_behind_does_not_judge_versions() -> None:
    """An acknowledged plain update lies in a stripe that this peer has not read yet."""
    async with running_cell(founded()) as cell:
        await add(cell[0])
        behind = cell[2]
        version = await version_at(behind)
        real = behind.store.apply
        is_held = True

        async def held(*arguments: Any) -> Any:
            if is_held:
                raise Unavailable("store: slow")
            return await real(*arguments)

        behind.store.apply = held  # type: ignore[method-assign]
        plain = write_of(cell[0], "plain", retag(1, "acknowledged"))
        written = await cell[0].appender.write(
            plain, ack="quorum", deadline_s=cell[0].clock.steady_s() + 5
        )

        async def has_heard() -> bool:
            return any(
                p.stripe == written.position.stripe and p.sequence >= written.position.sequence
                for p in behind.members.heard_ends()
            )

        await eventually(has_heard, "peer-3 has heard of it")
        attempt = behind.appender._conditional.write(
            write_of(behind, "stale", retag(1, "stale writer")),
            Condition(record=KEY, version=version),
            ack="quorum",
            deadline_s=behind.clock.steady_s() + 0.3,
        )
        with pytest.raises(Unavailable, match="not caught up") as refused:
            await attempt
        assert refused.value.definite
        is_held = False


class HeldUp(MemoryStore):
    """A store whose reader is held up with what it has read, while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__(incarnation=1)
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = 0

    async def record(self, key: RecordKey) -> Record | None:
        found = await super().record(key)
        self.held += not self.gate.is_set()
        await self.gate.wait()
        return found


async def test_one_that_was_held_up_looks_again() -> None:
    """Between its look and its stamp somebody else's update was acknowledged: a stamp made now
    would beat it, though nobody looked at it."""
    async with running_cell(founded()) as cell:
        await add(cell[1])
        store = HeldUp()
        peer = await cell.restart("peer-1", store)
        await cell.wait_ready()
        version = await version_at(peer)
        store.gate.clear()
        updating = asyncio.create_task(update(peer, version, "mine", budget_s=10))

        async def is_held() -> bool:
            return store.held > 0

        await eventually(is_held, "it has looked")
        held_s = peer.clock.steady_s()
        other = cell[1]
        await other.appender.write(
            write_of(other, "meanwhile", retag(1, "theirs")),
            ack="quorum",
            deadline_s=other.clock.steady_s() + 10,
        )

        async def is_long() -> bool:
            return peer.clock.steady_s() - held_s > limits.STAMP_WITHIN_S

        await eventually(is_long, "it stood still")
        store.gate.set()
        with pytest.raises(VersionConflict):
            await updating
        found = await other.record(KEY)
        assert found is not None
        assert memories.view(found).tags == ["theirs"]
