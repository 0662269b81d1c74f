"""The commands about API keys: create, list, revoke. They need a key with the scope org:admin."""

from __future__ import annotations

from typing import Annotated

import typer

from memsync.cli.completing import words
from memsync.cli.output import moment
from memsync.cli.session import CLUSTER, KeyOption, Session, with_session
from memsync.ids import ENVIRONMENTS
from memsync.wire import replies, requests


@with_session(*CLUSTER)
def create(
    session: Session,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    org: Annotated[
        str | None,
        typer.Option(help="Slug of its organisation, made if need be; else the caller's own."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Pin it to this project (slug or id), made if need be.")
    ] = None,
    env: Annotated[
        str,
        typer.Option(
            help="development, staging or production.", autocompletion=words(ENVIRONMENTS)
        ),
    ] = "development",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            help=f"One of {', '.join(requests.API_KEY_SCOPES)}; may be repeated. "
            "Without it memory:*.",
            autocompletion=words(requests.API_KEY_SCOPES),
        ),
    ] = None,
    tier: Annotated[
        str,
        typer.Option(
            help=f"Its rate limits: {', '.join(requests.RATE_LIMIT_TIERS)}.",
            autocompletion=words(requests.RATE_LIMIT_TIERS),
        ),
    ] = "pro",
    expires_at: Annotated[str | None, typer.Option(help="ISO 8601; without it never.")] = None,
    idempotency_key: KeyOption = None,
) -> None:
    """Make an API key and print it. It is shown this once: only a hash of it is stored."""
    fields = {
        "name": name,
        "organisation": org,
        "project_id": project,
        "environment": env,
        "scopes": scope,
        "rate_limit_tier": tier,
        "expires_at": expires_at,
    }
    reply = session.ask("keys.create", fields, key=idempotency_key)
    made = reply.read(replies.ApiKeyInfo)
    if session.output.as_json:
        session.output.document(reply.body)
        return
    where = "/".join(part for part in (made.organisation, made.project_id) if part)
    about = f"key {made.id} of {where}, {made.environment}, {', '.join(made.scopes)}"
    if made.key is None:
        session.output.note(
            f"{about}: made by an earlier try and its secret is gone; "
            f"memsync keys revoke {made.id}, then make another"
        )
        return
    session.output.line(made.key)
    session.output.note(f"{about}. It is shown this once: keep it now.")


@with_session(*CLUSTER)
def list_keys(
    session: Session,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 100,
    offset: Annotated[int, typer.Option(min=0, help="How many to pass over.")] = 0,
) -> None:
    """List the organisation's API keys, the newest first."""
    reply = session.ask("keys.list", {"limit": limit, "offset": offset})
    output = session.output
    if output.as_json:
        output.document(reply.body)
        return
    columns = (
        "Id", "Prefix", "Status", "Environment", "Tier", "Uses", "Created", "Expires", "Project",
        "Scopes", "Name",
    )  # fmt: skip
    rows = [
        (
            key.id, key.prefix, key.status, key.environment, key.rate_limit_tier, key.usage_count,
            moment(key.created_at, is_terminal=output.is_terminal),
            moment(key.expires_at, is_terminal=output.is_terminal),
            key.project_id, key.scopes, key.name,
        )
        for key in reply.read(replies.ApiKeyPage).items
    ]  # fmt: skip
    output.table(columns, rows)


@with_session(*CLUSTER)
def revoke(
    session: Session,
    identifier: Annotated[int, typer.Argument(help="The id of a key.", metavar="ID", min=1)],
    idempotency_key: KeyOption = None,
) -> None:
    """Revoke an API key, at once and for ever."""
    reply = session.ask("keys.revoke", {"key_id": identifier}, key=idempotency_key)
    revoked = reply.read(replies.ApiKeyInfo)
    if session.output.as_json:
        session.output.document(reply.body)
    else:
        session.output.line(revoked.id, revoked.status)
