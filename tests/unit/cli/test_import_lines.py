"""From bytes to bulks: the same lines however they are cut, the same names in whatever order."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from memsync import limits
from memsync.cli.importing import lines
from memsync.cli.importing.lines import BadLine, Collector, Item, Line, References, Splitter

TEXTS = st.sampled_from(["tea", "coffee", "milk"])


def split(data: bytes, cuts: list[int]) -> list[Line]:
    """The lines of data that comes in pieces."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    splitter = Splitter()
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    return [
        line for piece in pieces for line in splitter.feed(piece)
    ] + list(splitter.finish())  # fmt: skip


@given(
    st.binary(max_size=40).map(lambda data: data.replace(b"a", b"\n")), st.lists(st.integers(0, 40))
)
def test_lines_do_not_depend_on_how_the_bytes_come(data: bytes, cuts: list[int]) -> None:
    found = split(data, cuts)
    assert found == split(data, [])
    assert sum(line.size_bytes for line in found) == len(data)
    assert [line.number for line in found] == list(range(1, len(found) + 1))


def test_a_line_too_long_is_dropped_and_the_next_is_read() -> None:
    data = b"x" * (lines.LINE_BYTES_MAX + 1) + b"\nshort\n" + b"y" * (2 * lines.LINE_BYTES_MAX)
    found = split(data, list(range(0, len(data), 100_000)))
    assert [line.text for line in found] == [None, b"short", None]
    assert sum(line.size_bytes for line in found) == len(data)


def test_a_byte_order_mark_and_carriage_returns_are_no_content() -> None:
    found = split(b'\xef\xbb\xbf{"text":"a"}\r\n{"text":"b"}\r\n', [])
    assert [type(lines.read_item(line, References())) for line in found] == [Item, Item]


def read(text: str) -> Item | BadLine | None:
    """What is made of one line."""
    return lines.read_item(Line(7, text.encode(), len(text)), References())


def test_what_is_wrong_with_a_line_is_said() -> None:
    def reason(text: str) -> str:
        found = read(text)
        assert isinstance(found, BadLine)
        assert found.number == 7
        return found.reason

    assert reason("{").startswith("not JSON")
    assert reason("[1]").startswith("not a JSON object")
    assert reason("{}") == "text: required"
    assert reason('{"txt": "a"}') == "txt: unknown field"
    assert reason('{"text": 1}').startswith("text: Expected `str | null`")
    assert reason('{"text": "a", "tags": [""]}').startswith("tags: a tag of 0 characters")
    assert reason('{"text": "a", "occurred_at": "soon"}').startswith("occurred_at: ")
    assert reason('{"text": "%s"}' % ("x" * 8_001)).startswith("text: 8001 characters")
    assert reason("[" * 100_000).startswith("not ")
    assert reason('{"text": "\\ud800"}')
    assert read("  \r") is None


def test_fields_of_the_hosted_api_that_mean_nothing_here_are_left_out() -> None:
    found = read('{"text": "a", "user_id": 7, "environment": "x", "client_ref": "mine"}')
    assert isinstance(found, Item)
    assert msgspec.json.decode(found.body) == {"text": "a", "client_ref": "mine"}


def names(texts: list[str]) -> list[str]:
    """The names that lines with these texts get, in order."""
    references = References()
    found = [
        lines.read_item(Line(1, b'{"text":"%s"}' % text.encode(), 1), references) for text in texts
    ]
    return [
        msgspec.json.decode(item.body)["client_ref"] for item in found if isinstance(item, Item)
    ]


@given(st.lists(TEXTS, max_size=12), st.randoms(use_true_random=False))
def test_names_do_not_depend_on_the_order(texts: list[str], chance: random.Random) -> None:
    shuffled = chance.sample(texts, len(texts))
    assert sorted(names(texts)) == sorted(names(shuffled))
    assert len(set(names(texts))) == len(texts)


@given(st.lists(TEXTS, max_size=8), st.lists(TEXTS, max_size=8))
def test_a_longer_file_keeps_the_names_of_the_shorter(texts: list[str], more: list[str]) -> None:
    assert not Counter(names(texts)) - Counter(names(texts + more))


def test_every_field_makes_a_name_but_not_how_it_is_treated() -> None:
    def name(text: str) -> object:
        found = read(text)
        assert isinstance(found, Item)
        return msgspec.json.decode(found.body)["client_ref"]

    plain = name('{"text": "a"}')
    assert name('{"deduplicate": true, "text": "a"}') == plain
    others = [
        '{"text": "a", "tags": ["x"]}',
        '{"text": "a", "end_user_id": "u"}',
        '{"content": "a"}',
    ]
    assert len({plain, *map(name, others)}) == 4
    assert len(str(plain)) <= limits.CLIENT_REF_CHARS_MAX


def test_bulks_hold_fifty_items_or_what_fits_into_a_request() -> None:
    def bulks(size: int, count: int) -> list[int]:
        collector = Collector()
        items = [Item(number, b"x" * size, 10) for number in range(count)]
        full = [bulk for item in items if (bulk := collector.add(item)) is not None]
        last = collector.take()
        assert last is not None
        assert sum(bulk.size_bytes for bulk in [*full, last]) == 10 * count
        assert all(sum(map(len, bulk.bodies)) < limits.BODY_BYTES_MAX for bulk in full)
        return [len(bulk.bodies) for bulk in [*full, last]]

    assert bulks(10, 120) == [50, 50, 20]
    assert bulks(100_000, 20) == [9, 9, 2]
    assert Collector().take() is None


async def test_a_pipe_is_read_as_it_fills() -> None:
    reading, writing = os.pipe()
    chunks = lines.read_chunks(reading)
    os.write(writing, b"one")
    assert await anext(chunks) == b"one"
    later = threading.Timer(0.05, lambda: (os.write(writing, b"two"), os.close(writing)))
    later.start()
    assert [chunk async for chunk in chunks] == [b"two"]
    later.join()
    os.close(reading)
