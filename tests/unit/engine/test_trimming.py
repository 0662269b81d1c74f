"""How far the log may be trimmed, and that it is, by whoever is there."""

from __future__ import annotations

import pytest

from memsync import limits
from memsync.engine.streams.trimming import fill_of, plan_trim, safe_end
from memsync.ids import Position
from memsync.ports import StripeState
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, create, running_cell, write_of

SIZE = 100_000
A, B, C = "peer-1", "peer-2", "peer-3"


def state(bytes_held: int, first: int = 1, last: int = 100) -> StripeState:
    return StripeState(0, 0, "nats-1", ("nats-1",), first, last, bytes_held, SIZE, 0, "cell")


@pytest.mark.parametrize(
    ("bytes_held", "first", "safe", "planned"),
    [
        (80_000, 1, 100, 39),  # 30,000 of 80,000 bytes in 100 messages: 38 of them
        (80_000, 1, 10, 11),
        (80_000, 1, 0, None),
        (50_000, 1, 100, None),
        (40_000, 1, 100, None),
        (100_000, 61, 100, 81),
        (100_000, 61, 60, None),
        (100_000, 61, 40, None),
        (100_000, 61, 5_000, 81),
    ],
)
def test_a_stripe_falls_to_half_and_never_beyond_what_is_safe(
    bytes_held: int, first: int, safe: int, planned: int | None
) -> None:
    assert plan_trim(state(bytes_held, first), safe) == planned


def test_nothing_is_planned_for_an_empty_or_an_unlimited_stripe() -> None:
    assert plan_trim(state(0, first=101), 100) is None
    unlimited = StripeState(0, 0, "nats-1", (), 1, 9, 0, -1, 0, "")
    assert plan_trim(unlimited, 9) is None


@pytest.mark.parametrize(
    ("fill", "synced", "alive", "safe"),
    [
        (0.7, {A: 9, B: 8, C: 7}, [A, B, C], 7),
        (0.7, {A: 6, B: 8, C: 7}, [A, B, C], 6),  # not beyond its own
        (0.84, {A: 9, B: 8, C: 0}, [A, B], 0),  # peer-3 may come back
        (0.85, {A: 9, B: 8, C: 0}, [A, B], 8),
        (0.94, {A: 9, B: 8, C: 1}, [A, B, C], 1),  # it is there, and slow
        (0.95, {A: 9, B: 8, C: 1}, [A, B, C], 8),
        (0.99, {A: 9, B: 8, C: 1}, [A], 1),  # no majority
        (0.99, {A: 2, B: 8, C: 7}, [A, B, C], 2),
    ],
)
def test_who_is_waited_for_depends_on_how_full_it_is(
    fill: float, synced: dict[str, int], alive: list[str], safe: int
) -> None:
    assert safe_end(fill, synced, own=synced[A], alive=alive, majority=2) == safe


async def fill(cell: Cell, peer: CellPeer, numbers: range) -> None:
    """Add memories, each in a frame of its own."""
    for number in numbers:
        await peer.appender.write(
            write_of(peer, f"key-{number}", create(number)),
            ack="quorum",
            deadline_s=peer.clock.steady_s() + 10,
        )


def bus_of(frames: int) -> MemoryBus:
    """Stripes that hold about so many frames."""
    bus = MemoryBus(stripe_bytes_max=frames * 330)
    bus.found()
    return bus


async def test_ten_times_what_a_stripe_holds_is_written_without_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SYNC_S", "SYNC_HURRIED_S", "TRIM_CHECK_S", "TRIM_HURRIED_S"):
        monkeypatch.setattr(limits, name, 0.02)
    bus = bus_of(40)
    async with running_cell(bus) as cell:
        await fill(cell, cell[0], range(400))
        assert sum(stream.last for stream in bus.streams.values()) >= 400
        for stripe, stream in bus.streams.items():
            assert stream.first > 1 or stream.last < 40, stripe

        async def have_all() -> bool:
            return all(
                [
                    await peer.record(create(number).record) is not None
                    for peer in cell.peers.values()
                    for number in range(400)
                ]
            )

        await eventually(have_all, "every peer has every memory, trimmed or not")


async def test_nothing_goes_that_a_member_has_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNC_S", "SYNC_HURRIED_S", "TRIM_CHECK_S", "TRIM_HURRIED_S"):
        monkeypatch.setattr(limits, name, 0.02)
    bus = bus_of(40)
    async with running_cell(bus) as cell:
        store = cell[2].store
        real_sync = store.sync

        async def unsynced() -> dict[tuple[int, int], int]:
            return {}

        monkeypatch.setattr(store, "sync", unsynced)
        cell[2].engine.caretakers.synced._positions = {}
        home = -1
        for number in range(100):
            await fill(cell, cell[0], range(number, number + 1))
            fills = {k: fill_of(bus.state(k, 0)) for k in bus.streams}
            home = max(fills, key=lambda k: fills[k])
            if fills[home] >= 0.75:
                break

        async def is_said() -> bool:
            # Until peer-2 has told of its first sync it is behind as well, and named first.
            said = cell[0].health.checks()["trimming"]
            return said.startswith(f"ok: stripe {home} is") and "peer-3 has synced only" in said

        await eventually(is_said, "the first member says who holds it back")
        assert bus.streams[home].first == 1
        assert cell[0].is_ready()
        monkeypatch.setattr(store, "sync", real_sync)

        async def is_trimmed() -> bool:
            return bus.streams[home].first > 1

        await eventually(is_trimmed, "it is trimmed once peer-3 has synced")
        assert cell[0].progress.has([Position(home, 0, bus.streams[home].first - 1)])


async def test_a_dead_member_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNC_S", "SYNC_HURRIED_S", "TRIM_CHECK_S", "TRIM_HURRIED_S"):
        monkeypatch.setattr(limits, name, 0.02)
    bus = bus_of(40)
    async with running_cell(bus) as cell:
        await cell.stop("peer-1")  # the first of them
        await fill(cell, cell[1], range(200))
        assert max(stream.first for stream in bus.streams.values()) > 1
