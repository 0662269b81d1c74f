"""One gateway: HTTP in front, peers behind.

    python -m memsync.nodes.gateway --config FILE [--name NAME]

It listens on the socket that its keeper hands down (`MEMSYNC_LISTEN_FD`), shared with the other
gateways, or on its own. It starts without the bus and without peers, and says so in `/ready`.
SIGTERM: not ready, no new requests, those in flight finish, exit 0. A wrong configuration: exit 2.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop
from nats.aio.client import Client

from memsync import config
from memsync.adapters.jetstream import connection
from memsync.clock import SystemClock
from memsync.config import GatewaySettings
from memsync.errors import ConfigurationError
from memsync.gateway.app import build_app
from memsync.gateway.passing.backend import PeerBackend
from memsync.gateway.passing.leased_ids import LeasedIds
from memsync.gateway.passing.members import Members
from memsync.gateway.passing.news import Hearing, hear
from memsync.gateway.passing.routing import Suspects
from memsync.gateway.passing.watch import PeerWatch
from memsync.gateway.passing.ways import BusWay, HttpWay, http_client, keep_apart
from memsync.gateway.passing.without_peers import LastAnswers
from memsync.gateway.server import listen, serve
from memsync.nodes import garbage
from memsync.telemetry import configure_logging, logger
from memsync.wire.subjects import CellName

LISTEN_VARIABLE = "MEMSYNC_LISTEN_FD"
EXIT_CONFIGURATION = 2


async def run(settings: GatewaySettings, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cell = CellName(settings.region, settings.cell)
    servers = settings.nats.servers
    first = BusWay("bus", cell, settings.nats, servers)
    second = BusWay("second_bus", cell, settings.nats, [*servers[1:], servers[0]])
    members = Members(settings.peers)
    last_answers = LastAnswers(SystemClock())
    hearing = Hearing(last_answers)
    ids = LeasedIds(cell, members, settings.id_space)

    async def listen_and_lease(client: Client) -> None:
        await hear(client, cell, hearing)
        await ids.run(client)

    suspects = Suspects()
    async with http_client() as client:
        watch = PeerWatch(settings.peers, members, client, suspects)
        backend = PeerBackend(
            [first, second],
            HttpWay(settings.peers, client, secret=connection.cell_secret(settings.nats)),
            ids,
            watch,
            members,
            suspects,
            last_answers,
            is_stopping=stop.is_set,
        )
        app = build_app(backend, name=settings.name)
        garbage.leave_requests_alone()
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(first.run(settings.name, listen_and_lease)),
                group.create_task(
                    second.run(settings.name + "-second", lambda c: hear(c, cell, hearing))
                ),
                group.create_task(keep_apart(first, second)),
                group.create_task(watch.run()),
            ]
            logger().info("gateway.started", name=settings.name)
            await serve(app, sockets=[sock], stop=stop)
            for task in background:
                task.cancel()
    logger().info("gateway.stopped", name=settings.name)


def inherited_socket() -> socket.socket | None:
    """The listening socket that the keeper handed down, duplicated; None where there is none."""
    number = os.environ.get(LISTEN_VARIABLE)
    if not number:
        return None
    try:
        sock = socket.socket(fileno=os.dup(int(number)))
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{LISTEN_VARIABLE}: {number} is not an open socket") from error
    sock.setblocking(False)
    return sock


def main(arguments: list[str] | None = None) -> int:
    """Read the settings, then run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m memsync.nodes.gateway", description="Run one memsync gateway."
    )
    parser.add_argument("--config", type=Path, required=True, help="the gateway's settings (TOML)")
    parser.add_argument("--name", help="instead of the name in the settings")
    given = parser.parse_args(arguments)
    configure_logging("gateway", "")  # until the settings say where to
    try:
        settings = config.load(given.config, GatewaySettings)
        if given.name:
            settings = msgspec.structs.replace(settings, name=given.name)
        connection.read_credentials(settings.nats.credentials)
        configure_logging(settings.name, settings.log_dir)
        sock = inherited_socket() or listen(settings.http_host, settings.http_port)
    except ConfigurationError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    try:
        uvloop.run(run(settings, sock))
    except Exception as error:  # noqa: BLE001 - the top: what ended the process is in its log
        logger().critical("process.failed", exc_info=error)
        print(f"gateway: {type(error).__name__}: {error} (see the log)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
