"""Where the processes of a run live: machines that can be cut off from each other, or one machine.

`Machines` are network namespaces: server i and peer i on machine i, gateways and driver on another,
each with one cable to a router that can drop what goes from one to another, in one direction or in
both, and can slow it down. The run makes them inside namespaces of its own (`enter`), which nobody
else sees and which are gone when its last process is, however it ends.

`Relayed` is for where no namespaces can be made: everything on 127.0.0.1, with a relay of our own
in front of every port, which holds back or delays what goes from one "machine" to another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from memsync.homes import HOST
from memsync.local.ports import Ports
from tests.chaos.probes import Pair, Probes
from tests.chaos.relay import CLIENT, machine_of
from tests.chaos.shaping import NETEM, NOTHING, TUN, Shaper

INSIDE = "MEMSYNC_CHAOS_INSIDE"  # set for the driver once it is inside
MACHINES = (1, 2, 3)
ROUTER = "router"
DROP_PREFERENCE = 10
PROBED, PROBED_S = 5, 0.4  # datagrams of a pair, and how long they are waited for
LOST_OF, LOST_S = 200, 1.0  # of so many 5 % are never all there
NAMESPACES = Path("/run/netns")


class CannotError(Exception):
    """This machine does not let us do it; the text says what is missing."""


def unshared() -> list[str]:
    """What to put before a command so that it has namespaces of its own."""
    command = ["unshare", "--net", "--mount", "--propagation", "private"]
    return command if os.geteuid() == 0 else [*command, "--user", "--map-root-user"]


def why_not() -> str | None:
    """Why namespaces cannot be had here, None where they can."""
    missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)} here"
    probe = (
        "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip netns add probe && "
        "ip link add probe0 type veth peer name probe1 netns probe && "
        "ip -n probe rule add from 10.0.0.0/8 to 10.0.0.0/8 blackhole"
    )
    tried = subprocess.run(
        [*unshared(), "sh", "-c", probe], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if tried.returncode == 0:
        return None
    return tried.stderr.decode(errors="replace").strip() or "unshare is not allowed"


def enter(module: str, arguments: Sequence[str]) -> None:
    """Become the same program inside namespaces of its own; does not return."""
    command = [*unshared(), sys.executable, "-m", module, *arguments]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def is_inside() -> bool:
    """Whether this process has entered."""
    return os.environ.get(INSIDE) == "1"


class Network:
    """Where processes live, and what can be done to what goes between them."""

    can_mount = False
    says = ""

    def begin(self, home: Path, ports: Ports) -> None:
        """The home is there and no process runs yet."""

    def end(self) -> None:
        """No process runs any more."""

    def host(self, name: str) -> str:
        """The address at which a process listens."""
        raise NotImplementedError

    def port(self, port: int) -> int:
        """Where others reach what listens at `port`."""
        return port

    def command(self, name: str) -> list[str]:
        """What to put before a command so that it runs where the process lives."""
        del name
        return []

    def drop(self, pairs: Iterable[Pair]) -> None:
        """From now on nothing goes from the first machine of each pair to the second."""
        raise NotImplementedError

    def pass_again(self, pairs: Iterable[Pair]) -> None:
        """Take `drop` back."""
        raise NotImplementedError

    def unplug(self, machine: int) -> None:
        """Pull the machine's cable."""
        raise NotImplementedError

    def plug(self, machine: int) -> None:
        """Put it in again."""
        raise NotImplementedError

    def slow(self, machine: int, *, delay_ms: int, jitter_ms: int, loss: float) -> str:
        """Everything from and to a machine takes so much longer, each way; `loss` of it, 0..1, is
        lost. Returns by what; raises `CannotError` where this machine has no way to do it."""
        raise NotImplementedError

    def slow_no_more(self) -> None:
        """Take `slow` back."""
        raise NotImplementedError

    def why_not_open(self, pairs: Sequence[Pair]) -> str:
        """What does not get through although nothing is cut; "" where all does, or nobody knows."""
        del pairs
        return ""

    def why_not_cut(self, pairs: Sequence[Pair]) -> str:
        """Why these are not cut; "" where nothing gets through."""
        raise NotImplementedError

    def why_not_slow(self, machine: int, *, least_ms: int, is_lossy: bool) -> str:
        """Why the machine is not slow; "" where everything from and to it takes `least_ms` or
        longer each way, and some of it is lost if it is lossy."""
        raise NotImplementedError


class Relayed(Network):
    """One machine, and a relay between its processes."""

    says = "no namespaces: everything on loopback; cuts, latency and loss by a TCP relay of our own"

    def __init__(self) -> None:
        self._relay: subprocess.Popen[bytes] | None = None
        self._ports: dict[int, int] = {}
        self._held: set[Pair] = set()
        self._slow = {"slow": 0, "delay_s": 0.0, "jitter_s": 0.0, "loss": 0.0}

    def begin(self, home: Path, ports: Ports) -> None:
        named = [(name.partition(" ")[0], port) for name, port in ports.named()]
        pairs = [f"{port}={machine_of(name)}" for name, port in named if name != "gateways"]
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.relay", str(home), *pairs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._relay.stdout is not None
        made = json.loads(self._relay.stdout.readline())
        self._ports = {int(port): stands_for for port, stands_for in made.items()}

    def end(self) -> None:
        if self._relay is not None:
            self._relay.kill()
            self._relay.communicate()
            self._relay = None

    def host(self, name: str) -> str:
        del name
        return HOST

    def port(self, port: int) -> int:
        return self._ports.get(port, port)

    def drop(self, pairs: Iterable[Pair]) -> None:
        self._held |= set(pairs)
        self._tell()

    def pass_again(self, pairs: Iterable[Pair]) -> None:
        self._held -= set(pairs)
        self._tell()

    def unplug(self, machine: int) -> None:
        self.drop(all_pairs(machine))

    def plug(self, machine: int) -> None:
        self.pass_again(all_pairs(machine))

    def slow(self, machine: int, *, delay_ms: int, jitter_ms: int, loss: float) -> str:
        self._slow = {
            "slow": machine, "delay_s": delay_ms / 1000, "jitter_s": jitter_ms / 1000, "loss": loss,
        }  # fmt: skip
        self._tell()
        return "a TCP relay of our own"

    def slow_no_more(self) -> None:
        self._slow = {**self._slow, "slow": 0}
        self._tell()

    def why_not_cut(self, pairs: Sequence[Pair]) -> str:
        """By what the relay has held back since the cut: the processes talk all the time."""
        met = self._tell(asks=True)
        held = {(source, target) for source, target in met["held"]}
        free = [pair for pair in pairs if pair not in held]
        return f"nothing is held back of {free}" if len(free) == len(pairs) else ""

    def why_not_slow(self, machine: int, *, least_ms: int, is_lossy: bool) -> str:
        """Of what is lost a TCP connection makes something late, and so does the relay."""
        del machine, least_ms, is_lossy
        return "" if self._tell(asks=True)["late"] else "nothing was late"

    def _tell(self, *, asks: bool = False) -> dict[str, Any]:
        """Say how it is from now on, or ask what was held back and late since that was said."""
        assert self._relay is not None
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        told = {} if asks else {"held": sorted(self._held), **self._slow}
        self._relay.stdin.write(json.dumps(told).encode() + b"\n")
        self._relay.stdin.flush()
        met: dict[str, Any] = json.loads(self._relay.stdout.readline())
        return met


def all_pairs(machine: int) -> list[Pair]:
    """To and from all others."""
    others = [one for one in (*MACHINES, CLIENT) if one != machine]
    return [(machine, one) for one in others] + [(one, machine) for one in others]


class Machines(Network):
    """Three machines and one for callers; call it once, inside."""

    can_mount = True

    def __init__(self) -> None:
        _run("mount", "-t", "tmpfs", "tmpfs", "/run")
        NAMESPACES.mkdir()
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "netns", "add", ROUTER)
        for machine in MACHINES:
            _run("ip", "netns", "add", f"m{machine}")
        for line in self._cables():
            _run("ip", *line.split())
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _run("nsenter", f"--net=/run/netns/{ROUTER}", "sh", "-c", forward)
        self._shaper: Shaper | None = None
        self._slows_by = self._find_shaper()
        self.says = f"4 network namespaces and a router; latency and loss by {self._slows_by}"
        places = {
            machine: (_address(machine, 2), NAMESPACES / f"m{machine}") for machine in MACHINES
        }
        self.probes = Probes({**places, CLIENT: (_address(CLIENT, 2), None)})

    def end(self) -> None:
        self.probes.close()

    def host(self, name: str) -> str:
        return _address(machine_of(name), 2)

    def command(self, name: str) -> list[str]:
        machine = machine_of(name)
        return [] if machine == CLIENT else ["nsenter", f"--net=/run/netns/m{machine}", "--"]

    def drop(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            _run("ip", "-n", ROUTER, "rule", "add", *_rule(pair))

    def pass_again(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            _run("ip", "-n", ROUTER, "rule", "del", *_rule(pair))

    def unplug(self, machine: int) -> None:
        _run("ip", "-n", ROUTER, "link", "set", f"to{machine}", "down")

    def plug(self, machine: int) -> None:
        _run("ip", "-n", ROUTER, "link", "set", f"to{machine}", "up")

    def slow(self, machine: int, *, delay_ms: int, jitter_ms: int, loss: float) -> str:
        if self._slows_by == NOTHING:
            raise CannotError("the kernel has no netem, and there is no /dev/net/tun")
        self._shaper = Shaper(self._slows_by, ROUTER, f"m{machine}", f"to{machine}")
        self._shaper.start(delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss)
        return self._slows_by

    def slow_no_more(self) -> None:
        if self._shaper is not None:
            self._shaper.end()
            self._shaper = None

    def why_not_open(self, pairs: Sequence[Pair]) -> str:
        found = self.probes.flights(pairs, count=PROBED, within_s=PROBED_S)
        lost = [pair for pair, times in found.items() if not times]
        return f"nothing gets through of {lost}" if lost else ""

    def why_not_cut(self, pairs: Sequence[Pair]) -> str:
        found = self.probes.flights(pairs, count=PROBED, within_s=PROBED_S)
        through = [pair for pair, times in found.items() if times]
        return f"something gets through of {through}" if through else ""

    def why_not_slow(self, machine: int, *, least_ms: int, is_lossy: bool) -> str:
        """By the quickest datagram: a busy machine makes many late, but none early."""
        count, within_s = (LOST_OF, LOST_S) if is_lossy else (PROBED, PROBED_S)
        pairs = all_pairs(machine)[:: len(MACHINES)]  # one each way
        for pair, times in self.probes.flights(pairs, count=count, within_s=within_s).items():
            if not times or min(times) < least_ms / 1000:
                return f"{pair} took {1000 * min(times, default=0.0):.2f} ms"
            if is_lossy and len(times) == count:
                return f"nothing of {count} datagrams was lost from {pair[0]} to {pair[1]}"
        return ""

    def _cables(self) -> list[str]:
        lines = []
        for machine in (*MACHINES, CLIENT):
            place = "" if machine == CLIENT else f"netns m{machine} "
            lines.append(f"link add eth0 {place}type veth peer name to{machine} netns {ROUTER}")
        for machine in MACHINES:
            lines += [f"-n m{machine} {line}" for line in ["link set lo up", *_at_machine(machine)]]
        lines += _at_machine(CLIENT)
        lines.append(f"-n {ROUTER} link set lo up")
        for machine in (*MACHINES, CLIENT):
            lines.append(f"-n {ROUTER} address add {_address(machine, 1)}/24 dev to{machine}")
            lines.append(f"-n {ROUTER} link set to{machine} up")
        return lines

    def _find_shaper(self) -> str:
        tried = subprocess.run(
            ["tc", "-n", ROUTER, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"],
            capture_output=True, check=False,
        ) if shutil.which("tc") else None  # fmt: skip
        if tried is not None and tried.returncode == 0:
            _run("tc", "-n", ROUTER, "qdisc", "del", "dev", "lo", "root")
            return NETEM
        return TUN if os.access("/dev/net/tun", os.R_OK | os.W_OK) else NOTHING


def _at_machine(machine: int) -> list[str]:
    return [
        f"address add {_address(machine, 2)}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {_address(machine, 1)}",
    ]


def _address(machine: int, host: int) -> str:
    return f"10.77.{machine}.{host}"


def _rule(pair: Pair) -> list[str]:
    source, target = (f"10.77.{machine}.0/24" for machine in pair)
    return ["from", source, "to", target, "blackhole", "pref", str(DROP_PREFERENCE)]


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CannotError(f"{' '.join(command)}: {done.stderr.strip()}")
