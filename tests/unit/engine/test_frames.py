"""A frame is put together from writes that are packed already; nobody can tell from its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memsync.clock import SystemClock
from memsync.engine.writing.frames import Frames
from memsync.wire import codec
from memsync.wire.operations import SCHEMA, Frame, Write
from tests.strategies import writes


@given(st.lists(writes(), min_size=1, max_size=3))
def test_packed_writes_make_the_bytes_of_the_whole_frame(several: list[Write]) -> None:
    frames = Frames(SystemClock())
    frames.incarnation = 7
    frame, data = frames.make([codec.pack(write) for write in several])
    assert frame == Frame(SCHEMA, 7, 1, several)
    assert data == codec.pack(frame)
