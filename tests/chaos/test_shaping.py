"""The program behind the TUN device: each packet is held for its time, some are lost. A pair of
sockets stands for the device, and its end for the end of whoever started the program."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.shaping import forward

PACKETS = 40


class Device:
    """What is sent into it comes out late, or not at all."""

    def __init__(self) -> None:
        self.outside, self._inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ends, self._end = os.pipe()
        self._thread: threading.Thread | None = None

    def start(self, **how: float) -> None:
        """Hold packets like this."""
        arguments = (self._inside.fileno(), self._ends)
        self._thread = threading.Thread(target=forward, args=arguments, kwargs=how)
        self._thread.start()

    def send(self, count: int) -> float:
        """So many packets, each with its number; returns when the first was sent."""
        began = time.monotonic()
        for number in range(count):
            self.outside.send(bytes([number]))
        return began

    def received(self, count: int, within_s: float) -> list[tuple[int, float]]:
        """(number, when) of what comes out: until it is so many, or time is up."""
        found: list[tuple[int, float]] = []
        give_up_at = time.monotonic() + within_s
        while len(found) < count and (left_s := give_up_at - time.monotonic()) > 0:
            if select.select([self.outside], [], [], left_s)[0]:
                found.append((self.outside.recv(10)[0], time.monotonic()))
        return found

    def end(self) -> None:
        """The program ends with whoever started it."""
        os.close(self._end)
        if self._thread is not None:
            self._thread.join(10)
            assert not self._thread.is_alive()
        os.close(self._ends)
        self._inside.close()
        self.outside.close()


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.end()


def test_every_packet_is_held_for_its_time(device: Device) -> None:
    device.start(delay_s=0.1, jitter_s=0.0, loss=0.0)
    began = device.send(PACKETS)
    found = device.received(PACKETS, 5.0)
    assert [number for number, _ in found] == list(range(PACKETS))
    assert found[0][1] - began >= 0.1


def test_with_jitter_they_overtake_each_other(device: Device) -> None:
    device.start(delay_s=0.1, jitter_s=0.1, loss=0.0)
    device.send(PACKETS)
    numbers = [number for number, _ in device.received(PACKETS, 5.0)]
    assert numbers != list(range(PACKETS))
    assert sorted(numbers) == list(range(PACKETS))


def test_some_are_lost(device: Device) -> None:
    device.start(delay_s=0.0, jitter_s=0.0, loss=0.5)
    device.send(PACKETS)
    assert 0 < len(device.received(PACKETS, 0.3)) < PACKETS


def test_all_are_lost(device: Device) -> None:
    device.start(delay_s=0.0, jitter_s=0.0, loss=1.0)
    device.send(PACKETS)
    assert device.received(1, 0.2) == []
