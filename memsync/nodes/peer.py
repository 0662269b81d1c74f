"""A peer: `python -m memsync.nodes.peer --config FILE`. Adapters meet the engine here; no logic.

Exit codes: 0 after SIGTERM or SIGINT; 2 for a wrong configuration (one line says which field).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from socket import socket as Socket  # noqa: N812 - a type; `socket` is a listening one here

import msgspec
import uvloop
from nats.aio.client import Client

import memsync
from memsync import config, limits, telemetry
from memsync.adapters.hot_index import FaissHotIndex
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.connection import BusClient
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
from memsync.errors import ConfigurationError
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
# The store's threads hold the GIL for microseconds at a time; with Python's default of 5 ms each of
# their turns makes a busy event loop, or them, wait that long.
SWITCH_INTERVAL_S = 0.0002


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a peer that work on its state."""

    clock: SystemClock
    store: SqliteStore
    progress: Progress
    directory: Directory
    index: FaissHotIndex
    applier: Applier
    members: Members
    durability: Durability
    appender: Appender


class Bus(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a peer that speak with the bus."""

    client: Client
    cell: CellName
    log: JetStreamLog
    streams: JetStreamStreams
    ids: IdBlocks


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A whole peer."""

    peer: Peer
    recall: Recall
    service: Service
    health: Health
    responder: Responder
    client: Client


async def run(settings: PeerSettings, genesis: Genesis) -> None:
    """Live until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    socket = listen(settings.http_host, settings.http_port)
    async with open_store(Path(settings.data_dir)) as store:
        await _join_founding(store, genesis)
        node = await _node(settings, genesis, store)
        try:
            await _live(node, settings.name, socket, stop)
        finally:
            await connection.close(node.client)


async def _live(node: Node, name: str, socket: Socket, stop: asyncio.Event) -> None:
    """Run everything; then end it in the order that loses nobody's request."""
    async with asyncio.TaskGroup() as tasks:
        lasting = [
            tasks.create_task(node.peer.run(), name="peer"),
            tasks.create_task(node.recall.run(), name="recall"),
            tasks.create_task(node.service.run(), name="service"),
        ]
        http_stop = asyncio.Event()
        app = build_app(node.service, name=name)
        http = tasks.create_task(serve(app, sockets=[socket], stop=http_stop), name="http")
        telemetry.logger().info("peer.started", version=memsync.__version__)
        await stop.wait()
        node.health.is_draining = True
        node.service.drain()
        await node.responder.stop_listening()
        http_stop.set()
        await http
        await node.service.wait_idle()
        await node.service.publish_key_uses()
        telemetry.logger().info("peer.ended")
        for task in lasting:
            task.cancel()


async def _join_founding(store: SqliteStore, genesis: Genesis) -> None:
    """Every peer joins the same first records, with the lowest stamp; again at each start."""
    frame = Frame(SCHEMA, 0, 0, [genesis_writes(genesis)])
    logged = LoggedFrame(position=Position(0, 0, 0), frame=frame, size_bytes=0)
    await store.apply([logged], {})


async def _node(settings: PeerSettings, genesis: Genesis, store: SqliteStore) -> Node:
    """Everything joined together."""
    client = BusClient()
    cell = CellName(region=genesis.region, cell=genesis.cell)
    log = JetStreamLog(client, cell)
    engine = await _engine(
        settings, genesis, store, log, JetStreamMarks(client, cell, settings.name)
    )

    async def highest_block() -> int:
        return max(mark.highest_block for mark in engine.members.watermarks().values())

    bus = Bus(
        client=client,
        cell=cell,
        log=log,
        streams=JetStreamStreams(
            client,
            cell,
            replicas=settings.log_replicas,
            stripe_bytes_max=settings.stripe_bytes_max,
        ),
        ids=IdBlocks(client, genesis.id_space, highest_block),
    )
    recall = Recall(store, engine.index, _embedder(settings), engine.clock)
    health = Health(
        log=log,
        applier=engine.applier,
        appender=engine.appender,
        members=engine.members,
        progress=engine.progress,
        durability=engine.durability,
    )
    service = Service(_parts(engine, bus, recall), health)
    responder = Responder(client, cell, settings.name, service)
    return Node(
        peer=_peer(settings, engine, bus, responder),
        recall=recall,
        service=service,
        health=health,
        responder=responder,
        client=client,
    )


async def _engine(
    settings: PeerSettings,
    genesis: Genesis,
    store: SqliteStore,
    log: JetStreamLog,
    marks: JetStreamMarks,
) -> Engine:
    clock = SystemClock(settings.clock_offset_s)
    identity = genesis_file.identity(genesis)
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
        marks=marks,
        progress=progress,
        clock=clock,
        own=watermark,
    )
    servers = NatsServers(settings.nats, settings.name)
    durability = Durability(servers, is_required=settings.profile == "production")
    appender = Appender(log, store, applier, members, progress, durability, clock)
    return Engine(
        clock=clock,
        store=store,
        progress=progress,
        directory=directory,
        index=index,
        applier=applier,
        members=members,
        durability=durability,
        appender=appender,
    )


def _parts(engine: Engine, bus: Bus, recall: Recall) -> Parts:
    return Parts(
        clock=engine.clock,
        store=engine.store,
        directory=engine.directory,
        appender=engine.appender,
        progress=engine.progress,
        recall=recall,
        ids=bus.ids,
        sharing=Sharing(engine.clock),
    )


def _peer(settings: PeerSettings, engine: Engine, bus: Bus, responder: Responder) -> Peer:
    async def connect() -> None:
        await connection.connect(
            settings.nats,
            settings.name,
            client=bus.client,
            wait_s=None,
            reconnected=lambda: peer.reconnected(),
        )

    peer = Peer(
        connect=connect,
        watch=lambda: connection.watchdog(bus.client),
        lease=bus.ids.lease,
        keep={
            "responder": responder.run,
            "id-blocks": bus.ids.run,
        },
        streams=bus.streams,
        members=engine.members,
        applier=engine.applier,
        appender=engine.appender,
        tails={
            k: Tail(k, bus.log, bus.streams, engine.applier, engine.progress)
            for k in range(limits.STRIPES)
        },
        durability=engine.durability,
    )
    return peer


def _embedder(settings: PeerSettings) -> Embedder | None:
    """The configured model; None (recalls by words, tagged) where its package is not installed."""
    if settings.embedder == "none":
        return None
    try:
        return static.load()
    except ConfigurationError as error:
        telemetry.logger().error("embedder.not_loaded", **telemetry.describe(error))
        return None


def _read_settings(arguments: list[str]) -> tuple[PeerSettings, Genesis]:
    parser = argparse.ArgumentParser(prog="python -m memsync.nodes.peer", allow_abbrev=False)
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
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    telemetry.configure_logging("peer", "")  # until the settings say where to
    try:
        settings, genesis = _read_settings(sys.argv[1:])
        connection.read_credentials(settings.nats.credentials)
        connection.read_credentials(settings.nats.system_credentials, "nats.system_credentials")
        telemetry.configure_logging(settings.name, settings.log_dir)
        uvloop.run(run(settings, genesis))
    except ConfigurationError as error:
        print(f"peer: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except Exception as error:  # noqa: BLE001 - the top: what ended the process is in its log
        telemetry.logger().critical("process.failed", exc_info=error)
        print(f"peer: {type(error).__name__}: {error} (see the log)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
