"""What is kept: bounded, as old as it says, and never from before a change."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memsync import keeping
from memsync.keeping import ENTRY_BYTES, Kept


def kept(entries_max: int = 10, bytes_max: int = 1_000_000, age_s_max: float = 5.0) -> Kept[str]:
    return Kept(entries_max=entries_max, bytes_max=bytes_max, age_s_max=age_s_max)


def put(
    store: Kept[str], key: bytes, value: str = "v", *, about: str = "a", at_s: float = 0.0
) -> bool:
    return store.keep(key, value, about=[about], size_bytes=len(value), ticket=store.ticket(at_s))


def test_it_is_as_old_as_its_ticket() -> None:
    store = kept()
    assert put(store, b"1", at_s=2.0)
    assert store.find(b"1", 5.5) == ("v", 3.5)
    assert store.find(b"2", 5.5) is None


def test_what_is_too_old_is_gone() -> None:
    store = kept()
    put(store, b"1")
    assert store.find(b"1", 5.0) is None
    assert (len(store), store.bytes_used) == (0, 0)


def test_what_is_too_old_goes_as_others_come() -> None:
    store = kept()
    put(store, b"1")
    put(store, b"2", at_s=6.0)
    assert len(store) == 1


def test_the_longest_unused_makes_room() -> None:
    store = kept(entries_max=2)
    put(store, b"1")
    put(store, b"2")
    store.find(b"1", 0.0)
    put(store, b"3")
    assert [key for key in (b"1", b"2", b"3") if store.find(key, 0.0)] == [b"1", b"3"]


def test_bytes_are_bounded_and_given_back() -> None:
    store = kept(bytes_max=16 * (1_000 + ENTRY_BYTES), entries_max=100)
    for number in range(40):
        assert put(store, b"%d" % number, "x" * 1_000)
    assert len(store) == 16
    assert store.bytes_used == 16 * (1_000 + ENTRY_BYTES)
    assert not put(store, b"huge", "x" * 10_000)  # it would push out all others
    assert len(store) == 16
    assert store.drop_all() == 16
    assert store.bytes_used == 0


def test_a_second_value_takes_the_place_of_the_first() -> None:
    store = kept()
    put(store, b"1", "long" * 100)
    put(store, b"1", "short", about="b")
    assert store.find(b"1", 0.0) == ("short", 0.0)
    assert store.bytes_used == 5 + ENTRY_BYTES
    assert store.drop("a") == 0
    assert store.drop("b") == 1


def test_a_change_drops_all_that_is_about_it() -> None:
    store = kept()
    store.keep(b"1", "v", about=["a", "b"], size_bytes=1, ticket=store.ticket(0.0))
    put(store, b"2", about="b")
    put(store, b"3", about="c")
    assert store.drop("b") == 2
    assert store.find(b"3", 0.0) is not None
    assert len(store) == 1


@pytest.mark.parametrize("change", ["its own", "all"])
def test_a_ticket_of_before_a_change_is_worthless(change: str) -> None:
    store = kept()
    ticket = store.ticket(0.0)
    store.drop("other")
    assert store.keep(b"1", "v", about=["a"], size_bytes=1, ticket=ticket)
    _ = store.drop("a") if change == "its own" else store.drop_all()
    assert not store.keep(b"1", "v", about=["a"], size_bytes=1, ticket=ticket)
    assert put(store, b"1")


def test_changes_that_are_not_remembered_make_tickets_worthless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "CHANGES_REMEMBERED", 3)
    store = kept()
    ticket = store.ticket(0.0)
    for name in "abc":
        store.drop(name)
    assert store.keep(b"1", "v", about=["z"], size_bytes=1, ticket=ticket)
    store.drop("d")  # "a" is not remembered any more
    assert not store.keep(b"1", "v", about=["z"], size_bytes=1, ticket=ticket)
    assert len(store._changed) == 3


steps = st.lists(
    st.one_of(
        st.tuples(st.just("ticket"), st.integers(0, 3)),
        st.tuples(st.just("keep"), st.integers(0, 3)),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.tuples(st.just("drop_all"), st.just(0)),
    ),
    max_size=60,
)


@given(steps, st.integers(1, 4))
def test_nothing_is_found_that_was_begun_before_a_change(
    steps: list[tuple[str, int]], remembered: int
) -> None:
    """Against a model: a value is the version of its subject at the time of its ticket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "CHANGES_REMEMBERED", remembered)
        store: Kept[int] = Kept(entries_max=3, bytes_max=1 << 20, age_s_max=5.0)
        versions = dict.fromkeys(range(4), 0)
        tickets = {subject: (store.ticket(0.0), 0) for subject in range(4)}
        for step, subject in steps:
            if step == "ticket":
                tickets[subject] = store.ticket(0.0), versions[subject]
            elif step == "keep":
                ticket, version = tickets[subject]
                key = bytes([subject])
                store.keep(key, version, about=[subject], size_bytes=1, ticket=ticket)
            else:
                changed = [subject] if step == "drop" else list(versions)
                for one in changed:
                    versions[one] += 1
                _ = store.drop(subject) if step == "drop" else store.drop_all()
            for one, version in versions.items():
                found = store.find(bytes([one]), 0.0)
                assert found is None or found[0] == version
            assert len(store) <= 3


def test_the_size_of_an_entry_is_about_what_it_takes() -> None:
    count = 2_000
    store: Kept[None] = Kept(entries_max=count, bytes_max=1 << 30, age_s_max=5.0)
    keys = [(b"%016d" % n, b"user%012d" % n) for n in range(count)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for key, user in keys:
            store.keep(key, None, about=(user, b"key"), size_bytes=0, ticket=store.ticket(0.0))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    each = (after - before) / count
    assert 0.5 * ENTRY_BYTES < each < 1.5 * ENTRY_BYTES, each
