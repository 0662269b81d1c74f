"""The peer that runs beside: PostgreSQL with pgvector, one primary and two synchronous standbys.

As shared/bench sets it up: an insert is acknowledged when one of the two standbys has applied it
(`remote_apply`), full fsync, 1 GB of buffers. Its packages live in an environment of their own
(`DIR/venv`, made on request), and a driver there loads it (postgres_driver.py); so nothing of it is
imported here. Needs root, since the servers run as user postgres.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from memsync.local.ports import HOST, is_free
from tests.bench.speed import machine
from tests.bench.speed.blocks import BLOCK_S_MAX, Block, Case, block_of

PACKAGES = ("pgserver==0.1.4", "psycopg[binary]==3.3.9", "pgvector==0.5.1", "numpy==2.4.6")
USER = "postgres"
NODES = 3
FIRST_PORTS = range(25_431, 26_431, 10)
DRIVER = Path(__file__).with_name("postgres_driver.py")
LINE_BYTES_MAX = 64 * 1024 * 1024  # of times in one answer of the driver
PREPARED_S = 120.0
PRIMARY = """
port = {port}
listen_addresses = '127.0.0.1'
unix_socket_directories = '{data}'
shared_buffers = 1GB
max_wal_size = 4GB
wal_level = replica
max_wal_senders = 8
synchronous_commit = remote_apply
"""
SYNCHRONOUS = "synchronous_standby_names = 'ANY 1 (s2, s3)'\n"


class NoPostgresError(Exception):
    """It cannot be run here; says why."""


class Postgres:
    """A running peer. `usage` is what its servers have used."""

    def __init__(self, data: Path, ports: list[int], driver: asyncio.subprocess.Process) -> None:
        self._data = data
        self._ports = ports
        self._driver = driver

    async def prepare(self, *, users: int, memories: int) -> None:
        """Make the table, with so many rows of so many users."""
        command = {"ports": self._ports, "users": users, "memories": memories}
        await self._ask(command, PREPARED_S)

    def case(self, name: str, do: str, in_flight: int, *, nodes: int = 1) -> Case:
        """Inserts or recalls, to be measured in turns with ours."""

        async def measure(seconds: float) -> Block:
            before = self.usage()
            command = {"do": do, "in_flight": in_flight, "nodes": nodes, "seconds": seconds}
            answer = await self._ask(command, 2 * seconds + BLOCK_S_MAX)
            cpu_s = {"postgres": self.usage()["postgres"] - before["postgres"]}
            cpu_s["load"] = answer["own_s"]
            return block_of(answer["times_s"], answer["seconds"], cpu_s)

        return Case(name, in_flight, measure)

    def usage(self) -> dict[str, float]:
        """Processor seconds of all its servers so far."""
        parents = [
            int(path.read_text().split()[0]) for path in self._data.glob("p*/postmaster.pid")
        ]
        tasks = Path("/proc")
        children = [
            int(child)
            for pid in parents
            for child in (tasks / f"{pid}/task/{pid}/children").read_text().split()
        ]
        used_s = sum(map(machine.cpu_seconds, [*parents, *children]))
        return {"postgres": used_s}

    def usage_with_driver(self) -> dict[str, float]:
        """The same, and what loads them."""
        return {**self.usage(), "driver": machine.cpu_seconds(self._driver.pid)}

    async def _ask(self, command: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(timeout_s):
            line = await self._driver.stdout.readline()
        if not line:
            raise NoPostgresError("its driver ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def running(folder: Path, told: Callable[[str], None]) -> AsyncIterator[Postgres]:
    """Start it in `folder` (absolute), whose data of an earlier time are dropped; end it. Raises
    `NoPostgresError`."""
    _check()
    venv, data = folder / "venv", folder / "data"
    if not (venv / "bin" / "python").exists():
        told("installing PostgreSQL with pgvector")
        await asyncio.to_thread(_install, venv)
    told("starting PostgreSQL")
    ports = _free_ports()
    servers = _Servers(venv, data)
    try:
        await asyncio.to_thread(servers.start, ports)
        driver = await asyncio.create_subprocess_exec(
            venv / "bin" / "python", DRIVER,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=LINE_BYTES_MAX,
        )  # fmt: skip
        try:
            yield Postgres(data, ports, driver)
        finally:
            assert driver.stdin is not None
            driver.stdin.close()
            await driver.wait()
    finally:
        await asyncio.to_thread(servers.stop)


def _check() -> None:
    if os.geteuid() != 0:
        raise NoPostgresError("it needs root, to run the servers as user postgres")
    try:
        pwd.getpwnam(USER)
    except KeyError:
        raise NoPostgresError("there is no user postgres") from None


def _install(venv: Path) -> None:
    try:
        _run(sys.executable, "-m", "venv", str(venv))
        _run(str(venv / "bin" / "pip"), "install", "--quiet", *PACKAGES)
    except NoPostgresError:
        shutil.rmtree(venv, ignore_errors=True)
        raise


def _free_ports() -> list[int]:
    for first in FIRST_PORTS:
        ports = [first + number for number in range(NODES)]
        if all(map(is_free, ports)):
            return ports
    raise NoPostgresError(f"no free ports from {FIRST_PORTS[0]} on")


class _Servers:
    """The three servers; everything here blocks."""

    def __init__(self, venv: Path, data: Path) -> None:
        found = list(venv.glob("lib/python3*/site-packages/pgserver/pginstall/bin"))
        if not found:
            raise NoPostgresError(f"there is no pgserver in {venv}")
        self._venv, self._data, self._bin = venv, data, found[0]

    def start(self, ports: list[int]) -> None:
        """Make all three anew and start them."""
        self.stop()
        for number in range(1, NODES + 1):
            shutil.rmtree(self._folder(number), ignore_errors=True)
        self._data.mkdir(parents=True, exist_ok=True)
        shutil.chown(self._data, USER)
        _run("chmod", "-R", "a+rX", str(self._venv))
        for parent in self._data.parents[:-1]:
            if not parent.stat().st_mode & 0o001:
                raise NoPostgresError(f"user postgres cannot enter {parent}: chmod a+x {parent}")
        primary = self._folder(1)
        self._as_postgres(f"initdb -D {primary} -A trust -U {USER}")
        with (primary / "postgresql.conf").open("a") as file:
            file.write(PRIMARY.format(port=ports[0], data=self._data))
        with (primary / "pg_hba.conf").open("a") as file:
            file.write("host replication postgres 127.0.0.1/32 trust\n")
        self._start(1)
        for number, port in enumerate(ports[1:], start=2):
            self._copy(number, port, ports[0])
        with (primary / "postgresql.conf").open("a") as file:
            file.write(SYNCHRONOUS)
        self._as_postgres(f"pg_ctl -D {primary} reload")

    def _copy(self, number: int, port: int, primary_port: int) -> None:
        """A standby: a copy of the primary that follows it."""
        folder = self._folder(number)
        self._as_postgres(
            f"pg_basebackup -h {HOST} -p {primary_port} -U {USER} -D {folder} -R -X stream"
        )
        with (folder / "postgresql.conf").open("a") as file:
            file.write(f"port = {port}\n")
        settings = folder / "postgresql.auto.conf"
        text = settings.read_text()
        text = text.replace(
            "primary_conninfo = '", f"primary_conninfo = 'application_name=s{number} "
        )
        settings.write_text(text)
        self._start(number)

    def _start(self, number: int) -> None:
        log = self._data / f"log-{number}"
        self._as_postgres(f"pg_ctl -D {self._folder(number)} -l {log} -w start")

    def stop(self) -> None:
        """End those that run."""
        for number in range(NODES, 0, -1):
            if (self._folder(number) / "postmaster.pid").exists():
                self._as_postgres(f"pg_ctl -D {self._folder(number)} -m immediate -w stop")

    def _folder(self, number: int) -> Path:
        return self._data / f"p{number}"

    def _as_postgres(self, command: str) -> None:
        _run("su", USER, "-c", f"{self._bin}/{command} >/dev/null")


def _run(*command: str) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False, cwd="/", text=True,
    )  # fmt: skip
    if done.returncode:
        raise NoPostgresError(f"{' '.join(command)[:80]}: {done.stdout.strip()[-300:]}")
