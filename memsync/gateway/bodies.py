"""Bodies of operations: read off the wire within the limits, or built from path and query fields.

A body that needs no field from elsewhere is passed on as the bytes that came; the backend decodes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from memsync import errors, limits
from memsync.gateway.table import IGNORED, NUMBERS, OperationRoute
from memsync.ids import ID_MAX
from memsync.wire import codec

BODY_TIMEOUT_S = 10.0
DRAIN_BYTES_MAX = 8 * limits.BODY_BYTES_MAX
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The request's body; raises `PayloadTooLarge` without keeping what is beyond the limit."""
    declared, waits_for_go = _declared(scope)
    if declared > limits.BODY_BYTES_MAX and (waits_for_go or declared > DRAIN_BYTES_MAX):
        raise _too_large(declared)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(receive)
    except TimeoutError as error:
        raise errors.InvalidRequest(f"the body did not arrive within {BODY_TIMEOUT_S} s") from error


async def _read(receive: Receive) -> bytes:
    message = await receive()
    if not message.get("more_body"):  # nearly always: the whole body at once
        body: bytes = message.get("body", b"")
        if len(body) > limits.BODY_BYTES_MAX:
            raise _too_large(len(body))
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise errors.InvalidRequest("the caller went away before the body was complete")
        part = message.get("body", b"")
        size += len(part)
        if size <= limits.BODY_BYTES_MAX:
            parts.append(part)
        elif size > DRAIN_BYTES_MAX:
            raise _too_large(size)
        else:
            parts.clear()  # read on for a while, so that the caller gets to reading the answer
        if not message.get("more_body"):
            break
        message = await receive()
    if size > limits.BODY_BYTES_MAX:
        raise _too_large(size)
    return b"".join(parts)


def _declared(scope: Scope) -> tuple[int, bool]:
    """What `Content-Length` says (0 = nothing), and whether the caller awaits a "100 Continue"."""
    declared, waits_for_go = 0, False
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            declared = int(value[:18])
        elif name == b"expect":
            waits_for_go = True
    return declared, waits_for_go


def _too_large(size: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(
        f"a body of {size} bytes or more, at most {limits.BODY_BYTES_MAX}"
    )


def body_from_fields(route: OperationRoute, params: Mapping[str, str], query: bytes) -> bytes:
    """The operation's body from path and query; an unknown query field is a 422 as in a body."""
    fields: dict[str, str | int] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name in route.query:
            fields[name] = _number(name, value) if name in NUMBERS else value
        elif name not in IGNORED:
            raise codec.invalid(name[:64], "unknown field")
    for name, value in params.items():
        fields[name] = _identifier(name, value) if name in NUMBERS else value
    return codec.to_json(fields)


def body_merged(params: Mapping[str, str], body: bytes) -> bytes:
    """The request's body with the path's fields put in; it must not name them itself."""
    fields = codec.from_json(body, dict[str, msgspec.Raw])
    for name, value in params.items():
        if name in fields:
            raise codec.invalid(name, "unknown field")
        fields[name] = msgspec.Raw(b"%d" % _identifier(name, value))
    return codec.to_json(fields)


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise codec.invalid(name, "not an integer")
    return int(text)


def _identifier(name: str, text: str) -> int:
    """An id from the path. The route let only digits through; they must also make an id."""
    number = int(text) if len(text) <= 16 else 0
    if not 1 <= number <= ID_MAX:
        raise codec.invalid(name, "not a positive integer below 2^53")
    return number
