"""Conversations in the format of LoCoMo as memories: each turn one, with session, speaker, time.

    {"sample_id": "conv-1", "conversation": {"session_1_date_time": "1:56 pm on 8 May, 2023",
     "session_1": [{"speaker": "Ada", "dia_id": "D1:1", "text": "...",
                    "blip_caption": "what its image shows", "query": "what it was found by"}, ...]}}

A file is a list of such objects, or one of them, or what is under "conversation" alone. Other keys
are left alone. The format is that of Maharana et al., "Evaluating Very Long-Term Conversational
Memory of LLM Agents" (2024). How a turn is written down was measured: decisions/0014.

A file is understood as a whole before anything is sent. What is wrong with its form raises
`UsageProblem`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec

from memsync.cli.exits import UsageProblem
from memsync.wire import codec
from memsync.wire.requests import AddItem, format_moment

TIME_FORMAT = "%I:%M %p on %d %B, %Y"
_SESSION = re.compile(r"session_([1-9][0-9]{0,5})")


class Turn(msgspec.Struct, frozen=True):
    """What one speaker says at once. Other fields of the format are passed over."""

    speaker: str
    dia_id: str
    text: str = ""
    blip_caption: str | None = None  # what a model saw in the image that is shared
    query: str | None = None  # what the speaker looked for to find it


class Session(msgspec.Struct, frozen=True):
    """Turns in their order. `began_ms`: milliseconds since 1970; the format has no time zone."""

    name: str
    began_ms: int
    turns: list[Turn]


class Conversation(msgspec.Struct, frozen=True):
    """Sessions by their number. `name` stays the same when the conversation grows."""

    name: str
    sessions: list[Session]


def read_objects(data: bytes) -> list[dict[str, Any]]:
    """The conversations of a file as the objects they are, unchecked but for that."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageProblem(f"not JSON: {error}") from error
    objects = found if isinstance(found, list) else [found]
    if not objects:
        raise UsageProblem("a JSON list without any conversation")
    for number, one in enumerate(objects, start=1):
        if not isinstance(one, dict) or not _session_numbers(_body(one)):
            raise UsageProblem(
                f"entry {number} of {len(objects)} is no LoCoMo conversation: it has no "
                '"conversation" with a "session_1"'
            )
    return objects


def read_conversations(data: bytes) -> list[Conversation]:
    """The conversations of a file; no two have the same name."""
    conversations = [read_conversation(one) for one in read_objects(data)]
    name, count = Counter(one.name for one in conversations).most_common(1)[0]
    if count > 1:
        raise UsageProblem(f"{count} conversations have the sample_id {name}")
    return conversations


def read_conversation(found: dict[str, Any]) -> Conversation:
    """One conversation, from its object."""
    body = _body(found)
    sessions = [_session(body, f"session_{number}") for number in _session_numbers(body)]
    return Conversation(_name(found.get("sample_id"), sessions), sessions)


def is_conversation(found: object) -> bool:
    """Whether a JSON value looks like a conversation of this format."""
    return isinstance(found, dict) and bool(_session_numbers(_body(found)))


def _body(found: dict[str, Any]) -> dict[str, Any]:
    body = found.get("conversation", found)
    return body if isinstance(body, dict) else {}


def _session_numbers(body: dict[str, Any]) -> list[int]:
    """The sessions that were held; a time without turns belongs to none."""
    matches = (_SESSION.fullmatch(key) for key, value in body.items() if isinstance(value, list))
    return sorted(int(match[1]) for match in matches if match)


def _session(body: dict[str, Any], name: str) -> Session:
    try:
        turns = msgspec.convert(body[name], list[Turn])
    except msgspec.ValidationError as error:
        raise UsageProblem(f"{name}: {error}") from error
    time = body.get(f"{name}_date_time")
    try:
        began = datetime.strptime(" ".join(str(time).split()), TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        wanted = 'a time like "1:56 pm on 8 May, 2023"'
        raise UsageProblem(f"{name}_date_time: {time!r} is not {wanted}") from error
    return Session(name, int(began.timestamp() * 1000), turns)


def _name(sample_id: object, sessions: list[Session]) -> str:
    """The `sample_id`; without one a name that is made of how the conversation begins."""
    if isinstance(sample_id, str | int) and str(sample_id).strip():
        return str(sample_id).strip()
    beginning = codec.to_json([sessions[0].began_ms, sessions[0].turns[:1]])
    return f"conversation-{blake2b(beginning, digest_size=6).hexdigest()}"


def items_of(conversation: Conversation, end_user: str) -> Iterator[AddItem]:
    """Every turn as a memory of this end user, in order.

    `client_ref` is made of the conversation's name and the turn's `dia_id`, so that a repeat adds
    nothing twice. `occurred_at` is the session's time and a millisecond more with each turn: the
    format has no time of a turn, and memories of one session are ordered by theirs.
    """
    seen: Counter[str] = Counter()
    for session in conversation.sessions:
        for place, turn in enumerate(session.turns):
            seen[turn.dia_id] += 1
            again = f" ({seen[turn.dia_id]})" if seen[turn.dia_id] > 1 else ""
            yield AddItem(
                text=text_of(turn),
                session_id=f"{conversation.name}/{session.name}",
                occurred_at=format_moment(session.began_ms + place),
                client_ref=f"{conversation.name}/{turn.dia_id}{again}",
                end_user_id=end_user,
                metadata=_metadata(turn),
            )


def text_of(turn: Turn) -> str:
    """Who speaks, what is said, and what was looked for where an image was shared."""
    shared = turn.query or ("" if turn.text else turn.blip_caption)
    said = f"{turn.text} [{shared}]" if shared else turn.text
    return f"{turn.speaker}: {said.strip()}"


def _metadata(turn: Turn) -> dict[str, Any]:
    found = {
        "speaker": turn.speaker,
        "dia_id": turn.dia_id,
        "image_caption": turn.blip_caption,
        "image_query": turn.query,
    }
    return {name: value for name, value in found.items() if value}
