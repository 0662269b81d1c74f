"""A throwaway cluster for the tests of other projects: `memsync dev` in a folder of its own.

With pytest, the fixture `memsync_cluster` is there as soon as memsync is installed:

    async def test_my_agent(memsync_cluster):
        async with memsync_cluster.connect(end_user="ada") as memory:
            await memory.add("Ada drinks green tea")

There is one cluster in a session, started when it is first asked for: give each test an end user of
its own and it sees nothing of the others. Without pytest:

    with memsync.testing.cluster() as cluster:
        subprocess.run(["my-agent"], env=os.environ | cluster.environment)

It uses free ports and a temporary home, takes nothing from the environment, and ends with the
context; if this process is killed before that, the cluster notices and ends by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from memsync.homes import HOME_VARIABLE, HOST, Home

if TYPE_CHECKING:
    from memsync.client import Client, ConnectOptions, SyncClient
    from memsync.local.ports import Ports

START_S_DEFAULT = 30.0  # alone it takes less than one
END_S = 20.0
STARTS_MAX = 3  # between choosing a port and using it somebody else may take it
POLL_S = 0.02
PREFIX = "MEMSYNC_"
KEPT = {"MEMSYNC_NATS_SERVER"}  # which nats-server is to be run
IS_READY = " is ready after "
IS_TAKEN = " is taken by "
PACKAGE_FOLDER = Path(__file__).parents[2]  # run there, no module of the caller's is in the way


@dataclass(frozen=True)
class Cluster:
    """A running cluster, as its callers need it."""

    url: str
    nats_url: str
    api_key: str
    home: Path

    @property
    def credentials(self) -> Path:
        """The name and password for NATS, as a JSON file."""
        return Home(self.home).credentials("client")

    @property
    def environment(self) -> dict[str, str]:
        """What other processes need to find it: `os.environ | cluster.environment`."""
        return {
            HOME_VARIABLE: str(self.home),
            "MEMSYNC_URL": self.url,
            "MEMSYNC_NATS_URL": "",  # two addresses are one too many
            "MEMSYNC_API_KEY": self.api_key,
        }

    def connect(self, **options: Unpack[ConnectOptions]) -> Client:
        """A client of this cluster: `async with cluster.connect(end_user="ada") as memory:`.

        Takes what `memsync.connect` takes, for instance `servers=cluster.nats_url`.
        """
        from memsync import client

        return client.connect(**self._completed(options))

    def connect_sync(self, **options: Unpack[ConnectOptions]) -> SyncClient:
        """The same without `await`, as `memsync.connect_sync`."""
        from memsync import client

        return client.connect_sync(**self._completed(options))

    def _completed(self, options: ConnectOptions) -> ConnectOptions:
        found: ConnectOptions = {"home": self.home, "api_key": self.api_key, **options}
        if not found.get("servers"):
            found.setdefault("url", self.url)
        return found


@contextmanager
def cluster(*, start_s: float = START_S_DEFAULT) -> Iterator[Cluster]:
    """A cluster of one nats-server and one peer, for as long as the context lasts.

    Raises `RuntimeError` with what it said if it is not ready within `start_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="memsync-") as folder:
        home = Home(Path(folder).resolve() / "home")
        with _running(home, start_s) as offset:
            yield _described(home, offset)


def _described(home: Home, offset: int) -> Cluster:
    ports = _ports(offset)
    return Cluster(
        url=f"http://{HOST}:{ports.http}",
        nats_url=f"nats://{HOST}:{ports.nats(1)}",
        api_key=home.key.read_text(encoding="utf-8").strip(),
        home=home.path,
    )


def _ports(offset: int) -> Ports:
    from memsync.local import dev  # what runs a cluster; every run of pytest loads this module

    return dev.ports_for({}, offset)


@contextmanager
def _running(home: Home, start_s: float) -> Iterator[int]:
    """Run it on free ports, whose offset this gives."""
    from memsync.local import ports

    said = ""
    for _ in range(STARTS_MAX):
        offset = ports.choose_free(_ports(0)).offset
        output = home.path.with_name("output")
        process = _spawn(home, offset, output)
        try:
            said = _wait_ready(process, output, start_s)
            if IS_READY in said:
                yield offset
                return
        finally:
            _end(process, home)
        if IS_TAKEN not in said:
            break
    raise RuntimeError(f"no cluster within {start_s:g} s: {said.strip()}")


def _spawn(home: Home, offset: int, output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "memsync", "dev", "--end-with-stdin"]
    command += ["--home", str(home.path), "--port-offset", str(offset)]
    kept = {name: value for name, value in os.environ.items() if _is_kept(name)}
    with open(output, "wb") as file:
        return subprocess.Popen(
            command,
            cwd=PACKAGE_FOLDER,
            env=kept,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _is_kept(name: str) -> bool:
    return not name.startswith(PREFIX) or name in KEPT


def _wait_ready(process: subprocess.Popen[bytes], output: Path, start_s: float) -> str:
    """What it said until it was ready, had ended, or the time was over."""
    give_up_at = time.monotonic() + start_s
    while True:
        has_ended = process.poll() is not None
        said = output.read_text(encoding="utf-8", errors="replace")
        if IS_READY in said or has_ended or time.monotonic() >= give_up_at:
            return said
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes], home: Home) -> None:
    """End this process, and what it may have left behind if it had to be killed."""
    from memsync.local import down

    process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_S)
        down.end(home)
    if process.stdin is not None:
        process.stdin.close()
