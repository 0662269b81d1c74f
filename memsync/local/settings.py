"""The settings files of the peers and gateways of a local cluster.

A file that is there is kept as somebody may have changed it; only what follows from the home and
the ports (paths, addresses) is put right, so that a moved home or another port offset just works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from memsync import config, limits
from memsync.errors import ConfigurationError
from memsync.local.home import Home, write_private
from memsync.local.ports import HOST, Ports
from memsync.local.secrets import CELL, REGION

STRIPE_BYTES_MIN = 16 * 1024 * 1024
STRIPE_BYTES_MAX = 8 * config.GIB
DISK_SHARE = 0.5  # of what is free, for the log; the rest is for stores and everybody else
FREE_BYTES_MIN = 64 * 1024 * 1024  # below it a cluster that exists is not started
EMBEDDER_VARIABLE = "MEMSYNC_EMBEDDER"
HEADER = "# Settings of {name}; every field is explained in memsync/config.py.\n"


def stripe_bytes_max(home: Home, ports: Ports, free_bytes: int) -> int:
    """`max_bytes` of a stripe: what the settings of peer-1 say, else a share of the free disk.

    Each stripe lies on every server, and all servers are on this disk. Raises `ConfigurationError`
    if the disk is too full to begin, or to go on.
    """
    first = home.config("peer-1.toml")
    if first.exists():
        if free_bytes < FREE_BYTES_MIN:
            raise _disk_full(home, free_bytes, FREE_BYTES_MIN)
        return config.load(first, config.PeerSettings).stripe_bytes_max
    copies = limits.STRIPES * ports.servers
    share = int(free_bytes * DISK_SHARE / copies)
    if share < STRIPE_BYTES_MIN:
        raise _disk_full(home, free_bytes, int(STRIPE_BYTES_MIN * copies / DISK_SHARE))
    whole_mib = share >> 20 << 20
    return min(whole_mib, STRIPE_BYTES_MAX)


def write(home: Home, ports: Ports, stripe_bytes: int) -> None:
    """Write or put right the settings of every peer and gateway."""
    for number in range(1, ports.peers + 1):
        _write_peer(home, ports, number, stripe_bytes)
    for number in range(1, ports.gateways + 1):
        _write_gateway(home, ports, number)


def _write_peer(home: Home, ports: Ports, number: int, stripe_bytes: int) -> None:
    name = f"peer-{number}"
    path = home.config(f"{name}.toml")
    bus = config.NatsSettings(
        servers=_servers(ports, preferred=(number - 1) % ports.servers + 1),
        credentials=str(home.credentials("node")),
        system_credentials=str(home.credentials("system")),
    )
    ours: dict[str, Any] = {
        "genesis": str(home.genesis),
        "data_dir": str(home.data(name)),
        "http_host": HOST,
        "http_port": ports.peer(number),
        "nats": bus,
        "log_dir": str(home.logs),
    }
    if path.exists():
        _put_right(path, config.load(path, config.PeerSettings), ours)
        return
    made = config.PeerSettings(
        name=name,
        log_replicas=ports.servers,
        stripe_bytes_max=stripe_bytes,
        embedder=_embedder(),
        **ours,
    )
    write_private(path, HEADER.format(name=name) + to_toml(made))


def _embedder() -> str:
    """What the environment asks for in files that are written for the first time."""
    named = os.environ.get(EMBEDDER_VARIABLE) or config.STATIC
    if named not in (config.STATIC, config.MINILM, config.NO_EMBEDDER):
        raise ConfigurationError(
            f"{EMBEDDER_VARIABLE}: {named!r} is not static, minilm or none; an endpoint needs its "
            "table in the settings files"
        )
    return named


def _write_gateway(home: Home, ports: Ports, number: int) -> None:
    name = f"gateway-{number}"
    path = home.config(f"{name}.toml")
    bus = config.NatsSettings(
        servers=_servers(ports, preferred=(number - 1) % ports.servers + 1),
        credentials=str(home.credentials("node")),
    )
    peers = {f"peer-{n}": f"http://{HOST}:{ports.peer(n)}" for n in range(1, ports.peers + 1)}
    ours: dict[str, Any] = {
        "peers": peers,
        "nats": bus,
        "http_host": HOST,
        "http_port": ports.http,
        "log_dir": str(home.logs),
    }
    if path.exists():
        _put_right(path, config.load(path, config.GatewaySettings), ours)
        return
    made = config.GatewaySettings(name=name, region=REGION, cell=CELL, **ours)
    write_private(path, HEADER.format(name=name) + to_toml(made))


def _put_right(path: Path, found: config.Settings, ours: dict[str, Any]) -> None:
    wanted = msgspec.structs.replace(found, **ours)
    if wanted != found:
        write_private(path, HEADER.format(name=found.name) + to_toml(wanted))


def _servers(ports: Ports, *, preferred: int) -> list[str]:
    """The addresses of all servers, the preferred one first, the others in turn after it."""
    numbers = [(preferred - 1 + step) % ports.servers + 1 for step in range(ports.servers)]
    return [f"nats://{HOST}:{ports.nats(number)}" for number in numbers]


def to_toml(settings: msgspec.Struct) -> str:
    """The settings as TOML, tables last; only for what settings consist of."""
    return "\n".join(_lines(msgspec.to_builtins(settings), "")) + "\n"


def _lines(fields: Mapping[str, Any], at: str) -> list[str]:
    """What is no table first, then each table under its whole name; an empty one is left out."""
    lines = [f"{name} = {_value(value)}" for name, value in fields.items() if not _is_table(value)]
    for name, value in fields.items():
        if _is_table(value):
            inner = _lines(value, f"{at}{name}.")
            has_own = any(not _is_table(one) for one in value.values())
            lines += ["", f"[{at}{name}]", *inner] if has_own else inner
    return lines


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _value(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # of these kinds, JSON's form is TOML's too


def _disk_full(home: Home, free_bytes: int, needed_bytes: int) -> ConfigurationError:
    return ConfigurationError(
        f"{home.path}: the disk is full: {free_bytes >> 20} MiB are free, "
        f"{needed_bytes >> 20} MiB are needed"
    )
