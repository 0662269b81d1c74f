"""One real bus for all contracts, a new cell for each; and every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from memsync.ports import Store
from tests.contracts.buses import (
    SMALL_BYTES_MAX,
    STRIPE_BYTES_MAX,
    Bed,
    MemoryBed,
    RealBed,
    make_whole,
    real_bed,
)
from tests.contracts.stores import opened
from tests.system.local_bus import Bus, running_bus


class _Servers:
    """The servers, and whether they were seen whole since one of them died."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.is_whole = False


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Servers]:
    """Three servers, in whatever state the last test left them."""
    with running_bus(tmp_path_factory.mktemp("contracts") / "home") as running:
        yield _Servers(running)


@pytest.fixture
async def bus(servers: _Servers) -> AsyncIterator[Bus]:
    """Three servers that take messages. A test may kill them; the next one mends that."""
    if not servers.is_whole:
        await make_whole(servers.bus)
    servers.is_whole = False
    yield servers.bus
    servers.is_whole = len(servers.bus.processes) == len(servers.bus.servers)


@pytest.fixture
async def real(bus: Bus) -> AsyncIterator[RealBed]:
    """A new cell on real servers."""
    async with real_bed(bus) as bed:
        yield bed


@pytest.fixture
def memory() -> MemoryBed:
    """A new cell in memory."""
    return MemoryBed(STRIPE_BYTES_MAX)


@pytest.fixture(params=["jetstream", "memory"])
def bed(request: pytest.FixtureRequest) -> Bed:
    """A new cell on every bus in turn."""
    found: Bed = request.getfixturevalue("real" if request.param == "jetstream" else "memory")
    return found


@pytest.fixture(params=["jetstream", "memory"])
async def small(request: pytest.FixtureRequest, bus: Bus) -> AsyncIterator[Bed]:
    """A new cell whose stripes hold no more than `SMALL_BYTES_MAX`."""
    if request.param == "memory":
        yield MemoryBed(SMALL_BYTES_MAX)
    else:
        async with real_bed(bus, stripe_bytes_max=SMALL_BYTES_MAX) as bed:
            yield bed


@pytest.fixture(params=["sqlite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Every store in turn, empty."""
    async with opened(request.param, tmp_path / "store") as made:
        yield made
