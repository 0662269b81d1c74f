"""The `HotIndex`: which scopes are loaded, what becomes of changes meanwhile, and who must go.

Loading a large scope takes seconds of work, so `extend_load` and `finish_load` may run in a thread
of their own: they build in private and take the lock only to join in the changes that were kept and
to put the scope in its place; so does `build`. All others are short and run on the event loop.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence

import faiss
import msgspec

from memsync.adapters.hot_index import plain, search
from memsync.adapters.hot_index.coarse import Coarse
from memsync.adapters.hot_index.neighbourhood import neighbourhood
from memsync.adapters.hot_index.scope import LoadedScope
from memsync.core.records import Record
from memsync.ids import RecordKey, Scope, ScopeKey, scope_key
from memsync.ports import Change, Hit, Question, ScopeNotLoadedError
from memsync.telemetry import logger


class _Load(msgspec.Struct, frozen=True):
    """A scope that is loading: changes since it began, and what is built of its rows."""

    kept: list[Record]
    built: LoadedScope


class FaissHotIndex:
    """Scopes in memory, at most about `bytes_max` of them; the longest unused one goes first."""

    def __init__(self, bytes_max: int) -> None:
        # One question has one core: more threads would only make others wait, and cost memory.
        faiss.omp_set_num_threads(1)
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._loaded: OrderedDict[ScopeKey, LoadedScope] = OrderedDict()  # longest unused first
        self._sizes: dict[ScopeKey, int] = {}
        self._loads: dict[ScopeKey, _Load] = {}
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
        one keeps what the first has kept, and begins the rows anew."""
        with self._lock:
            kept = self._loads[scope].kept if scope in self._loads else []
            self._forget(scope)
            self._loads[scope] = _Load(kept, LoadedScope())

    def extend_load(self, scope: ScopeKey, memories: Sequence[Record]) -> None:
        """Take some rows. Does nothing without a `begin_load`, or where it was dropped since."""
        if (load := self._loads.get(scope)) is not None:
            load.built.extend(memories)

    def finish_load(self, scope: ScopeKey, memories: Sequence[Record] = ()) -> None:
        """Take the last rows, then the changes kept since `begin_load`. Does nothing without a
        `begin_load`, or if the scope was dropped since."""
        if (load := self._loads.get(scope)) is None:
            return
        load.built.extend(memories)
        load.built.seal()
        with self._lock:
            # Another one belongs to a load that began after a `drop`: these rows may be older.
            if self._loads.get(scope) is not load:
                return
            del self._loads[scope]
            for record in load.kept:
                load.built.put(record)
            self._loaded[scope] = load.built
            self._measure(scope)
            self._evict(scope)

    def apply(self, changes: Sequence[Change]) -> None:
        """Take a batch in one step; scopes that are not loaded ignore it."""
        with self._lock:
            if not self._loaded and not self._loads:
                return
            touched: dict[Scope, ScopeKey] = {}
            for change in changes:
                record = change.after
                if record.kind != "memory":
                    continue
                key = touched.get(record.scope)
                if key is None:
                    key = touched[record.scope] = scope_key(record.scope)
                if (load := self._loads.get(key)) is not None:
                    load.kept.append(record)
                elif (loaded := self._loaded.get(key)) is not None:
                    if _is_content_the_same(change):
                        loaded.put_figures(record)
                    else:
                        loaded.put(record)
            for key in touched.values():
                self._measure(key)
            self._evict(None)

    def drop(self, scope: ScopeKey) -> None:
        """Forget a scope, also one that is loading."""
        with self._lock:
            self._forget(scope)

    def models(self, scope: ScopeKey) -> Collection[str]:
        """The models of the vectors in a loaded scope."""
        loaded = self._loaded.get(scope)
        return loaded.vectors.models if loaded is not None else ()

    def next_expiry_ms(self, scope: ScopeKey, now_ms: int) -> int | None:
        """When the next visible memory of a loaded scope expires; None where none will."""
        loaded = self._loaded.get(scope)
        return loaded.next_expiry_ms(now_ms) if loaded is not None else None

    def to_build(self) -> list[ScopeKey]:
        """Loaded scopes that are so large that they should be searched approximately, and are not
        yet."""
        with self._lock:
            return [key for key, loaded in self._loaded.items() if loaded.vectors.to_build()]

    def build(self, scope: ScopeKey) -> None:
        """Build what approximate search needs, seconds of work; searches go on and stay exact until
        it is there. Does nothing for a scope that is not loaded any more."""
        with self._lock:
            loaded = self._loaded.get(scope)
            model = loaded.vectors.to_build() if loaded is not None else None
            if loaded is None or model is None:
                return
            source = model.snapshot(loaded.beside_each_other())
        built = Coarse(source)
        with self._lock:
            if self._loaded.get(scope) is loaded and loaded.vectors.holds(model):
                model.adopt(built)
                self._measure(scope)

    def search(
        self,
        scope: ScopeKey,
        question: Question,
        lacking: set[str] | None = None,
        times: dict[str, float] | None = None,
    ) -> list[Hit]:
        """The best k visible memories of a loaded scope, best first; `lacking` takes the names of
        the parts that failed or were left out, `times` the seconds of those that were tried. Raises
        `ScopeNotLoadedError`."""
        with self._lock:
            loaded = self._loaded.get(scope)
            if loaded is None:
                raise ScopeNotLoadedError(scope.hex())
            self._loaded.move_to_end(scope)
            named = set() if lacking is None else lacking
            if question.is_ranked:
                try:
                    return search.search(loaded, question, named, times)
                except Exception as error:  # noqa: BLE001 - a recall stage: by words alone, tagged
                    logger().error("recall.ranking_failed", error=type(error).__name__)
            named.add("ranking")
            return plain.search(loaded, question)

    def around(
        self, scope: ScopeKey, start: RecordKey | None, *, depth: int, limit: int, now_ms: int
    ) -> list[tuple[RecordKey, int | None]]:
        """The memories around one of a loaded scope, or all; see `neighbourhood`. Raises
        `ScopeNotLoadedError`."""
        with self._lock:
            loaded = self._loaded.get(scope)
            if loaded is None:
                raise ScopeNotLoadedError(scope.hex())
            self._loaded.move_to_end(scope)
            return neighbourhood(loaded, start, depth=depth, limit=limit, now_ms=now_ms)

    def _forget(self, scope: ScopeKey) -> None:
        self._loaded.pop(scope, None)
        self._loads.pop(scope, None)
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


def _is_content_the_same(change: Change) -> bool:
    """Whether only elements and counts can differ. A join keeps the objects that it need not make
    anew, so this says no where it is not sure."""
    before, after = change.before, change.after
    return (
        before is not None
        and before.origin is after.origin
        and before.registers is after.registers
        and after.purged is None
    )
