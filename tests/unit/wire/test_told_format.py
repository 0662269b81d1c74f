"""What members tell each other: golden bytes are kept, since in a rolling upgrade peers of two
versions tell each other how far they are and who may hold a lease."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from memsync.core.lease import first_question
from memsync.ids import Position
from memsync.wire import codec
from memsync.wire.members import Answer, Call, Question, Release, Roster, Sums, Told, Watermark
from memsync.wire.operations import Stamp

GOLDEN = Path(__file__).parent / "golden"
NAME, CELL = "peer-√", "c" * 64
ENDS = [Position(0, 0, 0), Position(0, 1, 2**40), Position(2, 300, 70_000)]
QUESTION = first_question(2**30)
WATERMARK = Watermark(
    NAME,
    CELL,
    store_incarnation=2**62,
    incarnation=131_073,
    positions=ENDS,
    synced=ENDS[:1],
    leases={"peer-3": QUESTION + 9, "peer-1": 7},
    membership="1.2",
    highest_block=131_074,
    wall_ms=1_790_000_000_000,
    question=QUESTION,
)
BARE = Watermark(NAME, CELL, 1, 0, [], [], {}, "", 0, -1)
TOLD: dict[str, Told] = {
    "watermark": WATERMARK,
    "watermark-bare": BARE,
    "question": Question(NAME, CELL, QUESTION),
    "answer": Answer(NAME, CELL, QUESTION, ENDS),
    "call": Call(NAME, CELL),
    "release": Release(NAME, CELL, QUESTION),
    "release-unasked": Release(NAME, CELL),
    "sums": Sums(NAME, CELL, 29_833_333, ENDS, b"d" * 16),
    "roster": Roster(NAME, CELL, Stamp(1_790_000_000_000 << 16, 2), ["peer-1", NAME], 131_074),
}


def golden(kind: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"told-1-{kind}.hex").read_text())


@pytest.mark.parametrize("kind", TOLD)
def test_the_bytes_of_what_is_told_are_those_of_every_version(kind: str) -> None:
    """A change here is not read by members of other versions: what is new needs its own message,
    or a field that is told once every member can read it, and a new file beside the old one."""
    assert codec.pack(TOLD[kind]).hex() == golden(kind).hex()
    assert codec.decode_told(golden(kind)) == TOLD[kind]


def test_every_kind_is_kept() -> None:
    kept = {type(told) for told in TOLD.values()}
    assert kept == set(Told.__args__)  # type: ignore[attr-defined]
    assert {path.name for path in GOLDEN.glob("told-*")} == {f"told-1-{kind}.hex" for kind in TOLD}


def test_what_an_earlier_version_tells_without_the_last_field_is_read() -> None:
    """A release had no question, a watermark neither, at first."""
    release = msgspec.msgpack.encode(["release", NAME, CELL])
    assert codec.decode_told(release) == Release(NAME, CELL, 0)
    fields = msgspec.msgpack.decode(codec.pack(BARE))
    assert codec.decode_told(msgspec.msgpack.encode(fields[:-1])) == BARE


@pytest.mark.parametrize("kind", TOLD)
def test_a_field_that_is_not_known_is_refused(kind: str) -> None:
    fields = msgspec.msgpack.decode(golden(kind))
    with pytest.raises(msgspec.DecodeError):
        codec.decode_told(msgspec.msgpack.encode([*fields, 1]))
