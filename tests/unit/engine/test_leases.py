"""Leases in a cell of real engines: who may answer as fresh, and what writes wait for."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import msgspec
import pytest

from memsync import limits
from memsync.engine.writing.appender import Written
from memsync.errors import NoQuorum, OutcomeUnknown
from memsync.ids import Position
from memsync.ports import Marks
from memsync.wire import codec
from memsync.wire.members import Call, Release, Roster, Told, Watermark
from tests.conditions import eventually, never
from tests.fakes.bus import MemoryBus, Wires
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of
from tests.fakes.loop import OWNER, VirtualLoop

PATIENCE_S = 10.0


@pytest.fixture
async def cell() -> AsyncIterator[Cell]:
    bus = MemoryBus()
    bus.found()
    async with running_cell(bus) as found:
        for name in found.names:
            await holds(found.peers[name])
        yield found


async def holds(peer: CellPeer) -> None:
    """Wait until the peer holds a lease."""

    async def is_fresh() -> bool:
        return peer.engine.leases.is_fresh()

    await eventually(is_fresh, f"{peer.name} holds a lease")


async def write(peer: CellPeer, number: int) -> Written:
    deadline_s = peer.clock.steady_s() + PATIENCE_S
    return await peer.appender.write(
        write_of(peer, f"op-{number}", create(number)), ack="quorum", deadline_s=deadline_s
    )


async def has_it(peer: CellPeer, number: int) -> bool:
    return await peer.record(create(number).record) is not None


async def test_whoever_holds_a_lease_has_a_write_when_it_is_acknowledged(cell: Cell) -> None:
    for number in range(30):
        await write(cell[number % 3], number)
        for name in cell.names:
            if cell.peers[name].engine.leases.is_fresh():
                assert await has_it(cell.peers[name], number), (name, number)


async def test_a_lease_costs_no_message(cell: Cell) -> None:
    """Questions and answers go with watermarks; only questions on the spot are messages."""
    told: list[Told] = []
    cell.bus.mark_listeners.append(("peer-9", lambda data: told.append(codec.decode_told(data))))
    until_s = _now(cell[0]) + 2 * limits.LEASE_S

    async def is_later() -> bool:
        assert all(cell[number].engine.leases.is_fresh() for number in range(3))
        return _now(cell[0]) >= until_s

    await eventually(is_later, "they have held leases for a while")
    assert {type(one) for one in told} == {Watermark, Roster}
    marks = [one for one in told if isinstance(one, Watermark)]
    assert all(
        mark.leases.keys() == {"peer-1", "peer-2", "peer-3"} - {mark.member} for mark in marks
    )
    most = 3 * (2 * limits.LEASE_S / limits.WATERMARK_QUIET_S + 1)
    assert len(marks) <= most


def overhear(cell: Cell) -> list[tuple[str | None, Told]]:
    """What the peers tell from now on, with whom they tell it alone."""
    told: list[tuple[str | None, Told]] = []

    def listen_in(marks: Marks) -> None:
        real = marks.tell

        async def tell(data: bytes, *, only: str | None = None) -> None:
            told.append((only, codec.decode_told(data)))
            await real(data, only=only)

        marks.tell = tell  # type: ignore[method-assign]

    for name in cell.names:
        listen_in(cell.peers[name].members._marks)
    return told


async def test_only_its_coordinator_hears_at_once_that_a_frame_was_applied(cell: Cell) -> None:
    told = overhear(cell)
    for number in range(20):
        await write(cell[0], number)
    alone = [(only, one.member) for only, one in told if only is not None]
    assert set(alone) == {("peer-1", "peer-2"), ("peer-1", "peer-3")}
    assert len(alone) > 20  # one that all are told anyway may be as soon


async def test_who_coordinates_nothing_is_told_when_it_waits_for_a_cover(cell: Cell) -> None:
    told = overhear(cell)
    for number in range(10):
        written = await write(cell[0], number)
        until_s = _now(cell[1]) + PATIENCE_S
        assert await cell[1].progress.wait_for([written.position], until_s)
        assert await cell[1].members.wait_covered([written.position], "all", until_s)
    assert Call("peer-2", "cell") in [one for _, one in told]
    assert {"peer-1", "peer-3"} == {one.member for only, one in told if only == "peer-2"}


async def test_a_peer_that_is_cut_off_loses_its_lease_and_the_others_go_on(cell: Cell) -> None:
    cell.bus.cut_off.add("peer-3")
    await write(cell[0], 1)  # not before the lease is over that peer-3 may hold
    assert not cell[2].engine.leases.is_fresh()
    assert not await has_it(cell[2], 1)
    deadline_s = cell[2].clock.steady_s() + limits.QUESTION_TIMEOUT_S
    assert await cell[2].engine.leases.wait_fresh(deadline_s) == "alone"
    cell.bus.cut_off.clear()
    cell[2].peer.reconnected()
    await holds(cell[2])
    assert await has_it(cell[2], 1)


async def test_without_a_lease_a_question_on_the_spot_makes_fresh(cell: Cell) -> None:
    await cell[2].engine.leases.release()
    for number in range(5):
        await write(cell[0], number)
        deadline_s = cell[2].clock.steady_s() + PATIENCE_S
        assert not cell[2].engine.leases.is_fresh()
        assert await cell[2].engine.leases.wait_fresh(deadline_s) == "fresh"
        assert await has_it(cell[2], number)


async def test_who_gave_its_lease_up_delays_no_write(cell: Cell) -> None:
    await cell[2].engine.leases.release()

    begun_s = _now(cell[0])

    async def is_unnamed() -> bool:
        return not any("peer-3" in cell[n].members.grants.named(_now(cell[n])) for n in (0, 1))

    await eventually(is_unnamed, "nobody names peer-3 any more")
    assert _now(cell[0]) < begun_s + limits.GRANT_S


async def test_a_process_gives_up_its_own_lease_only(cell: Cell) -> None:
    """Its word may come late, or be that of an earlier of two processes, which had to end."""
    told = overhear(cell)
    await cell[2].engine.leases.release()
    [released] = [one for _, one in told if isinstance(one, Release)]
    await holds(await cell.again("peer-3"))
    granted = [cell[number].members.grants.named(_now(cell[number])) for number in (0, 1)]
    assert any("peer-3" in names for names in granted)
    for number in (0, 1):
        cell[number].members._hear(codec.pack(released))
    assert granted == [cell[n].members.grants.named(_now(cell[n])) for n in (0, 1)]


def _now(peer: CellPeer) -> float:
    return peer.clock.steady_s()


async def test_a_store_that_fails_is_never_fresh(cell: Cell) -> None:
    cell[2].applier.failing = "the disk is full"
    assert not cell[2].engine.leases.is_fresh()
    assert await cell[2].engine.leases.wait_fresh(_now(cell[2]) + PATIENCE_S) == "behind"
    cell[2].applier.failing = None
    cell[2].progress.set_lacking("rows", "rows were lost")
    assert not cell[2].engine.leases.is_fresh()


async def test_a_new_process_covers_nothing_at_first(cell: Cell) -> None:
    members = cell[0].members
    members._silent_until_s = _now(cell[0]) + limits.GRANT_S  # as after a start
    begun_s = _now(cell[0])
    await write(cell[0], 1)
    assert _now(cell[0]) >= begun_s + limits.GRANT_S


async def test_a_frame_that_one_member_alone_has_stops_nobody(cell: Cell) -> None:
    """Its server died with it: nobody else can get it before the next election."""
    ahead = cell[0].progress.end_of(0)
    assert ahead is not None
    position = type(ahead)(0, ahead.generation, ahead.sequence + 1)
    cell[0].progress.advance([position])
    for name in ("peer-2", "peer-3"):
        peer = cell.peers[name]
        renewed_s = _now(peer) + 2 * limits.LEASE_S

        async def has_renewed(peer: CellPeer = peer, renewed_s: float = renewed_s) -> bool:
            return _now(peer) > renewed_s and peer.engine.leases.is_fresh()

        await eventually(has_renewed, f"{name} holds a lease that it asked for since")


async def test_a_lone_peer_is_not_fresh_before_it_knows_what_the_log_has() -> None:
    """Its store may have lost its last commits in a power cut, and there is nobody else to ask."""
    bus = MemoryBus()
    bus.found()
    bus.faults.update(dict.fromkeys(range(limits.STRIPES), "no leader"))
    async with running_cell(bus, peers=1, start=False) as lone:
        lone.start("peer-1")
        peer = lone[0]

        async def has_looked() -> bool:
            return len(peer.engine.caretakers.stripes.states) == limits.STRIPES

        await eventually(has_looked, "it has asked for the ends")
        assert not peer.engine.leases.is_fresh()
        bus.faults.clear()
        await holds(peer)


async def test_a_grant_of_a_member_that_died_is_not_waited_for_for_ever(cell: Cell) -> None:
    """Its last watermark names a holder that is dead, too."""
    for name in ("peer-2", "peer-3"):
        await cell.stop(name)
    grants = cell[0].members.grants
    grants.drop("peer-3", grants.named(_now(cell[0]))["peer-3"])
    heard_s, mark = cell[0].members._heard["peer-2"]
    named = msgspec.structs.replace(mark, leases={"peer-3": 1}, positions=[Position(0, 0, 10**9)])
    cell[0].members._heard["peer-2"] = (heard_s - limits.GRANT_S, named)
    cell[0].progress.advance([Position(0, 0, 10**9)])
    deadline_s = _now(cell[0]) + limits.WATERMARK_S / 2
    assert await cell[0].members.wait_covered([Position(0, 0, 10**9)], "quorum", deadline_s)


class OddWires(Wires):
    """Every message takes 1 ms, a frame to peer-3 `frame_s`; while `is_deaf`, questions of peer-3
    do not reach peer-1."""

    def __init__(self) -> None:
        self.is_deaf = False
        self.frame_s = 0.001

    def send(self, kind: str, source: str, target: str, deliver: Callable[[], None]) -> None:
        if self.is_deaf and (kind, source, target) == ("mark", "peer-3", "peer-1"):
            told = codec.decode_told(deliver.args[0])  # type: ignore[attr-defined]
            if getattr(told, "question", 0):
                return
        is_late = kind == "frame" and target == "peer-3"
        delay_s = self.frame_s if is_late else 0.001
        asyncio.get_running_loop().call_later(delay_s, deliver)


async def test_a_holder_whose_questions_its_coordinator_does_not_hear_is_waited_for() -> None:
    """What names it is only the word of another member, told to that coordinator alone."""
    wires = OddWires()
    bus = MemoryBus(network=wires)
    bus.found()
    async with running_cell(bus) as cell:
        for name in cell.names:
            await holds(cell.peers[name])
        wires.is_deaf = True

        async def is_named_no_more() -> bool:
            return "peer-3" not in cell[0].members.grants.named(_now(cell[0]))

        await eventually(is_named_no_more, "peer-1 has granted peer-3 nothing")
        await holds(cell[2])
        apply = cell[2].store.apply

        async def late(*frames: Any, **more: Any) -> Any:
            await asyncio.sleep(0.05)
            return await apply(*frames, **more)

        cell[2].store.apply = late  # type: ignore[method-assign]
        checked = 0
        for number in range(30):
            await write(cell[0], number)
            if cell[2].engine.leases.is_fresh():
                checked += 1
                assert await has_it(cell[2], number)
        assert checked


async def test_who_calls_hears_of_what_is_applied_a_moment_later() -> None:
    """A `strong` read or a repeat at a peer that did not coordinate the frame waits for the slowest
    member, not for its next regular watermark."""
    wires = OddWires()
    wires.frame_s = 0.006
    bus = MemoryBus(network=wires)
    bus.found()
    waits_s = []
    async with running_cell(bus) as cell:
        for name in cell.names:
            await holds(cell.peers[name])
        for number in range(20):
            before = cell[1].progress.written()
            writing = asyncio.ensure_future(write(cell[0], number))

            def is_here(before: list[Position] = before) -> bool:
                return cell[1].progress.written() != before

            assert await cell[1].progress.wait_until(is_here, _now(cell[1]) + PATIENCE_S)
            places = [end for end in cell[1].progress.written() if end not in before]
            began_s = _now(cell[1])
            assert await cell[1].members.wait_covered(places, "quorum", began_s + PATIENCE_S)
            waits_s.append(_now(cell[1]) - began_s)
            await writing
    assert max(waits_s) < limits.WATERMARK_S / 4


class CutWires(Wires):
    """What members tell each other is lost on the ways in `cuts`: (from, to)."""

    def __init__(self) -> None:
        self.cuts: set[tuple[str, str]] = set()

    def send(self, kind: str, source: str, target: str, deliver: Callable[[], None]) -> None:
        if kind != "mark" or (source, target) not in self.cuts:
            super().send(kind, source, target, deliver)


async def test_a_coordinator_that_does_not_hear_a_holder_leaves_writes_to_others() -> None:
    """The holder and a third member hear each other, so it goes on holding leases."""
    wires = CutWires()
    bus = MemoryBus(network=wires)
    bus.found()
    async with running_cell(bus) as cell:
        for name in cell.names:
            await holds(cell.peers[name])
        wires.cuts.add(("peer-3", "peer-1"))
        begun_s = _now(cell[0])
        with pytest.raises(OutcomeUnknown):
            await write(cell[0], 1)
        assert _now(cell[0]) < begun_s + 1.5
        assert "does not hear peer-3" in (cell[0].appender.unfit() or "")
        with pytest.raises(NoQuorum, match=r"does not hear peer-3.*nothing was written"):
            await write(cell[0], 2)
        assert cell[1].appender.unfit() is None
        await write(cell[1], 3)
        assert cell[2].engine.leases.is_fresh()

        wires.cuts.clear()

        async def is_fit() -> bool:
            return cell[0].appender.unfit() is None

        await eventually(is_fit, "peer-1 hears peer-3 again")
        await write(cell[0], 4)


async def test_a_holder_that_died_makes_nobody_unfit(cell: Cell) -> None:
    await write(cell[0], 1)
    await cell.stop("peer-3")

    async def is_unfit() -> bool:
        return any(cell[number].appender.unfit() is not None for number in (0, 1))

    await never(is_unfit, "a dead holder is only waited for", 4 * limits.GRANT_S)
    await write(cell[0], 2)


def make_late(peer: CellPeer, late_s: float) -> None:
    """All that the peer applies counts so much later."""
    advance, loop = peer.progress.advance, asyncio.get_running_loop()

    def later(ends: Sequence[Position]) -> None:
        loop.call_later(late_s, advance, list(ends))

    peer.progress.advance = later  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("late_s", [0.5, 0.6, 0.8])
async def test_a_peer_that_is_late_asks_for_leases_seldom_and_delays_writes_seldom(
    cell: Cell, late_s: float
) -> None:
    """Also where its answers are applied just after the lease is over that they were for."""
    make_late(cell[2], late_s)
    told = overhear(cell)
    until_s, took_s = _now(cell[0]) + 30.0, []

    async def go_on_writing(first: int) -> None:
        for number in itertools.count(first, 8):
            sent_s = _now(cell[0])
            if sent_s > until_s:
                return
            await write(cell[number % 2], number)
            took_s.append(_now(cell[0]) - sent_s)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(go_on_writing(first) for first in range(8)))
    asked = [
        one.question
        for _, one in told
        if isinstance(one, Watermark) and one.member == "peer-3" and one.question
    ]
    assert len(asked) < 40
    assert statistics.median(took_s) < 0.1


def note_questions(peer: CellPeer) -> list[float]:
    """When the peer asks for a lease from now on."""
    ask, asked_s = peer.members.ask, list[float]()

    def noted() -> int:
        if question := ask():
            asked_s.append(_now(peer))
        return question

    peer.members.ask = noted
    return asked_s


async def test_a_slow_peer_asks_less_and_less_says_why_and_comes_back(cell: Cell) -> None:
    """Its store takes 0.6 s for each batch for a while: as on a disk that is worn or shared."""
    slow, real, is_slow = cell[2], cell[2].store.apply, True

    async def apply(*arguments: object) -> object:
        if is_slow:
            await asyncio.sleep(0.6)
        return await real(*arguments)  # type: ignore[arg-type]

    slow.store.apply = apply  # type: ignore[method-assign, assignment]
    asked_s = note_questions(slow)
    took_s: list[float] = []

    async def writes_until(end: Callable[[], bool]) -> None:
        for number in itertools.count(len(took_s)):
            if end():
                return
            sent_s = _now(cell[0])
            await write(cell[number % 2], number)
            took_s.append(_now(cell[0]) - sent_s)
            await asyncio.sleep(0.05)

    begun_s = _now(cell[0])
    await writes_until(lambda: _now(cell[0]) > begun_s + 20.0)
    assert statistics.median(took_s) < 0.1
    assert max(took_s) < 2 * limits.GRANT_S
    apart_s = [after - before for before, after in itertools.pairwise(asked_s)]
    pauses = [seconds for seconds in apart_s if seconds > limits.LEASE_S]
    assert len(pauses) >= 2
    assert all(later > 1.4 * earlier for earlier, later in itertools.pairwise(pauses))
    assert "does not keep up" in slow.health.checks()["lease"]

    is_slow = False

    async def is_well() -> bool:
        await write(cell[0], len(took_s))
        took_s.append(0.0)
        return slow.engine.leases.is_fresh() and slow.health.checks()["lease"] == "ok"

    await eventually(is_well, "it holds a lease again", 60.0)


class HoldingWires(Wires):
    """What arrives runs in the context of who hears it: so it waits for one that is frozen."""

    def __init__(self) -> None:
        self.contexts: dict[str, Context] = {}

    def send(self, kind: str, source: str, target: str, deliver: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(deliver, context=self.contexts.get(target))


async def freeze(peer: CellPeer, for_s: float) -> None:
    """A process stands still for so long, from a moment at which it waits for answers."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)

    async def waits_for_answers() -> bool:
        return peer.engine.leases.is_fresh() and bool(peer.engine.leases._asked)

    await eventually(waits_for_answers, "it has asked for its next lease")
    loop.freeze(peer.name)
    await asyncio.sleep(for_s)
    loop.thaw(peer.name)


async def until_fresh_s(peer: CellPeer) -> float:
    """How long it takes until the peer holds a lease."""
    began_s = _now(peer)
    await holds(peer)
    return _now(peer) - began_s


async def test_a_peer_that_stood_still_asks_at_once_unless_it_does_so_often() -> None:
    wires = HoldingWires()
    bus = MemoryBus(network=wires)
    bus.found()
    async with running_cell(bus, start=False) as cell:
        for name in cell.names:
            wires.contexts[name] = copy_context()
            wires.contexts[name].run(OWNER.set, name)
            wires.contexts[name].run(partial(cell.start, name))
        await cell.wait_ready()
        peer = cell[2]
        for for_s in (0.7, 2.0):
            await freeze(peer, for_s)
            assert not peer.engine.leases.is_fresh()
            assert await until_fresh_s(peer) < 2 * limits.WATERMARK_QUIET_S
            await asyncio.sleep(10.0)
        for _ in range(2):
            await freeze(peer, 0.7)
            waited_s = await until_fresh_s(peer)
        assert waited_s > 0.9
