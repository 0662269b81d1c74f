"""`ports.Recollection` in memory that outlives the process but not the machine's power: one small
file in /dev/shm.

The store's last commits survive the end of its process, not a power cut
(adapters/sqlite/schema.py). Nor does this file, so where it is found nothing was lost with the
power. It lies outside of the data folder: whoever puts an older copy of that back does not put this
back with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

from memsync import homes
from memsync.ids import Position
from memsync.telemetry import describe, logger
from memsync.wire import codec

FOLDER = Path("/dev/shm")
BYTES_MAX = 2_048  # some dozens of positions


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    store_incarnation: int
    positions: list[Position]


class SharedMemory:
    """See `ports.Recollection`. For the store in `data_dir`, whose incarnation is given. Without
    /dev/shm nothing is remembered."""

    def __init__(self, data_dir: Path, store_incarnation: int) -> None:
        self._incarnation = store_incarnation
        self._path = homes.memory_of(data_dir)
        self._file = self._opened()

    def _opened(self) -> int | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(self._path, flags, 0o600)
        except OSError as error:
            logger().info("recollection.not_opened", path=str(self._path), **describe(error))
            return None
        if os.fstat(file).st_uid != os.geteuid():
            os.close(file)
            return None
        return file

    def recall(self) -> list[Position] | None:
        """What was kept last, by this process or the one before it; None where that is unknown."""
        if self._file is None:
            return None
        data = os.pread(self._file, BYTES_MAX, 0)
        length, digest, packed = int.from_bytes(data[:4], "big"), data[4:20], data[20:]
        packed = packed[:length]
        if not packed or _digest(packed) != digest:
            return None
        try:
            kept = codec.unpack(packed, _Kept)
        except msgspec.DecodeError:
            return None
        return kept.positions if kept.store_incarnation == self._incarnation else None

    def keep(self, positions: Sequence[Position]) -> None:
        """Remember these. One system call: a kill leaves the last ones or these."""
        if self._file is None:
            return
        packed = codec.pack(_Kept(self._incarnation, list(positions)))
        try:
            os.pwrite(self._file, len(packed).to_bytes(4, "big") + _digest(packed) + packed, 0)
        except OSError as error:  # /dev/shm is full: an old word must not be believed
            logger().warning("recollection.not_kept", **describe(error))
            os.ftruncate(self._file, 0)
            self.close()

    def close(self) -> None:
        """Keep nothing more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _digest(packed: bytes) -> bytes:
    return blake2b(packed, digest_size=16).digest()
