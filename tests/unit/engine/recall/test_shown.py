"""What was shown last is shown again only while it is what the store holds."""

from __future__ import annotations

from memsync.core.records import Change, Record
from memsync.engine.recall import Shown
from tests.fakes.memories import changed, memory

TEA = memory("tea", "Green tea", tags=["drink"])


def kept(shown: Shown, *records: Record) -> None:
    shown.keep({record.key: record for record in records}, mark=shown.mark)


def test_what_was_kept_is_held_as_readers_see_it() -> None:
    shown = Shown()
    kept(shown, TEA)
    showing = shown.of([TEA.key])[TEA.key]
    assert showing.record == TEA
    assert (showing.fields["text"], showing.fields["tags"]) == ("Green tea", ["drink"])


def test_a_change_takes_it_out() -> None:
    shown = Shown()
    kept(shown, TEA)
    shown.apply([Change(TEA, changed(TEA, tags=["new"]))])
    assert not shown.of([TEA.key])


def test_what_was_read_before_a_change_is_not_kept_after_it() -> None:
    shown = Shown()
    mark = shown.mark
    shown.apply([Change(TEA, changed(TEA, tags=["new"]))])
    told = shown.keep({TEA.key: TEA}, mark=mark)  # good for whoever asked before it
    assert told[TEA.key].fields["tags"] == ["drink"]
    assert not shown.of([TEA.key])


def test_one_that_is_gone_is_not_shown() -> None:
    shown = Shown()
    gone = changed(TEA, deleted=True)
    assert shown.keep({TEA.key: gone}, mark=shown.mark) == {}


def test_the_longest_unused_goes_first_and_the_bytes_are_bounded() -> None:
    rows = [memory(f"m{i}", "word " * 200) for i in range(4)]
    one = Shown()
    kept(one, rows[0])
    (first,) = one.of([rows[0].key]).values()
    shown = Shown(bytes_max=int(first.size_bytes * 3.5))
    kept(shown, *rows[:3])
    assert shown.of([rows[0].key])
    kept(shown, rows[3])
    assert [row.key in shown.of([row.key]) for row in rows] == [True, False, True, True]
    kept(shown, rows[3])  # again, which takes no more room
    assert len(shown.of([row.key for row in rows])) == 3
