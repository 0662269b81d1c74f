"""The cluster of a run: 3 nats-servers, 3 peers, 2 gateways, each below its keeper, on machines of
their own where that can be had; and everything a saboteur does to a process.

The configuration is what `memsync.local` writes, with other addresses. All keepers are killed by
the kernel when the driver dies, and their children with them, so nothing outlives a run.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvloop

from memsync.homes import HOST, Home
from memsync.local.ports import Ports, choose_free
from memsync.local.prepare import prepared
from tests.chaos.network import Network, Relayed

T = TypeVar("T")
TOP = Path(__file__).resolve().parents[2]
SERVERS = ("nats-1", "nats-2", "nats-3")
PEERS = ("peer-1", "peer-2", "peer-3")
GATEWAYS = ("gateway-1", "gateway-2")
NAMES = (*SERVERS, *PEERS, *GATEWAYS)
START_S = 60.0
END_S = 12.0  # the keepers kill after 10 s
POLL_S = 0.05
PROBE_S = 2.0
GATEWAY_PROBES = 4  # connections at once, of which each gateway takes some
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
ESTABLISHED = "01"  # the state in /proc/net/tcp
_LIBC = ctypes.CDLL(None)


class InterruptedRunError(Exception):
    """Somebody asked the run to end."""


class NotStartedError(Exception):
    """The cluster did not become ready; the text says where to look."""


class Cluster:
    """Running processes, by name. Made by `running`."""

    def __init__(self, home: Home, ports: Ports, network: Network) -> None:
        self.home = home
        self.ports = ports
        self.network = network
        self.key = ""
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """Where the gateways listen, both at one socket."""
        return f"http://{self.network.host('gateways')}:{self.ports.http}"

    def peer_url(self, peer: str) -> str:
        """A peer's own port."""
        return f"http://{self.network.host(peer)}:{self.ports.peer(_number(peer))}"

    @property
    def servers(self) -> list[str]:
        """Every nats-server."""
        reached = {name: self.network.port(self.ports.nats(_number(name))) for name in SERVERS}
        return [f"nats://{self.network.host(name)}:{port}" for name, port in reached.items()]

    def store(self, peer: str) -> Path:
        """A peer's SQLite file."""
        return self.home.data(peer) / "store.sqlite"

    def pid(self, name: str) -> int:
        """The process itself; 0 while it is down."""
        try:
            return int(self.home.pid_file(name).read_text())
        except (OSError, ValueError):
            return 0

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to the process; returns the pid that it had."""
        pid = self.pid(name)
        _send(pid, number)
        return pid

    def hold_keeper(self, name: str) -> None:
        """From now on nobody starts the process again."""
        self._keeper(name).send_signal(signal.SIGSTOP)

    def release_keeper(self, name: str) -> None:
        """Take `hold_keeper` back."""
        self._keeper(name).send_signal(signal.SIGCONT)

    def connections(self, gateway: str) -> set[int]:
        """The callers' ports of the connections that this gateway has accepted."""
        pid = self.pid(gateway)
        own = f"{self.ports.http:04X}"
        try:
            inodes = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
            lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        except OSError:
            return set()
        return {
            int(fields[2].rpartition(":")[2], 16)
            for fields in map(str.split, lines)
            if fields[3] == ESTABLISHED
            and fields[1].endswith(f":{own}")
            and f"socket:[{fields[9]}]" in inodes
        }

    async def wait_ready(self, timeout_s: float) -> list[str]:
        """Wait until every process is ready; returns those that are not, in time. The gateways
        share a socket, so each is ready once it was seen to answer a connection."""
        give_up_at = time.monotonic() + timeout_s
        seen: dict[str, int] = {}
        async with httpx.AsyncClient(timeout=PROBE_S, trust_env=False) as client:
            while missing := await self._unready(client, seen):
                if time.monotonic() >= give_up_at:
                    return missing
                await asyncio.sleep(POLL_S)
        return []

    async def _unready(self, client: httpx.AsyncClient, seen: dict[str, int]) -> list[str]:
        """Who is not ready; `seen` are the gateways that were, by name, with their pids."""
        missing = [gateway for gateway in GATEWAYS if seen.get(gateway) != self.pid(gateway)]
        probes = [self._ready_gateway() for _ in range(GATEWAY_PROBES if missing else 0)]
        peers = [_is_ready(client, self.peer_url(peer)) for peer in PEERS]
        for gateway in await asyncio.gather(*probes):
            if gateway:
                seen[gateway] = self.pid(gateway)
        answers = dict(zip(PEERS, await asyncio.gather(*peers), strict=True))
        return [
            name for name in NAMES
            if not self.pid(name)
            or not answers.get(name, True)
            or (name in GATEWAYS and seen.get(name) != self.pid(name))
        ]  # fmt: skip

    async def _ready_gateway(self) -> str:
        """The gateway that says over a new connection that it is ready; "" where none does."""
        try:
            async with asyncio.timeout(PROBE_S):
                host, port = self.network.host("gateways"), self.ports.http
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(b"GET /ready HTTP/1.1\r\nHost: chaos\r\n\r\n")
                    is_ready = b" 200 " in await reader.readline()
                    own = writer.get_extra_info("sockname")[1]
                    holders = [one for one in GATEWAYS if own in self.connections(one)]
                    return holders[0] if is_ready and holders else ""
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return ""

    def start(self) -> None:
        """Start every keeper, the bus first."""
        python, keeper = sys.executable, str(TOP / "memsync" / "nodes" / "keeper.py")
        front = [python, "-I", "-S", keeper]
        config = str(self.home.config("{name}"))
        for name in SERVERS:
            nats = [python, "-I", "-S", str(TOP / "memsync" / "nodes" / "nats.py")]
            self._spawn(name, [*front, "--name", name, "--", *nats, "--config", config + ".conf"])
        for name in PEERS:
            peer = [python, "-m", "memsync.nodes.peer", "--config", config + ".toml"]
            self._spawn(name, [*front, "--name", name, "--", *peer])
        listen = f"{self.network.host('gateways')}:{self.ports.http}"
        both = ["--name", GATEWAYS[0], "--name", GATEWAYS[1]]
        gateway = [python, "-m", "memsync.nodes.gateway", "--config", config + ".toml"]
        self._spawn("gateways", [*front, "--listen", listen, *both, "--", *gateway])

    def end(self) -> None:
        """End everything, the bus last; what does not end is killed."""
        for name in NAMES:
            _send(self.pid(name), signal.SIGCONT)
        bus = [name for name in self._keepers if name in SERVERS]
        for names in ([name for name in self._keepers if name not in bus], bus):
            for name in names:
                self._keepers[name].send_signal(signal.SIGCONT)
                self._keepers[name].send_signal(signal.SIGTERM)
            give_up_at = time.monotonic() + END_S
            for name in names:
                try:
                    self._keepers[name].wait(max(0.1, give_up_at - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._keepers[name].kill()  # the kernel then kills what it kept
                    self._keepers[name].wait()

    def _keeper(self, name: str) -> subprocess.Popen[bytes]:
        return self._keepers["gateways" if name in GATEWAYS else name]

    def _spawn(self, name: str, command: list[str]) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MEMSYNC_")}
        environment |= {
            "MEMSYNC_HOME": str(self.home.path),
            "PYTHONPATH": str(TOP),
            "PYTHONUNBUFFERED": "1",
        }
        with open(self.home.log("keepers"), "ab") as output:
            self._keepers[name] = subprocess.Popen(
                [*self.network.command(name), *command],
                cwd=TOP, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,  # Ctrl-C is for the driver, which ends them in order
                preexec_fn=_die_with_parent,
            )  # fmt: skip


@contextmanager
def running(
    path: Path, network: Network, *, before_start: Callable[[Home], None]
) -> Iterator[Cluster]:
    """A cluster in a new home; it has ended when the context has. `before_start` sees the home
    when it is complete. Raises `NotStartedError`."""
    home = Home(path)
    ports = choose_free(Ports()) if isinstance(network, Relayed) else Ports()
    with prepared(home, ports):
        cluster = Cluster(home, ports, network)
        cluster.key = home.key.read_text(encoding="utf-8").strip()
        try:
            network.begin(home.path, ports)
            readdress(home, ports, network)
            before_start(home)
            cluster.start()
            missing = run_interruptibly(cluster.wait_ready(START_S))
            if missing:
                raise NotStartedError(f"not ready within {START_S:.0f} s: {', '.join(missing)}")
            yield cluster
        finally:
            cluster.end()
            network.end()


def take_signals() -> None:
    """From now on SIGINT and SIGTERM raise `InterruptedRunError`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop of its own; raises `InterruptedRunError` once it is cancelled by a signal,
    with everything that it had open closed."""

    async def cancelled_by_signals() -> T:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return uvloop.run(cancelled_by_signals())
    except asyncio.CancelledError as error:
        raise InterruptedRunError from error
    finally:
        take_signals()  # the loop took its own handlers away


def _interrupted(_number: int, _frame: object) -> None:
    raise InterruptedRunError


def readdress(home: Home, ports: Ports, network: Network) -> None:
    """Put the addresses of this network into every configuration: each port has one owner."""
    owners = {port: name.partition(" ")[0] for name, port in ports.named()}

    def listening(found: re.Match[str]) -> str:
        """A server's own address, and what it tells others where they reach it."""
        port, host = int(found[3]), network.host(owners[int(found[3])])
        name = "advertise" if found[1] else "client_advertise"
        lines = [f'listen: "{host}:{port}"', f'{name}: "{host}:{network.port(port)}"']
        return "\n".join(found[1] + line for line in lines)

    def reached(found: re.Match[str]) -> str:
        port = int(found[1])
        return f"{network.host(owners[port])}:{network.port(port)}"

    address = re.escape(HOST) + r":(\d+)"
    for path in (home.path / "config").iterdir():
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if own := re.fullmatch(rf'( *)(listen): "{address}"', line):
                line = listening(own)
            elif line == f'http_host = "{HOST}"':
                line = f'http_host = "{network.host(path.stem)}"'
            else:
                line = re.sub(address, reached, line)
            lines.append(line)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended meanwhile


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url + "/ready")).status_code == 200
    except httpx.HTTPError:
        return False
