"""Clocks in a cell: whose is off says so, stamps nothing, and covers what others stamp."""

from __future__ import annotations

import random

import pytest

from memsync.core.clocks import READINGS_S, SLOT_S
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


class SetAsideClock(SetClock):
    """A clock of a process that waits for the processor between two readings, now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def _wait(self) -> None:
        if self.waits_s:
            wait_s = self.waits_s.pop()
            self.s += wait_s
            self.ms += round(wait_s * 1000)

    def wall_ms(self) -> int:
        self._wait()
        return self.ms

    def steady_s(self) -> float:
        self._wait()
        return self.s


@pytest.mark.parametrize("readings_before", range(6))
def test_a_process_that_waits_between_two_readings_is_not_off(readings_before: int) -> None:
    clock = SetAsideClock()
    clocks = judged(clock, 0, 0)
    clock.waits_s = [0.4, *[0.0] * readings_before]
    assert clocks.fault() is None
    clock.waits_s = [0.4, *[0.0] * readings_before]
    assert clocks.member_apart_ms("peer-0") == 0.0


class Busy:
    """Three members on a machine whose load delays their watermarks; peer-2 is judged."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = SetClock()
        self.begun_s, self.begun_ms = self.clock.s, self.clock.ms
        self.clocks = Clocks(self.clock, lambda member: True)
        self.on_the_way: list[tuple[float, Watermark]] = []

    def go_on(self, others_ms: int, for_s: float) -> list[float]:
        """The seconds from now at which peer-2 is judged to be off, where the others' clocks are
        ahead of it by `others_ms` from now on."""
        began_s, found = self.clock.s, []
        while self.clock.s < began_s + for_s:
            self.clock.s += 0.1
            self.clock.ms = self.begun_ms + round((self.clock.s - self.begun_s) * 1000)
            for member in ("peer-0", "peer-1"):
                # Of ten watermarks one takes less than 0.1 s, and of 150 one more than 5 s.
                due_s = self.clock.s + self.random.expovariate(1.0)
                self.on_the_way.append((due_s, mark(member, self.clock.ms + others_ms)))
            self.on_the_way.sort(key=lambda one: one[0])
            while self.on_the_way[0][0] <= self.clock.s:
                self.clocks.hear(self.on_the_way.pop(0)[1])
            if self.clocks.fault() is not None:
                found.append(self.clock.s - began_s)
        return found


@pytest.mark.parametrize("seed", range(5))
def test_a_clock_is_judged_by_the_readings_that_travelled_least(seed: int) -> None:
    """A healthy one is not refused under load; one that is really off is flagged in time."""
    busy, in_time_s = Busy(seed), READINGS_S + 2 * SLOT_S
    assert all(at_s < in_time_s for at_s in busy.go_on(0, 2 * in_time_s))  # the very first readings
    assert busy.go_on(0, 600.0) == []
    for others_ms in (400, -400):
        off_s = busy.go_on(others_ms, 60.0)
        assert off_s[0] < in_time_s
        assert off_s[-1] > 59.0
        assert all(at_s < in_time_s for at_s in busy.go_on(0, 60.0))


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
