"""What really gets from one machine to another, and how long it takes: datagrams between sockets of
the driver's own, one on each machine. So it is seen whether a cut cuts and what is slow is slow.

A socket stays in the network namespace in which it was made, and a thread may enter one by itself.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

Pair = tuple[int, int]  # from this machine to that one
PORT = 40_777
BUFFER_BYTES = 1 << 20  # all that is sent together is there before the first is read
CLONE_NEWNET = 0x4000_0000  # from linux/sched.h
PACKET = struct.Struct("=8sHHd")  # what was sent together, from, to, when
_LIBC = ctypes.CDLL(None, use_errno=True)


class Probes:
    """A socket at each address, in the namespace that is named, or in the driver's own."""

    def __init__(self, places: Mapping[int, tuple[str, Path | None]]) -> None:
        self._addresses = {machine: (host, PORT) for machine, (host, _) in places.items()}
        self._sockets = {machine: _made(*place) for machine, place in places.items()}

    def close(self) -> None:
        """No more."""
        for one in self._sockets.values():
            one.close()

    def flights(
        self, pairs: Iterable[Pair], *, count: int, within_s: float
    ) -> dict[Pair, list[float]]:
        """For each pair how long each datagram took that arrived, of `count`, in seconds."""
        together = os.urandom(8)
        found: dict[Pair, list[float]] = {pair: [] for pair in pairs}
        for source, target in found:
            for _ in range(count):
                packet = PACKET.pack(together, source, target, time.monotonic())
                try:
                    self._sockets[source].sendto(packet, self._addresses[target])
                except OSError:
                    pass  # the cable is out: it does not arrive
        give_up_at = time.monotonic() + within_s
        while sum(map(len, found.values())) < count * len(found):
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                break
            for one in select.select(list(self._sockets.values()), [], [], left_s)[0]:
                self._take(one, together, found)
        return found

    def _take(self, one: socket.socket, together: bytes, found: dict[Pair, list[float]]) -> None:
        try:
            data = one.recv(PACKET.size)
        except OSError:
            return  # what an earlier datagram came to
        arrived = time.monotonic()
        if len(data) == PACKET.size:
            sent_with, source, target, at = PACKET.unpack(data)
            if sent_with == together:
                found[source, target].append(arrived - at)


def _made(host: str, namespace: Path | None) -> socket.socket:
    """A socket that is bound there; made by a thread, which alone enters the namespace."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            if namespace is not None:
                _enter(namespace)
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            one.bind((host, PORT))
            made.append(one)
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    [found] = made
    if isinstance(found, OSError):
        raise found
    return found


def _enter(namespace: Path) -> None:
    with namespace.open("rb") as file:
        if _LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
