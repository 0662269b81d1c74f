"""`memsync status`: every process, its checks, the stripes and how far each member is.

Health comes over HTTP from the gateways and from each peer's own port; positions and leaders from
the bus, with the credentials of the local home. Whatever does not answer is shown as such. Of a
remote cluster only what the given address tells is known, and that is said.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from memsync.cli.exits import OK, REFUSED
from memsync.cli.output import Output
from memsync.cli.session import CLUSTER, Session, with_session
from memsync.cli.status.bus import BusState, Stripe, read_bus
from memsync.cli.status.processes import (
    Places,
    Process,
    check_anybody,
    is_of_home,
    other_versions,
    places_of,
    read_processes,
)

FINE = ("ready", "alive", "no member")
FOR_A_PERSON = ("Process", "State", "Up", "Lag", "Address", "Position")
ONE_GATEWAY = (
    "only the process that answered at this address is known; the others, the positions and the "
    "stripes are shown where the cluster's home is (--home)"
)
ONLY_BUS = (
    "only that the peers answer over NATS is known; give --url of a gateway or peer to see its "
    "checks"
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `ready` is whether everything is; `limits` says what cannot be known."""

    ready: bool
    gateways: list[Process]
    peers: list[Process]
    stripes: list[Stripe]
    problems: list[str]
    limits: list[str] = []


@with_session(*CLUSTER)
def status(session: Session) -> int:
    """Show how the cluster is.

    Every process with what fails, the stripes of the log with their leaders, and how far each
    peer is. Exit code 0 if everything is ready, 1 if something is not, 3 if nothing answers.
    """
    target = session.keyless_target
    if target.url is None and not is_of_home(target):
        report = _report_of_bus(session)
    else:
        places = places_of(target)
        report = asyncio.run(_report(places))
        check_anybody([*report.gateways, *report.peers], places)
    if session.output.as_json:
        session.output.document(report)
    else:
        _show(session.output, report)
    return OK if report.ready else REFUSED


def _report_of_bus(session: Session) -> Report:
    """Whether the peers answer over NATS; raises what the question raises."""
    started_s = time.monotonic()
    session.ask("memory.list", {"limit": 1})
    took_ms = 1_000 * (time.monotonic() - started_s)
    name = f"peers (answered in {took_ms:.0f} ms)"
    peers = [Process(name=name, url=session.target.name, state="answering")]
    return Report(ready=True, gateways=[], peers=peers, stripes=[], problems=[], limits=[ONLY_BUS])


async def _report(places: Places) -> Report:
    (gateways, found), bus = await asyncio.gather(
        read_processes(places), read_bus(places.home) if places.home else _no_bus()
    )
    shown = [_with_positions(process, bus) for process in with_members(found, bus)]
    is_ready = all(one.state in FINE for one in [*gateways, *shown])
    is_led = all(stripe.leader is not None for stripe in bus.stripes)
    return Report(
        ready=is_ready and is_led and not bus.problems,
        gateways=gateways,
        peers=shown,
        stripes=bus.stripes,
        problems=[*bus.problems, *other_versions([*gateways, *shown])],
        limits=[] if places.home else [ONE_GATEWAY],
    )


def with_members(found: Sequence[Process], bus: BusState) -> list[Process]:
    """The peers that the settings name, with what the cell says of them: a member on a machine of
    which nothing is known here is there, too, and one that was removed need not answer."""
    if not bus.members:
        return list(found)
    shown = [
        msgspec.structs.replace(one, state="no member", failed={})
        if one.name not in bus.members and one.state == "unreachable"
        else one
        for one in found
    ]
    named = {one.name for one in shown}
    others = [
        Process(name=name, url="", state="alive" if name in bus.positions else "silent")
        for name in bus.members
        if name not in named
    ]
    return [*shown, *others]


async def _no_bus() -> BusState:
    return BusState()


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
    processes = [*report.gateways, *report.peers]
    if output.is_terminal:
        output.table(FOR_A_PERSON, [_short_row(output, one) for one in processes])
    else:
        output.table((), [_row(one) for one in processes])
    if report.stripes:
        if output.is_terminal:
            output.line()
        rows = [
            (f"stripe-{one.stripe}", one.leader or "no leader", one.generation, one.last_sequence,
             one.servers)
            for one in report.stripes
        ]  # fmt: skip
        output.table(("Stripe", "Leader", "Generation", "Last", "Servers"), rows)
    for one in processes if output.is_terminal else []:
        for check, why in one.failed.items():
            fails = "" if why.startswith("ok") else "fails: "
            output.note(f"{one.name}, {check}: {fails}{why.removeprefix('ok: ')}")
    for problem in report.problems:
        output.note(problem)
    for limit in report.limits if output.is_terminal else []:
        output.remark(limit)


def _row(one: Process) -> Sequence[Any]:
    positions = " ".join(one.positions or [])
    why = "; ".join(f"{name}: {reason}" for name, reason in one.failed.items())
    return [one.name, one.state, age(one.uptime_s), positions, one.lag_entries, one.version,
            one.url, why]  # fmt: skip


def _short_row(output: Output, one: Process) -> Sequence[Any]:
    """Without what is the same for all; what fails stands below the table."""
    address = one.url.removeprefix("http://")
    positions = " ".join(one.positions or [])
    return [one.name, output.state(one.state), age(one.uptime_s), one.lag_entries, address,
            positions]  # fmt: skip


def age(seconds: float | None) -> str | None:
    """How long a process has been up, for a person."""
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
