"""What the gateways and peers of a cluster say of themselves, and where they are to be asked.

Gateways share one address, so who answers there is chance; each peer has an address of its own,
which the settings of a local home name. Of a remote cluster only the given address is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from memsync import __version__, config
from memsync.cli.exits import UsageProblem
from memsync.client.finding import Target, starter
from memsync.errors import NoCluster
from memsync.homes import HOST, Home, is_locked

TIMEOUT_S = 2.0
NATS_PORT = 4222  # where an address names none
GATEWAY_TRIES = 8  # gateways share one socket: who answers is chance
GATEWAY_ROUNDS = 3


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway or a peer. `state` is ready, not ready, unseen or unreachable."""

    name: str
    url: str
    state: str
    version: str | None = None
    uptime_s: float | None = None
    failed: dict[str, str] = {}
    positions: list[str] | None = None
    lag_entries: int | None = None


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask: `url` is that of the gateways, None where there are none (`memsync dev`)."""

    url: str | None
    gateways: list[str]
    peers: dict[str, str]
    home: Home | None
    is_local: bool

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client for these places."""
        is_plain = self.is_local and (self.url or "http:").startswith("http:")
        return httpx.AsyncClient(
            trust_env=not self.is_local, verify=not is_plain, timeout=TIMEOUT_S, **options
        )


def places_of(target: Target) -> Places:
    """Where the processes of a target are; raises `UsageProblem` where it has no HTTP address."""
    home = target.home if is_of_home(target) else None
    if target.url is None and home is None:
        raise UsageProblem(
            f"{target.name} is not the bus of the cluster in {target.home.path}: give --url, too"
            if target.home
            else "only NATS servers are named: give --url, too"
        )
    peers = _peer_urls(home) if home else {}
    names = _gateway_names(home) if home else []
    has_gateways = bool(names) or not peers or (target.url is not None and not target.is_homes_own)
    url = (target.url or _gateway_url(home)) if has_gateways else None
    return Places(url=url, gateways=names, peers=peers, home=home, is_local=target.is_local)


def is_of_home(target: Target) -> bool:
    """Whether the address is one of the home's cluster, and not of another one that is named."""
    home = target.home
    if home is None or not target.is_local:
        return False
    if target.is_homes_own:
        return True
    if target.url is None:
        return {_port(one) or NATS_PORT for one in target.nats_servers} <= _nats_ports(home)
    known = set(_peer_urls(home).values())
    if (settings := _gateway_settings(home)) is not None:
        known.add(f"http://{HOST}:{settings.http_port}")
    parts = urlsplit(target.url)
    return not parts.path and (parts.port or 80) in {_port(one) for one in known}


def _nats_ports(home: Home) -> set[int | None]:
    found = (
        config.load(path, config.PeerSettings).nats.servers
        for path in home.path.glob("config/peer-*.toml")
    )
    return {_port(server) or NATS_PORT for servers in found for server in servers}


def _port(address: str) -> int | None:
    return urlsplit(address).port


def _gateway_names(home: Home) -> list[str]:
    return sorted(path.stem for path in home.path.glob("config/gateway-*.toml"))


def _gateway_settings(home: Home | None) -> config.GatewaySettings | None:
    path = home.config("gateway-1.toml") if home else None
    return config.load(path, config.GatewaySettings) if path and path.exists() else None


def _peer_urls(home: Home) -> dict[str, str]:
    """Of each peer, as the gateways' settings say, or where there are none those of the peers."""
    settings = _gateway_settings(home)
    if settings is not None:
        return settings.peers
    peers = {path.stem: path for path in sorted(home.path.glob("config/peer-*.toml"))}
    return {
        name: f"http://{HOST}:{config.load(path, config.PeerSettings).http_port}"
        for name, path in peers.items()
    }


def _gateway_url(home: Home | None) -> str:
    settings = _gateway_settings(home)
    if settings is None:
        raise UsageProblem("the home has no config/gateway-1.toml: give --url")
    return f"http://{HOST}:{settings.http_port}"


async def read_processes(places: Places) -> tuple[list[Process], list[Process]]:
    """The gateways, and the peers."""
    async with places.client() as client:
        gateways, peers = await asyncio.gather(
            _gateways(client, places),
            asyncio.gather(*(ask_process(client, name, url) for name, url in places.peers.items())),
        )
    return gateways, peers


def check_anybody(processes: list[Process], places: Places) -> None:
    """Raise `NoCluster`, with what to do, where no process answers."""
    if any(one.state != "unreachable" for one in processes):
        return
    home, first = places.home, processes[0]
    if home is None:
        reason = f"{first.url}: {first.failed.get('http', 'no answer')}"
        raise NoCluster(f"no cluster answers at {reason}: is the address right?")
    if is_locked(home):
        raise NoCluster(
            f"the cluster in {home.path} runs, but none of its processes answers yet "
            f"({first.url}); see {home.logs}"
        )
    raise NoCluster(f"the cluster in {home.path} does not run: start it with {starter(home)}")


def other_versions(processes: list[Process]) -> list[str]:
    """A sentence for each process that is not of this command's version."""
    return [
        f"{one.name} is version {one.version}, this command is {__version__}"
        for one in processes
        if one.version is not None and one.version != __version__
    ]


async def _gateways(client: httpx.AsyncClient, places: Places) -> list[Process]:
    """Ask the shared address until each gateway answered once, a few rounds at most."""
    if places.url is None:
        return []
    seen: dict[str, Process] = {}
    names, url = places.gateways, places.url
    tries = GATEWAY_TRIES if names else 1
    for _ in range(GATEWAY_ROUNDS):
        for process in await asyncio.gather(*(ask_process(client, "", url) for _ in range(tries))):
            if process.state != "unreachable" or not seen:
                seen[process.name] = process
        if len(seen) >= len(names) or all(one.state == "unreachable" for one in seen.values()):
            break
    return with_unseen(seen.values(), places)


def with_unseen(found: Iterable[Process], places: Places) -> list[Process]:
    """The gateways that answered and those that did not, by name."""
    names, url = places.gateways, places.url or ""
    answered = {one.name: one for one in found if one.state != "unreachable"}
    if not answered:
        failed = next(iter([one.failed for one in found]), {})
        return [
            Process(name=name, url=url, state="unreachable", failed=failed)
            for name in names or ["gateway"]
        ]
    unseen = [Process(name=name, url=url, state="unseen") for name in names if name not in answered]
    return sorted([*answered.values(), *unseen], key=lambda one: one.name)


async def ask_process(
    client: httpx.AsyncClient, name: str, url: str, *, keeps_connection: bool = False
) -> Process:
    """What one process says of itself, over a connection of its own unless it is kept."""
    try:
        headers = {} if keeps_connection else {"Connection": "close"}
        response = await client.get(url + "/status.json", headers=headers)
        told: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        checks: dict[str, str] = told["checks"]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        failed = {"http": type(error).__name__}
        return Process(name=name, url=url, state="unreachable", failed=failed)
    except (msgspec.DecodeError, KeyError):
        failed = {"http": f"status {response.status_code}, not of memsync"}
        return Process(name=name, url=url, state="unreachable", failed=failed)
    return Process(
        name=str(told.get("name", name)),
        url=url,
        state="ready" if told.get("ready") else "not ready",
        version=str(told.get("version")),
        uptime_s=float(told.get("uptime_s", 0.0)),
        failed={check: why for check, why in checks.items() if why != "ok"},
    )
