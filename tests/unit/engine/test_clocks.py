"""Clocks in a cell: whose is off says so, stamps nothing, and covers what others stamp."""

from __future__ import annotations

import pytest

from memsync.engine.cell.clocks import Clocks
from memsync.errors import NoQuorum
from memsync.wire.members import Watermark
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import CellPeer, create, running_cell, write_of

HOUR_S = 3_600.0


class SetClock:
    """A clock that stands where a test puts it."""

    def __init__(self) -> None:
        self.ms = 1_000_000_000
        self.s = 50.0

    def wall_ms(self) -> int:
        return self.ms

    def steady_s(self) -> float:
        return self.s


def mark(member: str, wall_ms: int) -> Watermark:
    return Watermark(member, "cell", 1, 1, [], [], {}, "", 0, wall_ms)


def judged(clock: SetClock, *leads_ms: int) -> Clocks:
    """The judgement of a clock by others that are ahead of it by so much."""
    clocks = Clocks(clock, lambda member: member != "removed")
    for number, lead_ms in enumerate(leads_ms):
        clocks.hear(mark(f"peer-{number}", clock.ms + lead_ms))
    return clocks


@pytest.mark.parametrize(
    ("leads_ms", "says"),
    [
        ((0, 0), None),
        ((240, 240), None),
        ((260, 260), "0.3 s behind"),
        ((-7_200_000, -7_200_000), "7200.0 s ahead of"),
        ((0, 3_600_000), None),  # the other one is off
        ((3_600_000,), None),  # of two nobody knows which
    ],
)
def test_the_median_of_three_judges(leads_ms: tuple[int, ...], says: str | None) -> None:
    fault = judged(SetClock(), *leads_ms).fault()
    assert (fault is None) is (says is None)
    assert says is None or says in (fault or "")


def test_a_step_counts_at_once_and_goes_away_by_itself() -> None:
    clock = SetClock()
    clocks = judged(clock, 0, 0)
    clock.ms += 10_000
    assert "10.0 s ahead" in (clocks.fault() or "")
    clock.ms -= 10_000
    assert clocks.fault() is None


def test_a_silent_member_s_clock_goes_on() -> None:
    clock = SetClock()
    clocks = judged(clock, 0, 0)
    clock.s += 3_600
    clock.ms += 3_600_000
    assert clocks.fault() is None


def test_who_is_no_member_does_not_count() -> None:
    clock = SetClock()
    clocks = judged(clock, 500)
    clocks.hear(mark("removed", clock.ms + 500))
    assert clocks.apart_ms() is None


async def test_a_peer_whose_clock_is_off_coordinates_nothing_and_keeps_up() -> None:
    bus = MemoryBus()
    bus.found()
    async with running_cell(bus) as cell:
        off = cell[2]
        off.clock.offset_ms = round(HOUR_S * 1000)  # it stepped

        async def is_flagged() -> bool:
            return off.appender.why_not() is not None

        await eventually(is_flagged, "peer-3 is flagged")
        with pytest.raises(NoQuorum, match=r"clock is 3[56]\d\d\.\d s ahead"):
            await write(off, 1)
        assert cell[0].appender.why_not() is None
        await write(cell[0], 2)

        async def has_it() -> bool:
            return await off.record(create(2).record) is not None

        await eventually(has_it, "peer-3 applies what others stamp")


async def write(peer: CellPeer, number: int) -> None:
    deadline_s = peer.clock.steady_s() + 10.0
    given = write_of(peer, f"op-{number}", create(number))
    await peer.appender.write(given, ack="quorum", deadline_s=deadline_s)
