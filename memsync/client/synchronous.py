"""The client for scripts: the same methods without `await`.

An event loop of its own runs in a thread; calls may come from several threads. A call that is
interrupted (Ctrl-C) is given up at once, like a cancelled one; a write may then have happened.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack

from memsync import errors
from memsync.client.calling import KEYS_USED
from memsync.client.memory import Client, Ids
from memsync.client.options import (
    AddOptions,
    BulkAddOptions,
    FeedbackOptions,
    ForgetOptions,
    GraphOptions,
    Items,
    KeyOptions,
    ListOptions,
    QueryOptions,
    ReadOptions,
    RelateOptions,
    UpdateOptions,
    WriteOptions,
)
from memsync.wire import replies
from memsync.wire.relations import FeedbackSignal, RelationshipType

T = TypeVar("T")
Work = Callable[[Client], Coroutine[Any, Any, T]]


class SyncClient:
    """`Client` without `await`; use it as `with memsync.connect_sync(...) as memory:`."""

    def __init__(self, client: Client) -> None:
        self.keys = SyncKeys(self)
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="memsync-client", daemon=True)
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()

    def __enter__(self) -> SyncClient:
        self._thread.start()
        self._opened.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the connections and the thread; calls of other threads are given up."""
        loop, self._loop = self._loop, None
        for call in list(self._calls):
            call.cancel()
        if loop is not None:
            loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def position(self) -> str:
        """See `Client.position`."""
        return self._client.position

    def carry(self, position: str) -> None:
        """See `Client.carry`."""

        async def carry(client: Client) -> None:
            client.carry(position)

        self.run(carry)

    def add(self, text: str, **options: Unpack[AddOptions]) -> replies.Memory | replies.AddSkipped:
        """See `Client.add`."""
        return self.run(lambda client: client.add(text, **options))

    def bulk_add(self, items: Items, **options: Unpack[BulkAddOptions]) -> replies.BulkAdded:
        """See `Client.bulk_add`."""
        return self.run(lambda client: client.bulk_add(items, **options))

    def query(self, question: str, **options: Unpack[QueryOptions]) -> replies.QueryAnswer:
        """See `Client.query`."""
        return self.run(lambda client: client.query(question, **options))

    def get(self, memory_id: int, **options: Unpack[ReadOptions]) -> replies.Memory:
        """See `Client.get`."""
        return self.run(lambda client: client.get(memory_id, **options))

    def update(self, memory_id: int, **options: Unpack[UpdateOptions]) -> replies.Memory:
        """See `Client.update`."""
        return self.run(lambda client: client.update(memory_id, **options))

    def forget(
        self, memory_ids: Sequence[int] | int | None = None, **options: Unpack[ForgetOptions]
    ) -> Ids:
        """See `Client.forget`."""
        return self.run(lambda client: client.forget(memory_ids, **options))

    def list(self, **options: Unpack[ListOptions]) -> replies.MemoryPage:
        """See `Client.list`."""
        return self.run(lambda client: client.list(**options))

    def relate(
        self,
        memory_id: int,
        to_memory_id: int,
        relationship_type: RelationshipType,
        **options: Unpack[RelateOptions],
    ) -> replies.RelationInfo:
        """See `Client.relate`."""
        return self.run(
            lambda client: client.relate(memory_id, to_memory_id, relationship_type, **options)
        )

    def feedback(
        self, memory_id: int, signal: FeedbackSignal, **options: Unpack[FeedbackOptions]
    ) -> replies.FeedbackTaken:
        """See `Client.feedback`."""
        return self.run(lambda client: client.feedback(memory_id, signal, **options))

    def graph(self, memory_id: int | None = None, **options: Unpack[GraphOptions]) -> replies.Graph:
        """See `Client.graph`."""
        return self.run(lambda client: client.graph(memory_id, **options))

    def explanation(self, query_id: str, **options: Unpack[ReadOptions]) -> replies.Explanation:
        """See `Client.explanation`."""
        return self.run(lambda client: client.explanation(query_id, **options))

    def run(self, work: Work[T]) -> T:
        """Do something with the client in its own thread, and wait for it."""
        loop = self._loop
        if loop is None:
            raise RuntimeError(
                "this client is not open: use it as `with memsync.connect_sync(...)`"
            )
        keys: list[str] = []
        coroutine = _noting_keys(keys, work, self._client)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:
            coroutine.close()  # the loop has just ended
            raise
        self._calls.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise errors.OutcomeUnknown(
                "the client was closed during this call",
                details={"idempotency_key": keys[-1]} if keys else None,
            ) from error
        finally:
            future.cancel()  # changes nothing once it is done; else Ctrl-C interrupted the waiting
            self._calls.discard(future)

    def _serve(self) -> None:
        try:
            asyncio.run(self._serve_until_stopped())
        finally:
            self._loop = None
            self._opened.cancel()  # changes nothing once it is done; else nobody waits in vain

    async def _serve_until_stopped(self) -> None:
        try:
            async with self._client:
                self._loop = asyncio.get_running_loop()
                self._opened.set_result(None)
                await self._stop.wait()
        except (errors.ConfigurationError, errors.MemsyncError) as error:
            self._opened.set_exception(error)


async def _noting_keys(keys: list[str], work: Work[T], client: Client) -> T:
    KEYS_USED.set(keys)
    return await work(client)


class SyncKeys:
    """`Keys` without `await`."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client

    def create(self, **options: Unpack[KeyOptions]) -> replies.ApiKeyInfo:
        """See `Keys.create`."""
        return self._client.run(lambda client: client.keys.create(**options))

    def list(self, **options: Unpack[ListOptions]) -> replies.ApiKeyPage:
        """See `Keys.list`."""
        return self._client.run(lambda client: client.keys.list(**options))

    def revoke(self, key_id: int, **options: Unpack[WriteOptions]) -> replies.ApiKeyInfo:
        """See `Keys.revoke`."""
        return self._client.run(lambda client: client.keys.revoke(key_id, **options))
