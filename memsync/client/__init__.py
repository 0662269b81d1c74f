"""The client library: a cluster's memories from a Python program.

    import asyncio

    import memsync


    async def main() -> None:
        # Without arguments: MEMSYNC_URL and MEMSYNC_API_KEY, else the local cluster.
        async with memsync.connect(end_user="ada") as memory:
            tea = await memory.add("Ada drinks green tea in the morning", tags=["drinks"])
            await memory.bulk_add(
                [
                    "The car is parked on level three",
                    {"text": "Ada's sister is called Grace", "metadata": {"from": "chat"}},
                ]
            )
            answer = await memory.query("What does Ada drink?", k=1)
            print(answer.memories[0].text)

            changed = await memory.update(tea.id, importance=0.9, if_version=tea.version)
            try:
                await memory.update(tea.id, importance=0.1, if_version=tea.version)
            except memsync.errors.VersionConflict as error:
                print(error.code, error.definite, error.retryable)
            print((await memory.get(tea.id)).importance == changed.importance)

            print(await memory.forget([tea.id]) == [tea.id])
            print((await memory.list()).total)


    asyncio.run(main())

prints:

    Ada drinks green tea in the morning
    VERSION_CONFLICT True False
    True
    True
    2

Whom it asks: `servers="nats://..."` (NATS requests to any peer, over connections to two servers) or
`url="http://..."` (a gateway). Either way a call goes on by itself when a process dies: what was
lost is asked for again with the same key, so nothing is done twice; a read that takes long is asked
of somebody else as well; and what this client wrote is what it reads afterwards, from whichever
peer. What a call raises is a `memsync.errors.MemsyncError` that says whether it is certain that
nothing happened (`definite`) and whether to try again later (`retryable`).

For scripts there is the same without `await`:

    with memsync.connect_sync(end_user="ada") as memory:
        memory.add("Ada drinks green tea in the morning")

To read in another process what was written in this one, hand it `memory.position`, there to be
given as `min_position` or to `memory.carry`.
"""

from memsync.client.connecting import ConnectOptions, connect, connect_sync
from memsync.client.memory import Client
from memsync.client.synchronous import SyncClient

__all__ = ["Client", "ConnectOptions", "SyncClient", "connect", "connect_sync"]
