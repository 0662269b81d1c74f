"""`memsync status`: every process, its checks, the stripes and how far each member is.

Health comes over HTTP from the gateways and from each peer's own port; positions and leaders from
the bus, with the credentials of the local home. Whatever does not answer is shown as such.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from memsync import config
from memsync.cli.exits import OK, REFUSED, UsageProblem
from memsync.cli.output import Output
from memsync.cli.session import CLUSTER, Session, with_session
from memsync.cli.status_of_bus import BusState, Stripe, read_bus
from memsync.client.finding import START, Target
from memsync.errors import NoCluster
from memsync.homes import HOST, Home

TIMEOUT_S = 2.0
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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `ready` is whether everything is."""

    ready: bool
    gateways: list[Process]
    peers: list[Process]
    stripes: list[Stripe]
    problems: list[str]


@with_session(*CLUSTER)
def status(session: Session) -> int:
    """Show how the cluster is.

    Every process with what fails, the stripes of the log with their leaders, and how far each
    peer is. Exit code 0 if everything is ready, 1 if something is not, 3 if nothing answers.
    """
    target = session.target
    if target.url is None and target.home is None:
        raise UsageProblem("status asks over HTTP: give --url")
    report = asyncio.run(_report(target))
    if all(one.state == "unreachable" for one in [*report.gateways, *report.peers]):
        where = f"in {target.home.path} " if target.home else ""
        asked = [*report.gateways, *report.peers][0].url
        raise NoCluster(f"no process {where}answers at {asked}: {START}")
    if session.output.as_json:
        session.output.document(report)
    else:
        _show(session.output, report)
    return OK if report.ready else REFUSED


async def _report(target: Target) -> Report:
    home = target.home if target.is_local else None
    peers = _peer_urls(home) if home else {}
    names = _gateway_names(home) if home else []
    has_gateways = bool(names) or not peers or (target.url is not None and not target.is_homes_own)
    url = target.url or (_gateway_url(home) if has_gateways else "")
    async with httpx.AsyncClient(trust_env=not target.is_local, timeout=TIMEOUT_S) as client:
        gateways, found, bus = await asyncio.gather(
            _gateways(client, url, names) if has_gateways else _no_gateways(),
            asyncio.gather(*(_process(client, name, address) for name, address in peers.items())),
            read_bus(home) if home else _no_bus(),
        )
    shown = [_with_positions(process, bus) for process in found]
    is_ready = all(one.state == "ready" for one in [*gateways, *shown])
    is_led = all(stripe.leader is not None for stripe in bus.stripes)
    return Report(
        ready=is_ready and is_led and not bus.problems,
        gateways=gateways,
        peers=shown,
        stripes=bus.stripes,
        problems=bus.problems,
    )


async def _no_bus() -> BusState:
    return BusState()


async def _no_gateways() -> list[Process]:
    return []  # `memsync dev`: its peer is asked as what it is


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


async def _gateways(client: httpx.AsyncClient, url: str, names: list[str]) -> list[Process]:
    """Ask the shared address until each gateway answered once, a few rounds at most."""
    seen: dict[str, Process] = {}
    for _ in range(GATEWAY_ROUNDS):
        tries = GATEWAY_TRIES if names else 1
        for process in await asyncio.gather(*(_process(client, "", url) for _ in range(tries))):
            if process.state != "unreachable" or not seen:
                seen[process.name] = process
        if len(seen) >= len(names) or all(one.state == "unreachable" for one in seen.values()):
            break
    answered = {name: one for name, one in seen.items() if one.state != "unreachable"}
    if not answered:
        return [Process(name=name, url=url, state="unreachable") for name in names or ["gateway"]]
    unseen = [Process(name=name, url=url, state="unseen") for name in names if name not in answered]
    return sorted([*answered.values(), *unseen], key=lambda one: one.name)


async def _process(client: httpx.AsyncClient, name: str, url: str) -> Process:
    """What one process says of itself, over a connection of its own."""
    try:
        response = await client.get(url + "/status.json", headers={"Connection": "close"})
        told: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        checks: dict[str, str] = told["checks"]
    except httpx.HTTPError as error:
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


def _with_positions(process: Process, bus: BusState) -> Process:
    positions = bus.positions.get(process.name)
    if positions is None:
        return process
    return msgspec.structs.replace(
        process,
        positions=[f"{p.stripe}.{p.generation}.{p.sequence}" for p in positions],
        lag_entries=bus.lag_entries(positions),
    )


def _show(output: Output, report: Report) -> None:
    columns = ("Process", "State", "Up", "Position", "Lag", "Version", "Address", "What fails")
    output.table(columns, [_row(one) for one in [*report.gateways, *report.peers]])
    if report.stripes:
        if output.is_terminal:
            output.line()
        rows = [
            (f"stripe-{one.stripe}", one.leader or "no leader", one.generation, one.last_sequence,
             one.servers)
            for one in report.stripes
        ]  # fmt: skip
        output.table(("Stripe", "Leader", "Generation", "Last", "Servers"), rows)
    for problem in report.problems:
        output.note(problem)


def _row(one: Process) -> Sequence[Any]:
    positions = " ".join(one.positions or [])
    why = "; ".join(f"{name}: {reason}" for name, reason in one.failed.items())
    return [one.name, one.state, _age(one.uptime_s), positions, one.lag_entries, one.version,
            one.url, why]  # fmt: skip


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
