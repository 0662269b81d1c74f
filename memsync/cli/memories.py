"""The commands about memories: add, recall, get, update, forget, list."""

from __future__ import annotations

import sys
from typing import Annotated, Any, get_args

import msgspec
import typer

from memsync import limits
from memsync.cli.completing import words
from memsync.cli.exits import OK, REFUSED, UsageProblem
from memsync.cli.output import Output, moment, shortened
from memsync.cli.session import (
    EVERYTHING,
    KeyOption,
    Session,
    new_idempotency_key,
    read_standard_input,
    with_session,
)
from memsync.wire import replies, requests

Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")]
Metadata = Annotated[str | None, typer.Option(help="A JSON object.", metavar="JSON")]
Moment = Annotated[str | None, typer.Option(help="ISO 8601; without an offset it is UTC.")]
Importance = Annotated[float | None, typer.Option(help="From 0 to 1; 0.5 if not given.")]
Count = Annotated[int, typer.Option("-k", help=f"How many at most, 1 to {limits.RECALL_K_MAX}.")]
Going = Annotated[str | None, typer.Option("--session", help="The conversation that is going on.")]
AnyTags = Annotated[
    list[str] | None, typer.Option("--tag", help="Only with any of these; may be repeated.")
]
AnySources = Annotated[
    list[str] | None, typer.Option("--source", help="Only from these; may be repeated.")
]
Computation = Annotated[
    str | None,
    typer.Option(
        "--tier",
        help="How much to compute: low, medium or high.",
        autocompletion=words(get_args(requests.ComputationTier)),
    ),
]
Consistency = Annotated[
    str | None,
    typer.Option(
        help="local, session (default) or strong.",
        autocompletion=words(get_args(requests.Consistency)),
    ),
]
Identifier = Annotated[int, typer.Argument(help="The id of a memory.", metavar="ID", min=1)]


@with_session(*EVERYTHING)
def add(
    session: Session,
    text: Annotated[
        str | None,
        typer.Argument(help="What to remember; - or nothing: standard input.", show_default=False),
    ] = None,
    tag: Tags = None,
    source: Annotated[str | None, typer.Option(help="Where it comes from.")] = None,
    session_id: Annotated[
        str | None, typer.Option("--session", help="The conversation that it belongs to.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Who said it: user, assistant, ...")] = None,
    importance: Importance = None,
    metadata: Metadata = None,
    event_type: Annotated[str | None, typer.Option(help="What kind of event it was.")] = None,
    occurred_at: Moment = None,
    ttl_minutes: Annotated[int | None, typer.Option(help="Forget it after so long.")] = None,
    client_ref: Annotated[
        str | None, typer.Option(help="Your own name for it: the same name is stored once.")
    ] = None,
    deduplicate: Annotated[
        bool, typer.Option(help="Skip a text that was added within 24 h.", show_default=True)
    ] = True,
    idempotency_key: KeyOption = None,
) -> int:
    """Store one memory and print its id.

    A text that is there already is skipped: then the id of the first one is printed and standard
    error says why.
    """
    if text in (None, "-"):
        text = read_standard_input().rstrip("\n")
    fields = {
        "text": text,
        "tags": tag,
        "source": source,
        "session_id": session_id,
        "role": role,
        "importance": importance,
        "metadata": json_object(metadata),
        "event_type": event_type,
        "occurred_at": occurred_at,
        "ttl_minutes": ttl_minutes,
        "client_ref": client_ref,
        "deduplicate": None if deduplicate else False,
    }
    reply = session.ask("memory.add", fields, key=idempotency_key)
    if session.output.as_json:
        session.output.document(reply.body)
    if reply.status == 201:
        if not session.output.as_json:
            session.output.line(reply.read(replies.Memory).id)
        return OK
    return _say_skipped(session.output, reply.read(dict[str, Any]))


def _say_skipped(output: Output, answer: dict[str, Any]) -> int:
    """Show why nothing new was stored; a success where the memory is there all the same."""
    found = answer.get("memory_ids") or []
    if answer.get("status") != "skipped":
        output.note("nothing was stored: the plan's quota is used up")
        return REFUSED
    output.note(f"skipped, nothing new was stored: {answer.get('reason')}")
    for identifier in [] if output.as_json else found:
        output.line(identifier)
    return OK if found else REFUSED


@with_session(*EVERYTHING)
def recall(
    session: Session,
    question: Annotated[str, typer.Argument(help="What you want to know; -: standard input.")],
    k: Count = limits.RECALL_K_DEFAULT,
    session_id: Going = None,
    in_session: Annotated[
        str | None, typer.Option(help="Only memories of this conversation.")
    ] = None,
    tag: AnyTags = None,
    source: AnySources = None,
    since: Moment = None,
    until: Moment = None,
    metadata: Metadata = None,
    tier: Computation = None,
    consistency: Consistency = None,
    now: Annotated[
        str | None, typer.Option(help='When "last week" is said, if not now. ISO 8601.')
    ] = None,
) -> int:
    """Recall memories by meaning, the best first.

    A part of the cluster that could not help is named on standard error; the answer then comes
    from the rest.
    """
    filters = {
        "session_id": in_session,
        "tags": tag,
        "sources": source,
        "since": since,
        "until": until,
        "metadata": json_object(metadata),
    }
    given = {name: value for name, value in filters.items() if value not in (None, [])}
    fields = {
        "query": read_standard_input().strip() if question == "-" else question,
        "k": k,
        "session_id": session_id,
        "filters": given or None,
        "computation_tier": tier,
        "consistency": consistency,
        "now": now,
    }
    reply = session.ask("memory.query", fields)
    _show_recalled(session, reply.body, reply.read(replies.QueryAnswer))
    return OK


def _show_recalled(session: Session, body: bytes, answer: replies.QueryAnswer) -> None:
    output = session.output
    if answer.degraded:
        output.note(f"degraded answer, without: {', '.join(answer.degraded_components)}")
    if output.as_json:
        output.document(body)
        return
    rows = [
        (
            f"{memory.score:.3f}",
            _when(memory, output),
            memory.id,
            shortened(memory.text, is_terminal=output.is_terminal),
        )
        for memory in answer.memories
    ]
    if rows or not output.is_terminal:
        output.table(("Score", "When", "Id", "Text"), rows)
    else:
        output.note(f"nothing found for {session.user}")


def _when(memory: replies.Memory, output: Output) -> str:
    return moment(memory.occurred_at or memory.created_at, is_terminal=output.is_terminal)


@with_session(*EVERYTHING)
def get(session: Session, identifier: Identifier) -> None:
    """Show one memory with all its fields."""
    reply = session.ask("memory.get", {"memory_id": identifier})
    _show(session.output, reply.body, reply.read(replies.Memory))


def _show(output: Output, body: bytes, memory: replies.Memory) -> None:
    if output.as_json:
        output.document(body)
        return
    fields = msgspec.structs.asdict(memory)
    fields |= {
        name: moment(fields[name], is_terminal=output.is_terminal)
        for name in ("created_at", "updated_at", "expires_at", "occurred_at")
    }
    output.fields(list(fields.items()))


@with_session(*EVERYTHING)
def update(
    session: Session,
    identifier: Identifier,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="The new tags; may be repeated.")
    ] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all tags away.")] = False,
    importance: Importance = None,
    metadata: Annotated[
        str | None, typer.Option(help="A JSON object; replaces the whole.", metavar="JSON")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where it comes from.")] = None,
    event_type: Annotated[str | None, typer.Option(help="What kind of event it was.")] = None,
    if_version: Annotated[
        str | None, typer.Option(help="Only if this is still its version; else exit code 1.")
    ] = None,
    idempotency_key: KeyOption = None,
) -> None:
    """Change what stands beside a memory's text.

    Tags, importance, metadata, source and event type; the text itself never changes.
    """
    if tag and no_tags:
        raise UsageProblem("--tag and --no-tags: give only one of them")
    changes: dict[str, Any] = {
        "importance": importance,
        "metadata": json_object(metadata),
        "source": source,
        "event_type": event_type,
    }
    if not tag and not no_tags and all(value is None for value in changes.values()):
        raise UsageProblem("nothing to change: give --tag, --importance, --metadata or another")
    fields: dict[str, Any] = {"memory_id": identifier, "if_version": if_version, **changes}
    fields |= {"tags": tuple(tag)} if tag else {"tags": ()} if no_tags else {}
    reply = session.ask("memory.update", fields, key=idempotency_key)
    _show(session.output, reply.body, reply.read(replies.Memory))


@with_session(*EVERYTHING)
def forget(
    session: Session,
    identifiers: Annotated[
        list[int] | None, typer.Argument(help="Ids of memories.", metavar="[ID]...", min=1)
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="With all of these; may be repeated.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="From this source.")] = None,
    event_type: Annotated[str | None, typer.Option(help="Of this kind.")] = None,
    tier: Annotated[
        str | None,
        typer.Option(help="In this tier: hot, warm or cold.", autocompletion=words(requests.TIERS)),
    ] = None,
    before: Annotated[str | None, typer.Option(help="Stored before this time (ISO 8601).")] = None,
    after: Annotated[str | None, typer.Option(help="Stored after this time (ISO 8601).")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; kept in the history.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print which ones it would be.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    idempotency_key: KeyOption = None,
) -> int:
    """Forget memories, by id or by filters.

    It prints their ids. What is forgotten is not readable from then on. By filters it asks first
    when it runs on a terminal.
    """
    criteria = {
        "tags": tag,
        "source": source,
        "event_type": event_type,
        "tier": tier,
        "before": before,
        "after": after,
    }
    filters = {name: value for name, value in criteria.items() if value not in (None, [])}
    if bool(identifiers) == bool(filters):
        raise UsageProblem("give either ids or filters (--tag, --source, --before, ...)")
    fields: dict[str, Any] = {"memory_ids": identifiers, "filters": filters or None}
    if filters and not yes and not dry_run and sys.stdin.isatty():
        _confirm(session, fields)
    fields |= {"reason": reason, "dry_run": dry_run or None}
    reply = session.ask("memory.forget", fields, key=idempotency_key)
    forgotten = reply.read(list[int])
    if session.output.as_json:
        session.output.document(reply.body)
    else:
        for identifier in forgotten:
            session.output.line(identifier)
    missing = sorted(set(identifiers or ()) - set(forgotten))
    if missing:
        session.output.note(f"not found: {', '.join(map(str, missing))}")
    return REFUSED if missing else OK


def _confirm(session: Session, fields: dict[str, Any]) -> None:
    """Ask whether so many memories shall be forgotten; ends the command where not."""
    dry = session.ask("memory.forget", {**fields, "dry_run": True}, key=new_idempotency_key())
    count = len(dry.read(list[int]))
    if not typer.confirm(f"Forget {count} memories of {session.user}?", err=True):
        raise typer.Exit(REFUSED)


@with_session(*EVERYTHING)
def list_memories(
    session: Session,
    limit: Annotated[
        int, typer.Option(min=1, max=limits.LIST_LIMIT_MAX, help="How many at most.")
    ] = limits.LIST_LIMIT_DEFAULT,
    offset: Annotated[int, typer.Option(min=0, help="How many to pass over.")] = 0,
) -> None:
    """List memories, the newest first."""
    reply = session.ask("memory.list", {"limit": limit, "offset": offset})
    page = reply.read(replies.MemoryPage)
    output = session.output
    if output.as_json:
        output.document(reply.body)
        return
    rows = [
        (one.id, _when(one, output), one.tags, shortened(one.text, is_terminal=output.is_terminal))
        for one in page.items
    ]
    if rows or not output.is_terminal:
        output.table(("Id", "When", "Tags", "Text"), rows)
    if output.is_terminal:
        output.note(f"{len(rows)} of {page.total} memories of {session.user}, from {offset}")


def json_object(text: str | None) -> dict[str, Any] | None:
    """The object that an option holds; raises `UsageProblem` for anything else."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageProblem(f"--metadata: not a JSON object ({error})") from error
