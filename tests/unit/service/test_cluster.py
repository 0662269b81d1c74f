"""cluster.members, cluster.join and cluster.remove, on a cell of real engines in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from memsync import ids
from memsync.service.founding import genesis_writes
from memsync.service.parts import Parts
from memsync.service.service import Service
from memsync.service.sharing import Sharing
from memsync.wire import genesis
from tests.conditions import eventually
from tests.fakes.bus import MemoryBus
from tests.fakes.cell import Cell, CellPeer, running_cell
from tests.fakes.recall import WordRecall
from tests.unit.service.world import Ids, Reply, World


class Callers:
    """Speak to the services of a cell, with its founding key unless another is given."""

    def __init__(self, cell: Cell, key: str) -> None:
        self.cell = cell
        self.key = key
        self._services: dict[str, Service] = {}

    async def call(self, peer: CellPeer, operation: str, body: Any = None, **headers: str) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("X-API-Key", self.key)
        service = self._services.setdefault(peer.name, service_of(peer))
        data = msgspec.json.encode({} if body is None else body)
        return Reply(await service.call(operation, sent, data))

    async def settled(self, peer: CellPeer, operation: str, name: str, **headers: str) -> Reply:
        """The answer to a change as soon as it does not come too early."""
        found: list[Reply] = []

        async def is_told() -> bool:
            reply = await self.call(peer, operation, {"name": name}, **headers)
            found.append(reply)
            return reply.status != 503

        await eventually(is_told, f"{operation} {name} is answered")
        return found[-1]


def service_of(peer: CellPeer) -> Service:
    """The service of a peer of the cell."""
    engine = peer.engine
    numbers = Ids()
    numbers.next = ids.memory_id(0, 100 + peer.store.incarnation, 1)
    parts = Parts(
        clock=peer.clock,
        store=peer.store,
        directory=engine.directory,
        appender=engine.appender,
        progress=engine.progress,
        leases=engine.leases,
        members=engine.members,
        standing=engine.standing,
        cluster=engine.report.cluster,
        peers=engine.ports.peers,
        recall=WordRecall(peer.store, peer.clock),
        ids=numbers,
        sharing=Sharing(peer.clock),
        cell_secret="",
    )
    return Service(parts, engine.health)


@asynccontextmanager
async def founded_cell() -> AsyncIterator[tuple[Cell, Callers]]:
    """A running cell with its founding organisation and key."""
    founding, key = genesis.found(
        cell="cell",
        region="local",
        members=["peer-1", "peer-2", "peer-3"],
        environment="development",
        founded_at_ms=1_780_000_000_000,
    )
    operations = genesis_writes(founding).operations
    async with running_cell(MemoryBus(), founding=operations) as cell:
        yield cell, Callers(cell, key)


async def test_the_members_are_shown_with_how_they_are() -> None:
    async with founded_cell() as (cell, callers):

        async def all_heard() -> bool:
            members = (await callers.call(cell[0], "cluster.members")).json["members"]
            return all(one["alive"] and one["incarnation"] for one in members)

        await eventually(all_heard, "all members were heard")
        reply = await callers.call(cell[0], "cluster.members")
        assert reply.status == 200, reply
        told = reply.json
        assert (told["cell"], told["majority"], told["removed"]) == ("cell", 2, [])
        assert [one["name"] for one in told["members"]] == ["peer-1", "peer-2", "peer-3"]
        assert {one["membership"] for one in told["members"]} == {told["version"]}
        assert all(abs(one["clock_offset_ms"]) < 1_000 for one in told["members"])
        assert all(one["lag_entries"] == 0 and one["positions"] for one in told["members"])
        assert [one["stripe"] for one in told["stripes"]] == [0, 1, 2]
        assert all(one["leader"].startswith("nats-") for one in told["stripes"])
        await cell.stop("peer-3")

        async def is_dead() -> bool:
            members = (await callers.call(cell[0], "cluster.members")).json["members"]
            return [one["alive"] for one in members] == [True, True, False]

        await eventually(is_dead, "peer-3 counts as dead")

        async def are_leased() -> bool:
            members = (await callers.call(cell[0], "cluster.members")).json["members"]
            return [one["lease"] for one in members] == [True, True, False]

        await eventually(are_leased, "the two answer reads as fresh")


async def test_one_joins_and_another_leaves() -> None:
    async with founded_cell() as (cell, callers):
        new = cell.add("peer-4")
        joined = await callers.settled(cell[0], "cluster.join", "peer-4", Idempotency_Key="k")
        assert joined.status == 200, joined
        assert [one["name"] for one in joined.json["members"]][-1] == "peer-4"
        again = await callers.call(cell[1], "cluster.join", {"name": "peer-4"}, Idempotency_Key="k")
        assert (again.status, again.headers["Idempotency-Replayed"]) == (200, "true")
        reused = await callers.call(
            cell[1], "cluster.join", {"name": "peer-5"}, Idempotency_Key="k"
        )
        assert reused.code == "IDEMPOTENCY_KEY_REUSED"

        left = await callers.settled(new, "cluster.remove", "peer-1")
        assert left.status == 200, left
        assert left.json["removed"] == ["peer-1"]
        assert left.json["majority"] == 2
        # The one that was removed passes writes on while it ends.
        assert "was removed" in await cell[0].engine.standing.wait_dismissed()


async def test_a_version_that_is_no_longer_current_is_refused() -> None:
    async with founded_cell() as (cell, callers):
        version = (await callers.call(cell[0], "cluster.members")).json["version"]
        reply = await callers.call(
            cell[0], "cluster.join", {"name": "peer-4", "if_version": "other"}
        )
        assert (reply.status, reply.code) == (409, "VERSION_CONFLICT")
        assert reply.json["error"]["details"] == {"current_version": version}


async def test_what_cannot_be_changed_is_refused_and_nothing_is_written() -> None:
    async with founded_cell() as (cell, callers):
        there = await callers.settled(cell[0], "cluster.join", "peer-2")
        assert (there.status, there.code) == (409, "CONFLICT")
        assert there.message == "peer-2 is a member already"
        stranger = await callers.call(cell[0], "cluster.remove", {"name": "peer-9"})
        assert (stranger.status, stranger.code) == (404, "NOT_FOUND")
        bad = await callers.call(cell[0], "cluster.join", {"name": "Peer 4"})
        assert (bad.status, bad.code) == (422, "VALIDATION_ERROR")
        await cell.stop("peer-3")

        async def is_dead() -> bool:
            return cell[0].members.alive() == ["peer-1", "peer-2"]

        await eventually(is_dead, "peer-3 counts as dead")
        alive = await callers.call(cell[0], "cluster.remove", {"name": "peer-2"})
        assert (alive.status, alive.code) == (409, "CONFLICT")
        assert "1 of 2 members would be alive (peer-1), 2 are needed" in alive.message
        assert cell[0].members.names == ("peer-1", "peer-2", "peer-3")


async def test_a_peer_that_lags_does_not_say_that_it_is_so_already() -> None:
    """It has not heard that it was removed; to believe it would be to leave it out for good."""
    async with founded_cell() as (cell, callers):
        cell.bus.cut_off.add("peer-2")

        async def is_alone() -> bool:
            return not cell[1].engine.leases.is_fresh()

        await eventually(is_alone, "peer-2 has no lease")
        assert (await callers.settled(cell[0], "cluster.remove", "peer-2")).status == 200
        assert "peer-2" in cell[1].members.names
        said = await callers.call(cell[1], "cluster.join", {"name": "peer-2"})
        assert (said.status, said.json["error"]["definite"]) == (503, True)


async def test_the_second_change_at_once_is_too_early() -> None:
    async with founded_cell() as (cell, callers):
        assert (await callers.settled(cell[0], "cluster.join", "peer-4")).status == 200
        early = await callers.call(cell[0], "cluster.join", {"name": "peer-5"})
        assert (early.status, early.code) == (503, "OVERLOADED")
        assert early.json["error"]["definite"]
        assert early.json["error"]["retry_after"] > 0


async def test_a_dead_member_is_removed_though_the_organisation_asks_for_all() -> None:
    async with founded_cell() as (cell, callers):
        assert (await callers.call(cell[0], "org.update", {"ack": "all"})).status == 200
        await cell.stop("peer-3")

        async def is_dead() -> bool:
            return cell[0].members.alive() == ["peer-1", "peer-2"]

        await eventually(is_dead, "peer-3 counts as dead")
        refused = await callers.call(cell[0], "memory.add", {"text": "one"}, X_End_User_ID="ada")
        assert refused.code == "NO_QUORUM"
        removed = await callers.settled(cell[0], "cluster.remove", "peer-3")
        assert removed.status == 200, removed
        reply = await callers.call(cell[0], "memory.add", {"text": "one"}, X_End_User_ID="ada")
        assert reply.status == 201, reply


async def test_only_admins_of_the_founding_organisation_may(world: World) -> None:
    acme = await world.new_key(organisation="acme", scopes=["org:admin", "memory:*"])
    pinned = await world.new_key(project_id="site", scopes=["org:admin"])
    plain = await world.new_key()
    for operation in ("cluster.members", "cluster.join", "cluster.remove"):
        body = {} if operation == "cluster.members" else {"name": "peer-4"}
        for key in (acme, pinned, plain):
            reply = await world.call(operation, body, key=key)
            assert (reply.status, reply.code) == (403, "INSUFFICIENT_SCOPE")
    assert (await world.call("cluster.members")).json["members"][0]["name"] == "peer-1"
