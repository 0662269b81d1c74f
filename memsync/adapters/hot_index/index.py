"""The `HotIndex`: which scopes are loaded, what becomes of changes meanwhile, and who must go.

Loading a large scope takes seconds of work, so `finish_load` may run in a thread of its own: it
builds in private and takes the lock only to join in the changes that were kept and to put the scope
in its place. All other methods are short and run on the event loop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import faiss

from memsync.adapters.hot_index import search
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.core.records import Record
from memsync.ids import Scope, ScopeKey, scope_key
from memsync.ports import Change, Hit, Question, ScopeNotLoadedError


class FaissHotIndex:
    """Scopes in memory, at most about `bytes_max` of them; the longest unused one goes first."""

    def __init__(self, bytes_max: int) -> None:
        # One question has one core: more threads would only make others wait, and cost memory.
        faiss.omp_set_num_threads(1)
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._loaded: OrderedDict[ScopeKey, LoadedScope] = OrderedDict()  # longest unused first
        self._sizes: dict[ScopeKey, int] = {}
        self._kept: dict[ScopeKey, list[Record]] = {}  # changes of the scopes that are loading
        self._bytes_used = 0

    @property
    def bytes_used(self) -> int:
        """About how much memory the loaded scopes take."""
        return self._bytes_used

    @property
    def scopes_loaded(self) -> int:
        """How many scopes are loaded."""
        return len(self._loaded)

    def is_loaded(self, scope: ScopeKey) -> bool:
        """Whether the scope can be searched at once."""
        return scope in self._loaded

    def begin_load(self, scope: ScopeKey) -> None:
        """From now on keep the changes of this scope; what was loaded of it is dropped. A second
        one keeps what the first has kept: whichever `finish_load` comes first is complete."""
        with self._lock:
            kept = self._kept.get(scope, [])
            self._forget(scope)
            self._kept[scope] = kept

    def finish_load(self, scope: ScopeKey, memories: Sequence[Record]) -> None:
        """Take the rows, then the changes kept since `begin_load`. Does nothing without a
        `begin_load`, or if the scope was dropped since."""
        kept = self._kept.get(scope)
        built = LoadedScope()
        for record in memories:
            built.put(record)
        with self._lock:
            # Another list belongs to a load that began after a `drop`: these rows may be older.
            if kept is None or self._kept.get(scope) is not kept:
                return
            del self._kept[scope]
            for record in kept:
                built.put(record)
            self._loaded[scope] = built
            self._measure(scope)
            self._evict(scope)

    def apply(self, changes: Sequence[Change]) -> None:
        """Take a batch in one step; scopes that are not loaded ignore it."""
        with self._lock:
            if not self._loaded and not self._kept:
                return
            touched: dict[Scope, ScopeKey] = {}
            for change in changes:
                record = change.after
                if record.kind != "memory":
                    continue
                key = touched.get(record.scope)
                if key is None:
                    key = touched[record.scope] = scope_key(record.scope)
                if (kept := self._kept.get(key)) is not None:
                    kept.append(record)
                elif (loaded := self._loaded.get(key)) is not None:
                    loaded.put(record)
            for key in touched.values():
                self._measure(key)
            self._evict(None)

    def drop(self, scope: ScopeKey) -> None:
        """Forget a scope, also one that is loading."""
        with self._lock:
            self._forget(scope)

    def search(self, scope: ScopeKey, question: Question) -> list[Hit]:
        """The best k visible memories of a loaded scope, best first. Raises
        `ScopeNotLoadedError`."""
        with self._lock:
            loaded = self._loaded.get(scope)
            if loaded is None:
                raise ScopeNotLoadedError(scope.hex())
            self._loaded.move_to_end(scope)
            return search.search(loaded, question)

    def _forget(self, scope: ScopeKey) -> None:
        self._loaded.pop(scope, None)
        self._kept.pop(scope, None)
        self._bytes_used -= self._sizes.pop(scope, 0)

    def _measure(self, scope: ScopeKey) -> None:
        if (loaded := self._loaded.get(scope)) is not None:
            size = loaded.size_bytes
            self._bytes_used += size - self._sizes.get(scope, 0)
            self._sizes[scope] = size

    def _evict(self, spared: ScopeKey | None) -> None:
        """Drop the longest unused scopes until the rest fits. Those that are loading are not among
        them, nor is `spared`; nor the one used last, since it would only be loaded again."""
        while self._bytes_used > self._bytes_max and len(self._loaded) > 1:
            oldest = next(iter(self._loaded))
            if oldest == spared:
                self._loaded.move_to_end(oldest)
                continue
            self._forget(oldest)
