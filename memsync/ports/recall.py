"""The ports of recall: models that embed, and the index that is searched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from memsync import limits
from memsync.core.records import Change, Record
from memsync.ids import RecordKey, ScopeKey
from memsync.wire.requests import QueryFilters


class Embedder(Protocol):
    """Text to vectors. Raises `memsync.errors.Unavailable` where the model cannot answer."""

    name: str
    dimensions: int

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimensions) float32, rows of length 1; zeros for a text without a known word."""
        ...


class Reasoner(Protocol):
    """A language model that looks for other ways to ask. Raises `memsync.errors.Unavailable`."""

    async def parts_of(self, question: str) -> list[str]:
        """At most `limits.REASONED_PARTS_MAX` searches that together find what the question needs;
        none where it stands best as it is."""
        ...


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question as the index needs it. `vectors` are (dim,) float32 of length 1, by the name of
    their model; without any the search is lexical. `traversal_depth`: how many relations away from
    a hit another memory gains by it; 0: relations are left out. `is_ranked`: else the order is by
    words alone, and the answer lacks `ranking`. `asked_ms`: the moment that recency
    and the dates in it are relative to; None: `now_ms`, which says what has expired."""

    text: str
    vectors: Mapping[str, NDArray[np.float32]]
    k: int
    session_id: str | None
    filters: QueryFilters | None
    weights: Mapping[str, float] | None
    now_ms: int
    asked_ms: int | None = None
    traversal_depth: int = limits.TRAVERSAL_DEPTH_DEFAULT
    is_ranked: bool = True


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One result: its score 0..1, the named parts that it was made of, and what they were weighed
    with (the sum is 1). `margin`: its relevance less the mean of those of the four that follow;
    `by_named`: whether somebody says it whom the question names, None where it names nobody."""

    key: RecordKey
    score: float
    scoring: dict[str, float]
    weights: Mapping[str, float] = {}
    margin: float = 0.0
    by_named: bool | None = None


class ScopeNotLoadedError(Exception):
    """The scope is not in the hot index, or no longer: which says nothing of what it holds."""


class HotIndex(Protocol):
    """The loaded scopes, searched in memory. Derived state: may be thrown away at any time, also
    between a look whether a scope is loaded and the search in it, by a load in another thread."""

    def is_loaded(self, scope: ScopeKey) -> bool:
        """Whether the scope can be searched at once."""
        ...

    def begin_load(self, scope: ScopeKey) -> None:
        """From now on keep the changes of this scope, until `finish_load` or `drop`."""
        ...

    def extend_load(self, scope: ScopeKey, memories: Sequence[Record]) -> None:
        """Take some of the rows that were read after `begin_load`. May run in another thread."""
        ...

    def finish_load(self, scope: ScopeKey, memories: Sequence[Record] = ()) -> None:
        """Take the last rows, then the changes kept since `begin_load`. May run in another
        thread."""
        ...

    def to_build(self) -> Collection[ScopeKey]:
        """Loaded scopes that should be searched approximately, and are searched exactly so far."""
        ...

    def build(self, scope: ScopeKey) -> None:
        """Have a scope searched approximately. May run in another thread, for seconds; searches go
        on meanwhile."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Take a batch in one step; scopes that are not loaded ignore it."""
        ...

    def drop(self, scope: ScopeKey) -> None:
        """Forget a scope."""
        ...

    def models(self, scope: ScopeKey) -> Collection[str]:
        """The models of the vectors that memories of a loaded scope have; none of one that is not
        loaded."""
        ...

    def search(
        self,
        scope: ScopeKey,
        question: Question,
        lacking: set[str] | None = None,
        times: dict[str, float] | None = None,
    ) -> list[Hit]:
        """The best k visible memories of a loaded scope, best first. A part that failed or was
        left out (`expansion`, `ranking`) is added to `lacking` by its name; what was tried of
        `expand` and `rank` is in `times`, with the seconds that it took. Raises
        `ScopeNotLoadedError`."""
        ...

    def around(
        self, scope: ScopeKey, start: RecordKey | None, *, depth: int, limit: int, now_ms: int
    ) -> list[tuple[RecordKey, int | None]]:
        """At most `limit` visible memories of a loaded scope: `start` and what is within `depth`
        relations of it, the nearest first, with the distance; without `start` those that have
        relations first, the newest first. Raises `ScopeNotLoadedError`."""
        ...


class Explained(msgspec.Struct, frozen=True):
    """An explanation as it is kept: `body` is the JSON that its scope may read."""

    query_id: str
    scope: ScopeKey
    at_ms: int
    body: bytes


class ExplanationStore(Protocol):
    """The explanations of this peer's answers, on its disk: kept for `limits.EXPLANATION_S` and
    while they fit, the newest at the longest. Nothing depends on them. Every call may raise
    `Unavailable`."""

    async def put(self, explained: Sequence[Explained], *, now_ms: int) -> int | None:
        """Keep these; one that is kept already stays as it is. Says of when (wall clock) the
        oldest is that is kept now; None where nothing is."""
        ...

    async def get(self, scope: ScopeKey, query_id: str, *, now_ms: int) -> bytes | None:
        """The body with this id, if it is this scope's and not too old."""
        ...
