"""One suite for every `ports.Marks`: plain subjects on real servers, and the fake bus."""

from __future__ import annotations

import pytest

from memsync.adapters.jetstream.marks import subscribe
from memsync.errors import Unavailable
from memsync.ports import Marks
from tests.conditions import eventually
from tests.contracts.buses import Bed, RealBed, real_bed
from tests.system.local_bus import Bus


async def heard_by(heard: list[bytes], teller: Marks, data: bytes) -> None:
    """Tell until it is heard: a mark may be lost, the more so before interest has spread."""

    async def is_heard() -> bool:
        await teller.tell(data)
        return data in heard

    await eventually(is_heard, f"{data!r} is heard")


async def test_everybody_hears_every_member_and_itself(bed: Bed) -> None:
    members = {name: (await bed.member(name)).marks for name in ("peer-1", "peer-2", "peer-3")}
    heard: dict[str, list[bytes]] = {name: [] for name in members}
    for name, marks in members.items():
        await marks.listen(heard[name].append)
    for teller, marks in members.items():
        for listener in members:
            await heard_by(heard[listener], marks, f"{teller} to {listener}".encode())
    sent = {f"{teller} to {listener}".encode() for teller in members for listener in members}
    assert all(set(each) <= sent for each in heard.values())


async def test_what_one_alone_is_told_nobody_else_hears(bed: Bed) -> None:
    names = ("peer-1", "peer-2", "peer-3")
    members = {name: (await bed.member(name)).marks for name in names}
    heard: dict[str, list[bytes]] = {name: [] for name in names}
    for name, marks in members.items():
        await marks.listen(heard[name].append)
        await heard_by(heard[name], members["peer-1"], name.encode())

    async def is_heard() -> bool:
        await members["peer-1"].tell(b"alone", only="peer-2")
        return b"alone" in heard["peer-2"]

    await eventually(is_heard, "peer-2 hears it")
    for name in names:  # what was told after it has come
        await heard_by(heard[name], members["peer-1"], b"after it, " + name.encode())
    assert b"alone" not in heard["peer-1"] + heard["peer-3"]


async def test_what_is_announced_all_members_hear(bed: Bed) -> None:
    members = {name: (await bed.member(name)).marks for name in ("peer-1", "peer-2")}
    for marks in members.values():
        heard: list[bytes] = []
        await marks.listen(heard.append)

        async def is_heard(heard: list[bytes] = heard) -> bool:
            await members["peer-1"].announce(b"to all")
            return b"to all" in heard

        await eventually(is_heard, "it is heard")


async def test_others_hear_what_is_announced_and_nothing_else(real: RealBed) -> None:
    heard: list[bytes] = []
    teller = (await real.member("peer-1")).marks
    listener = await real.connect("gateway-1")
    await subscribe(listener, real.cell.roster("*"), heard.append)

    async def is_heard() -> bool:
        await teller.tell(b"to members")
        await teller.announce(b"to all")
        return b"to all" in heard

    await eventually(is_heard, "it is heard")
    assert set(heard) == {b"to all"}


async def test_nobody_is_told_what_was_told_before(bed: Bed) -> None:
    """Never stored: who comes later hears what is told later."""
    first, heard_early = (await bed.member("peer-1")).marks, []
    await first.listen(heard_early.append)
    await heard_by(heard_early, first, b"early")
    late, heard_late = (await bed.member("peer-2")).marks, []
    await late.listen(heard_late.append)
    await heard_by(heard_late, first, b"late")
    assert set(heard_late) == {b"late"}


async def test_without_a_connection_telling_says_so_at_once_and_nothing_is_sent_later(
    bed: Bed,
) -> None:
    teller, listener = (await bed.member("peer-1")).marks, (await bed.member("peer-2")).marks
    heard: list[bytes] = []
    await listener.listen(heard.append)
    await heard_by(heard, teller, b"before")
    await bed.cut("peer-1")
    for _ in range(3):
        with pytest.raises(Unavailable) as raised:
            await teller.tell(b"during")
        assert raised.value.definite
    await bed.restore("peer-1")
    await heard_by(heard, teller, b"after")
    assert b"during" not in heard


async def test_listening_goes_on_after_a_reconnect(bed: Bed) -> None:
    teller, listener = (await bed.member("peer-1")).marks, (await bed.member("peer-2")).marks
    heard: list[bytes] = []
    await listener.listen(heard.append)
    await heard_by(heard, teller, b"before")
    await bed.cut("peer-2")
    await teller.tell(b"during")
    await bed.restore("peer-2")
    await heard_by(heard, teller, b"after")
    assert b"during" not in heard


async def test_another_cell_is_not_heard(bus: Bus, real: RealBed) -> None:
    ours: list[bytes] = []
    theirs: list[bytes] = []
    here = (await real.member()).marks
    await here.listen(ours.append)
    async with real_bed(bus) as other:
        there = (await other.member()).marks
        await there.listen(theirs.append)
        await heard_by(ours, here, b"ours")
        await heard_by(theirs, there, b"theirs")
    assert (set(ours), set(theirs)) == ({b"ours"}, {b"theirs"})
