"""A peer: `python -m memsync.nodes.peer --config FILE`. Adapters meet the engine here; no logic.

Exit codes: 0 after SIGTERM or SIGINT; 2 for what starting again does not help (one line says what
to do): a wrong configuration, a member that was removed, a later process of the same name; 1 for
what a new start may mend, as a damaged store, which is then set aside.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from socket import socket as Socket  # noqa: N812 - a type; `socket` is a listening one here
from typing import Any

import msgspec
import uvloop
from nats.aio.client import Client

import memsync
from memsync import config, limits, telemetry
from memsync.adapters.hot_index import FaissHotIndex
from memsync.adapters.jetstream import connection
from memsync.adapters.jetstream.bus_client import BusClient
from memsync.adapters.jetstream.id_blocks import IdBlocks
from memsync.adapters.jetstream.log import JetStreamLog
from memsync.adapters.jetstream.marks import JetStreamMarks, JetStreamNews
from memsync.adapters.jetstream.peers import JetStreamPeers
from memsync.adapters.jetstream.responder import Responder
from memsync.adapters.jetstream.servers import NatsServers
from memsync.adapters.jetstream.streams import JetStreamStreams
from memsync.adapters.recollection import SharedMemory
from memsync.adapters.sqlite.explanations import SqliteExplanations
from memsync.adapters.sqlite.store import SqliteStore, open_store
from memsync.clock import SystemClock
from memsync.config import PeerSettings
from memsync.engine.cell.news import Telling
from memsync.engine.engine import Engine, Identity, Ports
from memsync.engine.peer import Connection
from memsync.engine.recall import Explanations, Following, Recall, Results, Shown, Uses
from memsync.errors import ConfigurationError, StoreDamaged
from memsync.gateway.app import build_app
from memsync.gateway.server import listen, serve
from memsync.ids import Position
from memsync.nodes import garbage, models
from memsync.nodes.models import Models, Recalling
from memsync.ports import LoggedFrame
from memsync.service.founding import genesis_writes
from memsync.service.parts import parts_of
from memsync.service.service import Service
from memsync.wire import genesis as genesis_file
from memsync.wire.genesis import Genesis
from memsync.wire.operations import SCHEMA, Frame
from memsync.wire.subjects import CellName

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
# The store's threads hold the GIL for microseconds at a time; with Python's default of 5 ms each of
# their turns makes a busy event loop, or them, wait that long.
SWITCH_INTERVAL_S = 0.0002


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A whole peer."""

    store: SqliteStore
    engine: Engine
    recalling: Recalling
    recall: Recall
    service: Service
    responder: Responder
    client: Client
    cell_secret: str


async def run(settings: PeerSettings, genesis: Genesis) -> None:
    """Live until SIGTERM or SIGINT; raises `ConfigurationError` where this process must not go on
    and must not be started again."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    socket = listen(settings.http_host, settings.http_port)
    cell = genesis_file.identity(genesis)
    chosen = models.load(settings)
    async with open_store(Path(settings.data_dir), cell=cell) as store:
        await _join_founding(store, genesis)
        node = await _node(settings, genesis, store, chosen)
        garbage.leave_requests_alone()
        try:
            await _live(node, settings, socket, stop)
            if (why := node.engine.standing.dismissal) is not None:
                raise ConfigurationError(why)
        finally:
            await connection.close(node.client)
            for close in chosen.closers:
                await close()


async def _live(node: Node, settings: PeerSettings, socket: Socket, stop: asyncio.Event) -> None:
    """Run everything; then end it in the order that loses nobody's request."""
    async with asyncio.TaskGroup() as tasks:
        lasting = [
            tasks.create_task(_until_the_end(node.engine.peer.run()), name="peer"),
            tasks.create_task(_stop_if_dismissed(node, stop), name="standing"),
            tasks.create_task(_until_the_end(node.recall.run()), name="recall"),
            tasks.create_task(_until_the_end(_embed_again(node)), name="embed-again"),
            tasks.create_task(_until_the_end(node.service.run()), name="service"),
            tasks.create_task(_until_the_end(node.store.watch()), name="store"),
        ]
        http_stop = asyncio.Event()
        app = build_app(node.service, name=settings.name, secret=node.cell_secret)
        http = tasks.create_task(serve(app, sockets=[socket], stop=http_stop), name="http")
        telemetry.logger().info("peer.started", version=memsync.__version__)
        await stop.wait()
        node.engine.health.is_draining = True
        node.service.drain()
        await node.responder.stop_listening()
        http_stop.set()
        await http
        await node.service.wait_idle()
        await node.service.publish_key_uses()
        await node.recall.finish()
        await node.engine.leases.release()
        telemetry.logger().info("peer.ended")
        for task in lasting:
            task.cancel()


async def _embed_again(node: Node) -> None:
    await node.recalling.reembedding.run(node.engine.appender, node.engine.members)


async def _until_the_end(work: Coroutine[Any, Any, None]) -> None:
    """A part that lives as long as the process: once one of them ends, all must be over within
    `SHUTDOWN_S`, whatever a library makes of being cancelled."""
    try:
        await work
    finally:
        end = threading.Timer(limits.SHUTDOWN_S, _give_up, [asyncio.get_running_loop()])
        end.daemon = True
        end.start()


def _give_up(loop: asyncio.AbstractEventLoop) -> None:
    left = sorted(task.get_name() for task in asyncio.all_tasks(loop))
    telemetry.logger().critical("process.given_up", after_s=limits.SHUTDOWN_S, left=left)
    os._exit(1)


async def _stop_if_dismissed(node: Node, stop: asyncio.Event) -> None:
    await node.engine.standing.wait_dismissed()
    stop.set()


async def _join_founding(store: SqliteStore, genesis: Genesis) -> None:
    """Every peer joins the same first records, with the lowest stamp; again at each start."""
    frame = Frame(SCHEMA, 0, 0, [genesis_writes(genesis)])
    logged = LoggedFrame(position=Position(0, 0, 0), frame=frame, size_bytes=0)
    await store.apply([logged], {})


async def _node(
    settings: PeerSettings, genesis: Genesis, store: SqliteStore, chosen: Models
) -> Node:
    """Everything joined together."""
    client = BusClient()
    cell = CellName(region=genesis.region, cell=genesis.cell)
    index = FaissHotIndex(settings.hot_index_bytes_max)
    ports = _ports(settings, genesis, store, client)
    recalling = models.recalling(chosen, store, ports.clock)

    async def connect() -> None:
        await connection.connect(
            settings.nats,
            settings.name,
            client=client,
            wait_s=None,
            reconnected=lambda: engine.peer.reconnected(),
        )

    async def highest_block() -> int:
        return engine.caretakers.id_stream.highest_seen()

    async def respond() -> None:
        await engine.standing.wait_member()
        await responder.run()

    telling, shown = _telling(settings, genesis, client), Shown()
    results = Results(ports.clock, recalling.breakers)
    blocks = IdBlocks(client, genesis.id_space, highest_block)
    engine = Engine(
        _identity(settings, genesis),
        ports,
        Connection(
            connect=connect,
            watch=lambda: connection.watchdog(client),
            lease=blocks.lease,
            leased=lambda: blocks.highest_leased,
            keep={"responder": respond, "id-blocks": blocks.run, "news": telling.run},
        ),
        positions=await store.positions(),
        derived=[one.apply for one in (index, results, shown, *recalling.following, telling)],
        is_sync_required=settings.profile == "production",
        void=config.void_positions(settings),
    )
    await engine.load()
    following = _following(settings, engine, Following(results=results, shown=shown), chosen)
    recall = models.recall_with(recalling, store, index, ports.clock, following=following)
    engine.health.more["models"] = lambda: recalling.said(engine.members.others())
    cell_secret = connection.cell_secret(settings.nats)
    service = Service(parts_of(engine, recall, blocks, cell_secret=cell_secret), engine.health)
    responder = Responder(client, cell, settings.name, service)
    return Node(
        store=store, engine=engine, recalling=recalling, recall=recall, service=service,
        responder=responder, client=client, cell_secret=cell_secret,
    )  # fmt: skip


def _identity(settings: PeerSettings, genesis: Genesis) -> Identity:
    return Identity(
        name=settings.name,
        cell=genesis_file.identity(genesis),
        label=genesis.cell,
        founders=tuple(genesis.members),
    )


def _following(
    settings: PeerSettings, engine: Engine, kept: Following, chosen: Models
) -> Following:
    """What keeps and records the answers of this peer."""
    explained = SqliteExplanations(Path(settings.data_dir), settings.explanations_bytes_max)
    chosen.closers.append(explained.close)
    clock = engine.ports.clock
    return msgspec.structs.replace(
        kept,
        uses=Uses(engine.ports.store, engine.appender, clock),
        explanations=Explanations(settings.name, explained, clock),
    )


def _telling(settings: PeerSettings, genesis: Genesis, client: Client) -> Telling:
    cell = CellName(region=genesis.region, cell=genesis.cell)
    channel = JetStreamNews(client, cell, settings.name)
    identity, session = genesis_file.identity(genesis), secrets.randbits(63)
    return Telling(settings.name, identity, channel, session=session)


def _ports(settings: PeerSettings, genesis: Genesis, store: SqliteStore, client: Client) -> Ports:
    cell = CellName(region=genesis.region, cell=genesis.cell)
    return Ports(
        clock=SystemClock(settings.clock_offset_s),
        store=store,
        log=JetStreamLog(client, cell),
        streams=JetStreamStreams(
            client,
            cell,
            replicas=settings.log_replicas,
            stripe_bytes_max=settings.stripe_bytes_max,
            identity=genesis_file.identity(genesis),
        ),
        marks=JetStreamMarks(client, cell, settings.name),
        recollection=SharedMemory(Path(settings.data_dir), store.incarnation),
        peers=JetStreamPeers(client, cell, settings.name),
        servers=NatsServers(settings.nats, settings.name, cell),
    )


def _read_settings(arguments: list[str]) -> tuple[PeerSettings, Genesis]:
    parser = argparse.ArgumentParser(prog="python -m memsync.nodes.peer", allow_abbrev=False)
    parser.add_argument("--config", required=True, type=Path, help="the settings file (TOML)")
    settings = config.load(parser.parse_args(arguments).config, PeerSettings)
    return settings, genesis_file.read(Path(settings.genesis))


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
        if (damage := _damage_in(error)) is not None:
            print(f"peer: {damage}", file=sys.stderr)
            return EXIT_FAILED
        telemetry.logger().critical("process.failed", exc_info=error)
        print(f"peer: {type(error).__name__}: {error} (see the log)", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _damage_in(error: BaseException) -> StoreDamaged | None:
    """The damage of the store that ended the process, if that did."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_damage_in, error.exceptions)), None)
    return error if isinstance(error, StoreDamaged) else None


if __name__ == "__main__":
    sys.exit(main())
