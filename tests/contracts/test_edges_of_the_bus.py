"""Edges where the bus or nats-py behaves otherwise than one would think; each was a fault once."""

from __future__ import annotations

import asyncio

import pytest

from memsync import ids, limits
from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.adapters.jetstream.log import JetStreamLog
from memsync.errors import OutcomeUnknown, Unavailable
from memsync.ids import Position
from tests.conditions import eventually
from tests.contracts.buses import RealBed, wait_heard


async def test_a_message_just_below_the_limit_leaves_the_connection(real: RealBed) -> None:
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    client = real.admin  # straight to the server, as in production: it hears the -ERR
    log = JetStreamLog(client, real.cell)
    with pytest.raises(Unavailable) as raised:
        await log.publish(0, "a", b"x" * (limits.NATS_PAYLOAD_BYTES_MAX - 10), timeout_s=1.0)
    assert not client.is_closed, "nats-py closed it: no reconnect, ever"
    assert raised.value.definite


async def test_an_id_that_is_in_process_is_not_refused_as_if_it_were_certain(real: RealBed) -> None:
    """409/10158 'duplicate message id is in process': the first one may be, and here is, stored."""
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    for n in range(50):
        outcomes = await asyncio.gather(
            *(member.log.publish(0, f"a-{n}", b"", timeout_s=2.0) for _ in range(8)),
            return_exceptions=True,
        )
        stored = [o for o in outcomes if isinstance(o, Position)]
        false = [o for o in outcomes if isinstance(o, Unavailable) and o.definite]
        assert not (stored and false), false


async def test_a_large_take_leases_ahead(real: RealBed) -> None:
    keeper = (await real.member("keeper")).streams
    await keeper.create_ids(1)

    async def none() -> int:
        return 0

    blocks = IdBlocks(await real.connect("peer-1"), 0, none)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(blocks.run())
        await blocks.take(ids.NUMBERS_PER_BLOCK - 2)

        async def ends() -> bool:
            return await keeper.ids_end() == 2

        try:
            await eventually(ends, "the next block is leased ahead", 3.0)
        finally:
            task.cancel()


async def test_a_publish_on_a_closed_client_is_definite(real: RealBed) -> None:
    member = await real.member()
    await member.streams.create(0, 0)
    await wait_heard(member.log, 0)
    await real.clients["peer-1"].close()
    with pytest.raises(Unavailable) as raised:
        await member.log.publish(0, "a", b"", timeout_s=1.0)
    assert not isinstance(raised.value, OutcomeUnknown)
