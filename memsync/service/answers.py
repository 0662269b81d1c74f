"""Answers and request bodies: JSON in and out, errors as their body, pages cut to what fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from memsync import errors, limits
from memsync.ports import Answer
from memsync.wire import codec, context

Body = TypeVar("Body")
Row = TypeVar("Row")
_ENVELOPE_BYTES = 128 * 1024  # what a page holds beside its rows: `context` and small fields


def decode(body: bytes, kind: type[Body]) -> Body:
    """Read a body; raises `PayloadTooLarge`, `InvalidJson`, `ValidationFailed`."""
    if len(body) > limits.BODY_BYTES_MAX:
        raise errors.PayloadTooLarge(f"body: {len(body)} bytes, at most {limits.BODY_BYTES_MAX}")
    return codec.from_json(body, kind)


def answer(value: Any, status: int = 200) -> Answer:
    """An answer with this value as its JSON body."""
    return Answer(status, {}, codec.to_json(value))


def with_headers(reply: Answer, headers: Mapping[str, str]) -> Answer:
    """The answer with these headers beside its own."""
    return Answer(reply.status, {**reply.headers, **headers}, reply.body)


def error(problem: errors.MemsyncError, request_id: str) -> Answer:
    """The answer that says an error."""
    headers = {}
    if problem.retry_after_s is not None:
        headers[context.RETRY_AFTER] = str(math.ceil(problem.retry_after_s))
    body = codec.to_json(errors.error_answer(problem, request_id))
    return Answer(problem.http_status, headers, body)


def page(value: Any, rows: str) -> Answer:
    """An answer whose list `rows` is cut, and said to be `truncated`, where it is too large."""
    whole = answer(value)
    if len(whole.body) <= limits.ANSWER_BYTES_MAX:
        return whole
    kept = within(getattr(value, rows), limits.ANSWER_BYTES_MAX - _ENVELOPE_BYTES)
    return answer(msgspec.structs.replace(value, truncated=True, **{rows: kept}))


def within(rows: Sequence[Row], room_bytes: int) -> list[Row]:
    """The first of them that fit together into so many bytes of JSON."""
    kept: list[Row] = []
    for row in rows:
        room_bytes -= len(codec.to_json(row)) + 1
        if room_bytes < 0:
            break
        kept.append(row)
    return kept
