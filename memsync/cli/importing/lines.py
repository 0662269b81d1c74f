"""From bytes to bulks: lines, their items, the names of these, and what is wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from hashlib import blake2b

import msgspec

from memsync import errors, limits
from memsync.cli.exits import UsageProblem
from memsync.wire import codec, requests
from memsync.wire.requests import AddItem

CHUNK_BYTES = 256 * 1024
LINE_BYTES_MAX = limits.BODY_BYTES_MAX
BULK_BYTES_MAX = limits.BODY_BYTES_MAX - 10_000  # what is around the items in a body
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELDS = tuple(
    name
    for name in AddItem.__struct_fields__
    if name not in ("user_id", "tenant_id", "project_id", "environment")  # accepted and ignored
)
_NOT_CONTENT = ("client_ref", "deduplicate")


class Line(msgspec.Struct, frozen=True):
    """A line of the file: its number from 1, its bytes (None: too long), how far it reaches."""

    number: int
    text: bytes | None
    size_bytes: int


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot be imported."""

    number: int
    reason: str
    size_bytes: int


class Item(msgspec.Struct, frozen=True):
    """A line that can be imported: the fields that were given, as JSON."""

    number: int
    body: bytes
    size_bytes: int


class Bulk(msgspec.Struct, frozen=True):
    """Items that travel together. `size_bytes` is their part of the file, blank lines included."""

    numbers: list[int]
    bodies: list[bytes]
    size_bytes: int


async def read_chunks(descriptor: int) -> AsyncIterator[bytes]:
    """The bytes of a file, pipe or terminal as they come; waits without blocking the loop.

    Raises `UsageProblem` where it cannot be read.
    """
    while True:
        await _wait_readable(descriptor)
        try:
            chunk = os.read(descriptor, CHUNK_BYTES)
        except OSError as error:
            raise UsageProblem(f"the file cannot be read on ({error.strerror})") from error
        if not chunk:
            return
        yield chunk


async def _wait_readable(descriptor: int) -> None:
    """Wait for bytes or the end. The event is new each time: a late one would make a read block."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # a regular file: always readable
        await asyncio.sleep(0)  # others get their turn
        return
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


class Splitter:
    """Cuts chunks into lines. A line that is too long is dropped while it is read."""

    def __init__(self) -> None:
        self._number = 0
        self._rest = b""
        self._dropped_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that this chunk completes."""
        *complete, rest = chunk.split(b"\n")
        for text in complete:
            yield self._complete(text, ended=True)
        self._rest += rest
        if len(self._rest) > LINE_BYTES_MAX:
            self._dropped_bytes += len(self._rest)
            self._rest = b""

    def finish(self) -> Iterator[Line]:
        """The last line, where it has no end of its own."""
        if self._rest or self._dropped_bytes:
            yield self._complete(b"", ended=False)

    def _complete(self, text: bytes, *, ended: bool) -> Line:
        self._number += 1
        whole = self._rest + text
        size_bytes = len(whole) + self._dropped_bytes + ended
        is_too_long = size_bytes - ended > LINE_BYTES_MAX
        self._rest, self._dropped_bytes = b"", 0
        if self._number == 1:
            whole = whole.removeprefix(BYTE_ORDER_MARK)
        return Line(self._number, None if is_too_long else whole, size_bytes)


class References:
    """Names items by their content, the same in every run and in any order of the file.

    An item is named by a hash of its fields and by how many equal ones stood before it. So a file
    that is imported again, longer or in another order, adds only what is new. Takes about 100
    bytes of memory for each line.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._repeated: dict[int, int] = {}

    def name(self, item: AddItem) -> str:
        """The `client_ref` of an item that has none."""
        fields = {
            name: value
            for name in _FIELDS
            if name not in _NOT_CONTENT and (value := getattr(item, name)) is not None
        }
        digest = blake2b(codec.pack(fields), digest_size=16).digest()
        earlier = self._count(int.from_bytes(digest[:8], "big"))
        return f"import-{digest.hex()}-{earlier}"

    def _count(self, number: int) -> int:
        if number not in self._seen:
            self._seen.add(number)
            return 0
        self._repeated[number] = self._repeated.get(number, 0) + 1
        return self._repeated[number]


def read_item(line: Line, references: References) -> Item | BadLine | None:
    """The item in a line; None for a blank one."""
    if line.text is None:
        reason = f"longer than {LINE_BYTES_MAX} bytes"
        return BadLine(line.number, reason, line.size_bytes)
    if not line.text.strip():
        return None
    try:
        item = codec.from_json(line.text, AddItem)
        requests.check([*requests.text_problems(item), *requests.item_problems(item)])
        body = _encode(item, references)
    except errors.MemsyncError as error:
        return BadLine(line.number, _reason(error), line.size_bytes)
    except (UnicodeEncodeError, OverflowError) as error:
        return BadLine(line.number, str(error), line.size_bytes)
    return Item(line.number, body, line.size_bytes)


def _encode(item: AddItem, references: References) -> bytes:
    named = (
        item if item.client_ref else msgspec.structs.replace(item, client_ref=references.name(item))
    )
    fields = {name: value for name in _FIELDS if (value := getattr(named, name)) is not None}
    return codec.to_json(fields)


def _reason(error: errors.MemsyncError) -> str:
    reason = error.message.replace("the body is not JSON", "not JSON")
    if reason.startswith("body: Expected `object`"):
        return "not a JSON object (each line must be one, with a text)"
    return reason


class Collector:
    """Fills bulks: at most 50 items and what fits into one request."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._numbers: list[int] = []
        self._bodies: list[bytes] = []
        self._body_bytes = 0
        self._size_bytes = 0

    def pass_over(self, size_bytes: int) -> None:
        """Note bytes of the file that hold no item."""
        self._size_bytes += size_bytes

    def add(self, item: Item) -> Bulk | None:
        """Take an item; returns the bulk that is full without it, if there is one."""
        is_full = (
            len(self._bodies) >= limits.BULK_ITEMS_MAX
            or self._body_bytes + len(item.body) + 1 > BULK_BYTES_MAX
        )
        full = self.take() if is_full else None
        self._numbers.append(item.number)
        self._bodies.append(item.body)
        self._body_bytes += len(item.body) + 1
        self._size_bytes += item.size_bytes
        return full

    def take(self) -> Bulk | None:
        """What is there so far; None where that is no item."""
        if not self._bodies:
            return None
        bulk = Bulk(self._numbers, self._bodies, self._size_bytes)
        self._start()
        return bulk
