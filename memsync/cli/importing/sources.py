"""What a file holds: JSON lines as they are, or conversations that are made into JSON lines.

JSON lines are read as they come, from a pipe too. A document of LoCoMo is read as a whole, within a
limit, and then goes the way of the lines; the number of a line is then that of a turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from enum import StrEnum

import msgspec

from memsync.cli.exits import UsageProblem
from memsync.cli.importing import locomo
from memsync.cli.importing.lines import BYTE_ORDER_MARK, LINE_BYTES_MAX
from memsync.wire import codec

DOCUMENT_BYTES_MAX = 256 * 1024 * 1024
NEITHER = "this is neither JSON lines nor a LoCoMo conversation; see memsync import --help"


class Format(StrEnum):
    """How a file is written."""

    AUTO = "auto"
    JSONL = "jsonl"
    LOCOMO = "locomo"


class Owners(msgspec.Struct, frozen=True):
    """Whose the conversations of a file become: `user` if it is only one, else by their names."""

    user: str | None
    prefix: str | None

    def of(self, conversations: list[locomo.Conversation]) -> list[str]:
        """The end user of each conversation."""
        if self.user is not None and self.prefix is not None:
            raise UsageProblem("--user and --user-prefix: give only one of them")
        if self.user is not None and len(conversations) > 1:
            raise UsageProblem(
                f"{len(conversations)} conversations, and each becomes an end user of its own: "
                "give --user-prefix instead of --user, or neither"
            )
        if self.user is not None:
            return [self.user]
        return [(self.prefix or "") + one.name for one in conversations]


class Source(msgspec.Struct, frozen=True):
    """JSON lines to import; `size_bytes` is that of all of them, where it is known."""

    format: Format
    chunks: AsyncIterator[bytes]
    size_bytes: int | None


async def open_source(
    chunks: AsyncIterator[bytes], wanted: Format, owners: Owners, size_bytes: int | None
) -> Source:
    """The lines of a file of the wanted format; raises `UsageProblem` where it is another one."""
    start: list[bytes] = []
    if wanted is Format.AUTO:
        start = await _read_start(chunks)
        is_document = _is_document(b"".join(start))
        wanted = Format.LOCOMO if is_document else Format.JSONL
    if wanted is Format.LOCOMO:
        lines = await _lines_of_document(start, chunks, owners)
        return Source(wanted, _each(lines), sum(map(len, lines)))
    if owners.prefix is not None:
        raise UsageProblem("--user-prefix: JSON lines name their users themselves (end_user_id)")
    return Source(wanted, _resumed(start, chunks), size_bytes)


async def _read_start(chunks: AsyncIterator[bytes]) -> list[bytes]:
    """What comes until the first line that is not blank is complete, or too long to be one."""
    start: list[bytes] = []
    size_bytes = 0
    async for chunk in chunks:
        start.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > LINE_BYTES_MAX or b"\n" in b"".join(start).lstrip():
            break
    return start


def _is_document(start: bytes) -> bool:
    """Whether a file that begins like this is one JSON document rather than JSON lines."""
    text = start.removeprefix(BYTE_ORDER_MARK).lstrip()
    first, separator, _ = text.partition(b"\n")
    if not first.startswith(b"{"):
        return first.startswith(b"[")
    if first.strip() == b"{":  # written for people to read; no line of JSON lines is like this
        return True
    if len(first) > LINE_BYTES_MAX and not separator:
        return b'"session_1"' in first
    try:
        return locomo.is_conversation(msgspec.json.decode(first))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


async def _lines_of_document(
    start: list[bytes], chunks: AsyncIterator[bytes], owners: Owners
) -> list[bytes]:
    """Each conversation as JSON lines."""
    parts, size_bytes = start, sum(map(len, start))
    async for chunk in chunks:
        parts.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > DOCUMENT_BYTES_MAX:
            raise UsageProblem(f"a LoCoMo file of more than {DOCUMENT_BYTES_MAX} bytes")
    data = b"".join(parts).removeprefix(BYTE_ORDER_MARK)
    try:
        conversations = locomo.read_conversations(data)
    except UsageProblem as problem:
        raise UsageProblem(f"{NEITHER} ({problem})") from problem
    users = owners.of(conversations)
    return [
        b"".join(_lines(conversation, user))
        for conversation, user in zip(conversations, users, strict=True)
    ]


def _lines(conversation: locomo.Conversation, user: str) -> Iterator[bytes]:
    for item in locomo.items_of(conversation, user):
        given = {
            name: value
            for name in item.__struct_fields__
            if (value := getattr(item, name)) is not None
        }
        yield codec.to_json(given) + b"\n"


async def _each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _resumed(start: list[bytes], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in start:
        yield chunk
    async for chunk in chunks:
        yield chunk
