"""One suite for every `ports.Peers`: request-reply on real servers, and the fake bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from memsync import limits
from memsync.adapters.jetstream.responder import Responder
from memsync.errors import OutcomeUnknown, Unavailable
from memsync.ports import Answer, Peers
from tests.conditions import eventually
from tests.contracts.buses import TIMEOUT_S, Bed, MemoryBed, RealBed, real_bed
from tests.contracts.test_responder import Asked, Backend
from tests.system.local_bus import Bus

SHORT_S = 0.3
AT_ONCE_S = 0.5


async def echo(wanted: bytes) -> bytes:
    """Gives back what was wanted."""
    return b"rows of " + wanted


@asynccontextmanager
async def serving(
    peers: Peers, give: Callable[[bytes], Awaitable[bytes]] = echo
) -> AsyncIterator[None]:
    """A member that gives its rows until the end of the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(peers.serve_rows(give))
        yield
        task.cancel()


async def wait_given(asker: Peers, member: str) -> None:
    """Wait until a member that serves is heard by the asker."""

    async def is_given() -> bool:
        try:
            await asker.ask_rows(member, b"probe", timeout_s=SHORT_S)
        except Unavailable:
            return False
        return True

    await eventually(is_given, f"{member} gives rows")


async def test_a_member_gives_what_another_wants(bed: Bed) -> None:
    asker = (await bed.member("peer-1")).peers
    givers = {name: (await bed.member(name)).peers for name in ("peer-2", "peer-3")}

    async def other(wanted: bytes) -> bytes:
        return b"others of " + wanted

    async with serving(givers["peer-2"]), serving(givers["peer-3"], other):
        for name in givers:
            await wait_given(asker, name)
        assert await asker.ask_rows("peer-2", b"all", timeout_s=TIMEOUT_S) == b"rows of all"
        assert await asker.ask_rows("peer-3", b"all", timeout_s=TIMEOUT_S) == b"others of all"


async def test_a_whole_page_comes_through(bed: Bed) -> None:
    """Rows up to the limit, one more row of the largest size, and what stands around them."""
    asker, giver = (await bed.member("peer-1")).peers, (await bed.member("peer-2")).peers
    page = b"x" * (limits.EXCHANGE_BYTES_MAX + limits.FRAME_BYTES_TARGET)

    async def give(_: bytes) -> bytes:
        return page

    async with serving(giver, give):
        await wait_given(asker, "peer-2")
        assert await asker.ask_rows("peer-2", b"", timeout_s=TIMEOUT_S) == page


async def test_who_does_not_serve_gives_nothing(bed: Bed) -> None:
    asker, giver = (await bed.member("peer-1")).peers, (await bed.member("peer-2")).peers
    started = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        await asker.ask_rows("peer-2", b"", timeout_s=TIMEOUT_S)
    assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S
    async with serving(giver):
        await wait_given(asker, "peer-2")

    async def has_stopped() -> bool:
        try:
            await asker.ask_rows("peer-2", b"", timeout_s=SHORT_S)
        except Unavailable:
            return True
        return False

    await eventually(has_stopped, "peer-2 gives no more")


async def test_who_gives_late_gave_nothing(bed: Bed) -> None:
    asker, giver = (await bed.member("peer-1")).peers, (await bed.member("peer-2")).peers
    gate = asyncio.Event()

    async def give(wanted: bytes) -> bytes:
        if wanted != b"probe":
            await gate.wait()
        return wanted

    async with serving(giver, give):
        await wait_given(asker, "peer-2")
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await asker.ask_rows("peer-2", b"slow", timeout_s=SHORT_S)
        assert time.monotonic() - started < SHORT_S + AT_ONCE_S
        gate.set()
        assert await asker.ask_rows("peer-2", b"again", timeout_s=TIMEOUT_S) == b"again"


async def test_only_some_are_served_at_a_time(bed: Bed) -> None:
    asker, giver = (await bed.member("peer-1")).peers, (await bed.member("peer-2")).peers
    gate = asyncio.Event()
    making: set[bytes] = set()
    most = 0

    async def give(wanted: bytes) -> bytes:
        nonlocal most
        if wanted != b"probe":
            making.add(wanted)
            most = max(most, len(making))
            await gate.wait()
            making.discard(wanted)
        return wanted

    async with serving(giver, give):
        await wait_given(asker, "peer-2")
        asked = [
            asyncio.create_task(asker.ask_rows("peer-2", b"%d" % n, timeout_s=TIMEOUT_S))
            for n in range(limits.EXCHANGE_SERVED_MAX + 3)
        ]

        async def are_busy() -> bool:
            return len(making) == limits.EXCHANGE_SERVED_MAX

        await eventually(are_busy, "as many as may be are in the making")
        with pytest.raises(Unavailable):
            await asker.ask_rows("peer-2", b"one more", timeout_s=SHORT_S)
        gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert most == limits.EXCHANGE_SERVED_MAX
        assert sum(isinstance(each, bytes) for each in found) == limits.EXCHANGE_SERVED_MAX
        assert await asker.ask_rows("peer-2", b"later", timeout_s=TIMEOUT_S) == b"later"


async def test_without_a_connection_nothing_is_asked(bed: Bed) -> None:
    asker, giver = (await bed.member("peer-1")).peers, (await bed.member("peer-2")).peers
    async with serving(giver):
        await wait_given(asker, "peer-2")
        await bed.cut("peer-1")
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await asker.ask_rows("peer-2", b"", timeout_s=TIMEOUT_S)
        with pytest.raises(Unavailable) as raised:
            await asker.pass_on("peer-2", "memory.get", {}, b"", timeout_s=TIMEOUT_S)
        assert raised.value.definite
        assert time.monotonic() - started < AT_ONCE_S
        await bed.restore("peer-1")
        await wait_given(asker, "peer-2")


async def test_serving_goes_on_after_a_reconnect(bed: Bed) -> None:
    asker, giver = (await bed.member("peer-1")).peers, (await bed.member("peer-2")).peers
    async with serving(giver):
        await wait_given(asker, "peer-2")
        await bed.cut("peer-2")
        with pytest.raises(Unavailable):
            await asker.ask_rows("peer-2", b"", timeout_s=SHORT_S)
        await bed.restore("peer-2")
        await wait_given(asker, "peer-2")


async def test_another_cell_gives_nothing(bus: Bus, real: RealBed) -> None:
    asker, giver = (await real.member("peer-1")).peers, (await real.member("peer-2")).peers
    async with serving(giver), real_bed(bus) as other:
        await wait_given(asker, "peer-2")
        stranger = (await other.member("peer-1")).peers
        with pytest.raises(Unavailable):
            await stranger.ask_rows("peer-2", b"", timeout_s=SHORT_S)


# What is passed on


@asynccontextmanager
async def answering(bed: Bed, name: str) -> AsyncIterator[Backend]:
    """A member's service, on the subject where a peer answers what is passed on to it."""
    backend = Backend(name)
    if isinstance(bed, MemoryBed):
        bed.bus.services[name] = backend
        yield backend
        return
    assert isinstance(bed, RealBed)
    responder = Responder(await bed.connect(f"{name}-service"), bed.cell, name, backend)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(responder.run())
        yield backend
        backend.gate.set()
        task.cancel()


async def wait_answered(peers: Peers, member: str, backend: Backend) -> None:
    """Wait until a member's service is heard."""

    async def answers() -> bool:
        try:
            await peers.pass_on(member, "hello", {}, b"", timeout_s=SHORT_S)
        except Unavailable:
            return False
        return True

    await eventually(answers, f"{member} answers")
    backend.asked.clear()


async def test_an_operation_is_passed_on_whole_and_so_is_its_answer(bed: Bed) -> None:
    peers = (await bed.member("peer-1")).peers
    async with answering(bed, "peer-2") as backend:
        await wait_answered(peers, "peer-2", backend)
        headers = {"X-API-Key": "key", "Memsync-Ids": "1-2", "Memsync-Passed": "1"}
        answer = await peers.pass_on("peer-2", "memory.add", headers, b"body", timeout_s=TIMEOUT_S)
        assert answer == Answer(200, {"answered-by": "peer-2"}, b"body")
        assert backend.asked == [Asked("memory.add", headers, b"body")]
        assert headers == {"X-API-Key": "key", "Memsync-Ids": "1-2", "Memsync-Passed": "1"}


async def test_who_does_not_listen_was_not_reached_for_certain(bed: Bed) -> None:
    peers = (await bed.member("peer-1")).peers
    started = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        await peers.pass_on("peer-2", "memory.add", {}, b"", timeout_s=TIMEOUT_S)
    assert raised.value.definite
    assert time.monotonic() - started < AT_ONCE_S


async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(bed: Bed) -> None:
    peers = (await bed.member("peer-1")).peers
    async with answering(bed, "peer-2") as backend:
        await wait_answered(peers, "peer-2", backend)
        backend.gate.clear()
        started = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await peers.pass_on("peer-2", "memory.add", {}, b"", timeout_s=SHORT_S)
        assert time.monotonic() - started < SHORT_S + AT_ONCE_S
        assert [each.operation for each in backend.asked] == ["memory.add"]


async def test_a_body_larger_than_the_bus_takes_was_not_sent_for_certain(real: RealBed) -> None:
    peers = (await real.member("peer-1")).peers
    async with answering(real, "peer-2") as backend:
        await wait_answered(peers, "peer-2", backend)
        body = b"x" * (limits.NATS_PAYLOAD_BYTES_MAX - 10)  # with headers it is too much
        with pytest.raises(Unavailable) as raised:
            await peers.pass_on(
                "peer-2", "memory.add", {"X-API-Key": "k" * 64}, body, timeout_s=TIMEOUT_S
            )
        assert raised.value.definite
        answer = await peers.pass_on("peer-2", "memory.get", {}, b"x", timeout_s=TIMEOUT_S)
        assert answer.status == 200  # and the connection is still there
        assert [each.operation for each in backend.asked] == ["memory.get"]
