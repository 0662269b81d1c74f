"""Latency and loss for all that goes from and to one machine: by the kernel's netem, or our own.

Without netem the router sends the machine's packets into a TUN device, behind which this module,
run as a program, holds each one for its time, drops some, and writes the rest back; the router then
goes on with them. So real packets are late and lost, and TCP does what it does.

    python -m tests.chaos.shaping DELAY_MS JITTER_MS LOSS
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

NETEM, TUN, NOTHING = "netem", "a TUN device of our own", "nothing"
DEVICE = "slow0"
TABLE = "100"
READY = b"ready\n"
PACKET_BYTES = 65_536
QUEUED_MAX = 10_000  # packets; what comes on top of it is lost, as in a real queue
TUNSETIFF = 0x400454CA  # from linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


class Shaper:
    """One machine made slow; `start` and `end` once each."""

    def __init__(self, by: str, router: str, machine: str, cable: str) -> None:
        self._by = by
        self._router = router
        self._machine = machine
        self._cable = cable
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, delay_ms: int, jitter_ms: int, loss: float) -> None:
        """From now on packets are late and lost, in both directions."""
        if self._by == NETEM:
            how = f"root netem delay {delay_ms}ms {jitter_ms}ms loss {100 * loss:g}%".split()
            for place, device in ((self._machine, "eth0"), (self._router, self._cable)):
                _run("tc", "-n", place, "qdisc", "add", "dev", device, *how)
            return
        self._process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self._router}", "--", sys.executable, "-m",
             "tests.chaos.shaping", str(delay_ms), str(jitter_ms), str(loss)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            raise OSError("the TUN device could not be made")
        _run("ip", "-n", self._router, "link", "set", DEVICE, "up")
        _run("ip", "-n", self._router, "route", "add", "default", "dev", DEVICE, "table", TABLE)
        for rule in self._rules():
            _run("ip", "-n", self._router, "rule", "add", *rule)

    def end(self) -> None:
        """Everything is quick again."""
        if self._by == NETEM:
            for place, device in ((self._machine, "eth0"), (self._router, self._cable)):
                _run("tc", "-n", place, "qdisc", "del", "dev", device, "root")
            return
        for rule in self._rules():
            _run("ip", "-n", self._router, "rule", "del", *rule)
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _rules(self) -> list[list[str]]:
        """What comes back from the device goes its way; the machine's packets go into it."""
        number = self._machine.removeprefix("m")
        return [
            ["iif", DEVICE, "lookup", "main", "pref", "20"],
            ["iif", self._cable, "lookup", TABLE, "pref", "21"],
            ["to", f"10.77.{number}.0/24", "lookup", TABLE, "pref", "22"],
        ]


def _run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def forward(device: int, ends: int, *, delay_s: float, jitter_s: float, loss: float) -> None:
    """Hold and lose packets until `ends` is readable: whoever started us is gone."""
    waiting: list[tuple[float, int, bytes]] = []
    chance, number = random.Random(), 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _write(device, heapq.heappop(waiting)[2])
        patience_s = waiting[0][0] - now if waiting else None
        readable, _, _ = select.select([device, ends], [], [], patience_s)
        if ends in readable:
            return
        if device in readable:
            packet = os.read(device, PACKET_BYTES)
            if chance.random() >= loss and len(waiting) < QUEUED_MAX:
                number += 1
                late_s = delay_s + chance.uniform(-jitter_s, jitter_s)
                heapq.heappush(waiting, (time.monotonic() + max(0.0, late_s), number, packet))


def _write(device: int, packet: bytes) -> None:
    try:
        os.write(device, packet)
    except OSError:
        pass  # the kernel takes no such packet, or the link is down: it is lost


def main() -> int:
    """The program behind the device; ends with its standard input."""
    delay_ms, jitter_ms, loss = (float(text) for text in sys.argv[1:4])
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    os.write(1, READY)
    forward(device, 0, delay_s=delay_ms / 1000, jitter_s=jitter_ms / 1000, loss=loss)
    return 0


if __name__ == "__main__":
    sys.exit(main())
