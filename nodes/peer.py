"""A peer: `python -m nodes.peer --config peer-1.toml`. Adapters meet the engine here; no logic.

Exit codes: 0 after SIGTERM or SIGINT; 2 for a wrong configuration (one line says which field).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from nats.aio.client import Client

from memsync import config, limits, telemetry
from memsync.adapters.hot_index import FaissHotIndex
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.adapters.jetstream.log import JetStreamLog
from memsync.adapters.jetstream.marks import JetStreamMarks
from memsync.adapters.jetstream.responder import Responder
from memsync.adapters.jetstream.servers import NatsServers
from memsync.adapters.jetstream.streams import JetStreamStreams
from memsync.adapters.models import static
from memsync.adapters.sqlite.store import SqliteStore, open_store
from memsync.clock import SystemClock
from memsync.config import PeerSettings
from memsync.engine.appender import Appender
from memsync.engine.applier import Applier
from memsync.engine.directory import Directory
from memsync.engine.durability import Durability
from memsync.engine.health import Health
from memsync.engine.members import Members
from memsync.engine.peer import Peer
from memsync.engine.progress import Progress
from memsync.engine.recall import Recall
from memsync.engine.tail import Tail
from memsync.errors import ConfigurationError, MemsyncError
from memsync.gateway.app import build_app
from memsync.gateway.server import listen, serve
from memsync.ids import Position
from memsync.ports import Embedder, LoggedFrame
from memsync.service.founding import genesis_writes
from memsync.service.parts import Parts
from memsync.service.service import Service
from memsync.service.sharing import Sharing
from memsync.wire import genesis as genesis_file
from memsync.wire.genesis import Genesis
from memsync.wire.members import Watermark
from memsync.wire.operations import SCHEMA, Frame
from memsync.wire.subjects import CellName

EXIT_CONFIGURATION = 2


async def run(settings: PeerSettings, genesis: Genesis) -> None:
    """Live until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    socket = listen(settings.http_host, settings.http_port)
    async with open_store(Path(settings.data_dir)) as store:
        await _join_founding(store, genesis)
        async with _peer(settings, genesis, store) as (peer, recall, service, health, responder):
            telemetry.logger().info("peer.started", version=genesis.schema)
            async with asyncio.TaskGroup() as tasks:
                lasting = [
                    tasks.create_task(peer.run(), name="peer"),
                    tasks.create_task(recall.run(), name="recall"),
                    tasks.create_task(service.run(), name="service"),
                ]
                http_stop = asyncio.Event()
                app = build_app(service, name=settings.name)
                http = tasks.create_task(serve(app, sockets=[socket], stop=http_stop))
                await stop.wait()
                health.is_draining = True
                service.drain()
                await responder.stop_listening()
                await service.wait_idle()
                http_stop.set()
                await http
                for task in lasting:
                    task.cancel()


async def _join_founding(store: SqliteStore, genesis: Genesis) -> None:
    """Every peer joins the same first records, with the lowest stamp; again at each start, for
    free."""
    frame = Frame(SCHEMA, 0, 0, [genesis_writes(genesis)])
    logged = LoggedFrame(position=Position(0, 0, 0), frame=frame, size_bytes=0)
    await store.apply([logged], {})


@asynccontextmanager
async def _peer(
    settings: PeerSettings, genesis: Genesis, store: SqliteStore
) -> AsyncIterator[tuple[Peer, Recall, Service, Health, Responder]]:
    """Everything joined together; the connection is closed at the end."""
    clock = SystemClock(settings.clock_offset_s)
    cell = CellName(region=genesis.region, cell=genesis.cell)
    identity = genesis_file.identity(genesis)
    client = Client()
    log = JetStreamLog(client, cell)
    streams = JetStreamStreams(
        client,
        cell,
        replicas=settings.log_replicas,
        stripe_bytes_max=settings.stripe_bytes_max,
    )
    progress = Progress(clock)
    progress.load(await store.positions())
    directory = Directory()
    await directory.load(store)
    index = FaissHotIndex(settings.hot_index_bytes_max)
    applier = Applier(store, progress, [index.apply, directory.apply])

    def watermark() -> Watermark:
        return Watermark(
            member=settings.name,
            cell=identity,
            store_incarnation=store.incarnation,
            incarnation=appender.incarnation,
            positions=progress.applied(),
            leases=[],
            highest_block=store.highest_block,
            wall_ms=clock.wall_ms(),
        )

    members = Members(
        settings.name,
        genesis.members,
        identity,
        marks=JetStreamMarks(client, cell, settings.name),
        progress=progress,
        clock=clock,
        own=watermark,
    )
    durability = Durability(
        NatsServers(settings.nats, settings.name),
        is_required=settings.profile == "production",
    )
    appender = Appender(log, store, applier, members, progress, durability, clock)

    async def highest_block() -> int:
        return max(mark.highest_block for mark in members.watermarks().values())

    ids = IdBlocks(client, genesis.id_space, highest_block)
    recall = Recall(store, index, _embedder(settings), clock)
    health = Health(
        log=log,
        applier=applier,
        appender=appender,
        members=members,
        progress=progress,
        durability=durability,
    )
    parts = Parts(
        clock=clock,
        store=store,
        directory=directory,
        appender=appender,
        progress=progress,
        recall=recall,
        ids=ids,
        sharing=Sharing(clock),
    )
    service = Service(parts, health)
    responder = Responder(client, cell, settings.name, service)
    tails = {k: Tail(k, log, streams, applier, progress) for k in range(limits.STRIPES)}

    async def connect() -> None:
        await connection.connect(
            settings.nats,
            settings.name,
            client=client,
            wait_s=None,
            reconnected=lambda: peer.reconnected(),
        )

    peer = Peer(
        connect=connect,
        lease=ids.lease,
        keep={
            "watchdog": lambda: connection.watchdog(client),
            "responder": responder.run,
            "id-blocks": ids.run,
        },
        streams=streams,
        members=members,
        applier=applier,
        appender=appender,
        tails=tails,
        durability=durability,
    )
    try:
        yield peer, recall, service, health, responder
    finally:
        await connection.close(client)


def _embedder(settings: PeerSettings) -> Embedder | None:
    return static.load() if settings.embedder == "static" else None


def _read_settings(arguments: list[str]) -> tuple[PeerSettings, Genesis]:
    parser = argparse.ArgumentParser(prog="python -m nodes.peer", allow_abbrev=False)
    parser.add_argument("--config", required=True, type=Path, help="the settings file (TOML)")
    settings = config.load(parser.parse_args(arguments).config, PeerSettings)
    genesis = genesis_file.read(Path(settings.genesis))
    if settings.name not in genesis.members:
        raise ConfigurationError(
            f"name: {settings.name} is not a member of {settings.genesis} "
            f"({', '.join(genesis.members)})"
        )
    return settings, genesis


def main() -> int:
    """The process; returns the exit code."""
    os.umask(0o077)
    try:
        settings, genesis = _read_settings(sys.argv[1:])
        connection.read_credentials(settings.nats.credentials)
        telemetry.configure_logging(settings.name, settings.log_dir)
        uvloop.run(run(settings, genesis))
    except ConfigurationError as error:
        print(f"peer: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except MemsyncError as error:
        print(f"peer: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
