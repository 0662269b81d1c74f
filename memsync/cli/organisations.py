"""The commands about the own organisation: show, set. They need a key with the scope org:admin."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from memsync.cli.completing import words
from memsync.cli.exits import UsageProblem
from memsync.cli.session import CLUSTER, KeyOption, Session, with_session
from memsync.client.answers import Reply
from memsync.wire import replies
from memsync.wire.requests import DefaultAck

ACKS = get_args(DefaultAck)


@with_session(*CLUSTER)
def show(session: Session) -> None:
    """Show the organisation of the API key, and what it has set."""
    _show(session, session.ask("org.get", {}))


@with_session(*CLUSTER)
def set_defaults(
    session: Session,
    ack: Annotated[
        str | None,
        typer.Option(
            help="Who must have a write before it is answered, where the request does not say: "
            "quorum (a majority, and every peer that answers reads as fresh) or all.",
            autocompletion=words(ACKS),
        ),
    ] = None,
    idempotency_key: KeyOption = None,
) -> None:
    """Set what counts for all requests of the organisation that do not say otherwise."""
    if ack is None:
        raise UsageProblem("nothing to set: give --ack quorum or --ack all")
    if ack not in ACKS:
        raise UsageProblem(f"--ack: {ack!r} is not one of {', '.join(ACKS)}")
    _show(session, session.ask("org.update", {"ack": ack}, key=idempotency_key))


def _show(session: Session, reply: Reply) -> None:
    found = reply.read(replies.OrganisationInfo)
    if session.output.as_json:
        session.output.document(reply.body)
        return
    session.output.fields(
        [("Id", found.id), ("Slug", found.slug), ("Name", found.name), ("Ack", found.ack)]
    )
