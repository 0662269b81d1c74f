"""Hypothesis strategies: operations of every kind, on few records and stamps, so that they meet."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

from memsync import ids
from memsync.ids import OperationKey, RecordKey, Scope
from memsync.wire import codec
from memsync.wire.operations import (
    ELEMENTS,
    REGISTERS,
    ApiKeyOrigin,
    Attach,
    Content,
    Count,
    Create,
    Envelope,
    ItemOutcome,
    MembershipOrigin,
    MemoryOrigin,
    Operation,
    OrganisationOrigin,
    Origin,
    ProjectOrigin,
    Purge,
    Relation,
    Signal,
    Stamp,
    Update,
    Write,
)

KINDS = sorted(REGISTERS)
SCOPES = [Scope(1, "", "development", "ada"), Scope(1, "proj_1", "production", "bob")]

stamps = st.builds(Stamp, time=st.integers(0, 6), incarnation=st.integers(0, 2))


def record_of(kind: str, number: int) -> tuple[RecordKey, Scope]:
    """The key and scope of one of the few records of a kind; a key has one scope, for ever."""
    scope = SCOPES[number % len(SCOPES)]
    return ids.record_key_of_ref(kind, scope, str(number)), scope


def _memory(text: str, importance: float) -> MemoryOrigin:
    return MemoryOrigin(
        operation_key=OperationKey("k" + text),
        request_hash=b"h" * 16,
        content=codec.seal(Content(text=text, terms={"a": 1})),
        text_hash=b"t" * 8,
        created_at_ms=1_700_000_000_000,
        occurred_at_ms=None,
        expires_at_ms=None,
        place=0,
        client_ref="r",
        session_id=None,
        role="user",
        source=None,
        event_type=None,
        tags=["x"],
        importance=importance,
        is_summary=False,
    )


@cache
def origins(kind: str) -> st.SearchStrategy[Origin]:
    """Origins of a kind; few enough that two are often equal."""
    text = st.sampled_from(["one", "two"])
    return {
        "memory": st.builds(_memory, text, st.sampled_from([0.1, 0.9])),
        "api_key": text.map(
            lambda t: ApiKeyOrigin(
                t.encode(), t, t, "development", ["memory:*"], "", "pro", 1, None
            )
        ),
        "organisation": text.map(lambda t: OrganisationOrigin(t, t, 1)),
        "project": text.map(lambda t: ProjectOrigin(t, t, 1)),
        "membership": text.map(lambda t: MembershipOrigin([t])),
    }[kind]


_VALUES: dict[Any, list[Any]] = {
    bool: [False, True],
    str: ["a", "b"],
    float: [0.1, 0.9],
    str | None: [None, "a"],
    int | None: [None, 5],
    list[str]: [[], ["a"], ["b", "c"]],
    dict[str, int]: [{}, {"per_second": 1}],
    Envelope: [codec.seal("a"), codec.seal(None)],
}


@st.composite
def register_values(draw: st.DrawFn, kind: str) -> dict[str, bytes]:
    """One to three registers of a kind with values of their types."""
    names = draw(st.lists(st.sampled_from(sorted(REGISTERS[kind])), min_size=1, max_size=3))
    return {
        name: codec.pack(draw(st.sampled_from(_VALUES[REGISTERS[kind][name]]))) for name in names
    }


_STAMPS = [Stamp(time, incarnation) for time in (0, 3, 6) for incarnation in (0, 2)]
_ELEMENTS: dict[Any, list[bytes]] = {
    Relation: [
        codec.pack(Relation(stamp, record_of("memory", 2)[0], kind, 0.5, metadata))
        for stamp in _STAMPS
        for kind in ("similar", "extends")
        for metadata in (None, codec.seal({"a": 1}))
    ],
    Signal: [
        codec.pack(Signal(stamp, signal, comment))
        for stamp in _STAMPS
        for signal in ("positive", "ignored")
        for comment in (None, codec.seal("good"))
    ],
}


@cache
def element_sets(kind: str) -> st.SearchStrategy[dict[str, dict[str, bytes]]]:
    """Elements of the sets that a kind has, by few operation keys; {} for a kind without any."""
    choices = [
        (name, key, value)
        for name, form in sorted(ELEMENTS.get(kind, {}).items())
        for key in ("o1", "o2")
        for value in _ELEMENTS[form]
    ]
    if not choices:
        return st.just({})
    return st.lists(st.sampled_from(choices), max_size=3).map(_as_sets)


def _as_sets(elements: list[tuple[str, str, bytes]]) -> dict[str, dict[str, bytes]]:
    sets: dict[str, dict[str, bytes]] = {}
    for name, key, value in elements:
        sets.setdefault(name, {})[key] = value
    return sets


@cache
def operations(kind: str, number: int) -> st.SearchStrategy[Operation]:
    """Operations of every form on one record."""
    key, scope = record_of(kind, number)
    small = st.integers(0, 3)
    names = st.sampled_from(["uses", "views"])
    return st.one_of(
        st.builds(
            Create,
            record=st.just(key),
            scope=st.just(scope),
            ids=st.lists(st.integers(1, 5), min_size=1, max_size=2),
            origin=origins(kind),
        ),
        st.builds(
            Update,
            record=st.just(key),
            scope=st.just(scope),
            kind=st.just(kind),
            registers=register_values(kind),
        ),
        st.just(Purge(record=key, scope=scope, kind=kind)),
        st.builds(
            Count,
            record=st.just(key),
            scope=st.just(scope),
            kind=st.just(kind),
            counters=st.dictionaries(
                names, st.dictionaries(st.sampled_from("12"), small), max_size=2
            ),
            maxima=st.dictionaries(names, small, max_size=2),
        ),
        st.builds(
            Attach,
            record=st.just(key),
            scope=st.just(scope),
            kind=st.just(kind),
            elements=element_sets(kind),
        ),
    )


@st.composite
def stamped_on_one_record(draw: st.DrawFn, size: int) -> list[tuple[Operation, Stamp]]:
    """`size` operations with stamps, all on one record."""
    kind = draw(st.sampled_from(KINDS))
    return [(draw(operations(kind, 0)), draw(stamps)) for _ in range(size)]


@st.composite
def writes(draw: st.DrawFn) -> Write:
    """A write of a few operations on a few records."""
    parts = draw(
        st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 2)), min_size=1, max_size=4)
    )
    return Write(
        key=OperationKey(draw(st.sampled_from(["k1", "k2", "k3"]))),
        request_hash=draw(st.sampled_from([b"1" * 16, b"2" * 16])),
        kept_s=600,
        scope=SCOPES[0],
        actor="key:1",
        reason="",
        stamp=draw(stamps),
        outcome=[ItemOutcome("created", [1])],
        operations=[draw(operations(kind, number)) for kind, number in parts],
    )
