"""The commands about who belongs to the cell: members, join, remove. They need a key of the
founding organisation with the scope org:admin."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from memsync import limits
from memsync.cli.exits import OK, REFUSED, UsageProblem
from memsync.cli.session import CLUSTER, KeyOption, Session, new_idempotency_key, with_session
from memsync.client.answers import Reply
from memsync.errors import Unavailable
from memsync.wire import replies

COLUMNS = (
    "Member", "State", "Lease", "Lag", "Clock (ms)", "Incarnation", "Membership", "Positions",
)  # fmt: skip
SETTLE_S = 3 * limits.GRANT_S  # so long a change is tried again that comes right after another

NameArgument = Annotated[
    str, typer.Argument(help="The name of a peer, as in its settings.", metavar="NAME")
]


@with_session(*CLUSTER)
def members(session: Session) -> int:
    """Show the members of the cell, and how each is.

    Exit code 1 if fewer than a majority of them is alive.
    """
    reply = session.ask("cluster.members", {})
    found = reply.read(replies.ClusterInfo)
    if session.output.as_json:
        session.output.document(reply.body)
    else:
        _show(session, found)
    return OK if sum(one.alive for one in found.members) >= found.majority else REFUSED


@with_session(*CLUSTER)
def join(session: Session, name: NameArgument, idempotency_key: KeyOption = None) -> None:
    """Make a peer a member of the cell.

    Start it first, with the cell's genesis file, its own name and an empty data folder: it reads
    all there is and waits. From the join on it counts; writes then need one more where the majority
    has grown. One change at a time: the next waits until a majority has applied this one.
    """
    reply = _change(session, "cluster.join", name, idempotency_key)
    found = reply.read(replies.ClusterInfo)
    _say(session, reply, f"{name} is a member; {_counts(found)}")
    alive = {one.name for one in found.members if one.alive}
    if name not in alive and name not in found.observers:
        session.output.note(f"{name} has not been heard yet: start it now, it is counted already")


@with_session(*CLUSTER)
def remove(
    session: Session,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    idempotency_key: KeyOption = None,
) -> None:
    """Take a member out of the cell, dead or alive.

    A running one ends by itself (exit code 2) once it has applied that. Its data stays where it is.
    """
    if not yes:
        _confirm(name)
    reply = _change(session, "cluster.remove", name, idempotency_key)
    found = reply.read(replies.ClusterInfo)
    _say(session, reply, f"{name} is no member any more; {_counts(found)}")


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise UsageProblem(f"give --yes to remove {name} without being asked")
    typer.confirm(f"Remove {name} from the cell?", abort=True, err=True)


def _change(session: Session, operation: str, name: str, key: str | None) -> Reply:
    """Ask for a change; again for a moment where the last one is only just applied."""
    key = key or new_idempotency_key()
    give_up_at = time.monotonic() + SETTLE_S
    while True:
        try:
            return session.ask(operation, {"name": name}, key=key)
        except Unavailable as error:
            if error.code != Unavailable.code or time.monotonic() >= give_up_at:
                raise
            time.sleep(min(1.0, error.retry_after_s or limits.GRANT_S))


def _counts(found: replies.ClusterInfo) -> str:
    alive = sum(one.alive for one in found.members)
    return f"{alive} of {len(found.members)} members alive, {found.majority} are needed for writes"


def _say(session: Session, reply: Reply, text: str) -> None:
    if session.output.as_json:
        session.output.document(reply.body)
    else:
        session.output.line(text)


def _show(session: Session, found: replies.ClusterInfo) -> None:
    output = session.output
    rows: list[list[Any]] = [
        [
            one.name,
            output.state("alive" if one.alive else "silent"),
            "yes" if one.lease else "no",
            one.lag_entries,
            one.clock_offset_ms,
            one.incarnation or None,
            "current" if one.membership == found.version else one.membership and "older",
            " ".join(one.positions),
        ]
        for one in found.members
    ]
    rows += [[name, output.state("observer")] + [None] * 6 for name in found.observers]
    output.table(COLUMNS, rows)
    if not output.is_terminal:
        return
    output.line()
    leaders = [f"{one.stripe}: {one.leader or 'no leader'}" for one in found.stripes]
    output.fields(
        [
            ("Cell", found.cell),
            ("Needed for writes", f"{found.majority} of {len(found.members)}"),
            ("Stripes led by", ", ".join(leaders)),
            ("Removed", found.removed),
        ]
    )
    for name in found.observers:
        output.remark(f"{name} runs and is no member: memsync cluster join {name}")
