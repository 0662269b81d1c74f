"""The commands about memories that are there: relate, feedback, graph, explain."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from memsync import limits
from memsync.cli.completing import words
from memsync.cli.exits import UsageProblem
from memsync.cli.memories import Identifier, json_object
from memsync.cli.session import EVERYTHING, KeyOption, Session, with_session
from memsync.wire import replies
from memsync.wire.relations import FeedbackSignal, RelationshipType

TYPES = get_args(RelationshipType)
SIGNALS = get_args(FeedbackSignal)


@with_session(*EVERYTHING)
def relate(
    session: Session,
    identifier: Identifier,
    relationship: Annotated[
        str,
        typer.Argument(
            help=f"How it stands to the other: {', '.join(TYPES)}.",
            metavar="TYPE",
            autocompletion=words(TYPES),
        ),
    ],
    other: Annotated[int, typer.Argument(help="The id of the other.", metavar="OTHER", min=1)],
    confidence: Annotated[float | None, typer.Option(help="From 0 to 1; 1 if not given.")] = None,
    metadata: Annotated[str | None, typer.Option(help="A JSON object.", metavar="JSON")] = None,
    idempotency_key: KeyOption = None,
) -> None:
    """Relate a memory to another, as in: memsync relate 17 detail_of 4.

    Where one of them is found, the other is then recalled more easily.
    """
    fields = {
        "memory_id": identifier,
        "to_memory_id": other,
        "relationship_type": _one_of("TYPE", relationship, TYPES),
        "confidence": confidence,
        "metadata": json_object(metadata),
    }
    reply = session.ask("memory.relate", fields, key=idempotency_key)
    found = reply.read(replies.RelationInfo)
    if session.output.as_json:
        session.output.document(reply.body)
    else:
        session.output.line(found.id)


@with_session(*EVERYTHING)
def feedback(
    session: Session,
    identifier: Identifier,
    signal: Annotated[
        str,
        typer.Argument(
            help=f"What it was worth: {', '.join(SIGNALS)}.",
            metavar="SIGNAL",
            autocompletion=words(SIGNALS),
        ),
    ],
    comment: Annotated[str | None, typer.Option(help="Why.")] = None,
    idempotency_key: KeyOption = None,
) -> None:
    """Say what a memory was worth; this moves its importance, which is printed."""
    fields = {
        "memory_id": identifier,
        "signal": _one_of("SIGNAL", signal, SIGNALS),
        "comment": comment,
    }
    reply = session.ask("memory.feedback", fields, key=idempotency_key)
    taken = reply.read(replies.FeedbackTaken)
    if session.output.as_json:
        session.output.document(reply.body)
    else:
        session.output.line(taken.importance_after)


@with_session(*EVERYTHING)
def graph(
    session: Session,
    identifier: Annotated[
        int | None, typer.Argument(help="What is around this memory.", metavar="[ID]", min=1)
    ] = None,
    depth: Annotated[
        int,
        typer.Option(
            min=1, max=limits.TRAVERSAL_DEPTH_MAX, help="How many relations away from it."
        ),
    ] = limits.TRAVERSAL_DEPTH_DEFAULT,
    limit: Annotated[
        int, typer.Option(min=1, max=limits.GRAPH_NODES_MAX, help="How many memories at most.")
    ] = limits.GRAPH_NODES_DEFAULT,
) -> None:
    """List relations: those around a memory, or among the newest memories.

    With --json also the memories themselves.
    """
    fields = {"memory_id": identifier, "depth": depth, "limit": limit}
    reply = session.ask("memory.graph", fields)
    found, output = reply.read(replies.Graph), session.output
    if output.as_json:
        output.document(reply.body)
        return
    rows = [
        (one.from_memory_id, one.relationship_type, one.to_memory_id, one.confidence)
        for one in found.edges
    ]
    if rows or not output.is_terminal:
        output.table(("From", "Type", "To", "Confidence"), rows)
    if found.truncated:
        output.note("there are more than are shown")
    if output.is_terminal:
        output.note(f"{len(rows)} relations among {len(found.nodes)} memories of {session.user}")


@with_session(*EVERYTHING)
def explain(
    session: Session,
    query_id: Annotated[
        str, typer.Argument(help="The query_id of an answer (recall --json).", metavar="QUERY_ID")
    ],
) -> None:
    """Show why a recall answered what it did; for 7 days.

    For each memory the parts of its score; with --json also stages, filters and models.
    """
    reply = session.ask("memory.explanation", {"query_id": query_id})
    found, output = reply.read(replies.Explanation), session.output
    if output.as_json:
        output.document(reply.body)
        return
    names = list(dict.fromkeys(name for one in found.candidates for name in one.parts))
    rows = [
        (one.memory_id, f"{one.score:.3f}", *(one.parts.get(name) for name in names))
        for one in found.candidates
    ]
    output.table(("Id", "Score", *names), rows)
    if output.is_terminal:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in found.weights.items())
        output.note(f"answered by {found.member} in {found.latency_ms} ms; weights: {weights}")


def _one_of(name: str, given: str, allowed: tuple[str, ...]) -> str:
    if given not in allowed:
        raise UsageProblem(f"{name}: {given!r} is not one of {', '.join(allowed)}")
    return given
