"""Which memories lack a vector of a model."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memsync.core.recall.vectors import REGISTER_MARK, lacks_vector, marks_of
from memsync.wire import codec
from memsync.wire.operations import Vector
from tests.fakes.memories import changed, memory

MODEL, DIMENSIONS = "letters", 26


def vector(model: str = MODEL, dimensions: int = DIMENSIONS) -> Vector:
    return Vector(model, np.ones(dimensions, "<f2").tobytes())


def is_lacking(record: object) -> bool:
    return lacks_vector(record, MODEL, DIMENSIONS)  # type: ignore[arg-type]


def test_what_a_memory_was_created_with() -> None:
    assert is_lacking(memory("a", "text"))
    assert not is_lacking(memory("a", "text", vector=vector()))
    assert is_lacking(memory("a", "text", vector=vector("other")))
    assert is_lacking(memory("a", "text", vector=vector(dimensions=27)))
    assert not is_lacking(memory("a", "text", vector=Vector(MODEL, b"")))  # asked, with no answer


def test_a_register_hides_what_it_was_created_with() -> None:
    old = memory("a", "text", vector=vector("other"))
    assert not is_lacking(changed(old, vector=codec.seal(vector())))
    ours = memory("a", "text", vector=vector())
    assert is_lacking(changed(ours, vector=codec.seal(vector("other"))))
    assert is_lacking(changed(ours, vector=codec.seal(None)))
    assert not is_lacking(changed(old, vector=codec.seal(Vector(MODEL, b""))))


def test_what_is_gone_lacks_nothing() -> None:
    record = memory("a", "text")
    assert not is_lacking(changed(record, deleted=True))
    assert is_lacking(changed(changed(record, deleted=True), at_ms=1 << 45, deleted=False))


def test_a_text_that_speaks_of_it_is_no_vector() -> None:
    empty = codec.pack(Vector(MODEL, b"")).decode("latin-1")
    for text in (MODEL, empty, "vector", REGISTER_MARK.decode("latin-1")):
        assert is_lacking(memory("a", text)), text
        assert not is_lacking(memory("a", text, vector=vector())), text


@given(st.text(max_size=40), st.integers(1, 4_096))
def test_no_text_holds_the_mark_of_a_vector(text: str, dimensions: int) -> None:
    numbers, _ = marks_of(MODEL, dimensions)
    assert numbers not in text.encode("utf-8", "surrogatepass")
    assert numbers[0] & 0xC0 == 0x80  # goes on with a character that nothing began
