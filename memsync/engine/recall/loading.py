"""Loading scopes into the hot index: once for all who wait, and on even when nobody waits any
more. And building approximate search for those that are very large.
"""

from __future__ import annotations

import asyncio

from memsync import limits, tasks
from memsync.clock import Clock
from memsync.engine.recall import metrics
from memsync.errors import Unavailable
from memsync.ids import ScopeKey
from memsync.ports import HotIndex, Store
from memsync.telemetry import describe, logger


class Loader:
    """Owns the tasks that load; `run` holds the group that they live in."""

    def __init__(self, store: Store, index: HotIndex, clock: Clock) -> None:
        self._store = store
        self._index = index
        self._clock = clock
        self._group: asyncio.TaskGroup | None = None
        self._loads: dict[ScopeKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Be there for loads until cancelled, which ends those under way."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._build(), name="build approximate search")
                await self._warm()
                await asyncio.Event().wait()
        finally:
            self._group = None

    async def _warm(self) -> None:
        """Load what was used last, one scope after the other, so that the first recalls after a
        start find something in their budget."""
        try:
            scopes = await self._store.newest_scopes(
                scopes_max=limits.WARM_SCOPES_MAX, memories_max=limits.WARM_MEMORIES_MAX
            )
        except Unavailable as error:
            logger().warning("scopes.not_warmed", **describe(error))
            return
        for scope in scopes:
            load = None if self._index.is_loaded(scope) else self._load_of(scope)
            if load is not None:
                await asyncio.wait({load})

    async def _build(self) -> None:
        """Build approximate search for scopes that have grown large, one at a time."""
        while tasks.is_going_on():
            await tasks.pause(limits.COARSE_LOOK_S)
            for scope in self._index.to_build():
                try:
                    await asyncio.to_thread(self._index.build, scope)
                except Exception as error:  # noqa: BLE001 - a job: exact answers go on, tried again
                    metrics.HOT_INDEX_BUILDS.labels("failed").inc()
                    logger().error("scope.build_failed", error=type(error).__name__)
                    await tasks.pause(limits.COARSE_RETRY_S)
                else:
                    metrics.HOT_INDEX_BUILDS.labels("built").inc()

    async def ensure(self, scope: ScopeKey, *, deadline_s: float) -> bool:
        """Whether the scope is loaded, having waited for it until `deadline_s` (steady clock)."""
        while not self._index.is_loaded(scope):
            load = self._load_of(scope)
            if load is None:
                return False
            left_s = deadline_s - self._clock.steady_s()
            if left_s <= 0:
                return False
            # Not `wait_for`: the load belongs to everybody and goes on when this caller gives up.
            await asyncio.wait({load}, timeout=left_s)
            if load.done() and not load.cancelled() and not self._index.is_loaded(scope):
                return False
        return True

    def _load_of(self, scope: ScopeKey) -> asyncio.Task[None] | None:
        """The load under way, or a new one; None where `run` does not run."""
        if (load := self._loads.get(scope)) is not None:
            return load
        if self._group is None:
            return None
        load = self._group.create_task(self._load(scope), name=f"load {scope.hex()}")
        self._loads[scope] = load
        return load

    async def _load(self, scope: ScopeKey) -> None:
        self._index.begin_load(scope)
        rows = 0
        try:
            async for memories in self._store.memories(scope):
                rows += len(memories)
                await tasks.beside(self._index.extend_load, scope, memories, rows=len(memories))
            # The index takes its own lock.
            await tasks.beside(self._index.finish_load, scope, rows=rows)
        except asyncio.CancelledError:
            self._index.drop(scope)
            raise
        except Exception as error:  # noqa: BLE001 - who waits answers degraded; the next one retries
            self._index.drop(scope)
            logger().warning("scope.load_failed", error=type(error).__name__)
        finally:
            del self._loads[scope]
